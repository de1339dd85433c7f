//! Rules, their peers and their ports.

use super::cursor::{At, Fields, Report};
use super::error::Problem;
use super::http;
use super::node::shortened;
use super::spec::{dns_label, label_selector, object_name};
use crate::model::{MAX_NAMES, Peer, PortMatch, PortRange, Protocol, Rule, RuleAction, Scope, ServiceRef};
use crate::name::NamePattern;
use crate::network::Network;

const RULE_NAME: &str = "1 to 100 characters, none of them a control character";

/// Reads a rule of a policy with this scope.
pub(super) fn rule(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<Rule> {
    let fields = at.fields(report, &["name", "action", "to", "ports", "http", "requireName"])?;
    let name = fields.get("name").and_then(|at| rule_name(&at, report));
    let action = action(&fields, scope, report);
    let to = fields.get("to").map(|at| peers(&at, scope, report));
    let ports = fields.get("ports").map(|at| ports(&at, report));
    // A field with a fault must not be taken for an absent one, so each of these ends the rule.
    let to = match to {
        Some(peers) => Some(peers?),
        None => None,
    };
    let ports = match ports {
        Some(ports) => Some(ports?),
        None => None,
    };
    let http = match fields.get("http") {
        Some(at) => {
            if action == Some(RuleAction::Pass) {
                at.fault(report, Problem::HttpPass);
            }
            let items = fields.get("ports").and_then(|at| at.items(report)).unwrap_or_default();
            for (item, entry) in items.iter().zip(ports.iter().flatten()) {
                if entry.protocol != Protocol::Tcp {
                    item.fault(report, Problem::HttpPort);
                }
            }
            Some(http::matches(&at, report)?)
        }
        None => None,
    };
    let require_name = match fields.get("requireName") {
        Some(at) => {
            let by_name = |peer: &Peer| matches!(peer, Peer::DomainNames(_));
            if !to.iter().flatten().any(by_name) {
                at.fault(report, Problem::NameRequiredOfNothing);
            }
            Some(at.boolean(report)?)
        }
        None => None,
    };
    Some(Rule { name, action: action?, to, ports, http, require_name })
}

fn rule_name(at: &At<'_>, report: &mut Report<'_>) -> Option<String> {
    let name = at.text(report)?;
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        at.fault(report, Problem::Name(shortened(name), RULE_NAME));
        return None;
    }
    Some(name.to_owned())
}

fn action(fields: &Fields<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<RuleAction> {
    let all = [("Allow", RuleAction::Allow), ("Deny", RuleAction::Deny), ("Pass", RuleAction::Pass)];
    let expected = match scope {
        Scope::Namespace { .. } => "Allow or Deny",
        Scope::Cluster { .. } => "Allow, Deny or Pass",
    };
    let at = fields.need(report, "action", expected)?;
    let action = at.choice(report, &all, expected)?;
    if action == RuleAction::Pass && matches!(scope, Scope::Namespace { .. }) {
        at.fault(report, Problem::ClusterOnly("write Allow or Deny"));
        return None;
    }
    Some(action)
}

fn peers(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<Vec<Peer>> {
    let items = at.some_items(report, "name a peer, or remove the field to mean anywhere")?;
    let peers: Vec<Peer> = items.iter().filter_map(|item| peer(item, scope, report)).collect();
    (peers.len() == items.len()).then_some(peers)
}

fn peer(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<Peer> {
    let kinds = ["networks", "pods", "namespaces", "services", "domainNames"];
    let fields =
        at.fields(report, &["networks", "except", "pods", "namespaces", "services", "domainNames"])?;
    let found: Vec<&str> = kinds.into_iter().filter(|kind| fields.has(kind)).collect();
    let expected = match scope {
        Scope::Namespace { .. } => "networks, pods, services, domainNames",
        Scope::Cluster { .. } => "networks, pods, namespaces, services, domainNames",
    };
    if let Some(except) = fields.get("except")
        && !fields.has("networks")
    {
        except.fault(report, Problem::ExceptAlone);
    }
    if found.len() != 1 {
        let found = if found.is_empty() { "no kind of peer".to_owned() } else { found.join(" and ") };
        at.fault(report, Problem::PeerKind { found, expected });
        return None;
    }
    if let Some(at) = fields.get("networks") {
        let networks = networks(&at, report);
        let except = match fields.get("except") {
            Some(at) => exceptions(&at, networks.as_deref(), report)?,
            None => Vec::new(),
        };
        return Some(Peer::Networks { networks: networks?, except });
    }
    if let Some(at) = fields.get("pods") {
        return pods(&at, report);
    }
    if let Some(at) = fields.get("namespaces") {
        if matches!(scope, Scope::Namespace { .. }) {
            at.fault(report, Problem::ClusterOnly("write pods: {podSelector: {}, namespaceSelector: …}"));
            return None;
        }
        return Some(Peer::Namespaces(label_selector(&at, report)?));
    }
    if let Some(at) = fields.get("domainNames") {
        return names(&at, report).map(Peer::DomainNames);
    }
    services(&fields.get("services")?, scope, report)
}

fn names(at: &At<'_>, report: &mut Report<'_>) -> Option<Vec<NamePattern>> {
    let items = at.some_items(report, "name a domain, such as api.example.com or *.example.com")?;
    if items.len() > MAX_NAMES {
        at.fault(report, Problem::TooManyNames(items.len()));
        return None;
    }
    let pattern = |item: &At<'_>| match item.text(report)?.parse() {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            item.fault(report, Problem::DomainName(error));
            None
        }
    };
    let names: Vec<NamePattern> = items.iter().filter_map(pattern).collect();
    (names.len() == items.len()).then_some(names)
}

fn networks(at: &At<'_>, report: &mut Report<'_>) -> Option<Vec<Network>> {
    let items = at.some_items(report, "name a network, such as 10.0.0.0/8")?;
    let networks: Vec<Network> = items.iter().filter_map(|item| network(item, report)).collect();
    (networks.len() == items.len()).then_some(networks)
}

fn network(at: &At<'_>, report: &mut Report<'_>) -> Option<Network> {
    match at.text(report)?.parse() {
        Ok(network) => Some(network),
        Err(error) => {
            at.fault(report, Problem::Network(error));
            None
        }
    }
}

/// Reads `except`; where the networks are known, each exception must be a smaller part of one of them.
fn exceptions(at: &At<'_>, networks: Option<&[Network]>, report: &mut Report<'_>) -> Option<Vec<Network>> {
    let items = at.some_items(report, "name a network to cut out, or remove the field")?;
    let mut except = Vec::new();
    for item in &items {
        let Some(cut) = network(item, report) else { continue };
        let inside = |networks: &[Network]| networks.iter().any(|n| *n != cut && n.covers(&cut));
        if networks.is_none_or(inside) {
            except.push(cut);
        } else {
            item.fault(report, Problem::ExceptOutside(cut));
        }
    }
    (except.len() == items.len()).then_some(except)
}

fn pods(at: &At<'_>, report: &mut Report<'_>) -> Option<Peer> {
    let fields = at.fields(report, &["podSelector", "namespaceSelector"])?;
    let advice = "podSelector: {} for every pod, or labels to choose by";
    let pod_selector = fields.need(report, "podSelector", advice).and_then(|at| label_selector(&at, report));
    let namespace_selector = match fields.get("namespaceSelector") {
        Some(at) => Some(label_selector(&at, report)?),
        None => None,
    };
    Some(Peer::Pods { pod_selector: pod_selector?, namespace_selector })
}

fn services(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<Peer> {
    let items = at.some_items(report, "name a Service, such as {name: redis, namespace: cache}")?;
    let services: Vec<ServiceRef> = items.iter().filter_map(|item| service(item, scope, report)).collect();
    (services.len() == items.len()).then_some(Peer::Services(services))
}

fn service(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<ServiceRef> {
    let fields = at.fields(report, &["name", "namespace"])?;
    let name = fields.need(report, "name", "the Service's name").and_then(|at| object_name(&at, report));
    let namespace = if let (false, Scope::Namespace { namespace }) = (fields.has("namespace"), scope) {
        Some(namespace.clone())
    } else {
        let advice = "the Service's namespace: a ClusterEgressPolicy has none of its own";
        fields.need(report, "namespace", advice).and_then(|at| dns_label(&at, report))
    };
    Some(ServiceRef { name: name?, namespace: namespace? })
}

fn ports(at: &At<'_>, report: &mut Report<'_>) -> Option<Vec<PortMatch>> {
    let items = at.some_items(report, "name a port, or remove the field to mean any protocol and port")?;
    let ports: Vec<PortMatch> = items.iter().filter_map(|item| port_match(item, report)).collect();
    (ports.len() == items.len()).then_some(ports)
}

fn port_match(at: &At<'_>, report: &mut Report<'_>) -> Option<PortMatch> {
    let fields = at.fields(report, &["port", "endPort", "protocol"])?;
    let protocols =
        [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp), ("ICMP", Protocol::Icmp)];
    let protocol = match fields.get("protocol") {
        Some(at) => at.choice(report, &protocols, "TCP, UDP, SCTP or ICMP")?,
        None => Protocol::default(),
    };
    if protocol == Protocol::Icmp {
        let given: Vec<At<'_>> =
            ["port", "endPort"].into_iter().filter_map(|name| fields.get(name)).collect();
        for at in &given {
            at.fault(report, Problem::IcmpPort);
        }
        return given.is_empty().then_some(PortMatch { protocol, range: None });
    }
    let end = fields.get("endPort");
    let Some(start) = fields.get("port") else {
        if let Some(end) = end {
            end.fault(report, Problem::EndWithoutPort);
            return None;
        }
        // `port:` without a value is told of already, and must not be taken for all ports.
        return (!fields.has("port") && !fields.has("endPort"))
            .then_some(PortMatch { protocol, range: None });
    };
    let first = port(&start, report);
    let Some(end) = end else {
        return first.map(|first| PortMatch { protocol, range: Some(PortRange { first, last: first }) });
    };
    let (last, first) = (port(&end, report)?, first?);
    if last < first {
        end.fault(report, Problem::PortOrder { first, last });
        return None;
    }
    Some(PortMatch { protocol, range: Some(PortRange { first, last }) })
}

fn port(at: &At<'_>, report: &mut Report<'_>) -> Option<u16> {
    let number = at.integer(report)?;
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    if port.is_none() {
        at.fault(report, Problem::Port(number));
    }
    port
}
