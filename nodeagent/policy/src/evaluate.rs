//! The meaning of policies, written for being read: no tables, no tricks.
//!
//! This is the reference to which the compiler and the kernel programs are held, so it uses nothing of theirs.
//! Loopback, the pod's own addresses and replies never come here: the datapath lets them pass before.

use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{Action, Flow, FlowProtocol, Judgement, Requested, RuleId, RuleRef, Ruling, Shown};
use crate::model::{
    DefaultAction, Mode, Peer, Policy, PortMatch, Posture, Protocol, Queries, Rule, RuleAction, Scope,
    ServiceRef,
};
use crate::name::{Name, NamePattern};
use crate::network::Network;
use crate::request::{Method, normal};
use crate::select::Selection;
use crate::world::World;

/// Rules about one flow of a pod that `selection` governs.
pub fn evaluate(selection: &Selection, world: &World, posture: Posture, flow: &Flow) -> Judgement {
    let mut flow = Flow { destination: flow.destination.to_canonical(), ..flow.clone() };
    if flow.protocol == FlowProtocol::Tcp && flow.names.shown.is_none() {
        for name in flow.names.learned.clone() {
            flow.names.shown = Some(Shown::Name(name));
            let judgement = evaluate(selection, world, posture, &flow);
            if judgement.applied.action == Action::Allow {
                return judgement;
            }
        }
        flow.names.shown = Some(Shown::Unreadable);
    }
    let applied = |policy: &Policy| posture == Posture::Enforce && policy.mode == Mode::Enforce;
    let reported = |_: &Policy| posture != Posture::Observe;
    Judgement {
        applied: ruling(selection, world, &flow, applied),
        reported: ruling(selection, world, &flow, reported),
    }
}

/// Whether a pod that `selection` governs may ask its resolvers for the name. Only what is enforced counts.
pub fn may_ask(selection: &Selection, world: &World, posture: Posture, name: &Name) -> bool {
    let enforced = |policy: &&Arc<Policy>| posture == Posture::Enforce && policy.mode == Mode::Enforce;
    let policies: Vec<&Arc<Policy>> = selection.tiers().into_iter().flatten().filter(enforced).collect();
    if policies.iter().all(|policy| policy.queries == Queries::Any) {
        return true;
    }
    let rules =
        policies.iter().flat_map(|policy| &policy.rules).filter(|rule| rule.action != RuleAction::Deny);
    let mut patterns = rules.flat_map(|rule| rule.to.iter().flatten()).flat_map(|peer| match peer {
        Peer::DomainNames(patterns) => &patterns[..],
        _ => &[],
    });
    let is_asked_for = |pattern: &NamePattern| {
        is_name(pattern, name.as_str())
            || world.search.iter().any(|suffix| {
                let before =
                    name.as_str().strip_suffix(suffix.as_str()).and_then(|rest| rest.strip_suffix('.'));
                before.is_some_and(|before| is_name(pattern, before))
            })
    };
    patterns.any(is_asked_for)
}

fn ruling(selection: &Selection, world: &World, flow: &Flow, counts: impl Fn(&Policy) -> bool) -> Ruling {
    for tier in selection.tiers() {
        let policies: Vec<&Arc<Policy>> = tier.iter().filter(|policy| counts(policy)).collect();
        match first_match(&policies, world, flow) {
            Some((RuleAction::Allow, by)) => return Ruling { action: Action::Allow, by: Some(by) },
            Some((RuleAction::Deny, by)) => return Ruling { action: Action::Deny, by: Some(by) },
            Some((RuleAction::Pass, _)) => {}
            None => {
                if let Some(policy) = policies.iter().find(|p| p.default_action == DefaultAction::Deny) {
                    let by = RuleRef { policy: policy.reference(), rule: None };
                    return Ruling { action: Action::Deny, by: Some(by) };
                }
            }
        }
    }
    Ruling { action: Action::Allow, by: None }
}

fn first_match(policies: &[&Arc<Policy>], world: &World, flow: &Flow) -> Option<(RuleAction, RuleRef)> {
    for policy in policies {
        for (index, rule) in policy.rules.iter().enumerate() {
            if rule_matches(policy, rule, world, flow) {
                let id = RuleId { index: index as u32, name: rule.name.clone() };
                return Some((rule.action, RuleRef { policy: policy.reference(), rule: Some(id) }));
            }
        }
    }
    // A rule by name is of no use to a pod that cannot ask for the name.
    let asks =
        matches!(flow.protocol, FlowProtocol::Tcp | FlowProtocol::Udp) && flow.port == 53 && !flow.opaque;
    if asks && world.resolvers.iter().any(|resolver| resolver.to_canonical() == flow.destination) {
        let policy = policies.iter().find(|policy| policy.grants_by_name())?;
        return Some((RuleAction::Allow, RuleRef::implied_dns(policy)));
    }
    None
}

fn rule_matches(policy: &Policy, rule: &Rule, world: &World, flow: &Flow) -> bool {
    if !request_matches(rule, flow) {
        return false;
    }
    if flow.opaque {
        return match rule.action {
            RuleAction::Deny => true,
            RuleAction::Allow | RuleAction::Pass => {
                rule.to.is_none() && rule.ports.is_none() && rule.http.is_none()
            }
        };
    }
    match &rule.to {
        None => ports_match(rule, flow),
        Some(peers) => peers.iter().any(|peer| match peer {
            // A Service brings its own ports, so it is asked for address and port at once.
            Peer::Services(services) => services.iter().any(|name| service_matches(rule, name, world, flow)),
            Peer::DomainNames(patterns) => names_match(rule, patterns, flow) && ports_match(rule, flow),
            _ => peer_matches(policy, peer, world, flow.destination) && ports_match(rule, flow),
        }),
    }
}

/// Whether the flow asks for what the rule means. As long as nobody knows, it may be what is allowed.
fn request_matches(rule: &Rule, flow: &Flow) -> bool {
    let Some(entries) = &rule.http else { return true };
    if flow.protocol != FlowProtocol::Tcp {
        return false;
    }
    match &flow.request {
        None => rule.action != RuleAction::Deny,
        Some(Requested::Unreadable) => rule.action == RuleAction::Deny,
        Some(Requested::Request { method, path }) => entries.iter().any(|entry| {
            let by_method = entry
                .methods
                .as_ref()
                .is_none_or(|methods| Method::named(method).is_some_and(|method| methods.contains(&method)));
            by_method
                && entry.path.as_ref().is_none_or(|wanted| match normal(path) {
                    _ if path.is_empty() || path == "*" => false,
                    Ok(path) => wanted.matches(&path),
                    Err(_) => rule.action == RuleAction::Deny,
                })
        }),
    }
}

/// Whether the flow goes by a name that the patterns mean.
fn names_match(rule: &Rule, patterns: &[NamePattern], flow: &Flow) -> bool {
    let is_meant = |name: &Name| patterns.iter().any(|pattern| is_name(pattern, name.as_str()));
    let by_address = flow.names.learned.iter().any(is_meant);
    let usual = flow.protocol == FlowProtocol::Tcp && (flow.port == 80 || flow.port == 443);
    if !rule.require_name.unwrap_or(usual) {
        return by_address;
    }
    match &flow.names.shown {
        Some(Shown::Name(name))
            if flow.protocol == FlowProtocol::Tcp && flow.names.learned.contains(name) =>
        {
            is_meant(name)
        }
        _ => rule.action == RuleAction::Deny && by_address,
    }
}

fn is_name(pattern: &NamePattern, name: &str) -> bool {
    match pattern {
        NamePattern::Exact(exact) => name == exact.as_str(),
        NamePattern::Below(domain) => {
            name.strip_suffix(domain.as_str()).is_some_and(|before| before.len() > 1 && before.ends_with('.'))
        }
    }
}

/// Whether the destination is an address of the peer; names and Services are seen to elsewhere.
fn peer_matches(policy: &Policy, peer: &Peer, world: &World, destination: IpAddr) -> bool {
    match peer {
        Peer::Networks { networks, except } => {
            networks.iter().any(|network| contains(network, destination))
                && !except.iter().any(|network| contains(network, destination))
        }
        Peer::Pods { pod_selector, namespace_selector } => world.pods.iter().any(|pod| {
            let in_namespace = match (namespace_selector, &policy.scope) {
                (Some(selector), _) => {
                    selector.matches_namespace(&pod.namespace, world.namespaces.get(&pod.namespace))
                }
                (None, Scope::Namespace { namespace }) => pod.namespace == *namespace,
                (None, Scope::Cluster { .. }) => true,
            };
            !pod.host_network
                && in_namespace
                && pod_selector.matches(&pod.labels)
                && pod.addresses.iter().any(|address| address.to_canonical() == destination)
        }),
        Peer::Namespaces(selector) => world.pods.iter().any(|pod| {
            !pod.host_network
                && selector.matches_namespace(&pod.namespace, world.namespaces.get(&pod.namespace))
                && pod.addresses.iter().any(|address| address.to_canonical() == destination)
        }),
        Peer::DomainNames(_) | Peer::Services(_) => false,
    }
}

fn ports_match(rule: &Rule, flow: &Flow) -> bool {
    rule.ports.as_ref().is_none_or(|ports| {
        ports.iter().any(|entry| is_protocol(entry.protocol, flow.protocol) && in_range(*entry, flow.port))
    })
}

fn in_range(entry: PortMatch, port: u16) -> bool {
    entry.range.is_none_or(|range| range.first <= port && port <= range.last)
}

fn is_protocol(written: Protocol, seen: FlowProtocol) -> bool {
    matches!(
        (written, seen),
        (Protocol::Tcp, FlowProtocol::Tcp)
            | (Protocol::Udp, FlowProtocol::Udp)
            | (Protocol::Sctp, FlowProtocol::Sctp)
            | (Protocol::Icmp, FlowProtocol::Icmp)
    )
}

/// The rule's ports choose ports of the Service; each stands for itself on the Service's addresses and for its targets.
fn service_matches(rule: &Rule, name: &ServiceRef, world: &World, flow: &Flow) -> bool {
    world.services.iter().filter(|s| s.namespace == name.namespace && s.name == name.name).any(|service| {
        service.ports.iter().any(|port| {
            let chosen = rule.ports.as_ref().is_none_or(|entries| {
                entries.iter().any(|entry| entry.protocol == port.protocol && in_range(*entry, port.port))
            });
            let on_service = flow.port == port.port
                && service.addresses.iter().any(|address| address.to_canonical() == flow.destination);
            let on_target = port
                .targets
                .iter()
                .any(|(address, target)| flow.port == *target && address.to_canonical() == flow.destination);
            chosen
                && port.protocol != Protocol::Icmp
                && is_protocol(port.protocol, flow.protocol)
                && (on_service || on_target)
        })
    })
}

/// Whether the address has the network's first `length` bits.
fn contains(network: &Network, address: IpAddr) -> bool {
    let length = u32::from(network.length());
    match (network.address(), address) {
        (IpAddr::V4(first), IpAddr::V4(address)) => {
            length == 0 || (first.to_bits() ^ address.to_bits()) >> (32 - length) == 0
        }
        (IpAddr::V6(first), IpAddr::V6(address)) => {
            length == 0 || (first.to_bits() ^ address.to_bits()) >> (128 - length) == 0
        }
        _ => false,
    }
}
