//! What must be known of a list to put it together with others: the first step of each tier, and not only what comes out.
//!
//! An address may have been learned from several names, and each adds the rules that mean it. Steps are numbered in the
//! order in which they are asked, so the first of several lists is the least of their firsts.

use super::CompiledRuling;
use crate::flow::Action;
use crate::model::RuleAction;

/// The applied and the reported verdict.
pub(super) const VERDICTS: usize = 2;

/// The first step of a tier that matches, or its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct First {
    /// Its ordinal: before renumbering its place among all steps, after it an index into the compiled policy's rules.
    pub ordinal: u32,
    /// What it does.
    pub action: RuleAction,
}

/// For each tier what comes first for the applied verdict, then for the reported one.
pub type Firsts = [Option<First>; 3 * VERDICTS];

/// The firsts of a list on some ports, by what is known of the flow. Those of an address are all the same, and hold the
/// tiers' defaults.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Steps {
    /// The flow shows the name.
    pub shown: Firsts,
    /// The flow shows no name from which the address was learned.
    pub unread: Firsts,
    /// The address was learned from the name, whatever the flow shows.
    pub learned: Firsts,
}

impl Steps {
    pub(super) fn of_region(firsts: Firsts) -> Self {
        Self { shown: firsts, unread: firsts, learned: firsts }
    }

    pub(super) fn is_empty(&self) -> bool {
        // What is in the others is in this one too.
        self.shown.iter().all(Option::is_none)
    }

    /// Everything that names an ordinal.
    pub(super) fn ordinals(&mut self) -> impl Iterator<Item = &mut u32> {
        let all = self.shown.iter_mut().chain(&mut self.unread).chain(&mut self.learned);
        all.flatten().map(|first| &mut first.ordinal)
    }
}

/// What comes first in either.
pub(super) fn merged(one: &Firsts, other: &Firsts) -> Firsts {
    std::array::from_fn(|place| one[place].into_iter().chain(other[place]).min())
}

/// What is ruled: tier after tier, until one does more than pass.
pub(super) fn walk(firsts: &Firsts) -> CompiledRuling {
    let verdict = |verdict: usize| {
        let decided = firsts.iter().skip(verdict).step_by(VERDICTS).flatten();
        let mut decided = decided.filter(|first| first.action != RuleAction::Pass);
        decided.next().map_or((Action::Allow, None), |first| {
            let action = if first.action == RuleAction::Allow { Action::Allow } else { Action::Deny };
            (action, Some(first.ordinal))
        })
    };
    let ((applied, applied_rule), (reported, reported_rule)) = (verdict(0), verdict(1));
    CompiledRuling { applied, applied_rule, reported, reported_rule }
}
