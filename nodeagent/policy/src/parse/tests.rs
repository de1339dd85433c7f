//! What is refused, and how it is told.

use std::fmt::Write as _;

use super::*;
use crate::model::{
    ClusterTier, DefaultAction, HostNetwork, Mode, Peer, PortMatch, PortRange, Protocol, Rule, RuleAction,
    Scope, ServiceRef,
};
use crate::network::Network;
use crate::selector::{LabelSelector, Operator};

fn told(text: &str) -> Vec<String> {
    match parse("p.yaml", text) {
        Ok(policies) => panic!("was read as {policies:#?}"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn document(kind: &str, spec: &str) -> String {
    format!("apiVersion: sluice.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: p}}\nspec: {spec}\n")
}

/// Faults of an `EgressPolicy` with this spec, without what is the same in all: they are on line 4.
fn of_spec(spec: &str) -> Vec<String> {
    of_document("EgressPolicy", spec)
}

fn of_document(kind: &str, spec: &str) -> Vec<String> {
    told(&document(kind, spec))
        .iter()
        .map(|text| text.strip_prefix("p.yaml: document 1, line 4: ").unwrap_or(text).to_owned())
        .collect()
}

/// Faults of a rule of an `EgressPolicy`.
fn of_rule(rule: &str) -> Vec<String> {
    of_spec(&format!("{{podSelector: {{}}, rules: [{{{rule}}}]}}"))
        .iter()
        .map(|text| text.strip_prefix("spec.rules[0]").unwrap_or(text).to_owned())
        .collect()
}

#[test]
fn the_example_of_the_design_is_read() {
    let text = r#"
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: frontend, namespace: shop, labels: {a: b}, annotations: {c: "d e"}}
spec:
  podSelector: {matchLabels: {app: frontend}}
  priority: 100
  mode: Audit
  defaultAction: None
  rules:
  - name: payments
    action: Allow
    to:
    - networks: ["203.0.113.0/24", "2001:db8::/32"]
      except: ["203.0.113.9/32"]
    - services: [{name: redis, namespace: cache}, {name: own}]
    - domainNames: [API.stripe.com., "*.s3.amazonaws.com"]
    - pods: {podSelector: {}, namespaceSelector: {}}
    ports: [{port: 443}, {port: 8000, endPort: 8080, protocol: UDP}, {protocol: ICMP}]
    requireName: false
  - action: Deny
"#;
    let policies = parse("p.yaml", text).expect("the example");
    let network = |text: &str| text.parse::<Network>().expect("a network");
    let service =
        |name: &str, namespace: &str| ServiceRef { name: name.to_owned(), namespace: namespace.to_owned() };
    let range = |first, last| Some(PortRange { first, last });
    let [policy] = &policies[..] else { panic!("one document") };
    assert_eq!((policy.name.as_str(), policy.namespace()), ("frontend", Some("shop")));
    assert_eq!((policy.labels["a"].as_str(), policy.annotations["c"].as_str()), ("b", "d e"));
    assert_eq!(
        (policy.priority, policy.mode, policy.default_action),
        (100, Mode::Audit, DefaultAction::None)
    );
    assert_eq!(policy.pod_selector, LabelSelector::label("app", "frontend"));
    let payments = Rule {
        name: Some("payments".to_owned()),
        action: RuleAction::Allow,
        to: Some(vec![
            Peer::Networks {
                networks: vec![network("203.0.113.0/24"), network("2001:db8::/32")],
                except: vec![network("203.0.113.9/32")],
            },
            Peer::Services(vec![service("redis", "cache"), service("own", "shop")]),
            Peer::DomainNames(
                ["api.stripe.com", "*.s3.amazonaws.com"].map(|name| name.parse().expect("a name")).to_vec(),
            ),
            Peer::Pods {
                pod_selector: LabelSelector::default(),
                namespace_selector: Some(LabelSelector::default()),
            },
        ]),
        ports: Some(vec![
            PortMatch { protocol: Protocol::Tcp, range: range(443, 443) },
            PortMatch { protocol: Protocol::Udp, range: range(8000, 8080) },
            PortMatch { protocol: Protocol::Icmp, range: None },
        ]),
        http: None,
        require_name: Some(false),
    };
    assert_eq!(
        policy.rules,
        [
            payments,
            Rule {
                name: None,
                action: RuleAction::Deny,
                to: None,
                ports: None,
                http: None,
                require_name: None,
            }
        ]
    );
}

#[test]
fn defaults_are_filled_in() {
    let text =
        [document("EgressPolicy", "{podSelector: {}}"), document("ClusterEgressPolicy", "{podSelector: {}}")]
            .join("---\n");
    let policies = parse("p.yaml", &text).expect("valid");
    assert_eq!(policies[0].scope, Scope::Namespace { namespace: "default".to_owned() });
    assert_eq!(
        policies[1].scope,
        Scope::Cluster {
            tier: ClusterTier::Admin,
            namespace_selector: None,
            host_network: HostNetwork::Exclude
        }
    );
    let defaults = [DefaultAction::Deny, DefaultAction::None];
    for (policy, default) in policies.iter().zip(defaults) {
        assert_eq!((policy.priority, policy.mode, policy.default_action), (500, Mode::Enforce, default));
        assert!(policy.rules.is_empty());
    }
}

#[test]
fn cluster_fields_are_read() {
    let spec = "{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [a, b]}]}, \
                namespaceSelector: {matchLabels: {team: red}}, hostNetwork: Include, tier: Baseline, \
                rules: [{action: Pass, to: [{namespaces: {}}]}]}";
    let policy = parse("p.yaml", &document("ClusterEgressPolicy", spec)).expect("valid").remove(0);
    assert_eq!(policy.pod_selector.match_expressions[0].operator, Operator::NotIn);
    assert_eq!(policy.rules[0].action, RuleAction::Pass);
    let Scope::Cluster { tier, namespace_selector, host_network } = policy.scope else {
        panic!("a cluster policy")
    };
    assert_eq!((tier, host_network), (ClusterTier::Baseline, HostNetwork::Include));
    assert_eq!(namespace_selector, Some(LabelSelector::label("team", "red")));
}

#[test]
fn json_and_what_the_api_server_adds_are_read() {
    let text = r#"{"apiVersion": "sluice.dev/v1alpha1", "kind": "EgressPolicy",
        "metadata": {"name": "p", "namespace": "shop", "uid": "x", "generation": 3, "creationTimestamp": null,
            "managedFields": [{"fieldsV1": {"f:spec": {".": {}}}}]},
        "spec": {"podSelector": {}, "rules": [{"action": "Allow", "ports": [{"port": 443}]}]},
        "status": {"conditions": []}}"#;
    let read = parse("object", text).expect("valid");
    let direct: Policy = serde_json::from_str(text).expect("valid");
    let [read] = &read[..] else { panic!("one document") };
    assert_eq!((&read.name, &read.scope, &read.rules), (&direct.name, &direct.scope, &direct.rules));
    let value: serde_json::Value = serde_json::from_str(text).expect("valid");
    assert_eq!(serde_json::from_value::<Policy>(value).expect("valid"), direct);
    let error =
        serde_json::from_str::<Policy>("{\"kind\": \"EgressPolicy\"}").expect_err("no spec").to_string();
    assert!(error.contains("object: document 1: apiVersion: missing; write sluice.dev/v1alpha1"), "{error}");
}

#[test]
fn empty_documents_are_skipped() {
    for text in ["", "---\n", "# nothing\n", "---\n---\n# nothing\n---\n"] {
        assert_eq!(parse("p.yaml", text), Ok(Vec::new()), "{text:?}");
    }
    let text = format!("---\n# first\n---\n{}---\n---\n", document("EgressPolicy", "{podSelector: {}}"));
    assert_eq!(parse("p.yaml", &text).expect("valid").len(), 1);
}

#[test]
fn every_fault_of_every_document_is_told() {
    let text = "\
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata:
  name: Web
spec:
  podSelector: {}
  rules:
  - action: Allow
  - action: Allow
  - action: Permit
    to:
    - networks:
      - 10.0.0.0/8
      - 10.0.0.1/24
    ports:
    - port: \"443\"
---
apiVersion: sluice.dev/v1alpha1
kind: ClusterEgressPolicy
metadata:
  name: base
spec:
  priority: 1001
";
    assert_eq!(
        told(text),
        [
            "p.yaml: document 1, line 4: metadata.name: `Web` is no valid name; write at most 253 lower-case letters, \
             digits, `-` and `.`, with a letter or digit at both ends",
            "p.yaml: document 1, line 10: spec.rules[2].action: `Permit` is not known here; write Allow or Deny",
            "p.yaml: document 1, line 14: spec.rules[2].to[0].networks[1]: `10.0.0.1/24` has bits set beyond its \
             length; write 10.0.0.0/24, or 10.0.0.1/32 for this one address",
            "p.yaml: document 1, line 16: spec.rules[2].ports[0].port: expected a number, found the text \"443\"; \
             write 443, without quotes",
            "p.yaml: document 2, line 23: spec.podSelector: missing; write podSelector: {} for every pod, or labels \
             to choose by",
            "p.yaml: document 2, line 23: spec.priority: 1001 is out of range; write a number from 0 (first) to 1000",
        ]
    );
}

#[test]
fn faults_of_documents() {
    for (text, faults) in [
        ("[]", &["p.yaml: document 1, line 1: expected a map, found a list"][..]),
        ("hello", &["p.yaml: document 1, line 1: expected a map, found the text \"hello\""]),
        (
            "{}",
            &[
                "p.yaml: document 1, line 1: apiVersion: missing; write sluice.dev/v1alpha1",
                "p.yaml: document 1, line 1: kind: missing; write EgressPolicy or ClusterEgressPolicy",
            ],
        ),
        (
            "apiVersion: sluice.dev/v1\nkind: EgressPolicy",
            &[
                "p.yaml: document 1, line 1: apiVersion: `sluice.dev/v1` is not supported; write sluice.dev/v1alpha1",
            ],
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: NetworkPolicy",
            &["p.yaml: document 1, line 2: kind: `NetworkPolicy` is not known here; write EgressPolicy or \
               ClusterEgressPolicy"],
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind:",
            &["p.yaml: document 1, line 2: kind: has no value; give it one or remove the field"],
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nextra: 1",
            &[
                "p.yaml: document 1, line 3: extra: no such field; known here: apiVersion, kind, metadata, spec, status",
                "p.yaml: document 1, line 1: metadata: missing; write a map with `name`",
                "p.yaml: document 1, line 1: spec: missing; write a map with `podSelector` and `rules`",
            ],
        ),
        (
            "apiVersion: sluice.dev/v1alpha1\nkind: ClusterEgressPolicy\nmetadata: {name: 7, namespace: shop, nam: x}\n\
             spec: {podSelector: {}}",
            &[
                "p.yaml: document 1, line 3: metadata.nam: no such field; known here: name, namespace, labels, annotations",
                "p.yaml: document 1, line 3: metadata.name: expected a text, found the number 7; write \"7\", with the quotes",
                "p.yaml: document 1, line 3: metadata.namespace: no such field; known here: name, labels, annotations \
                 (the policy has no namespace)",
            ],
        ),
    ] {
        assert_eq!(told(text), faults, "{text}");
    }
}

#[test]
fn faults_of_specs() {
    for (spec, faults) in [
        (
            "{podSelector: {}, prioritty: 1}",
            &["spec.prioritty: no such field; known here: podSelector, priority, mode, \
           defaultAction, dns, rules, namespaceSelector, hostNetwork, tier"][..],
        ),
        (
            "{podSelector: {}, dns: {queries: Rules, answers: 1}}",
            &[
                "spec.dns.answers: no such field; known here: queries",
                "spec.dns.queries: `Rules` is not known here; write Any or RuleNames",
            ],
        ),
        (
            "{podSelector: {}, tier: Admin}",
            &["spec.tier: only a ClusterEgressPolicy can have this; remove it"],
        ),
        ("{podSelector: {}, priority: high}", &["spec.priority: expected a number, found the text \"high\""]),
        (
            "{podSelector: {}, priority: 1.5}",
            &["spec.priority: expected a whole number, found the number 1.5"],
        ),
        (
            "{podSelector: {}, mode: enforce}",
            &["spec.mode: `enforce` is not known here; write Enforce or Audit"],
        ),
        (
            "{podSelector: {}, defaultAction: Allow}",
            &["spec.defaultAction: `Allow` is not known here; write Deny or None"],
        ),
        ("{podSelector: {}, rules: }", &["spec.rules: has no value; give it one or remove the field"]),
        ("{podSelector: {}, rules: {}}", &["spec.rules: expected a list, found a map"]),
        ("{podSelector: }", &["spec.podSelector: has no value; give it one or remove the field"]),
        (
            "{podSelector: {matchLabels: {app: true}}}",
            &["spec.podSelector.matchLabels.app: expected a text, found the \
           boolean true; write \"true\", with the quotes"],
        ),
        (
            "{podSelector: {matchLabels: {a/b/c: d e}}}",
            &[
                "spec.podSelector.matchLabels[\"a/b/c\"]: `a/b/c` is no valid label key; write a name of at most 63 letters, \
             digits, `-`, `_` and `.`, if need be after a domain and `/`",
                "spec.podSelector.matchLabels[\"a/b/c\"]: `d e` is no valid label value; write at most 63 letters, digits, \
             `-`, `_` and `.`, with a letter or digit at both ends, or nothing",
            ],
        ),
        (
            "{podSelector: {app: x}}",
            &["spec.podSelector.app: no such field; known here: matchLabels, matchExpressions"],
        ),
        (
            "{podSelector: {matchExpressions: [{key: a, operator: In}, {key: b, operator: Exists, values: [c]}, \
           {key: c, operator: Like}]}}",
            &[
                "spec.podSelector.matchExpressions[0]: In takes at least one of `values`",
                "spec.podSelector.matchExpressions[1]: Exists takes no `values`; remove them",
                "spec.podSelector.matchExpressions[2].operator: `Like` is not known here; write In, NotIn, Exists or DoesNotExist",
            ],
        ),
    ] {
        assert_eq!(of_spec(spec), faults, "{spec}");
    }
}

#[test]
fn faults_of_rules() {
    for (rule, faults) in [
        (
            "to: []",
            &[
                ".action: missing; write Allow or Deny",
                ".to: the list is empty, so nothing would match; name a peer, or remove the field to mean anywhere",
            ][..],
        ),
        ("action: Allow, to: ", &[".to: has no value; give it one or remove the field"]),
        ("action: Allow, ports: ", &[".ports: has no value; give it one or remove the field"]),
        (
            "action: Allow, ports: []",
            &[".ports: the list is empty, so nothing would match; name a port, or remove the \
           field to mean any protocol and port"],
        ),
        ("action: Pass", &[".action: only a ClusterEgressPolicy can have this; write Allow or Deny"]),
        (
            "action: Allow, http: []",
            &[
                ".http: the list is empty, so nothing would match; write methods or a path, or remove the field to mean any \
           traffic",
            ],
        ),
        (
            "action: Allow, ports: [{port: 443}, {port: 443, protocol: UDP}], http: [{}, {methods: []}, {methods: [get]}]",
            &[
                ".ports[1]: HTTP goes over TCP, and the rule has `http`; write a TCP port, or a rule of its own for this one",
                ".http[0]: says nothing of requests; write methods, path or both; `path: {value: /}` means any request",
                ".http[1].methods: the list is empty, so nothing would match; name a method, or remove the field to mean any",
                ".http[2].methods[0]: `get` is not known here; write GET, HEAD, POST, PUT, DELETE, CONNECT, OPTIONS, TRACE \
                 or PATCH",
            ],
        ),
        (
            "action: Deny, http: [{path: {}}, {path: {type: RegularExpression, value: /}}, {path: {value: v1}}, \
             {path: {value: /a/../b}}, {path: {value: /a%2Fb}}, {path: }, {path: {value: '/a?b'}}, {host: x}]",
            &[
                ".http[0].path.value: missing; write a path that begins with `/`, such as /v1",
                ".http[1].path.type: `RegularExpression` is not known here; write PathPrefix or Exact",
                ".http[2].path.value: `v1` is no path that a request could be compared with: it does not begin with `/`",
                ".http[3].path.value: `/a/../b` is compared as `/b`; write that",
                ".http[4].path.value: `/a%2Fb` is no path that a request could be compared with: it has an encoded `/`, `\\` \
                 or NUL in it",
                ".http[5].path: has no value; give it one or remove the field",
                ".http[6].path.value: `/a?b` is no path that a request could be compared with: it has a `\\`, `#`, `?`, space \
                 or control character in it",
                ".http[7].host: no such field; known here: methods, path",
                ".http[7]: says nothing of requests; write methods, path or both; `path: {value: /}` means any request",
            ],
        ),
        (
            "action: Allow, requireName: true",
            &[".requireName: goes only with `domainNames` in `to`; remove it"],
        ),
        (
            "action: Allow, to: [{domainNames: [a.example]}], requireName: \"true\"",
            &[".requireName: expected true or false, found the text \"true\"; write true, without quotes"],
        ),
        (
            "action: Allow, name: \"\"",
            &[".name: `` is no valid name; write 1 to 100 characters, none of them a control \
           character"],
        ),
    ] {
        assert_eq!(of_rule(rule), faults, "{rule}");
    }
}

#[test]
fn faults_of_peers() {
    for (peer, faults) in [
        (
            "{domainNames: [\"*\", a.*.example, 10.0.0.1, \"a b\"]}",
            &[
                ".domainNames[0]: `*` would match every name; write `*.` before a domain, or leave `to` out to mean anywhere",
                ".domainNames[1]: `a.*.example` has a `*` in it; it goes only before a whole domain, as in *.example.com",
                ".domainNames[2]: `10.0.0.1` is an address; write it under networks",
                ".domainNames[3]: `a b` is no domain name; write labels of at most 63 letters, digits, `-` and `_` with \
             dots between them, such as api.example.com",
            ][..],
        ),
        (
            "{domainNames: []}",
            &[
                ".domainNames: the list is empty, so nothing would match; name a domain, such as api.example.com or \
           *.example.com",
            ],
        ),
        ("{}", &[": holds no kind of peer; write exactly one of networks, pods, services, domainNames"]),
        (
            "{networks: [10.0.0.0/8], pods: {podSelector: {}}}",
            &[": holds networks and pods; write exactly one of \
           networks, pods, services, domainNames"],
        ),
        (
            "{namespaces: {}}",
            &[".namespaces: only a ClusterEgressPolicy can have this; write pods: {podSelector: {}, \
           namespaceSelector: …}"],
        ),
        (
            "{networks: []}",
            &[".networks: the list is empty, so nothing would match; name a network, such as 10.0.0.0/8"],
        ),
        (
            "{networks: [\"::ffff:10.0.0.0/104\", 10, 10.0.0.1]}",
            &[
                ".networks[0]: `::ffff:10.0.0.0/104` is an IPv4-mapped network; write the IPv4 form, 10.0.0.0/8",
                ".networks[1]: expected a text, found the number 10; write \"10\", with the quotes",
                ".networks[2]: `10.0.0.1` has no length; write 10.0.0.1/32 for this one address",
            ],
        ),
        (
            "{networks: [10.0.0.0/8], except: [11.0.0.0/16, 10.0.0.0/8]}",
            &[
                ".except[0]: 11.0.0.0/16 lies inside none of the networks of this peer; write a smaller part of one of them",
                ".except[1]: 10.0.0.0/8 lies inside none of the networks of this peer; write a smaller part of one of them",
            ],
        ),
        (
            "{pods: {podSelector: {}}, except: [10.0.0.0/8]}",
            &[".except: goes only with `networks`; to cut something out \
           of this peer, write a Deny rule before this rule"],
        ),
        (
            "{pods: {namespaceSelector: {}}}",
            &[".pods.podSelector: missing; write podSelector: {} for every pod, or labels \
           to choose by"],
        ),
        ("{services: [redis]}", &[".services[0]: expected a map, found the text \"redis\""]),
        (
            "{services: [{name: redis, port: 1}]}",
            &[".services[0].port: no such field; known here: name, namespace"],
        ),
        (
            "{cidrs: [10.0.0.0/8]}",
            &[
                ".cidrs: no such field; known here: networks, except, pods, namespaces, services, domainNames",
                ": holds no kind of peer; write exactly one of networks, pods, services, domainNames",
            ],
        ),
    ] {
        let found: Vec<String> = of_rule(&format!("action: Allow, to: [{peer}]"))
            .iter()
            .map(|text| text.strip_prefix(".to[0]").unwrap_or(text).to_owned())
            .collect();
        assert_eq!(found, faults, "{peer}");
    }
    let spec = "{podSelector: {}, rules: [{action: Allow, to: [{services: [{name: redis}]}]}]}";
    assert_eq!(
        of_document("ClusterEgressPolicy", spec),
        [
            "spec.rules[0].to[0].services[0].namespace: missing; write the Service's namespace: a ClusterEgressPolicy has \
          none of its own"
        ]
    );
}

#[test]
fn faults_of_ports() {
    for (entry, faults) in [
        (
            "port: 0",
            &[".port: 0 is no port; write a number from 1 to 65535, or leave the field out for all ports"][..],
        ),
        (
            "port: 65536",
            &[
                ".port: 65536 is no port; write a number from 1 to 65535, or leave the field out for all ports",
            ],
        ),
        (
            "port: -1",
            &[".port: -1 is no port; write a number from 1 to 65535, or leave the field out for all ports"],
        ),
        ("port: https", &[".port: expected a number, found the text \"https\""]),
        ("port: ", &[".port: has no value; give it one or remove the field"]),
        ("port: 80, endPort: 79", &[".endPort: 79 is below port 80; write a number from 80 to 65535"]),
        (
            "endPort: 79",
            &[".endPort: needs `port`, the first port of the range; write both, or remove this field"],
        ),
        ("protocol: ICMP, port: 8", &[".port: ICMP has no ports; remove this field"]),
        ("protocol: tcp", &[".protocol: `tcp` is not known here; write TCP, UDP, SCTP or ICMP"]),
        ("protocol: 6", &[".protocol: expected TCP, UDP, SCTP or ICMP, found the number 6"]),
    ] {
        let found: Vec<String> = of_rule(&format!("action: Allow, ports: [{{{entry}}}]"))
            .iter()
            .map(|text| text.strip_prefix(".ports[0]").unwrap_or(text).to_owned())
            .collect();
        assert_eq!(found, faults, "{entry}");
    }
}

#[test]
fn too_many_rules_are_refused() {
    let rules = vec!["{action: Allow}"; 501].join(", ");
    assert_eq!(
        of_spec(&format!("{{podSelector: {{}}, rules: [{rules}]}}")),
        ["spec.rules: 501 rules are too many; the most is 500: split the policy"]
    );
}

#[test]
fn broken_yaml_ends_the_reading() {
    for text in [
        "a: [",
        "a: b: c",
        "kind: EgressPolicy\nkind: EgressPolicy",
        "{\"a\": 1, \"a\": 2}",
        "a: &x [1]\nb: {<<: *x}",
        "a: *nowhere",
        "a: !!python/object x",
        "a: \u{0}",
    ] {
        let faults = told(text);
        assert_eq!(faults.len(), 1, "{text:?}: {faults:?}");
        assert!(faults[0].starts_with("p.yaml: document 1"), "{faults:?}");
        assert!(faults[0].ends_with("; the document was not read further"), "{faults:?}");
    }
    assert_eq!(
        told("kind: EgressPolicy\nkind: EgressPolicy"),
        [
            "p.yaml: document 1, line 2: `kind` is given twice; remove one of them; the document was not read further"
        ]
    );
    let text = format!("{}---\na: [\n", document("EgressPolicy", "{podSelector: {}, mode: x}"));
    let faults = told(&text);
    assert_eq!(faults.len(), 2, "the fault of the document before is told as well: {faults:?}");
}

#[test]
fn hostile_input_is_bounded() {
    let deep = "[".repeat(100_000);
    assert_eq!(told(&deep).len(), 1);
    let nested: Vec<String> = (0..1000).map(|depth| " ".repeat(depth) + "a:").collect();
    let nested = nested.join("\n");
    assert_eq!(told(&nested).len(), 1);
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..9 {
        let references = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{references}]").expect("a string takes all");
    }
    assert_eq!(told(&laughs).len(), 1);
    let large = format!("# {}\n", "x".repeat(MAX_TEXT));
    assert_eq!(told(&large).len(), 1);
}

/// Cutting or spoiling a good document anywhere never makes a panic, and never a policy that says more than it did.
#[test]
fn spoilt_documents_are_refused_or_still_mean_something() {
    let spec =
        "{podSelector: {}, rules: [{action: Deny, to: [{networks: [10.0.0.0/8]}], ports: [{port: 5}]}]}";
    let text = document("EgressPolicy", spec);
    for end in 0..text.len() {
        let _ = parse("p.yaml", &text[..end]);
        let mut spoilt = text.clone();
        for with in ["", "~", "[", "\"", "0", "-"] {
            spoilt.replace_range(end..=end, with);
            if let Ok(policies) = parse("p.yaml", &spoilt) {
                assert!(policies.iter().all(|policy| policy.rules.len() <= 1));
            }
            spoilt.clone_from(&text);
        }
    }
}
