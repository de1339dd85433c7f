//! From patterns to lists: the rules that match a name are those of its longest pattern and of the patterns above that.

use std::collections::BTreeMap;

use super::flatten::Program;
use super::regions::Lists;
use super::{CompileError, NameEntry};
use crate::model::RuleAction;
use crate::name::{Name, NamePattern};
use crate::world::World;

/// The atoms of a pattern, and whether it may be asked for.
#[derive(Clone, Default)]
struct Meant {
    atoms: Vec<u32>,
    opens: bool,
}

/// All patterns, by the domain that they name.
#[derive(Default)]
struct Patterns {
    exact: BTreeMap<Name, Meant>,
    below: BTreeMap<Name, Meant>,
}

impl Patterns {
    fn at(&mut self, pattern: NamePattern) -> &mut Meant {
        match pattern {
            NamePattern::Exact(name) => self.exact.entry(name).or_default(),
            NamePattern::Below(domain) => self.below.entry(domain).or_default(),
        }
    }

    /// What the `*.` patterns above a name say.
    fn above(&self, name: &Name) -> Meant {
        let mut meant = Meant::default();
        for domain in name.domains().filter_map(|domain| self.below.get(domain)) {
            meant.add(domain);
        }
        meant
    }
}

impl Meant {
    fn add(&mut self, other: &Self) {
        self.atoms.extend(&other.atoms);
        self.opens |= other.opens;
    }

    fn entry(mut self, pattern: NamePattern, lists: &mut Lists<'_>) -> Result<NameEntry, CompileError> {
        self.atoms.sort_unstable();
        self.atoms.dedup();
        lists.make_room(1)?;
        let list = if self.atoms.is_empty() { None } else { Some(lists.of_name(&self.atoms)?) };
        Ok(NameEntry { pattern, list, opens: self.opens })
    }
}

/// Works out the list of every pattern, in the order of the patterns.
pub(super) fn resolve(
    program: &Program,
    world: &World,
    lists: &mut Lists<'_>,
) -> Result<Vec<NameEntry>, CompileError> {
    let mut patterns = Patterns::default();
    for (pattern, atom) in &program.patterns {
        let step = &program.steps[program.atoms[*atom as usize].step as usize];
        let opens = step.applied && step.action != RuleAction::Deny;
        patterns.at(pattern.clone()).add(&Meant { atoms: vec![*atom], opens });
        if opens && program.restricts_queries {
            // A resolver's search list asks for these too.
            for suffixed in world.search.iter().filter_map(|suffix| with_suffix(pattern, suffix)) {
                patterns.at(suffixed).opens = true;
            }
        }
    }
    // In the kernel's trie `*.b` lies above `b` itself, which it does not mean: that gets an entry of its own.
    for domain in patterns.below.keys().cloned().collect::<Vec<_>>() {
        patterns.exact.entry(domain).or_default();
    }
    let mut entries = Vec::new();
    for (name, own) in &patterns.exact {
        let mut meant = patterns.above(name);
        meant.add(own);
        entries.push(meant.entry(NamePattern::Exact(name.clone()), lists)?);
    }
    for (domain, own) in &patterns.below {
        let mut meant = patterns.above(domain);
        meant.add(own);
        entries.push(meant.entry(NamePattern::Below(domain.clone()), lists)?);
    }
    Ok(entries)
}

/// The pattern with a suffix behind it; none if it is too long to be asked for.
fn with_suffix(pattern: &NamePattern, suffix: &Name) -> Option<NamePattern> {
    let joined = |name: &Name| format!("{name}.{suffix}").parse().ok();
    match pattern {
        NamePattern::Exact(name) => joined(name).map(NamePattern::Exact),
        NamePattern::Below(domain) => joined(domain).map(NamePattern::Below),
    }
}
