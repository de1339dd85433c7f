//! From steps to prefixes: a walk over all prefixes in order, with a stack of those around the current one.

use std::collections::HashMap;

use super::flatten::{Event, Program};
use super::rulings::Rulings;
use super::steps::Steps;
use super::{CompileError, List, Prefix};

/// A prefix on the way from the root to the current one.
struct Frame {
    prefix: Prefix,
    /// The atoms that match here, in order.
    active: Vec<u32>,
    /// The atoms that are cut out here, and so in everything below, in order.
    cut: Vec<u32>,
    list: u32,
}

/// Works out the list of every prefix. Prefixes that rule as the one around them are left out.
pub(super) fn resolve(program: &Program, lists: &mut Lists<'_>) -> Result<Vec<(Prefix, u32)>, CompileError> {
    let mut prefixes = Vec::new();
    // The families are walked apart: what holds for `::/0` does not hold for IPv4, although IPv4 lies inside it.
    let (ipv4, ipv6): (Vec<Event>, Vec<Event>) = program
        .events
        .iter()
        .partition(|event| Prefix::IPV4.length <= event.prefix.length && is_ipv4(&event.prefix));
    for (root, events) in [(Prefix::ALL, ipv6), (Prefix::IPV4, ipv4)] {
        walk(root, &events, &program.anywhere, lists, &mut prefixes)?;
    }
    prefixes.sort_unstable();
    Ok(prefixes)
}

fn is_ipv4(prefix: &Prefix) -> bool {
    Prefix::IPV4.contains(&prefix.address)
}

fn walk(
    root: Prefix,
    events: &[Event],
    anywhere: &[u32],
    lists: &mut Lists<'_>,
    out: &mut Vec<(Prefix, u32)>,
) -> Result<(), CompileError> {
    let mut groups = events.chunk_by(|a, b| a.prefix == b.prefix).peekable();
    let at_root = groups.next_if(|group| group[0].prefix == root).unwrap_or_default();
    let outside = Frame { prefix: root, active: anywhere.to_vec(), cut: Vec::new(), list: u32::MAX };
    let frame = step_into(&outside, root, at_root, lists)?;
    out.push((root, frame.list));
    let mut stack = vec![frame];
    for group in groups {
        let prefix = group[0].prefix;
        // The root holds every prefix of its family, so the stack never runs empty.
        while stack.len() > 1 && stack.last().is_some_and(|top| !top.prefix.contains(&prefix.address)) {
            stack.pop();
        }
        let Some(around) = stack.last() else { break };
        let frame = step_into(around, prefix, group, lists)?;
        if frame.list != around.list {
            out.push((prefix, frame.list));
        }
        stack.push(frame);
    }
    Ok(())
}

/// The frame of a prefix inside another, or of the root.
fn step_into(
    around: &Frame,
    prefix: Prefix,
    events: &[Event],
    lists: &mut Lists<'_>,
) -> Result<Frame, CompileError> {
    let own = |cut: bool| events.iter().filter(move |e| e.cut == cut).map(|e| e.atom);
    let cut = merged(&around.cut, own(true));
    let mut active = merged(&around.active, own(false));
    if !cut.is_empty() {
        active.retain(|atom| cut.binary_search(atom).is_err());
    }
    let list =
        if active == around.active && around.list != u32::MAX { around.list } else { lists.of(&active)? };
    Ok(Frame { prefix, active, cut, list })
}

/// Merges sorted numbers, each once.
fn merged(sorted: &[u32], more: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut all = sorted.to_vec();
    all.extend(more);
    if all.len() > sorted.len() {
        all.sort_unstable();
        all.dedup();
    }
    all
}

/// The lists made so far, by the atoms that made them and by what they hold.
pub(super) struct Lists<'a> {
    rulings: Rulings<'a>,
    by_active: HashMap<Vec<u32>, u32>,
    by_content: HashMap<List, u32>,
    /// The entries of all lists and names so far, and the most that there may be.
    entries: usize,
    limit: usize,
}

impl<'a> Lists<'a> {
    /// No list yet; fails once there would be more than `limit` entries.
    pub(super) fn new(program: &'a Program, limit: usize) -> Self {
        let rulings = Rulings::new(program);
        Self { rulings, by_active: HashMap::new(), by_content: HashMap::new(), entries: 0, limit }
    }

    /// The lists in the order of their numbers, and the steps that they name.
    pub(super) fn into_parts(self) -> (Vec<List>, Vec<Steps>) {
        let mut contents: Vec<(List, u32)> = self.by_content.into_iter().collect();
        contents.sort_unstable_by_key(|(_, number)| *number);
        (contents.into_iter().map(|(list, _)| list).collect(), self.rulings.into_steps())
    }

    /// The list of the atoms that match an address.
    fn of(&mut self, active: &[u32]) -> Result<u32, CompileError> {
        self.find_or_make(active, Rulings::list)
    }

    /// The list of the atoms that match a name, of which there is at least one.
    pub(super) fn of_name(&mut self, active: &[u32]) -> Result<u32, CompileError> {
        self.find_or_make(active, Rulings::list_of_name)
    }

    /// Counts entries that the kernel has to hold.
    pub(super) fn make_room(&mut self, entries: usize) -> Result<(), CompileError> {
        self.entries += entries;
        if self.entries > self.limit { Err(CompileError::TooLarge(self.limit)) } else { Ok(()) }
    }

    /// No atom matches both addresses and names, so the atoms say which kind of list it is.
    fn find_or_make(
        &mut self,
        active: &[u32],
        make: impl Fn(&mut Rulings<'a>, &[u32]) -> List,
    ) -> Result<u32, CompileError> {
        if let Some(number) = self.by_active.get(active) {
            return Ok(*number);
        }
        let next = self.by_content.len() as u32;
        let list = make(&mut self.rulings, active);
        let size = list.entries.len();
        let number = *self.by_content.entry(list).or_insert(next);
        if number == next {
            self.make_room(size)?;
        }
        self.by_active.insert(active.to_vec(), number);
        Ok(number)
    }
}
