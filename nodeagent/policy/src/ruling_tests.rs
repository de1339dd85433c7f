//! The ruling table of the design, row by row, for the reference and the compiler at once.

use std::net::IpAddr;

use crate::compile::compile;
use crate::evaluate::evaluate;
use crate::flow::{Action, Flow, FlowProtocol, Judgement, Ruling};
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

/// A flow written as `tcp 10.0.0.1 80`, `icmp 10.0.0.1`, `47 10.0.0.1`; with `opaque` before it if so.
fn flow(text: &str) -> Flow {
    let mut words: Vec<&str> = text.split(' ').collect();
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
    Flow { destination, protocol, port: words.get(2).map_or(0, |port| port.parse().expect("a port")), opaque }
}

fn judge(policies: &[String], posture: Posture, flow: &Flow) -> Judgement {
    let world = world();
    let set = PolicySet::new(parse("table.yaml", &policies.concat()).expect("valid")).expect("no duplicates");
    let selection = select(&set, &world.pods[0], world.namespaces.get("shop"));
    let reference = evaluate(&selection, &world, posture, flow);
    let compiled = compile(&selection, &world, posture);
    let quick = compiled.judge(flow);
    let side = |action, rule| Ruling { action, by: compiled.rule(rule).cloned() };
    let quick = Judgement {
        applied: side(quick.applied, quick.applied_rule),
        reported: side(quick.reported, quick.reported_rule),
    };
    assert_eq!(quick, reference, "the compiler and the reference on {flow:?}");
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
