//! The first match over ports, for one set of active atoms.
//!
//! The ports of a class are divided at the bounds of the active spans. Each step then paints the parts that it matches
//! and that no earlier step has painted, so every part is painted once for each verdict.

use super::cover::cover;
use super::flatten::{Ports, Program};
use super::{Class, CompiledRuling, List, PortEntry};
use crate::flow::Action;
use crate::model::RuleAction;

/// One more than the highest port.
const PORTS: u32 = 1 << 16;

/// Makes lists for a program.
pub(super) struct Rulings<'a> {
    program: &'a Program,
    /// The ruling about packets that cannot be read, the same everywhere.
    opaque: CompiledRuling,
    /// Every policy counts for both verdicts, so they are the same.
    one_verdict: bool,
}

/// A step that matches the parts from `first` up to `end`, not included.
#[derive(Clone, Copy)]
struct Stroke {
    step: u32,
    first: usize,
    end: usize,
}

/// A verdict and the ordinal that gave it.
type Verdict = (Action, Option<u32>);

impl<'a> Rulings<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        let steps_agree = program.steps.iter().all(|step| step.applied == step.reported);
        let defaults_agree = program.tiers.iter().all(|tier| tier.applied_default == tier.reported_default);
        let one_verdict = steps_agree && defaults_agree;
        let mut rulings = Self { program, opaque: CompiledRuling::SILENT, one_verdict };
        let strokes: Vec<Stroke> = (0..)
            .zip(&program.steps)
            .filter(|(_, step)| step.opaque)
            .map(|(step, _)| Stroke { step, first: 0, end: 1 })
            .collect();
        rulings.opaque = rulings.paint(1, &strokes)[0];
        rulings
    }

    /// The list of a region in which these atoms are active; `active` is sorted.
    pub(super) fn list(&self, active: &[u32]) -> List {
        let mut entries = Vec::new();
        for class in Class::ALL {
            match class {
                Class::Opaque => entries.push(PortEntry { class, port: 0, length: 0, ruling: self.opaque }),
                _ => self.class(class, active, &mut entries),
            }
        }
        List { entries }
    }

    fn class(&self, class: Class, active: &[u32], entries: &mut Vec<PortEntry>) {
        let spans = || {
            active.iter().map(|atom| &self.program.atoms[*atom as usize]).flat_map(|atom| {
                let (any, spans) = match &self.program.ports[atom.ports as usize] {
                    Ports::Any => (Some((atom.step, 0, PORTS)), &[][..]),
                    Ports::Spans(spans) => (None, &spans[..]),
                };
                let listed = spans
                    .iter()
                    .filter(move |span| span.class == class)
                    .map(|span| (atom.step, u32::from(span.first), u32::from(span.last) + 1));
                any.into_iter().chain(listed)
            })
        };
        // The first port of every part; the last is the end of all.
        let mut bounds = vec![0, PORTS];
        if class.has_ports() {
            bounds.extend(spans().flat_map(|(_, first, end)| [first, end]));
            bounds.sort_unstable();
            bounds.dedup();
        }
        let part = |port: u32| bounds.partition_point(|bound| *bound < port);
        let strokes: Vec<Stroke> =
            spans().map(|(step, first, end)| Stroke { step, first: part(first), end: part(end) }).collect();
        let parts = self.paint(bounds.len() - 1, &strokes);
        let parts: Vec<(u32, CompiledRuling)> = bounds.iter().copied().zip(parts).collect();
        entries.extend(cover(&parts).into_iter().map(|(port, length, ruling)| PortEntry {
            class,
            port,
            length,
            ruling,
        }));
    }

    /// What is ruled about each of `parts` parts. The strokes are in the order of their steps.
    fn paint(&self, parts: usize, strokes: &[Stroke]) -> Vec<CompiledRuling> {
        let reported = self.verdicts(parts, strokes, true);
        let applied = if self.one_verdict { reported.clone() } else { self.verdicts(parts, strokes, false) };
        let join = |((applied, applied_rule), (reported, reported_rule))| CompiledRuling {
            applied,
            applied_rule,
            reported,
            reported_rule,
        };
        applied.into_iter().zip(reported).map(join).collect()
    }

    fn verdicts(&self, parts: usize, strokes: &[Stroke], reported: bool) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = vec![None; parts];
        let mut left = strokes;
        for tier in &self.program.tiers {
            let (now, later) = left.split_at(left.partition_point(|stroke| stroke.step < tier.end));
            left = later;
            debug_assert!(now.iter().all(|stroke| stroke.step >= tier.first));
            let mut open = Open::new(verdicts.iter().map(Option::is_some));
            for stroke in now {
                let step = &self.program.steps[stroke.step as usize];
                if !(if reported { step.reported } else { step.applied }) {
                    continue;
                }
                let verdict = match step.action {
                    RuleAction::Allow => Some((Action::Allow, Some(stroke.step))),
                    RuleAction::Deny => Some((Action::Deny, Some(stroke.step))),
                    // The part is done with this tier and undecided for the next.
                    RuleAction::Pass => None,
                };
                open.take(stroke.first, stroke.end, |part| verdicts[part] = verdict);
            }
            let default = if reported { tier.reported_default } else { tier.applied_default };
            if default.is_some() {
                open.take(0, parts, |part| verdicts[part] = Some((Action::Deny, default)));
            }
        }
        verdicts.into_iter().map(|verdict| verdict.unwrap_or((Action::Allow, None))).collect()
    }
}

/// The parts that are still open in a tier. Each part points to itself if it is open, else to a later one; the paths
/// are made shorter as they are walked, so taking parts costs almost nothing for those already taken.
struct Open {
    next: Vec<usize>,
}

impl Open {
    /// One item for each part: whether it is closed.
    fn new(closed: impl Iterator<Item = bool>) -> Self {
        let mut next: Vec<usize> =
            closed.enumerate().map(|(part, closed)| part + usize::from(closed)).collect();
        next.push(next.len());
        Self { next }
    }

    /// The first open part at or after this one.
    fn find(&mut self, mut part: usize) -> usize {
        while self.next[part] != part {
            self.next[part] = self.next[self.next[part]];
            part = self.next[part];
        }
        part
    }

    /// Closes the open parts from `first` up to `end`, not included.
    fn take(&mut self, first: usize, end: usize, mut each: impl FnMut(usize)) {
        let mut part = self.find(first);
        while part < end {
            each(part);
            self.next[part] = part + 1;
            part = self.find(part + 1);
        }
    }
}
