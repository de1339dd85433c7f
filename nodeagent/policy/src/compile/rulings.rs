//! The first match over ports, for one set of active atoms.
//!
//! The ports of a class are divided at the bounds of the active spans. Each step then paints the parts that it matches
//! and that no earlier step of its tier has painted, so every part is painted once for each tier and verdict.

use std::collections::HashMap;

use super::cover::cover;
use super::flatten::{Ports, Program};
use super::steps::{First, Firsts, Steps, VERDICTS, walk};
use super::{Class, CompiledRuling, List, PortEntry};
use crate::model::RuleAction;

/// One more than the highest port.
const PORTS: u32 = 1 << 16;

/// TCP ports on which a name is required unless the rule says otherwise.
const NAMED_PORTS: [u32; 2] = [80, 443];

/// Makes lists for a program.
pub(super) struct Rulings<'a> {
    program: &'a Program,
    /// The ruling about packets that cannot be read, the same everywhere.
    opaque: CompiledRuling,
    /// Every policy counts for both verdicts, so they are the same.
    one_verdict: bool,
    /// For each class, in order, the ports on which any atom matches by name: the first of each run and one past its last.
    named: Vec<Vec<(u32, u32)>>,
    /// The steps that the lists name, by what they hold.
    steps: HashMap<Steps, u32>,
}

/// A step that matches the parts from `first` up to `end`, not included.
#[derive(Clone, Copy)]
struct Stroke {
    step: u32,
    first: usize,
    end: usize,
    /// Only for a flow that shows a name.
    required: bool,
}

/// The parts of a class, and what is drawn on them.
struct Canvas {
    /// The first port of every part; the last is the end of all.
    bounds: Vec<u32>,
    /// In the order of their steps.
    strokes: Vec<Stroke>,
}

impl<'a> Rulings<'a> {
    pub(super) fn new(program: &'a Program) -> Self {
        let steps_agree = program.steps.iter().all(|step| step.applied == step.reported);
        let defaults_agree = program.tiers.iter().all(|tier| tier.applied_default == tier.reported_default);
        let one_verdict = steps_agree && defaults_agree;
        let opaque = CompiledRuling::SILENT;
        let mut rulings = Self { program, opaque, one_verdict, named: Vec::new(), steps: HashMap::new() };
        let strokes: Vec<Stroke> = (0..)
            .zip(&program.steps)
            .filter(|(_, step)| step.opaque)
            .map(|(step, _)| Stroke { step, first: 0, end: 1, required: false })
            .collect();
        let mut by_name: Vec<u32> = program.patterns.iter().map(|(_, atom)| *atom).collect();
        by_name.sort_unstable();
        by_name.dedup();
        rulings.named = Class::ALL.iter().map(|class| rulings.runs(*class, &by_name)).collect();
        rulings.opaque = walk(&rulings.with_defaults(rulings.paint(1, &strokes)[0]));
        rulings
    }

    /// The steps that the lists made so far name, in the order of their numbers.
    pub(super) fn into_steps(self) -> Vec<Steps> {
        let mut steps: Vec<(Steps, u32)> = self.steps.into_iter().collect();
        steps.sort_unstable_by_key(|(_, number)| *number);
        steps.into_iter().map(|(steps, _)| steps).collect()
    }

    /// The list of a region in which these atoms are active; `active` is sorted.
    pub(super) fn list(&mut self, active: &[u32]) -> List {
        let mut entries = Vec::new();
        for class in Class::ALL {
            if class == Class::Opaque {
                let ruling = self.opaque;
                entries.push(PortEntry { class, port: 0, length: 0, ruling, steps: None });
                continue;
            }
            let runs = &self.named[class as usize];
            let edges: Vec<u32> = runs.iter().flat_map(|(first, end)| [*first, *end]).collect();
            let canvas = self.canvas(class, active, &edges);
            let firsts = self.paint(canvas.bounds.len() - 1, &canvas.strokes);
            let inside = |port: &u32| runs.iter().any(|(first, end)| (first..end).contains(&port));
            let is_named: Vec<bool> = canvas.bounds.iter().map(inside).collect();
            let parts = firsts.into_iter().zip(is_named).map(|(firsts, is_named)| {
                let firsts = self.with_defaults(firsts);
                let steps = is_named.then(|| self.number(Steps::of_region(firsts)));
                (walk(&firsts), steps)
            });
            let parts: Vec<(CompiledRuling, Option<u32>)> = parts.collect();
            push(class, &canvas.bounds, &parts, &mut entries);
        }
        List { entries }
    }

    /// The list of a name for which these atoms are active: what they add to the list of an address. Where they add
    /// nothing, it has no entry, or one without steps.
    pub(super) fn list_of_name(&mut self, active: &[u32]) -> List {
        let mut entries = Vec::new();
        for class in Class::ALL.into_iter().filter(|class| *class != Class::Opaque) {
            let canvas = self.canvas(class, active, &[]);
            let count = canvas.bounds.len() - 1;
            let denies = |stroke: &Stroke| self.step(stroke).action == RuleAction::Deny;
            let keep = |kept: &dyn Fn(&Stroke) -> bool| {
                let strokes: Vec<Stroke> = canvas.strokes.iter().copied().filter(|s| kept(s)).collect();
                self.paint(count, &strokes)
            };
            let shown = keep(&|_| true);
            let unread = keep(&|stroke| !stroke.required || denies(stroke));
            let learned = keep(&|stroke| !stroke.required);
            let all = shown.into_iter().zip(unread).zip(learned);
            let all: Vec<Steps> =
                all.map(|((shown, unread), learned)| Steps { shown, unread, learned }).collect();
            let parts: Vec<(CompiledRuling, Option<u32>)> = all
                .into_iter()
                .map(|steps| (CompiledRuling::SILENT, (!steps.is_empty()).then(|| self.number(steps))))
                .collect();
            let first = entries.len();
            push(class, &canvas.bounds, &parts, &mut entries);
            if entries.len() == first + 1 && entries[first].steps.is_none() {
                entries.pop();
            }
        }
        List { entries }
    }

    /// The ports that atoms match in one class, in runs that do not touch.
    fn runs(&self, class: Class, active: &[u32]) -> Vec<(u32, u32)> {
        let Canvas { bounds, mut strokes } = self.canvas(class, active, &[]);
        strokes.sort_unstable_by_key(|stroke| stroke.first);
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for (first, end) in strokes.iter().map(|stroke| (bounds[stroke.first], bounds[stroke.end])) {
            match runs.last_mut().filter(|run| first <= run.1) {
                Some(run) => run.1 = run.1.max(end),
                None => runs.push((first, end)),
            }
        }
        runs
    }

    fn step(&self, stroke: &Stroke) -> &super::flatten::Step {
        &self.program.steps[stroke.step as usize]
    }

    fn number(&mut self, steps: Steps) -> u32 {
        let next = self.steps.len() as u32;
        *self.steps.entry(steps).or_insert(next)
    }

    /// The atoms' ports in one class, divided at their own bounds and at `bounds`.
    fn canvas(&self, class: Class, active: &[u32], bounds: &[u32]) -> Canvas {
        let atoms = || active.iter().map(|atom| &self.program.atoms[*atom as usize]);
        let spans = || {
            atoms().flat_map(|atom| {
                let (any, spans) = match &self.program.ports[atom.ports as usize] {
                    Ports::Any => (Some((atom, 0, PORTS)), &[][..]),
                    Ports::Spans(spans) => (None, &spans[..]),
                };
                let listed = spans
                    .iter()
                    .filter(move |span| span.class == class)
                    .map(move |span| (atom, u32::from(span.first), u32::from(span.last) + 1));
                any.into_iter().chain(listed)
            })
        };
        let is_usual = |atom: &super::flatten::Atom| atom.by_name && atom.require_name.is_none();
        let divides = class == Class::Tcp && atoms().any(is_usual);
        let mut bounds = [&[0, PORTS], bounds].concat();
        if class.has_ports() {
            bounds.extend(spans().flat_map(|(_, first, end)| [first, end]));
        }
        if divides {
            bounds.extend(NAMED_PORTS.iter().flat_map(|port| [*port, port + 1]));
        }
        bounds.sort_unstable();
        bounds.dedup();
        let part = |port: u32| bounds.partition_point(|bound| *bound < port);
        let mut strokes = Vec::new();
        for (atom, first, end) in spans() {
            let (step, first, end) = (atom.step, part(first), part(end));
            if divides && is_usual(atom) {
                strokes.extend((first..end).map(|first| {
                    let required = NAMED_PORTS.contains(&bounds[first]);
                    Stroke { step, first, end: first + 1, required }
                }));
            } else {
                strokes.push(Stroke { step, first, end, required: atom.require_name == Some(true) });
            }
        }
        Canvas { bounds, strokes }
    }

    /// The first steps of each of `parts` parts. The strokes are in the order of their steps.
    fn paint(&self, parts: usize, strokes: &[Stroke]) -> Vec<Firsts> {
        let mut firsts = vec![Firsts::default(); parts];
        let mut left = strokes;
        for (number, tier) in self.program.tiers.iter().enumerate() {
            let (now, later) = left.split_at(left.partition_point(|stroke| stroke.step < tier.end));
            left = later;
            debug_assert!(now.iter().all(|stroke| stroke.step >= tier.first));
            for (verdict, is_applied) in [(0, true), (1, false)] {
                let place = number * VERDICTS + verdict;
                if is_applied && self.one_verdict {
                    continue;
                }
                let mut open = Open::new(parts);
                for stroke in now {
                    let step = self.step(stroke);
                    if if is_applied { step.applied } else { step.reported } {
                        let first = First { ordinal: stroke.step, action: step.action };
                        open.take(stroke.first, stroke.end, |part| firsts[part][place] = Some(first));
                    }
                }
            }
            if self.one_verdict {
                for firsts in &mut firsts {
                    firsts[number * VERDICTS] = firsts[number * VERDICTS + 1];
                }
            }
        }
        firsts
    }

    /// Each tier's default comes after all of its steps.
    fn with_defaults(&self, mut firsts: Firsts) -> Firsts {
        for (tier, pair) in self.program.tiers.iter().zip(firsts.chunks_exact_mut(VERDICTS)) {
            for (first, default) in pair.iter_mut().zip([tier.applied_default, tier.reported_default]) {
                let default = default.map(|ordinal| First { ordinal, action: RuleAction::Deny });
                *first = first.or(default);
            }
        }
        firsts
    }
}

/// The entries of a class.
fn push(class: Class, bounds: &[u32], parts: &[(CompiledRuling, Option<u32>)], entries: &mut Vec<PortEntry>) {
    let parts: Vec<_> = bounds.iter().copied().zip(parts.iter().copied()).collect();
    let cover = cover(&parts).into_iter();
    entries.extend(cover.map(|(port, length, (ruling, steps))| PortEntry {
        class,
        port,
        length,
        ruling,
        steps,
    }));
}

/// The parts that are still open in a tier. Each part points to itself if it is open, else to a later one; the paths
/// are made shorter as they are walked, so taking parts costs almost nothing for those already taken.
struct Open {
    next: Vec<usize>,
}

impl Open {
    fn new(parts: usize) -> Self {
        Self { next: (0..=parts).collect() }
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
