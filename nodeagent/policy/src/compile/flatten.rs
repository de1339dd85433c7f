//! From policies and a world to one numbered sequence of steps, and the prefixes at which each begins or ends to match.

use std::collections::HashMap;

use super::{Class, Prefix};
use crate::flow::{RuleId, RuleRef};
use crate::model::{
    DefaultAction, Mode, Peer, Policy, PortMatch, PortRange, Posture, Protocol, Queries, Rule, RuleAction,
};
use crate::name::NamePattern;
use crate::network::Network;
use crate::select::Selection;
use crate::selector::LabelSelector;
use crate::world::{PodInfo, ServiceInfo, World};

/// All rules of a selection in the order in which they are asked.
pub(super) struct Program {
    /// One for each rule; the index is the rule's ordinal.
    pub(super) steps: Vec<Step>,
    /// The steps of each tier.
    pub(super) tiers: [Tier; 3],
    /// The names behind the ordinals: the steps', then the defaults'.
    pub(super) names: Vec<RuleRef>,
    /// What is looked for on ports. An atom matches flows that its ports match, wherever it is active.
    pub(super) atoms: Vec<Atom>,
    /// Ports that atoms point at. The first is "any protocol and port".
    pub(super) ports: Vec<Ports>,
    /// Atoms that are active everywhere, in order.
    pub(super) anywhere: Vec<u32>,
    /// Where the other atoms begin and end, in the order of the prefixes.
    pub(super) events: Vec<Event>,
    /// The atoms that match by name, with what they match. They are active nowhere by address.
    pub(super) patterns: Vec<(NamePattern, u32)>,
    /// The pod may ask only for names that a rule means.
    pub(super) restricts_queries: bool,
}

/// A rule without its peers and ports.
pub(super) struct Step {
    pub(super) action: RuleAction,
    /// Counts for the applied verdict.
    pub(super) applied: bool,
    /// Counts for the reported verdict.
    pub(super) reported: bool,
    /// Matches packets that cannot be read.
    pub(super) opaque: bool,
}

/// The steps of one tier and its defaults.
#[derive(Clone, Copy, Default)]
pub(super) struct Tier {
    pub(super) first: u32,
    /// One past the last.
    pub(super) end: u32,
    /// The ordinal of the first default Deny that counts for the applied verdict.
    pub(super) applied_default: Option<u32>,
    /// The same for the reported one.
    pub(super) reported_default: Option<u32>,
}

/// A step with one of its port sets.
pub(super) struct Atom {
    pub(super) step: u32,
    pub(super) ports: u32,
    /// It matches by name.
    pub(super) by_name: bool,
    /// The rule's `requireName`.
    pub(super) require_name: Option<bool>,
}

/// Ports that a step matches.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Ports {
    /// Any protocol and port.
    Any,
    /// These only.
    Spans(Vec<Span>),
}

/// Ports of one class, both ends included. ICMP spans all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Span {
    pub(super) class: Class,
    pub(super) first: u16,
    pub(super) last: u16,
}

/// An atom begins to match at a prefix, or is cut out of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Event {
    pub(super) prefix: Prefix,
    pub(super) atom: u32,
    pub(super) cut: bool,
}

/// Lays out the selection.
pub(super) fn flatten(selection: &Selection, world: &World, posture: Posture) -> Program {
    let mut flattener = Flattener {
        index: Index::new(world),
        port_sets: HashMap::from([(Ports::Any, 0)]),
        program: Program {
            steps: Vec::new(),
            tiers: [Tier::default(); 3],
            names: Vec::new(),
            atoms: Vec::new(),
            ports: vec![Ports::Any],
            anywhere: Vec::new(),
            events: Vec::new(),
            patterns: Vec::new(),
            restricts_queries: false,
        },
    };
    if posture == Posture::Observe {
        return flattener.program;
    }
    for (number, tier) in selection.tiers().into_iter().enumerate() {
        flattener.program.tiers[number].first = flattener.program.steps.len() as u32;
        for policy in tier {
            for (index, rule) in policy.rules.iter().enumerate() {
                flattener.rule(policy, index, rule, posture);
            }
            flattener.program.restricts_queries |=
                policy.queries == Queries::RuleNames && is_applied(policy, posture);
        }
        for policy in tier.iter().filter(|policy| policy.grants_by_name()) {
            flattener.implied_dns(policy, posture);
        }
        flattener.program.tiers[number].end = flattener.program.steps.len() as u32;
    }
    for (number, tier) in selection.tiers().into_iter().enumerate() {
        for policy in tier.iter().filter(|policy| policy.default_action == DefaultAction::Deny) {
            flattener.default(policy, number, posture);
        }
    }
    let mut program = flattener.program;
    program.events.sort_unstable();
    program.events.dedup();
    program
}

/// The pods of each namespace and the Services by name, so that a peer looks only at those it can mean.
struct Index<'a> {
    world: &'a World,
    pods: HashMap<&'a str, Vec<&'a PodInfo>>,
    services: HashMap<(&'a str, &'a str), Vec<&'a ServiceInfo>>,
}

impl<'a> Index<'a> {
    fn new(world: &'a World) -> Self {
        let mut index = Self { world, pods: HashMap::new(), services: HashMap::new() };
        for pod in world.pods.iter().filter(|pod| !pod.host_network) {
            index.pods.entry(&pod.namespace).or_default().push(pod);
        }
        for service in &world.services {
            index.services.entry((&service.namespace, &service.name)).or_default().push(service);
        }
        index
    }

    /// The host prefixes of the pods that match in the namespaces that match.
    fn addresses(&self, namespaces: &Namespaces<'_>, pods: &LabelSelector) -> Vec<Prefix> {
        self.pods
            .iter()
            .filter(|(name, _)| match namespaces {
                Namespaces::Own(own) => *own == **name,
                Namespaces::All => true,
                Namespaces::Selected(selector) => {
                    selector.matches_namespace(name, self.world.namespaces.get(**name))
                }
            })
            .flat_map(|(_, members)| members)
            .filter(|pod| pods.matches(&pod.labels))
            .flat_map(|pod| &pod.addresses)
            .map(|address| Prefix::host(*address))
            .collect()
    }
}

enum Namespaces<'a> {
    Own(&'a str),
    All,
    Selected(&'a LabelSelector),
}

struct Flattener<'a> {
    index: Index<'a>,
    port_sets: HashMap<Ports, u32>,
    program: Program,
}

impl Flattener<'_> {
    fn rule(&mut self, policy: &Policy, index: usize, rule: &Rule, posture: Posture) {
        let id = RuleId { index: index as u32, name: rule.name.clone() };
        self.program.names.push(RuleRef { policy: policy.reference(), rule: Some(id) });
        self.program.steps.push(Step {
            action: rule.action,
            applied: is_applied(policy, posture),
            reported: true,
            opaque: rule.http.is_none()
                && (rule.action == RuleAction::Deny || (rule.to.is_none() && rule.ports.is_none())),
        });
        // The kernel knows no requests: an Allow rule opens the way to all of them, a Deny rule is one of no effect.
        let entries = match &rule.http {
            Some(_) if rule.action == RuleAction::Deny => return,
            Some(_) => Some(rule.ports.as_deref().unwrap_or(&[PortMatch::TCP])),
            None => rule.ports.as_deref(),
        };
        let ports = self.port_set(entries.map_or(Ports::Any, Ports::of));
        let Some(peers) = &rule.to else {
            let atom = self.atom(ports);
            self.program.anywhere.push(atom);
            return;
        };
        // Peers without exceptions share an atom; an exception cuts its own peer only, so that peer has its own.
        let (mut shared, mut by_name) = (None, None);
        for peer in peers {
            match peer {
                Peer::Networks { networks, except } if except.is_empty() => {
                    let atom = *shared.get_or_insert_with(|| self.atom(ports));
                    self.begin(atom, networks.iter().map(Prefix::from));
                }
                Peer::Networks { networks, except } => {
                    let atom = self.atom(ports);
                    self.begin(atom, networks.iter().map(Prefix::from));
                    self.cut(atom, except);
                }
                Peer::Pods { pod_selector, namespace_selector } => {
                    let namespaces = match (namespace_selector, policy.namespace()) {
                        (Some(selector), _) => Namespaces::Selected(selector),
                        (None, Some(own)) => Namespaces::Own(own),
                        (None, None) => Namespaces::All,
                    };
                    let addresses = self.index.addresses(&namespaces, pod_selector);
                    let atom = *shared.get_or_insert_with(|| self.atom(ports));
                    self.begin(atom, addresses);
                }
                Peer::Namespaces(selector) => {
                    let addresses =
                        self.index.addresses(&Namespaces::Selected(selector), &LabelSelector::default());
                    let atom = *shared.get_or_insert_with(|| self.atom(ports));
                    self.begin(atom, addresses);
                }
                Peer::DomainNames(patterns) => {
                    let atom = *by_name.get_or_insert_with(|| self.atom(ports));
                    let made = &mut self.program.atoms[atom as usize];
                    (made.by_name, made.require_name) = (true, rule.require_name);
                    self.program.patterns.extend(patterns.iter().map(|pattern| (pattern.clone(), atom)));
                }
                Peer::Services(names) => {
                    for name in names {
                        self.service(&name.namespace, &name.name, entries);
                    }
                }
            }
        }
    }

    /// A Service stands for its chosen ports on its own addresses, and for their targets where those are.
    fn service(&mut self, namespace: &str, name: &str, chosen: Option<&[PortMatch]>) {
        let mut spans: HashMap<Prefix, Vec<Span>> = HashMap::new();
        let services = self.index.services.get(&(namespace, name)).into_iter().flatten();
        for (service, port) in
            services.flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        {
            let is_chosen = chosen.is_none_or(|entries| {
                entries.iter().any(|e| {
                    e.protocol == port.protocol
                        && e.range.is_none_or(|r| (r.first..=r.last).contains(&port.port))
                })
            });
            if !is_chosen || port.protocol == Protocol::Icmp {
                continue;
            }
            let own = service.addresses.iter().map(|address| (*address, port.port));
            for (address, number) in own.chain(port.targets.iter().copied()) {
                let span = Span { class: port.protocol.into(), first: number, last: number };
                spans.entry(Prefix::host(address)).or_default().push(span);
            }
        }
        // In order, so that equal input gives equal output.
        let mut spans: Vec<(Prefix, Vec<Span>)> = spans.into_iter().collect();
        spans.sort_unstable();
        let mut atoms: HashMap<u32, u32> = HashMap::new();
        for (prefix, spans) in spans {
            let ports = self.port_set(Ports::from_spans(spans));
            let atom = *atoms.entry(ports).or_insert_with(|| self.atom(ports));
            self.begin(atom, [prefix]);
        }
    }

    /// The way to the resolvers that a policy which grants by name brings with it.
    fn implied_dns(&mut self, policy: &Policy, posture: Posture) {
        let (applied, reported) = (is_applied(policy, posture), true);
        self.program.names.push(RuleRef::implied_dns(policy));
        self.program.steps.push(Step { action: RuleAction::Allow, applied, reported, opaque: false });
        let span = |class| Span { class, first: 53, last: 53 };
        let ports = self.port_set(Ports::from_spans(vec![span(Class::Tcp), span(Class::Udp)]));
        let atom = self.atom(ports);
        let resolvers: Vec<Prefix> = self.index.world.resolvers.iter().copied().map(Prefix::host).collect();
        self.begin(atom, resolvers);
    }

    fn default(&mut self, policy: &Policy, tier: usize, posture: Posture) {
        let ordinal = self.program.names.len() as u32;
        self.program.names.push(RuleRef { policy: policy.reference(), rule: None });
        let tier = &mut self.program.tiers[tier];
        tier.reported_default.get_or_insert(ordinal);
        if is_applied(policy, posture) {
            tier.applied_default.get_or_insert(ordinal);
        }
    }

    fn port_set(&mut self, ports: Ports) -> u32 {
        let next = self.program.ports.len() as u32;
        let number = *self.port_sets.entry(ports.clone()).or_insert(next);
        if number == next {
            self.program.ports.push(ports);
        }
        number
    }

    /// A new atom of the latest step.
    fn atom(&mut self, ports: u32) -> u32 {
        let step = self.program.steps.len() as u32 - 1;
        self.program.atoms.push(Atom { step, ports, by_name: false, require_name: None });
        self.program.atoms.len() as u32 - 1
    }

    fn begin(&mut self, atom: u32, prefixes: impl IntoIterator<Item = Prefix>) {
        self.program.events.extend(prefixes.into_iter().map(|prefix| Event { prefix, atom, cut: false }));
    }

    fn cut(&mut self, atom: u32, except: &[Network]) {
        self.program.events.extend(except.iter().map(|n| Event { prefix: n.into(), atom, cut: true }));
    }
}

fn is_applied(policy: &Policy, posture: Posture) -> bool {
    posture == Posture::Enforce && policy.mode == Mode::Enforce
}

impl Ports {
    fn of(entries: &[PortMatch]) -> Self {
        let whole = PortRange { first: 0, last: u16::MAX };
        Self::from_spans(
            entries
                .iter()
                .map(|entry| {
                    let range =
                        if entry.protocol == Protocol::Icmp { None } else { entry.range }.unwrap_or(whole);
                    Span { class: entry.protocol.into(), first: range.first, last: range.last }
                })
                .collect(),
        )
    }

    fn from_spans(mut spans: Vec<Span>) -> Self {
        spans.sort_unstable();
        spans.dedup();
        Self::Spans(spans)
    }
}
