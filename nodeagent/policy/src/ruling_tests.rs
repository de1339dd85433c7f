//! The ruling table of the design, row by row, for the reference and the compiler at once.

use std::net::IpAddr;

use crate::compile::compile;
use crate::evaluate::{evaluate, may_ask};
use crate::flow::{Action, Flow, FlowProtocol, Judgement, Names, Requested, Ruling, Shown};
use crate::model::{Posture, Protocol};
use crate::parse::parse;
use crate::select::select;
use crate::selector::Labels;
use crate::set::PolicySet;
use crate::world::{PodInfo, ServiceInfo, ServicePort, World};

fn pod(namespace: &str, app: &str, address: &str, host_network: bool) -> PodInfo {
    PodInfo {
        namespace: namespace.to_owned(),
        name: app.to_owned(),
        labels: Labels::from([("app".to_owned(), app.to_owned())]),
        addresses: vec![address.parse().expect("an address")],
        host_network,
    }
}

/// The pod that is judged is `shop/web`. `cache/redis` is a Service on port 6379 before a pod on port 16379.
fn world() -> World {
    let redis = ServiceInfo {
        namespace: "cache".to_owned(),
        name: "redis".to_owned(),
        addresses: vec!["10.96.0.5".parse().expect("an address")],
        ports: [(6379, 16379), (26379, 26379)]
            .map(|(port, target)| ServicePort {
                protocol: Protocol::Tcp,
                port,
                targets: vec![("10.0.2.9".parse().expect("an address"), target)],
            })
            .to_vec(),
    };
    World {
        pods: vec![
            pod("shop", "web", "10.0.1.1", false),
            pod("shop", "api", "10.0.1.2", false),
            pod("cache", "redis", "10.0.2.9", false),
            pod("cache", "exporter", "192.0.2.1", true),
        ],
        namespaces: [("shop", "front"), ("cache", "back")]
            .map(|(name, tier)| (name.to_owned(), Labels::from([("tier".to_owned(), tier.to_owned())])))
            .into(),
        services: vec![redis],
        resolvers: vec!["10.96.0.10".parse().expect("an address")],
        search: vec!["svc.cluster.local".parse().expect("a name")],
    }
}

/// A policy of this kind; the name is followed by the rest of the spec.
fn policy(kind: &str, name: &str, spec: &str) -> String {
    let namespace = if kind == "EgressPolicy" { ", namespace: shop" } else { "" };
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}{namespace}}}\n\
         spec: {{podSelector: {{}}, {spec}}}\n"
    )
}

fn own(name: &str, spec: &str) -> String {
    policy("EgressPolicy", name, spec)
}

fn admin(name: &str, spec: &str) -> String {
    policy("ClusterEgressPolicy", name, spec)
}

fn baseline(name: &str, spec: &str) -> String {
    policy("ClusterEgressPolicy", name, &format!("tier: Baseline, {spec}"))
}

/// A flow written as `tcp 10.0.0.1 80`, `icmp 10.0.0.1`, `47 10.0.0.1`; with `opaque` before it if so. The names that
/// the address was learned from may follow as `of=a.test,b.test`, what it shows as `shows=a.test`, or `shows=-` for nothing
/// that can be read; and what it asks for as `asks=GET:/v1`, or `asks=-` likewise.
fn flow(text: &str) -> Flow {
    let (with, mut words): (Vec<&str>, Vec<&str>) = text.split(' ').partition(|word| word.contains('='));
    let mut names = Names::default();
    let mut request = None;
    for (field, value) in with.into_iter().filter_map(|word| word.split_once('=')) {
        match field {
            "asks" => {
                let known = value.split_once(':').map(|(method, path)| Requested::Request {
                    method: method.to_owned(),
                    path: path.to_owned(),
                });
                request = Some(known.unwrap_or(Requested::Unreadable));
            }
            "of" => names.learned = value.split(',').map(|name| name.parse().expect("a name")).collect(),
            _ if value == "-" => names.shown = Some(Shown::Unreadable),
            _ => names.shown = Some(Shown::Name(value.parse().expect("a name"))),
        }
    }
    let opaque = words[0] == "opaque";
    if opaque {
        words.remove(0);
    }
    let destination: IpAddr = words[1].parse().expect("an address");
    let protocol = match words[0] {
        "tcp" => FlowProtocol::Tcp,
        "udp" => FlowProtocol::Udp,
        "sctp" => FlowProtocol::Sctp,
        "icmp" => FlowProtocol::Icmp,
        number => FlowProtocol::Other(number.parse().expect("a protocol number")),
    };
    let port = words.get(2).map_or(0, |port| port.parse().expect("a port"));
    Flow { destination, protocol, port, opaque, names, request }
}

fn judge(policies: &[String], posture: Posture, flow: &Flow) -> Judgement {
    let world = world();
    let set = PolicySet::new(parse("table.yaml", &policies.concat()).expect("valid")).expect("no duplicates");
    let selection = select(&set, &world.pods[0], world.namespaces.get("shop"));
    let reference = evaluate(&selection, &world, posture, flow);
    let compiled = compile(&selection, &world, posture);
    // The kernel judges before any request is known.
    let opening = Flow { request: None, ..flow.clone() };
    let quick = compiled.judge(&opening);
    let side = |action, rule| Ruling { action, by: compiled.rule(rule).cloned() };
    let quick = Judgement {
        applied: side(quick.applied, quick.applied_rule),
        reported: side(quick.reported, quick.reported_rule),
    };
    assert_eq!(
        quick,
        evaluate(&selection, &world, posture, &opening),
        "the compiler and the reference on {flow:?}"
    );
    reference
}

fn told(ruling: &Ruling) -> String {
    let action = match ruling.action {
        Action::Allow => "Allow",
        Action::Deny => "Deny",
    };
    ruling.by.as_ref().map_or_else(|| action.to_owned(), |by| format!("{action} by {by}"))
}

/// Each row: a flow and what is both applied and reported.
fn rows(policies: &[String], rows: &[(&str, &str)]) {
    for (text, expected) in rows {
        let judgement = judge(policies, Posture::Enforce, &flow(text));
        assert_eq!(told(&judgement.applied), *expected, "{text}");
        assert_eq!(judgement.reported, judgement.applied, "{text}");
    }
}

#[test]
fn no_policy_allows() {
    rows(
        &[],
        &[("tcp 203.0.113.1 443", "Allow"), ("opaque udp 203.0.113.1 53", "Allow"), ("47 ::1", "Allow")],
    );
}

#[test]
fn admin_default_deny_beats_a_namespace_allow() {
    rows(
        &[admin("guard", "defaultAction: Deny, rules: []"), own("mine", "rules: [{action: Allow}]")],
        &[("tcp 203.0.113.1 443", "Deny by ClusterEgressPolicy guard, default action")],
    );
}

#[test]
fn admin_pass_with_nothing_below_allows() {
    rows(
        &[admin("guard", "defaultAction: Deny, rules: [{action: Pass, ports: [{port: 443}]}]")],
        &[
            ("tcp 203.0.113.1 443", "Allow"),
            ("tcp 203.0.113.1 80", "Deny by ClusterEgressPolicy guard, default action"),
        ],
    );
}

#[test]
fn admin_pass_leaves_the_rest_to_the_tiers_below() {
    rows(
        &[
            admin("guard", "rules: [{action: Pass, ports: [{port: 443}]}, {action: Deny}]"),
            own("mine", "defaultAction: None, rules: [{action: Deny, to: [{networks: [203.0.113.0/24]}]}]"),
            baseline(
                "base",
                "defaultAction: Deny, rules: [{action: Allow, to: [{networks: [198.51.100.0/24]}]}]",
            ),
        ],
        &[
            ("tcp 203.0.113.1 443", "Deny by EgressPolicy shop/mine, rule 0"),
            ("tcp 198.51.100.1 443", "Allow by ClusterEgressPolicy base, rule 0"),
            ("tcp 192.0.2.1 443", "Deny by ClusterEgressPolicy base, default action"),
            ("tcp 198.51.100.1 80", "Deny by ClusterEgressPolicy guard, rule 1"),
        ],
    );
}

#[test]
fn a_namespace_default_deny_keeps_the_baseline_from_being_asked() {
    rows(
        &[own("mine", "rules: []"), baseline("base", "rules: [{action: Allow}]")],
        &[("tcp 203.0.113.1 443", "Deny by EgressPolicy shop/mine, default action")],
    );
}

#[test]
fn an_exception_cuts_only_its_own_peer() {
    rows(
        &[own(
            "mine",
            "rules: [{name: part, action: Allow, to: [{networks: [10.0.0.0/8], except: [10.9.0.0/16]}, \
             {networks: [10.9.1.0/24]}]}]",
        )],
        &[
            ("tcp 10.1.0.1 80", "Allow by EgressPolicy shop/mine, rule 0 (part)"),
            ("tcp 10.9.0.1 80", "Deny by EgressPolicy shop/mine, default action"),
            ("tcp 10.9.1.1 80", "Allow by EgressPolicy shop/mine, rule 0 (part)"),
        ],
    );
}

#[test]
fn an_exception_holds_for_every_network_of_its_peer() {
    rows(
        &[own(
            "mine",
            "rules: [{action: Allow, to: [{networks: [10.0.0.0/8, 10.9.1.0/24], except: [10.9.0.0/16]}]}]",
        )],
        &[("tcp 10.9.1.1 80", "Deny by EgressPolicy shop/mine, default action")],
    );
}

#[test]
fn the_ports_of_a_service_are_followed_to_its_pods() {
    let rule = "{action: Allow, to: [{services: [{name: redis, namespace: cache}]}], ports: [{port: 6379}]}";
    rows(
        &[own("mine", &format!("rules: [{rule}]"))],
        &[
            ("tcp 10.96.0.5 6379", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.2.9 16379", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.2.9 6379", "Deny by EgressPolicy shop/mine, default action"),
            ("tcp 10.96.0.5 16379", "Deny by EgressPolicy shop/mine, default action"),
            ("tcp 10.96.0.5 26379", "Deny by EgressPolicy shop/mine, default action"),
            ("udp 10.96.0.5 6379", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
}

#[test]
fn a_service_without_ports_means_its_own_ports_only() {
    rows(
        &[own("mine", "rules: [{action: Allow, to: [{services: [{name: redis, namespace: cache}]}]}]")],
        &[
            ("tcp 10.96.0.5 6379", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.96.0.5 26379", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.2.9 26379", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.2.9 22", "Deny by EgressPolicy shop/mine, default action"),
            ("icmp 10.96.0.5", "Deny by EgressPolicy shop/mine, default action"),
            ("47 10.0.2.9", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
}

#[test]
fn a_networks_rule_asks_for_no_name() {
    rows(
        &[own("mine", "rules: [{action: Allow, to: [{networks: [203.0.113.0/24]}], ports: [{port: 443}]}]")],
        &[("tcp 203.0.113.9 443", "Allow by EgressPolicy shop/mine, rule 0")],
    );
}

#[test]
fn pods_are_found_by_labels_and_namespace() {
    rows(
        &[own(
            "mine",
            "rules: [{action: Allow, to: [{pods: {podSelector: {matchLabels: {app: api}}}}]}, \
             {action: Allow, to: [{pods: {podSelector: {}, namespaceSelector: {matchLabels: {tier: back}}}}]}]",
        )],
        &[
            ("tcp 10.0.1.2 80", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.2.9 80", "Allow by EgressPolicy shop/mine, rule 1"),
            ("tcp 10.0.1.3 80", "Deny by EgressPolicy shop/mine, default action"),
            // A pod in the host's network namespace is no peer: its address is the node's.
            ("tcp 192.0.2.1 80", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
}

#[test]
fn a_cluster_policy_means_pods_of_all_namespaces() {
    rows(
        &[admin(
            "guard",
            "rules: [{action: Deny, to: [{pods: {podSelector: {matchLabels: {app: redis}}}}]}, \
             {action: Allow, to: [{namespaces: {matchLabels: {kubernetes.io/metadata.name: shop}}}]}]",
        )],
        &[
            ("tcp 10.0.2.9 80", "Deny by ClusterEgressPolicy guard, rule 0"),
            ("tcp 10.0.1.2 80", "Allow by ClusterEgressPolicy guard, rule 1"),
            ("tcp 10.0.1.9 80", "Allow"),
        ],
    );
}

#[test]
fn rules_go_by_priority_then_name_then_index() {
    rows(
        &[
            own("b", "rules: [{action: Allow, ports: [{port: 1}]}, {action: Deny, ports: [{port: 1}]}]"),
            own("a", "rules: [{action: Deny, ports: [{port: 2}]}]"),
            own("c", "priority: 1, rules: [{action: Allow, ports: [{port: 3}]}]"),
            own("d", "rules: [{action: Deny, ports: [{port: 1, endPort: 3}]}]"),
        ],
        &[
            ("tcp 203.0.113.1 1", "Allow by EgressPolicy shop/b, rule 0"),
            ("tcp 203.0.113.1 2", "Deny by EgressPolicy shop/a, rule 0"),
            ("tcp 203.0.113.1 3", "Allow by EgressPolicy shop/c, rule 0"),
            ("tcp 203.0.113.1 4", "Deny by EgressPolicy shop/c, default action"),
        ],
    );
}

#[test]
fn families_and_protocols_are_kept_apart() {
    rows(
        &[own(
            "mine",
            "rules: [{action: Allow, to: [{networks: [\"::/0\"]}], ports: [{port: 1}, {protocol: ICMP}]}, \
             {action: Allow, to: [{networks: [10.0.0.0/8]}], ports: [{protocol: SCTP}]}]",
        )],
        &[
            ("tcp 2001:db8::1 1", "Allow by EgressPolicy shop/mine, rule 0"),
            ("icmp 2001:db8::1", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 10.0.0.1 1", "Deny by EgressPolicy shop/mine, default action"),
            ("tcp ::ffff:10.0.0.1 1", "Deny by EgressPolicy shop/mine, default action"),
            ("sctp 10.0.0.1 9", "Allow by EgressPolicy shop/mine, rule 1"),
            ("sctp ::ffff:10.0.0.1 9", "Allow by EgressPolicy shop/mine, rule 1"),
            ("udp 2001:db8::1 1", "Deny by EgressPolicy shop/mine, default action"),
            ("136 2001:db8::1", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
}

#[test]
fn what_cannot_be_read_matches_no_allow_that_needs_it_and_every_deny() {
    let narrow = "{action: Allow, to: [{networks: [203.0.113.0/24]}]}, {action: Allow, ports: [{port: 443}]}";
    rows(
        &[own("mine", &format!("defaultAction: None, rules: [{narrow}, {{action: Allow}}]"))],
        &[("opaque tcp 203.0.113.1 443", "Allow by EgressPolicy shop/mine, rule 2")],
    );
    rows(
        &[own("mine", &format!("rules: [{narrow}]"))],
        &[("opaque tcp 203.0.113.1 443", "Deny by EgressPolicy shop/mine, default action")],
    );
    let deny = "{action: Deny, to: [{networks: [192.0.2.7/32]}], ports: [{port: 25}]}";
    rows(
        &[own("mine", &format!("rules: [{deny}, {{action: Allow}}]"))],
        &[
            ("opaque tcp 203.0.113.1 443", "Deny by EgressPolicy shop/mine, rule 0"),
            ("tcp 203.0.113.1 443", "Allow by EgressPolicy shop/mine, rule 1"),
        ],
    );
    rows(
        &[admin("guard", &format!("rules: [{{action: Pass, ports: [{{port: 443}}]}}, {deny}]"))],
        &[("opaque tcp 203.0.113.1 443", "Deny by ClusterEgressPolicy guard, rule 1")],
    );
}

#[test]
fn audit_is_reported_and_not_applied() {
    let policies = [
        own("a-trial", "mode: Audit, rules: [{action: Deny, ports: [{port: 25}]}]"),
        own("mine", "rules: [{action: Allow, ports: [{port: 25}]}]"),
    ];
    for (text, applied, reported) in [
        (
            "tcp 203.0.113.1 25",
            "Allow by EgressPolicy shop/mine, rule 0",
            "Deny by EgressPolicy shop/a-trial, rule 0",
        ),
        (
            "tcp 203.0.113.1 80",
            "Deny by EgressPolicy shop/mine, default action",
            "Deny by EgressPolicy shop/a-trial, default action",
        ),
    ] {
        let judgement = judge(&policies, Posture::Enforce, &flow(text));
        assert_eq!(
            (told(&judgement.applied).as_str(), told(&judgement.reported).as_str()),
            (applied, reported)
        );
    }
}

#[test]
fn the_posture_decides_what_is_applied() {
    let policies = [own("mine", "rules: []")];
    let flow = flow("tcp 203.0.113.1 25");
    let deny = "Deny by EgressPolicy shop/mine, default action";
    for (posture, applied, reported) in
        [(Posture::Observe, "Allow", "Allow"), (Posture::Log, "Allow", deny), (Posture::Enforce, deny, deny)]
    {
        let judgement = judge(&policies, posture, &flow);
        assert_eq!(
            (told(&judgement.applied).as_str(), told(&judgement.reported).as_str()),
            (applied, reported)
        );
    }
}

#[test]
fn a_domain_rule_opens_what_was_learned_to_flows_that_show_the_name() {
    let rule = "{action: Allow, to: [{domainNames: [good.test, \"*.cdn.test\"]}]}";
    let (open, closed) =
        ("Allow by EgressPolicy shop/mine, rule 0", "Deny by EgressPolicy shop/mine, default action");
    rows(
        &[own("mine", &format!("rules: [{rule}]"))],
        &[
            ("tcp 203.0.113.1 443 of=good.test shows=good.test", open),
            ("tcp 203.0.113.1 443 of=other.test,good.test shows=good.test", open),
            ("tcp 203.0.113.1 80 of=a.b.cdn.test shows=a.b.cdn.test", open),
            // Before anything is shown, the handshake passes if some name would do.
            ("tcp 203.0.113.1 443 of=other.test,good.test", open),
            ("tcp 203.0.113.1 443 of=other.test", closed),
            ("tcp 203.0.113.1 443", closed),
            // A shared address opens nothing else, and a name that was not asked for opens nothing.
            ("tcp 203.0.113.1 443 of=good.test shows=evil.test", closed),
            ("tcp 203.0.113.1 443 of=good.test shows=a.cdn.test", closed),
            ("tcp 203.0.113.1 443 of=good.test shows=-", closed),
            ("tcp 203.0.113.1 443 of=other.test shows=good.test", closed),
            ("tcp 203.0.113.1 443 of=x.good.test shows=x.good.test", closed),
            ("tcp 203.0.113.1 443 of=cdn.test shows=cdn.test", closed),
            ("tcp 203.0.113.1 443 of=xcdn.test shows=xcdn.test", closed),
            // Elsewhere the address is enough.
            ("tcp 203.0.113.1 5432 of=good.test shows=-", open),
            ("udp 203.0.113.1 443 of=good.test", open),
            ("icmp 203.0.113.1 of=good.test", open),
            ("udp 203.0.113.1 443 of=other.test", closed),
            ("opaque tcp 203.0.113.1 443 of=good.test shows=good.test", closed),
        ],
    );
}

#[test]
fn require_name_says_where_a_name_must_be_shown() {
    let rule = |required: bool| {
        format!("{{action: Allow, to: [{{domainNames: [good.test]}}], requireName: {required}}}")
    };
    let (open, closed) =
        ("Allow by EgressPolicy shop/mine, rule 0", "Deny by EgressPolicy shop/mine, default action");
    rows(
        &[own("mine", &format!("rules: [{}]", rule(false)))],
        &[
            ("tcp 203.0.113.1 443 of=good.test shows=evil.test", open),
            ("tcp 203.0.113.1 443 of=good.test shows=-", open),
            ("tcp 203.0.113.1 443 of=evil.test shows=good.test", closed),
        ],
    );
    rows(
        &[own("mine", &format!("rules: [{}]", rule(true)))],
        &[
            ("tcp 203.0.113.1 5432 of=good.test shows=good.test", open),
            ("tcp 203.0.113.1 5432 of=good.test shows=-", closed),
            // Only TCP can show a name.
            ("udp 203.0.113.1 443 of=good.test", closed),
        ],
    );
}

#[test]
fn a_deny_by_name_goes_by_the_readable_name_else_by_what_was_learned() {
    let deny = "{action: Deny, to: [{domainNames: [evil.test]}]}";
    let good = "{action: Allow, to: [{domainNames: [good.test]}]}";
    let denied = "Deny by EgressPolicy shop/mine, rule 0";
    rows(
        &[own("mine", &format!("rules: [{deny}, {good}]"))],
        &[
            (
                "tcp 203.0.113.1 443 of=evil.test,good.test shows=good.test",
                "Allow by EgressPolicy shop/mine, rule 1",
            ),
            ("tcp 203.0.113.1 443 of=evil.test,good.test shows=evil.test", denied),
            ("tcp 203.0.113.1 443 of=evil.test,good.test shows=-", denied),
            ("tcp 203.0.113.1 443 of=evil.test,good.test", "Allow by EgressPolicy shop/mine, rule 1"),
            ("tcp 203.0.113.1 443 of=evil.test", denied),
            ("tcp 203.0.113.1 22 of=evil.test,good.test", denied),
        ],
    );
    rows(
        &[own("mine", &format!("rules: [{deny}, {{action: Allow}}]"))],
        &[
            (
                "tcp 203.0.113.1 443 of=evil.test,x.test shows=x.test",
                "Allow by EgressPolicy shop/mine, rule 1",
            ),
            ("tcp 203.0.113.1 443 of=evil.test,x.test shows=evil.test", denied),
            ("tcp 203.0.113.1 443 of=x.test shows=evil.test", "Allow by EgressPolicy shop/mine, rule 1"),
        ],
    );
}

#[test]
fn a_networks_rule_asks_for_no_name_beside_a_domain_rule() {
    let rules = "{action: Allow, to: [{domainNames: [good.test]}]}, {action: Allow, to: [{networks: [203.0.113.0/24]}]}";
    rows(
        &[own("mine", &format!("rules: [{rules}]"))],
        &[
            ("tcp 203.0.113.1 443 of=good.test shows=-", "Allow by EgressPolicy shop/mine, rule 1"),
            ("tcp 203.0.113.1 443 of=good.test shows=good.test", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 198.51.100.1 443 of=good.test shows=-", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
    // An exception cuts only its own peer, and a public name may have a private address.
    rows(
        &[own(
            "mine",
            "rules: [{action: Allow, to: [{networks: [10.0.0.0/8], except: [10.9.0.0/16]}, {domainNames: [good.test]}]}]",
        )],
        &[("tcp 10.9.0.1 443 of=good.test shows=good.test", "Allow by EgressPolicy shop/mine, rule 0")],
    );
}

#[test]
fn a_domain_rule_brings_the_way_to_the_resolvers_last_in_its_tier() {
    let good = "{action: Allow, to: [{domainNames: [good.test]}]}";
    let implied = "Allow by EgressPolicy shop/mine, rule 1 (implied DNS)";
    rows(
        &[own("mine", &format!("rules: [{good}]"))],
        &[
            ("udp 10.96.0.10 53", implied),
            ("tcp 10.96.0.10 53", implied),
            ("tcp 10.96.0.10 853", "Deny by EgressPolicy shop/mine, default action"),
            ("udp 10.96.0.11 53", "Deny by EgressPolicy shop/mine, default action"),
        ],
    );
    rows(
        &[
            admin("guard", "rules: [{action: Deny, to: [{networks: [10.96.0.10/32]}]}]"),
            own("mine", &format!("rules: [{good}]")),
        ],
        &[("udp 10.96.0.10 53", "Deny by ClusterEgressPolicy guard, rule 0")],
    );
    rows(
        &[own("mine", &format!("rules: [{good}, {{action: Deny, ports: [{{port: 53, protocol: UDP}}]}}]"))],
        &[("udp 10.96.0.10 53", "Deny by EgressPolicy shop/mine, rule 1")],
    );
    // A Deny by name grants nothing.
    rows(
        &[own("mine", "rules: [{action: Deny, to: [{domainNames: [good.test]}]}]")],
        &[("udp 10.96.0.10 53", "Deny by EgressPolicy shop/mine, default action")],
    );
}

#[test]
fn questions_may_be_restricted_to_the_names_of_rules() {
    let rules = "rules: [{action: Deny, to: [{domainNames: [evil.test]}]}, \
                 {action: Allow, to: [{domainNames: [good.test, \"*.cdn.test\"]}]}]";
    let world = world();
    let asked = |spec: &str, name: &str| {
        let text = own("mine", spec);
        let set = PolicySet::new(parse("table.yaml", &text).expect("valid")).expect("no duplicates");
        let selection = select(&set, &world.pods[0], world.namespaces.get("shop"));
        let name = name.parse().expect("a name");
        let reference = may_ask(&selection, &world, Posture::Enforce, &name);
        assert_eq!(compile(&selection, &world, Posture::Enforce).may_ask(&name), reference, "{name}");
        reference
    };
    for (name, may) in [
        ("good.test", true),
        ("a.b.cdn.test", true),
        ("good.test.svc.cluster.local", true),
        ("a.cdn.test.svc.cluster.local", true),
        ("cdn.test", false),
        ("evil.test", false),
        ("x.good.test", false),
        ("c2VjcmV0.tunnel.test", false),
        ("svc.cluster.local", false),
    ] {
        assert_eq!(asked(&format!("dns: {{queries: RuleNames}}, {rules}"), name), may, "{name}");
        assert!(asked(rules, name), "{name}");
        assert!(asked(&format!("mode: Audit, dns: {{queries: RuleNames}}, {rules}"), name), "{name}");
    }
}

#[test]
fn requests_are_matched_by_method_and_path() {
    let rules = "rules: [{action: Allow, to: [{networks: [203.0.113.0/24]}], ports: [{port: 443}], \
                 http: [{methods: [GET, HEAD], path: {value: /v1}}, {path: {type: Exact, value: /health}}]}]";
    let (allow, deny) =
        ("Allow by EgressPolicy shop/mine, rule 0", "Deny by EgressPolicy shop/mine, default action");
    rows(
        &[own("mine", rules)],
        &[
            ("tcp 203.0.113.1 443", allow),
            ("tcp 203.0.113.1 80", deny),
            ("tcp 198.51.100.1 443", deny),
            ("udp 203.0.113.1 443", deny),
            ("opaque tcp 203.0.113.1 443", deny),
            ("tcp 203.0.113.1 443 asks=GET:/v1", allow),
            ("tcp 203.0.113.1 443 asks=HEAD:/v1/x", allow),
            ("tcp 203.0.113.1 443 asks=GET:/%761/./x", allow),
            ("tcp 203.0.113.1 443 asks=POST:/health", allow),
            ("tcp 203.0.113.1 443 asks=GET:/v10", deny),
            ("tcp 203.0.113.1 443 asks=get:/v1", deny),
            ("tcp 203.0.113.1 443 asks=POST:/v1", deny),
            ("tcp 203.0.113.1 443 asks=GET:/v1/../admin", deny),
            ("tcp 203.0.113.1 443 asks=GET:/v1/%2e%2e/admin", deny),
            ("tcp 203.0.113.1 443 asks=GET:/v1%2fx", deny),
            ("tcp 203.0.113.1 443 asks=GET:/v1//../x", deny),
            ("tcp 203.0.113.1 443 asks=OPTIONS:*", deny),
            ("tcp 203.0.113.1 443 asks=CONNECT:", deny),
            ("tcp 203.0.113.1 443 asks=-", deny),
            ("tcp 203.0.113.1 80 asks=GET:/v1", deny),
        ],
    );
}

#[test]
fn a_request_that_no_entry_matches_goes_on() {
    rows(
        &[own("mine", "rules: [{action: Allow, http: [{methods: [GET]}]}, {name: any, action: Allow}]")],
        &[
            ("tcp 203.0.113.1 443 asks=POST:/", "Allow by EgressPolicy shop/mine, rule 1 (any)"),
            ("tcp 203.0.113.1 443 asks=GET:/", "Allow by EgressPolicy shop/mine, rule 0"),
            ("tcp 203.0.113.1 443 asks=-", "Allow by EgressPolicy shop/mine, rule 1 (any)"),
            ("udp 203.0.113.1 443", "Allow by EgressPolicy shop/mine, rule 1 (any)"),
            ("opaque tcp 203.0.113.1 443", "Allow by EgressPolicy shop/mine, rule 1 (any)"),
        ],
    );
}

#[test]
fn a_denied_request_is_none_before_it_is_known() {
    let (first, second) =
        ("Deny by ClusterEgressPolicy guard, rule 0", "Allow by EgressPolicy shop/mine, rule 0");
    rows(
        &[
            admin("guard", "rules: [{action: Deny, http: [{path: {value: /admin}}, {methods: [DELETE]}]}]"),
            own("mine", "rules: [{action: Allow, ports: [{port: 443}]}]"),
        ],
        &[
            ("tcp 203.0.113.1 443", second),
            ("tcp 203.0.113.1 443 asks=GET:/", second),
            ("tcp 203.0.113.1 443 asks=GET:/admin/x", first),
            ("tcp 203.0.113.1 443 asks=GET://admin", first),
            ("tcp 203.0.113.1 443 asks=DELETE:/", first),
            ("tcp 203.0.113.1 80 asks=DELETE:/", first),
            // What cannot be read may be what is denied.
            ("tcp 203.0.113.1 443 asks=GET:/x/..%2fadmin", first),
            ("tcp 203.0.113.1 443 asks=-", first),
        ],
    );
}
