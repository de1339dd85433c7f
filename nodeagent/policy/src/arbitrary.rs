//! Random policies, worlds and flows, for tests that hold two judges against each other.
//!
//! Addresses and ports are drawn from few, close values, so that networks overlap, exceptions cut, priorities tie and
//! flows fall on the edges of rules. One seed gives the same case on every machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::flow::{Flow, FlowProtocol, Names, Requested, Shown};
use crate::model::{
    ClusterTier, DefaultAction, HostNetwork, Mode, Peer, Policy, PortMatch, PortRange, Protocol, Queries,
    Rule, RuleAction, Scope, ServiceRef, Source,
};
use crate::name::{Name, NamePattern};
use crate::network::Network;
use crate::request::{HttpMatch, Method, PathMatch};
use crate::selector::{LabelSelector, Labels, Operator, Requirement};
use crate::world::{PodInfo, ServiceInfo, ServicePort, World};

/// How large a case may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The most policies.
    pub policies: usize,
    /// The most rules in each.
    pub rules: usize,
    /// The most pods in the world.
    pub pods: usize,
    /// The most Services in the world.
    pub services: usize,
}

impl Size {
    /// Small enough for thousands of cases, large enough for every rule to meet every other.
    pub const SMALL: Self = Self { policies: 6, rules: 6, pods: 8, services: 4 };
}

/// Policies and the world they are judged in.
#[derive(Clone, Debug)]
pub struct Case {
    /// The policies, no two of one kind, namespace and name.
    pub policies: Vec<Policy>,
    /// The world.
    pub world: World,
    /// A pod of the world's namespaces that policies may govern.
    pub pod: PodInfo,
}

/// The generator for a seed.
pub fn rng(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// A case. Everything that the generator draws comes from `rng`.
pub fn random_case(rng: &mut SmallRng, size: Size) -> Case {
    let world = random_world(rng, size);
    let policies = random_policies(rng, size, &world);
    let pod = PodInfo {
        namespace: namespace(rng),
        name: "subject".to_owned(),
        labels: labels(rng),
        addresses: Vec::new(),
        host_network: rng.random_bool(0.1),
    };
    Case { policies, world, pod }
}

/// A world of few namespaces, labels and addresses.
pub fn random_world(rng: &mut SmallRng, size: Size) -> World {
    let mut namespaces = BTreeMap::new();
    for name in NAMESPACES {
        if rng.random_bool(0.8) {
            namespaces.insert(name.to_owned(), labels(rng));
        }
    }
    let pods = (0..rng.random_range(0..=size.pods))
        .map(|number| PodInfo {
            namespace: namespace(rng),
            name: format!("pod-{number}"),
            labels: labels(rng),
            addresses: (0..rng.random_range(0..=2)).map(|_| address(rng)).collect(),
            host_network: rng.random_bool(0.1),
        })
        .collect();
    let services = (0..rng.random_range(0..=size.services))
        .map(|_| ServiceInfo {
            namespace: namespace(rng),
            name: pick(rng, &SERVICES).to_owned(),
            addresses: (0..rng.random_range(0..=2)).map(|_| address(rng)).collect(),
            ports: (0..rng.random_range(0..=3))
                .map(|_| ServicePort {
                    protocol: pick(rng, &[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp]),
                    port: port(rng).max(1),
                    targets: (0..rng.random_range(0..=3)).map(|_| (address(rng), port(rng).max(1))).collect(),
                })
                .collect(),
        })
        .collect();
    let resolvers = (0..rng.random_range(0..=2)).map(|_| address(rng)).collect();
    let search = (0..rng.random_range(0..=2)).map(|_| name(rng)).collect();
    World { pods, namespaces, services, resolvers, search }
}

/// Policies of all tiers. Many ask for few priorities, so that names decide.
pub fn random_policies(rng: &mut SmallRng, size: Size, world: &World) -> Vec<Policy> {
    let count = rng.random_range(0..=size.policies);
    let mut names: Vec<usize> = (0..count).collect();
    // Names in another order than the documents, so that the order of documents must not count.
    for index in (1..count).rev() {
        names.swap(index, rng.random_range(0..=index));
    }
    names.into_iter().enumerate().map(|(at, name)| random_policy(rng, size, world, at + 1, name)).collect()
}

fn random_policy(rng: &mut SmallRng, size: Size, world: &World, document: usize, name: usize) -> Policy {
    let scope = if rng.random_bool(0.4) {
        Scope::Namespace { namespace: namespace(rng) }
    } else {
        Scope::Cluster {
            tier: pick(rng, &[ClusterTier::Admin, ClusterTier::Baseline]),
            namespace_selector: rng.random_bool(0.2).then(|| selector(rng)),
            host_network: pick(rng, &[HostNetwork::Exclude, HostNetwork::Include]),
        }
    };
    let rules = (0..rng.random_range(0..=size.rules)).map(|_| random_rule(rng, &scope, world)).collect();
    Policy {
        source: Source { file: Arc::from("random"), document },
        name: format!("p{name}"),
        labels: Labels::new(),
        annotations: Labels::new(),
        scope,
        pod_selector: if rng.random_bool(0.7) { LabelSelector::default() } else { selector(rng) },
        priority: pick(rng, &[0, 100, 500, 500, 500, 1000]),
        mode: if rng.random_bool(0.3) { Mode::Audit } else { Mode::Enforce },
        default_action: if rng.random_bool(0.3) { DefaultAction::Deny } else { DefaultAction::None },
        queries: if rng.random_bool(0.2) { Queries::RuleNames } else { Queries::Any },
        rules,
    }
}

fn random_rule(rng: &mut SmallRng, scope: &Scope, world: &World) -> Rule {
    use RuleAction::{Allow, Deny, Pass};
    let action = match scope {
        Scope::Namespace { .. } => pick(rng, &[Allow, Deny]),
        Scope::Cluster { .. } => pick(rng, &[Allow, Deny, Pass]),
    };
    let to: Option<Vec<Peer>> = rng
        .random_bool(0.85)
        .then(|| (0..rng.random_range(1..=3)).map(|_| peer(rng, scope, world)).collect());
    let ports =
        rng.random_bool(0.6).then(|| (0..rng.random_range(1..=3)).map(|_| port_match(rng, world)).collect());
    let by_name = to.iter().flatten().any(|peer| matches!(peer, Peer::DomainNames(_)));
    let require_name = (by_name && rng.random_bool(0.4)).then(|| rng.random());
    let name = rng.random_bool(0.5).then(|| pick(rng, &["a", "b", "c"]).to_owned());
    let http = (action != Pass && rng.random_bool(0.2)).then(|| http(rng));
    let ports = if http.is_some() { ports.map(only_tcp) } else { ports };
    Rule { name, action, to, ports, http, require_name }
}

/// The same ports of TCP.
fn only_tcp(entries: Vec<PortMatch>) -> Vec<PortMatch> {
    entries.into_iter().map(|entry| PortMatch { protocol: Protocol::Tcp, ..entry }).collect()
}

fn http(rng: &mut SmallRng) -> Vec<HttpMatch> {
    let entry = |rng: &mut SmallRng| {
        let methods = rng
            .random_bool(0.6)
            .then(|| (0..rng.random_range(1..=2)).map(|_| pick(rng, &[Method::Get, Method::Post])).collect());
        let value = pick(rng, &["/", "/v1", "/v1/", "/v1/x", "/v10"]).to_owned();
        let path = if rng.random() { PathMatch::Exact(value) } else { PathMatch::Prefix(value) };
        HttpMatch { path: (methods.is_none() || rng.random()).then_some(path), methods }
    };
    (0..rng.random_range(1..=2)).map(|_| entry(rng)).collect()
}

/// What a flow asks for: something that rules mean, or nearly, or what cannot be read.
pub fn random_request(rng: &mut SmallRng) -> Requested {
    if rng.random_bool(0.1) {
        return Requested::Unreadable;
    }
    let paths = ["/", "/v1", "/v1/", "/v1/x", "/v10", "//v1/x", "/v1/../v10", "/%761", "/v1%2fx", "*", ""];
    let (method, path) = (pick(rng, &["GET", "POST", "get", "PURGE"]), pick(rng, &paths));
    Requested::Request { method: method.to_owned(), path: path.to_owned() }
}

fn peer(rng: &mut SmallRng, scope: &Scope, world: &World) -> Peer {
    match rng.random_range(0..10) {
        0 | 1 => Peer::Pods {
            pod_selector: selector(rng),
            namespace_selector: rng.random_bool(0.5).then(|| selector(rng)),
        },
        2 if matches!(scope, Scope::Cluster { .. }) => Peer::Namespaces(selector(rng)),
        3 | 4 => Peer::Services((0..rng.random_range(1..=2)).map(|_| service_ref(rng, world)).collect()),
        5 | 6 => Peer::DomainNames((0..rng.random_range(1..=3)).map(|_| pattern(rng)).collect()),
        _ => networks(rng),
    }
}

fn pattern(rng: &mut SmallRng) -> NamePattern {
    if rng.random() { NamePattern::Exact(name(rng)) } else { NamePattern::Below(name(rng)) }
}

/// One of few names, some below others, some that only look so.
fn name(rng: &mut SmallRng) -> Name {
    let name = pick(rng, &["test", "a.test", "b.test", "x.a.test", "y.x.a.test", "aa.test", "test.b", "b"]);
    name.parse().expect("a name")
}

/// The names of a flow: where it was learned from, and what it shows.
pub fn random_names(rng: &mut SmallRng) -> Names {
    let mut learned: Vec<Name> = Vec::new();
    for _ in 0..rng.random_range(0..=3) {
        let name = name(rng);
        if !learned.contains(&name) {
            learned.push(name);
        }
    }
    let shown = match rng.random_range(0..10) {
        0..=1 => None,
        2..=3 => Some(Shown::Unreadable),
        4 => Some(Shown::Name(name(rng))),
        _ => Some(learned.choose(rng).map_or(Shown::Unreadable, |name| Shown::Name(name.clone()))),
    };
    Names { learned, shown }
}

/// A name that policies may restrict the asking for: one that they mean, perhaps with a suffix.
pub fn random_question(rng: &mut SmallRng, world: &World) -> Name {
    let name = name(rng);
    let deeper = if rng.random_bool(0.3) { format!("z.{name}") } else { name.to_string() };
    let suffix = world.search.choose(rng).filter(|_| rng.random());
    let text = suffix.map_or_else(|| deeper.clone(), |suffix| format!("{deeper}.{suffix}"));
    text.parse().expect("a name")
}

fn service_ref(rng: &mut SmallRng, world: &World) -> ServiceRef {
    match world.services.choose(rng) {
        Some(service) if rng.random_bool(0.8) => {
            ServiceRef { name: service.name.clone(), namespace: service.namespace.clone() }
        }
        _ => ServiceRef { name: pick(rng, &SERVICES).to_owned(), namespace: namespace(rng) },
    }
}

fn networks(rng: &mut SmallRng) -> Peer {
    let networks: Vec<Network> = (0..rng.random_range(1..=3)).map(|_| network(rng)).collect();
    // As in a document: each exception is a smaller part of one of the networks.
    let except = (0..rng.random_range(0..=4))
        .map(|_| network(rng))
        .filter(|cut| networks.iter().any(|network| network != cut && network.covers(cut)))
        .collect();
    Peer::Networks { networks, except }
}

fn network(rng: &mut SmallRng) -> Network {
    let address = address(rng).to_canonical();
    let length = match address {
        IpAddr::V4(_) => pick(rng, &[0, 1, 8, 15, 16, 23, 24, 25, 30, 31, 32, 32]),
        IpAddr::V6(_) => pick(rng, &[0, 1, 16, 32, 63, 64, 65, 79, 80, 81, 95, 96, 97, 127, 128, 128]),
    };
    let first = match address {
        IpAddr::V4(v4) => {
            Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0))
                .into()
        }
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0))
                .into()
        }
    };
    Network::new(first, length).unwrap_or_else(|_| Network::host(address))
}

fn port_match(rng: &mut SmallRng, world: &World) -> PortMatch {
    use Protocol::{Icmp, Sctp, Tcp, Udp};
    let protocol = pick(rng, &[Tcp, Tcp, Tcp, Udp, Udp, Sctp, Icmp]);
    if protocol == Icmp || rng.random_bool(0.15) {
        return PortMatch { protocol, range: None };
    }
    let first = match world.services.choose(rng).and_then(|service| service.ports.choose(rng)) {
        Some(port) if rng.random_bool(0.4) => port.port,
        _ => port(rng).max(1),
    };
    let last = if rng.random_bool(0.5) { first } else { port(rng).max(first) };
    PortMatch { protocol, range: Some(PortRange { first, last }) }
}

/// A flow that is likely to fall on the edge of something: on an address that is written in the policies or known in
/// the world, or beside it, and likewise for ports.
pub fn random_flow(rng: &mut SmallRng, policies: &[Policy], world: &World) -> Flow {
    use FlowProtocol::{Icmp, Other, Sctp, Tcp, Udp};
    let (destination, hint) = random_destination(rng, policies, world);
    let protocol = pick(rng, &[Tcp, Tcp, Tcp, Udp, Udp, Sctp, Icmp, Other(47), Other(136)]);
    let number = match (protocol, hint) {
        (Icmp | Other(_), _) => 0,
        (_, Some(hint)) if rng.random_bool(0.6) => nearby(rng, hint),
        _ => random_port(rng, policies),
    };
    Flow {
        destination,
        protocol,
        port: number,
        opaque: rng.random_bool(0.03),
        names: random_names(rng),
        request: None,
    }
}

fn random_port(rng: &mut SmallRng, policies: &[Policy]) -> u16 {
    let rule = policies.choose(rng).and_then(|policy| policy.rules.choose(rng));
    match rule.and_then(|rule| rule.ports.as_ref()?.choose(rng)?.range) {
        Some(range) if rng.random_bool(0.8) => {
            let edge = pick(rng, &[range.first, range.last]);
            nearby(rng, edge)
        }
        _ if rng.random_bool(0.1) => rng.random(),
        _ => port(rng),
    }
}

/// An address, and a port that means something there.
fn random_destination(rng: &mut SmallRng, policies: &[Policy], world: &World) -> (IpAddr, Option<u16>) {
    let found = match rng.random_range(0..7) {
        6 => world.resolvers.choose(rng).map(|address| (*address, Some(53))),
        0 => world.pods.choose(rng).and_then(|pod| pod.addresses.choose(rng)).map(|address| (*address, None)),
        1 | 2 => world.services.choose(rng).and_then(|service| {
            let port = service.ports.choose(rng)?;
            if rng.random_bool(0.5) {
                service.addresses.choose(rng).map(|address| (*address, Some(port.port)))
            } else {
                port.targets.choose(rng).map(|(address, target)| (*address, Some(*target)))
            }
        }),
        3 | 4 => written_network(rng, policies).map(|network| (edge(rng, &network), None)),
        _ => None,
    };
    let (address, hint) = found.unwrap_or_else(|| (address(rng), None));
    // Now and then in IPv4-mapped form, which must make no difference.
    match address {
        IpAddr::V4(v4) if rng.random_bool(0.1) => (v4.to_ipv6_mapped().into(), hint),
        _ => (address, hint),
    }
}

fn written_network(rng: &mut SmallRng, policies: &[Policy]) -> Option<Network> {
    let rule = policies.choose(rng)?.rules.choose(rng)?;
    match rule.to.as_ref()?.choose(rng)? {
        Peer::Networks { networks, except } if except.is_empty() || rng.random_bool(0.5) => {
            networks.choose(rng).copied()
        }
        Peer::Networks { except, .. } => except.choose(rng).copied(),
        _ => None,
    }
}

/// The first or last address of a network, or the one before or after.
fn edge(rng: &mut SmallRng, network: &Network) -> IpAddr {
    let length = u32::from(network.length());
    match network.address() {
        IpAddr::V4(first) => {
            let first = first.to_bits();
            let last = first | u32::MAX.checked_shr(length).unwrap_or(0);
            let near = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            Ipv4Addr::from_bits(pick(rng, &near)).into()
        }
        IpAddr::V6(first) => {
            let first = first.to_bits();
            let last = first | u128::MAX.checked_shr(length).unwrap_or(0);
            let near = [first, last, first.wrapping_sub(1), last.wrapping_add(1)];
            Ipv6Addr::from_bits(pick(rng, &near)).into()
        }
    }
}

const NAMESPACES: [&str; 3] = ["default", "shop", "cache"];
const SERVICES: [&str; 3] = ["redis", "web", "dns"];

/// One of few addresses, close to each other, of both families; some in IPv4-mapped form.
fn address(rng: &mut SmallRng) -> IpAddr {
    let low = pick(rng, &[0_u8, 1, 2, 3, 127, 128, 254, 255]);
    let middle = pick(rng, &[0_u8, 0, 1, 128]);
    let v4 = Ipv4Addr::new(pick(rng, &[10, 10, 10, 11, 192, 0, 255]), 0, middle, low);
    match rng.random_range(0..20) {
        0..=10 => v4.into(),
        11 => v4.to_ipv6_mapped().into(),
        // Beside the IPv4-mapped addresses, on either side.
        12 => Ipv6Addr::from_bits((0xfffe_u128 << 32) | u128::from(v4.to_bits())).into(),
        13 => Ipv6Addr::from_bits((0x1_0000_u128 << 32) | u128::from(v4.to_bits())).into(),
        14 => Ipv6Addr::from_bits(u128::from(low)).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(middle), 0, 0, 0, u16::from(low)).into(),
    }
}

/// One of few ports, close to powers of two and to the ends.
fn port(rng: &mut SmallRng) -> u16 {
    pick(rng, &[0, 1, 2, 53, 80, 443, 1023, 1024, 1025, 8000, 8080, 8191, 8192, 32767, 32768, 65534, 65535])
}

fn nearby(rng: &mut SmallRng, port: u16) -> u16 {
    pick(rng, &[port, port, port, port.wrapping_sub(1), port.wrapping_add(1)])
}

fn namespace(rng: &mut SmallRng) -> String {
    pick(rng, &NAMESPACES).to_owned()
}

fn labels(rng: &mut SmallRng) -> Labels {
    let mut labels = Labels::new();
    for key in ["app", "team"] {
        if rng.random_bool(0.6) {
            labels.insert(key.to_owned(), pick(rng, &["x", "y"]).to_owned());
        }
    }
    labels
}

fn selector(rng: &mut SmallRng) -> LabelSelector {
    match rng.random_range(0..5) {
        0 => LabelSelector::default(),
        1 => LabelSelector::label("kubernetes.io/metadata.name", pick(rng, &NAMESPACES)),
        2 => {
            let operator =
                pick(rng, &[Operator::In, Operator::NotIn, Operator::Exists, Operator::DoesNotExist]);
            let with_values = matches!(operator, Operator::In | Operator::NotIn);
            let values = if with_values { vec![pick(rng, &["x", "y"]).to_owned()] } else { Vec::new() };
            let requirement = Requirement { key: "app".to_owned(), operator, values };
            LabelSelector { match_labels: Labels::new(), match_expressions: vec![requirement] }
        }
        _ => LabelSelector::label(pick(rng, &["app", "team"]), pick(rng, &["x", "y"])),
    }
}

/// One of the values, of which there must be some.
fn pick<T: Copy>(rng: &mut SmallRng, values: &[T]) -> T {
    values[rng.random_range(0..values.len())]
}
