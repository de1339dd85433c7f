//! The compiler against the reference, on random cases.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use rand::rngs::SmallRng;

use crate::arbitrary::{Case, Size, random_case, random_flow, random_question, random_request, rng};
use crate::compile::{Class, Compiled, CompiledRuling, compile};
use crate::evaluate::{evaluate, may_ask};
use crate::flow::{Action, Flow, Judgement, Ruling};
use crate::model::{Mode, Peer, Policy, Posture, RuleAction};
use crate::name::NamePattern;
use crate::select::{Selection, select};
use crate::set::PolicySet;
use crate::world::World;

const POSTURES: [Posture; 6] =
    [Posture::Enforce, Posture::Enforce, Posture::Enforce, Posture::Enforce, Posture::Log, Posture::Observe];

fn named(compiled: &Compiled, ruling: CompiledRuling) -> Judgement {
    let side = |action, ordinal| Ruling { action, by: compiled.rule(ordinal).cloned() };
    Judgement {
        applied: side(ruling.applied, ruling.applied_rule),
        reported: side(ruling.reported, ruling.reported_rule),
    }
}

/// A selection of the case: mostly all of its policies, for more of them to meet.
fn selection(case: &Case, seed: u64) -> Selection {
    if seed.is_multiple_of(4) {
        let set =
            PolicySet::new(case.policies.clone()).expect("the generator gives each policy its own name");
        select(&set, &case.pod, case.world.namespaces.get(&case.pod.namespace))
    } else {
        Selection::new(case.policies.iter().cloned().map(Arc::new))
    }
}

/// The first flow of some on which the two do not agree.
fn disagreement(
    compiled: &Compiled,
    rng: &mut SmallRng,
    case: &Case,
    flows: usize,
    reference: impl Fn(&Flow) -> Judgement,
) -> Option<(Flow, Judgement, Judgement)> {
    (0..flows).find_map(|_| {
        let flow = random_flow(rng, &case.policies, &case.world);
        let (quick, slow) = (named(compiled, compiled.judge(&flow)), reference(&flow));
        (quick != slow).then_some((flow, quick, slow))
    })
}

fn assert_well_formed(compiled: &Compiled) {
    assert!(compiled.prefixes.is_sorted_by(|(a, _), (b, _)| a < b), "prefixes in order, none twice");
    for prefix in [crate::compile::Prefix::ALL, crate::compile::Prefix::IPV4] {
        assert!(compiled.prefixes.iter().any(|(p, _)| *p == prefix), "{prefix:?} is always there");
    }
    assert!(compiled.names.is_sorted_by(|a, b| a.pattern < b.pattern), "patterns in order, none twice");
    let of_prefixes: BTreeSet<u32> = compiled.prefixes.iter().map(|(_, list)| *list).collect();
    for list in of_prefixes.iter().map(|list| &compiled.lists[*list as usize]) {
        for class in Class::ALL {
            let entries: Vec<_> = list.entries.iter().filter(|e| e.class == class).collect();
            assert_eq!(entries.iter().filter(|e| e.length == 0).count(), 1, "one whole entry of {class:?}");
            assert!(class.has_ports() || entries.len() == 1, "one entry of {class:?}");
            assert!(
                entries.iter().all(|e| e.port.trailing_zeros() + u32::from(e.length) >= 16),
                "no stray bits"
            );
        }
        assert!(list.entries.is_sorted_by_key(|e| (e.class, e.port, e.length)));
    }
    for list in compiled.names.iter().filter_map(|entry| entry.list) {
        assert!(!of_prefixes.contains(&list), "a list is of prefixes or of names");
        let entries = &compiled.lists[list as usize].entries;
        assert!(entries.iter().any(|entry| entry.steps.is_some()), "a rule that matches nothing");
        assert!(entries.iter().all(|entry| entry.ruling == CompiledRuling::SILENT));
    }
    let mut opaque = of_prefixes.iter().map(|list| compiled.lists[*list as usize].ruling(Class::Opaque, 0));
    let first = opaque.next();
    assert!(opaque.all(|ruling| Some(ruling) == first), "one opaque ruling");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    /// The compiled policy rules as the reference does, by the same rules, for both verdicts.
    #[test]
    fn compiled_policies_mean_what_the_reference_says(
        seed: u64, policies in 0_usize..=6, rules in 0_usize..=6, posture in 0_usize..POSTURES.len(),
    ) {
        let mut rng = rng(seed);
        let case = random_case(&mut rng, Size { policies, rules, ..Size::SMALL });
        let selection = selection(&case, seed);
        let posture = POSTURES[posture];
        let compiled = compile(&selection, &case.world, posture);
        assert_well_formed(&compiled);
        let reference = |flow: &Flow| evaluate(&selection, &case.world, posture, flow);
        for _ in 0..10 {
            let name = random_question(&mut rng, &case.world);
            let (quick, slow) = (compiled.may_ask(&name), may_ask(&selection, &case.world, posture, &name));
            prop_assert_eq!(quick, slow, "{}\n{:#?}", name, &case);
        }
        for _ in 0..20 {
            // What may go once its request is known was not stopped before.
            let opening = random_flow(&mut rng, &case.policies, &case.world);
            let flow = Flow { request: Some(random_request(&mut rng)), ..opening.clone() };
            let known = reference(&flow).applied.action == Action::Allow;
            prop_assert!(!known || reference(&opening).applied.action == Action::Allow, "{flow:?}\n{case:#?}");
        }
        if let Some((flow, quick, slow)) = disagreement(&compiled, &mut rng, &case, 40, reference) {
            prop_assert!(false, "{flow:?}\ncompiled  {quick:?}\nreference {slow:?}\n{case:#?}");
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// The order of documents and of the world changes nothing.
    #[test]
    fn order_of_input_does_not_count(seed: u64) {
        let mut case = random_case(&mut rng(seed), Size::SMALL);
        let first = compile(&selection(&case, 1), &case.world, Posture::Enforce);
        case.policies.reverse();
        case.world.pods.reverse();
        case.world.services.reverse();
        for service in &mut case.world.services {
            service.ports.reverse();
        }
        let second = compile(&selection(&case, 1), &case.world, Posture::Enforce);
        prop_assert_eq!(first, second);
    }

    /// A policy that is written and read again is the same.
    #[test]
    fn documents_survive_being_written(seed: u64) {
        let case = random_case(&mut rng(seed), Size::SMALL);
        for policy in &case.policies {
            let json = serde_json::to_string(policy).expect("policies can be written");
            let mut read = crate::parse::parse("again", &json).expect("what is written can be read");
            let mut read = read.pop().expect("one document");
            read.source = policy.source.clone();
            prop_assert_eq!(&read, policy);
            let mut direct: Policy = serde_json::from_str(&json).expect("and so can serde");
            direct.source = policy.source.clone();
            prop_assert_eq!(&direct, policy);
        }
    }
}

/// What goes wrong, and how to make it so.
type Fault = (&'static str, fn(&mut Policy));

/// Ways in which a compiler could go wrong, each planted in the policies that the reference is given.
const FAULTS: [Fault; 10] = [
    ("exceptions are forgotten", |policy| {
        for peer in policy.rules.iter_mut().flat_map(|rule| rule.to.iter_mut().flatten()) {
            if let Peer::Networks { except, .. } = peer {
                except.clear();
            }
        }
    }),
    ("a range ends one port early", |policy| {
        for entry in policy.rules.iter_mut().flat_map(|rule| rule.ports.iter_mut().flatten()) {
            if let Some(range) = entry.range.as_mut().filter(|range| range.first < range.last) {
                range.last -= 1;
            }
        }
    }),
    ("priority is forgotten", |policy| policy.priority = 500),
    ("Pass is taken for Allow", |policy| {
        for rule in policy.rules.iter_mut().filter(|rule| rule.action == RuleAction::Pass) {
            rule.action = RuleAction::Allow;
        }
    }),
    ("Audit is applied", |policy| policy.mode = Mode::Enforce),
    ("the last match wins", |policy| policy.rules.reverse()),
    ("no name is required", |policy| {
        for rule in &mut policy.rules {
            rule.require_name = Some(false);
        }
    }),
    ("`*.b` means b", |policy| {
        for peer in policy.rules.iter_mut().flat_map(|rule| rule.to.iter_mut().flatten()) {
            if let Peer::DomainNames(patterns) = peer {
                let below = |pattern: &NamePattern| match pattern {
                    NamePattern::Below(domain) => Some(NamePattern::Exact(domain.clone())),
                    NamePattern::Exact(_) => None,
                };
                let also: Vec<NamePattern> = patterns.iter().filter_map(below).collect();
                patterns.extend(also);
            }
        }
    }),
    ("`http` is forgotten", |policy| {
        for rule in &mut policy.rules {
            rule.http = None;
        }
    }),
    ("a Deny by name is forgotten", |policy| {
        policy.rules.retain(|rule| {
            let mut peers = rule.to.iter().flatten();
            rule.action != RuleAction::Deny || !peers.any(|peer| matches!(peer, Peer::DomainNames(_)))
        });
    }),
];

/// Each planted fault is found within few cases, so the agreement above means something.
#[test]
fn planted_faults_are_found() {
    for (fault, plant) in FAULTS {
        let found = (0..400).any(|seed| {
            let mut rng = rng(seed);
            let case = random_case(&mut rng, Size::SMALL);
            let mut wrong = case.policies.clone();
            wrong.iter_mut().for_each(plant);
            let compiled = compile(&selection(&case, 1), &case.world, Posture::Enforce);
            let wrong = Selection::new(wrong.into_iter().map(Arc::new));
            // The rules' own names are compared too; verdicts alone are the harder test.
            let actions = |j: &Judgement| (j.applied.action, j.reported.action);
            (0..40).any(|_| {
                let flow = random_flow(&mut rng, &case.policies, &case.world);
                let wrong = evaluate(&wrong, &case.world, Posture::Enforce, &flow);
                actions(&named(&compiled, compiled.judge(&flow))) != actions(&wrong)
            })
        });
        assert!(found, "the generator never shows that {fault}");
    }
}

/// Every kind of ruling turns up: the generator does not test one answer over and over.
#[test]
fn random_flows_meet_everything() {
    let mut seen = std::collections::BTreeMap::<(bool, bool, Option<bool>, Class), usize>::new();
    let world_has = |world: &World| !world.services.is_empty();
    for seed in 0..600 {
        let mut rng = rng(seed);
        let case = random_case(&mut rng, Size::SMALL);
        let selection = selection(&case, 1);
        for _ in 0..20 {
            let flow = random_flow(&mut rng, &case.policies, &case.world);
            let judgement = evaluate(&selection, &case.world, Posture::Enforce, &flow);
            let by = judgement.applied.by.as_ref().map(|by| by.rule.is_some());
            let denied = judgement.applied.action == Action::Deny;
            *seen.entry((world_has(&case.world), denied, by, Class::of(&flow))).or_default() += 1;
        }
    }
    for class in Class::ALL {
        for (denied, by) in [(false, None), (false, Some(true)), (true, Some(true)), (true, Some(false))] {
            let count = seen.get(&(true, denied, by, class)).copied().unwrap_or_default();
            assert!(count > 0, "no {class:?} flow with denied={denied} by={by:?}");
        }
    }
}
