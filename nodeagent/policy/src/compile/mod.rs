//! Policies laid out for the kernel: two longest-prefix look-ups, from an address to a list and from a class and port
//! to a ruling.
//!
//! The rules that match an address are exactly those that match the longest prefix it lies in, because every network,
//! exception, pod and Service address of the policies is a prefix of its own. So the first match is worked out here,
//! once for each prefix, and order costs the kernel nothing.
//!
//! A rule that matches by name does so on top of that: a third look-up, by the longest pattern, leads from a name to a list
//! of what it adds. Where any rule by name could match, an entry of an address's list therefore has not only the ruling but
//! the steps behind it, which can be put together with those of the names that the address was learned from.
//!
//! IPv4 lies at `::ffff:0:0/96`, as in IPv4-mapped addresses. That prefix is always there, so nothing that an IPv6
//! network says reaches an IPv4 address.

mod cover;
mod flatten;
mod names;
mod regions;
mod rulings;
mod steps;

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::flow::{Action, Flow, FlowProtocol, RuleRef, Shown};
use crate::model::{Posture, Protocol};
use crate::name::{Name, NamePattern};
use crate::network::Network;
use crate::select::Selection;
use crate::world::World;

pub use self::steps::{First, Firsts, Steps};
use self::steps::{merged, walk};

/// What one selection of policies rules, for all pods that it governs.
///
/// Equal selections in equal worlds give equal values, so it can be shared and compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compiled {
    /// Prefixes with the index of their list in `lists`, in the order of [`Prefix`]. Always holds `::/0` and
    /// `::ffff:0:0/96`, so a look-up of an address never misses.
    pub prefixes: Vec<(Prefix, u32)>,
    /// The patterns of names, each with the list of what it and the patterns above it add; in the order of the patterns.
    /// Beside every `*.b` there is `b`, which may add nothing.
    pub names: Vec<NameEntry>,
    /// The lists of prefixes and of patterns, no two the same.
    pub lists: Vec<List>,
    /// What the entries' `steps` lead to, no two the same.
    pub steps: Vec<Steps>,
    /// The pod may ask its resolvers only for names whose longest pattern [`opens`](NameEntry::opens).
    pub restricts_queries: bool,
    /// What the ordinals in the lists name: rules and defaults, each of them used.
    pub rules: Vec<RuleRef>,
}

/// A pattern of names and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameEntry {
    /// The pattern.
    pub pattern: NamePattern,
    /// The index of its list in [`Compiled::lists`]; none if no rule means its names.
    pub list: Option<u32>,
    /// A rule that is enforced grants something to its names, so they may be asked for.
    pub opens: bool,
}

/// The first bits of an address.
///
/// In order, a prefix comes before the prefixes inside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// In network byte order; IPv4 as `::ffff:a.b.c.d`. Bits beyond the length are 0.
    pub address: [u8; 16],
    /// 0–128 bits; for IPv4 96 plus the network's length.
    pub length: u8,
}

/// Rulings over class and port, looked up by the longest prefix.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct List {
    /// In the order of class, port and length. In a prefix's list every class has one entry of length 0, so a look-up never
    /// misses; [`Class::Icmp`], [`Class::Other`] and [`Class::Opaque`] have no others. A pattern's list has entries only
    /// for classes in which it adds something.
    pub entries: Vec<PortEntry>,
}

/// One entry of a [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortEntry {
    /// The class of flows.
    pub class: Class,
    /// The first port; bits beyond the length are 0.
    pub port: u16,
    /// How many bits of the port count, from the highest: 0–16.
    pub length: u8,
    /// What is ruled.
    pub ruling: CompiledRuling,
    /// Where rules by name can change that, or add to it: the index of the steps in [`Compiled::steps`].
    pub steps: Option<u32>,
}

/// What a flow is to a [`List`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// TCP.
    Tcp = 0,
    /// UDP.
    Udp = 1,
    /// SCTP.
    Sctp = 2,
    /// ICMP on IPv4, `ICMPv6` on IPv6.
    Icmp = 3,
    /// Any other protocol.
    Other = 4,
    /// A packet whose address or port cannot be trusted. Its ruling is the same in every list of a policy.
    Opaque = 5,
}

/// Both rulings, with ordinals into [`Compiled::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CompiledRuling {
    /// What happens.
    pub applied: Action,
    /// Who decided that; none if nothing had anything to say.
    pub applied_rule: Option<u32>,
    /// What would happen if every policy were enforced.
    pub reported: Action,
    /// Who decided that.
    pub reported_rule: Option<u32>,
}

impl CompiledRuling {
    /// Nothing had anything to say.
    pub const SILENT: Self =
        Self { applied: Action::Allow, applied_rule: None, reported: Action::Allow, reported_rule: None };
}

impl Class {
    /// All classes, in order.
    pub const ALL: [Self; 6] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp, Self::Other, Self::Opaque];

    /// The class of a flow.
    pub fn of(flow: &Flow) -> Self {
        match flow.protocol {
            _ if flow.opaque => Self::Opaque,
            FlowProtocol::Tcp => Self::Tcp,
            FlowProtocol::Udp => Self::Udp,
            FlowProtocol::Sctp => Self::Sctp,
            FlowProtocol::Icmp => Self::Icmp,
            FlowProtocol::Other(_) => Self::Other,
        }
    }

    /// Whether ports tell flows of this class apart.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }
}

impl From<Protocol> for Class {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
            Protocol::Icmp => Self::Icmp,
        }
    }
}

impl Prefix {
    /// `::/0`.
    pub const ALL: Self = Self { address: [0; 16], length: 0 };

    /// `::ffff:0:0/96`, which holds all of IPv4.
    pub const IPV4: Self =
        Self { address: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0], length: 96 };

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address: bytes(address), length: 128 }
    }

    /// Whether the address, as [`bytes`] has it, lies in the prefix.
    pub fn contains(&self, address: &[u8; 16]) -> bool {
        let whole = usize::from(self.length / 8);
        let rest = self.length % 8;
        self.address[..whole] == address[..whole]
            && (rest == 0 || (self.address[whole] ^ address[whole]) >> (8 - rest) == 0)
    }

    /// The first `length` bits of an address.
    pub fn truncated(address: &[u8; 16], length: u8) -> Self {
        let mut kept = [0; 16];
        let whole = usize::from(length / 8);
        kept[..whole].copy_from_slice(&address[..whole]);
        if !length.is_multiple_of(8) {
            kept[whole] = address[whole] & (0xff << (8 - length % 8));
        }
        Self { address: kept, length }
    }
}

impl From<&Network> for Prefix {
    fn from(network: &Network) -> Self {
        let offset = if network.address().is_ipv4() { 96 } else { 0 };
        Self { address: bytes(network.address()), length: offset + network.length() }
    }
}

/// An address in 16 bytes; IPv4 as IPv4-mapped.
pub fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Compiles the policies that govern a pod.
///
/// With [`Posture::Observe`] nothing is judged: the caller may as well install no policy.
///
/// Time and room grow with prefixes times the port bounds that hold at each: a thousand rules with ports and without
/// `to` beside ten thousand networks make millions of entries. Where tenants write the policies, use
/// [`compile_within`].
pub fn compile(selection: &Selection, world: &World, posture: Posture) -> Compiled {
    match compile_within(selection, world, posture, usize::MAX) {
        Ok(compiled) => compiled,
        Err(CompileError::TooLarge(_)) => unreachable!("no list has more than usize::MAX entries"),
    }
}

/// Why policies cannot be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// The lists hold more entries than the caller has room for.
    #[error(
        "the policies need more than {0} entries; use fewer rules that have `ports` but no `to`, or fewer networks and \
         names"
    )]
    TooLarge(usize),
}

/// As [`compile()`], but gives up as soon as lists and names hold more than `limit` entries together.
pub fn compile_within(
    selection: &Selection,
    world: &World,
    posture: Posture,
    limit: usize,
) -> Result<Compiled, CompileError> {
    let program = flatten::flatten(selection, world, posture);
    let mut lists = regions::Lists::new(&program, limit);
    let prefixes = regions::resolve(&program, &mut lists)?;
    let names = names::resolve(&program, world, &mut lists)?;
    let (mut lists, mut steps) = lists.into_parts();
    let rules = renumber(&mut lists, &mut steps, program.names);
    Ok(Compiled { prefixes, names, lists, steps, restricts_queries: program.restricts_queries, rules })
}

/// Leaves only the names that the lists use, in their old order.
fn renumber(lists: &mut [List], steps: &mut [Steps], names: Vec<RuleRef>) -> Vec<RuleRef> {
    fn ordinals<'a>(lists: &'a mut [List], steps: &'a mut [Steps]) -> impl Iterator<Item = &'a mut u32> {
        let entries = lists.iter_mut().flat_map(|list| &mut list.entries);
        let in_lists = entries.flat_map(|entry| {
            entry.ruling.applied_rule.iter_mut().chain(entry.ruling.reported_rule.iter_mut())
        });
        in_lists.chain(steps.iter_mut().flat_map(Steps::ordinals))
    }
    let mut new: Vec<Option<u32>> = vec![None; names.len()];
    for ordinal in ordinals(lists, steps) {
        new[*ordinal as usize] = Some(0);
    }
    for (next, slot) in new.iter_mut().flatten().enumerate() {
        *slot = next as u32;
    }
    for ordinal in ordinals(lists, steps) {
        *ordinal = new[*ordinal as usize].unwrap_or_default();
    }
    names.into_iter().zip(new).filter_map(|(name, new)| new.map(|_| name)).collect()
}

impl Compiled {
    /// Rules about a flow with the look-ups that the kernel does.
    pub fn judge(&self, flow: &Flow) -> CompiledRuling {
        let class = Class::of(flow);
        let entry = self.list_of(flow.destination).and_then(|list| list.entry(class, flow.port));
        let Some(entry) = entry else { return CompiledRuling::SILENT };
        let Some(region) = entry.steps.map(|number| &self.steps[number as usize]) else {
            return entry.ruling;
        };
        let learned = &flow.names.learned;
        let steps: Vec<Option<&Steps>> =
            learned.iter().map(|name| self.steps_of(name, class, flow.port)).collect();
        let fold = |of: fn(&Steps) -> &Firsts| {
            steps.iter().flatten().fold(region.learned, |all, steps| merged(&all, of(steps)))
        };
        let (whatever, unread) = (fold(|steps| &steps.learned), fold(|steps| &steps.unread));
        let showing =
            |steps: Option<&Steps>| walk(&steps.map_or(whatever, |steps| merged(&whatever, &steps.shown)));
        if class != Class::Tcp {
            return walk(&unread);
        }
        match &flow.names.shown {
            Some(Shown::Name(name)) => {
                let place = learned.iter().position(|learned| learned == name);
                place.map_or_else(|| walk(&unread), |place| showing(steps[place]))
            }
            Some(Shown::Unreadable) => walk(&unread),
            None => {
                let mut any =
                    steps.iter().copied().map(showing).filter(|ruling| ruling.applied == Action::Allow);
                any.next().unwrap_or_else(|| walk(&unread))
            }
        }
    }

    /// Whether names can change what is ruled about a flow to its destination.
    pub fn goes_by_name(&self, flow: &Flow) -> bool {
        let list = self.list_of(flow.destination);
        list.and_then(|list| list.entry(Class::of(flow), flow.port))
            .is_some_and(|entry| entry.steps.is_some())
    }

    /// What a name adds to the list of an address.
    fn steps_of(&self, name: &Name, class: Class, port: u16) -> Option<&Steps> {
        let list = &self.lists[self.entry_of(name)?.list? as usize];
        Some(&self.steps[list.entry(class, port)?.steps? as usize])
    }

    /// The entry of the longest pattern that means the name.
    fn entry_of(&self, name: &Name) -> Option<&NameEntry> {
        let find = |pattern: NamePattern| {
            let found = self.names.binary_search_by(|entry| entry.pattern.cmp(&pattern)).ok()?;
            Some(&self.names[found])
        };
        let below = |domain: &str| find(NamePattern::Below(domain.parse().ok()?));
        find(NamePattern::Exact(name.clone())).or_else(|| name.domains().find_map(below))
    }

    /// Whether the pod may ask its resolvers for a name.
    pub fn may_ask(&self, name: &Name) -> bool {
        !self.restricts_queries || self.entry_of(name).is_some_and(|entry| entry.opens)
    }

    /// The list of the longest prefix that holds the address.
    pub fn list_of(&self, address: IpAddr) -> Option<&List> {
        let address = bytes(address);
        (0..=128).rev().find_map(|length| {
            let prefix = Prefix::truncated(&address, length);
            let found = self.prefixes.binary_search_by(|(other, _)| other.cmp(&prefix)).ok()?;
            self.lists.get(self.prefixes[found].1 as usize)
        })
    }

    /// The name behind an ordinal of a ruling.
    pub fn rule(&self, ordinal: Option<u32>) -> Option<&RuleRef> {
        self.rules.get(ordinal? as usize)
    }

    /// The number of entries of all lists together, and of names, which is what the kernel has to hold.
    pub fn entries(&self) -> usize {
        self.lists.iter().map(|list| list.entries.len()).sum::<usize>() + self.names.len()
    }
}

impl List {
    /// The ruling of the longest prefix that holds the port.
    pub fn ruling(&self, class: Class, port: u16) -> CompiledRuling {
        self.entry(class, port).map_or(CompiledRuling::SILENT, |entry| entry.ruling)
    }

    /// The entry of the longest prefix that holds the port.
    pub fn entry(&self, class: Class, port: u16) -> Option<&PortEntry> {
        let holds = |entry: &&PortEntry| {
            let mask = u16::MAX.checked_shl(16 - u32::from(entry.length)).unwrap_or(0);
            entry.class == class && port & mask == entry.port
        };
        self.entries.iter().filter(holds).max_by_key(|entry| entry.length)
    }
}
