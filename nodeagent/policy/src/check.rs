//! What is allowed but probably not meant: warnings for `sluice policy check`.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use crate::compile::{Class, compile};
use crate::flow::PolicyRef;
use crate::model::{
    DefaultAction, HostNetwork, Mode, Peer, Policy, PortMatch, Posture, Protocol, Rule, RuleAction, Scope,
};
use crate::name::NamePattern;
use crate::request::{HttpMatch, PathMatch};
use crate::select::Selection;
use crate::selector::LabelSelector;
use crate::set::PolicySet;
use crate::world::World;

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file of the policy.
    pub file: Arc<str>,
    /// The policy.
    pub policy: PolicyRef,
    /// The path of the field, such as `spec.rules[2]`.
    pub field: String,
    /// What it is.
    pub kind: WarningKind,
}

/// What a [`Warning`] is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WarningKind {
    /// An earlier rule of the policy matches anywhere, on any port.
    #[error(
        "never matches: rule {0} before it already decides about every flow; move this rule up or remove it"
    )]
    AfterEverything(usize),
    /// An earlier rule matches all that this one matches.
    #[error("never matches: rule {0} before it matches all of it; move this rule up or remove it")]
    Shadowed(usize),
    /// Several earlier rules together match all that this one matches.
    #[error("never matches: the rules before it together match all of it; move this rule up or remove it")]
    ShadowedTogether,
    /// The policy grants something to pods that are chosen by labels of any namespace.
    #[error(
        "grants by pod labels alone, and tenants choose those: any tenant can label a pod to get it; \
         add a namespaceSelector"
    )]
    GrantsToLabels,
    /// A rule opens the way to pods that are chosen by labels of any namespace.
    #[error(
        "opens the way to pods by their labels alone, and tenants choose those: any tenant can label a pod to be \
         reached; add a namespaceSelector"
    )]
    GrantsTowardsLabels,
    /// A Deny rule by name: who knows an address needs no name.
    #[error(
        "a Deny by name is best effort: it goes by the name that a flow shows or that its address was learned from, and \
         a pod may reach an address without either; deny by networks, or allow by name and leave the rest to the default"
    )]
    DeniesByName,
    /// A rule by requests, which are not enforced yet.
    #[error("{0}")]
    NotEnforced(NotEnforced),
    /// A later rule allows what an Allow rule with `http` does not.
    #[error(
        "limits nothing: a request that it does not match goes on to rule {0}, which allows it; \
         move a Deny rule between them or remove one of the two"
    )]
    AllowedAnyway(usize),
    /// A name is required where none can be shown.
    #[error(
        "never matches: only TCP shows a name, and `ports` has no TCP; remove requireName, or add a TCP port"
    )]
    NameNeverShown,
}

/// What is not enforced of a rule with `http`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotEnforced {
    /// An Allow rule lets every request through.
    Allow,
    /// A Deny rule stops none.
    Deny,
}

impl fmt::Display for NotEnforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => {
                "requests are told, not enforced: the kernel lets every request to these places through, and events show \
                 `audit` for those that the rule does not match and nothing else allows"
            }
            Self::Deny => {
                "requests are told, not enforced: the kernel takes no account of this rule, and events show `audit` for \
                 the requests that it denies"
            }
        })
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}: {}", self.file, self.policy, self.field, self.kind)
    }
}

/// All warnings about a set, in the order of its policies and of their fields.
///
/// Packets that cannot be read are left out of account: a Deny rule matches them even where it never matches anything
/// else. A rule that is covered only by several smaller networks together is not told of.
pub fn check(set: &PolicySet) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for policy in set.policies() {
        let mut warn = |field: String, kind: WarningKind| {
            let file = Arc::clone(&policy.source.file);
            warnings.push(Warning { file, policy: policy.reference(), field, kind });
        };
        grants(policy, &mut warn);
        by_name(policy, &mut warn);
        by_request(policy, &mut warn);
        shadows(policy, &mut warn);
    }
    warnings
}

/// What the policies say that the kernel does not do.
pub fn not_enforced(set: &PolicySet) -> Vec<Warning> {
    let of_policy = |policy: &Arc<Policy>| {
        let place = (Arc::clone(&policy.source.file), policy.reference());
        let rules = policy.rules.iter().enumerate().filter(|(_, rule)| rule.http.is_some());
        let warnings = rules.map(move |(index, rule)| Warning {
            file: Arc::clone(&place.0),
            policy: place.1.clone(),
            field: format!("spec.rules[{index}].http"),
            kind: told_only(rule),
        });
        warnings.collect::<Vec<_>>()
    };
    set.policies().iter().flat_map(of_policy).collect()
}

/// What is not enforced of a rule with `http`.
fn told_only(rule: &Rule) -> WarningKind {
    let is_deny = rule.action == RuleAction::Deny;
    WarningKind::NotEnforced(if is_deny { NotEnforced::Deny } else { NotEnforced::Allow })
}

fn by_request(policy: &Policy, warn: &mut impl FnMut(String, WarningKind)) {
    for (index, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.http.is_some()) {
        let field = format!("spec.rules[{index}].http");
        warn(field.clone(), told_only(rule));
        if rule.action == RuleAction::Deny {
            continue;
        }
        let whole = Rule { http: None, ..tcp_only(rule) };
        let later = policy.rules.iter().enumerate().skip(index + 1);
        let mut deciding = later.filter(|(_, later)| later.http.is_none() && covers(later, &whole));
        if let Some((number, later)) = deciding.next()
            && later.action == RuleAction::Allow
        {
            warn(field, WarningKind::AllowedAnyway(number));
        }
    }
}

/// The rule with the ports that its `http` implies written out.
fn tcp_only(rule: &Rule) -> Rule {
    let implied = rule.http.as_ref().map(|_| vec![PortMatch::TCP]);
    Rule { ports: rule.ports.clone().or(implied), ..rule.clone() }
}

fn grants(policy: &Policy, warn: &mut impl FnMut(String, WarningKind)) {
    let Scope::Cluster { namespace_selector, .. } = &policy.scope else { return };
    let is_grant = |rule: &Rule| rule.action != RuleAction::Deny;
    if by_labels_alone(&policy.pod_selector, namespace_selector.as_ref()) && policy.rules.iter().any(is_grant)
    {
        warn("spec.podSelector".to_owned(), WarningKind::GrantsToLabels);
    }
    for (index, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| is_grant(rule)) {
        for (number, peer) in rule.to.iter().flatten().enumerate() {
            if let Peer::Pods { pod_selector, namespace_selector } = peer
                && by_labels_alone(pod_selector, namespace_selector.as_ref())
            {
                warn(format!("spec.rules[{index}].to[{number}].pods"), WarningKind::GrantsTowardsLabels);
            }
        }
    }
}

fn by_name(policy: &Policy, warn: &mut impl FnMut(String, WarningKind)) {
    for (index, rule) in policy.rules.iter().enumerate() {
        let is_by_name = |peer: &Peer| matches!(peer, Peer::DomainNames(_));
        for (number, _) in rule.to.iter().flatten().enumerate().filter(|(_, peer)| is_by_name(peer)) {
            if rule.action == RuleAction::Deny {
                warn(format!("spec.rules[{index}].to[{number}].domainNames"), WarningKind::DeniesByName);
            }
        }
        let has_tcp = rule.ports.iter().flatten().any(|entry| entry.protocol == Protocol::Tcp);
        let only_by_name = rule.to.iter().flatten().all(is_by_name);
        let required = rule.require_name == Some(true) && only_by_name && rule.action != RuleAction::Deny;
        if required && rule.ports.is_some() && !has_tcp {
            warn(format!("spec.rules[{index}].requireName"), WarningKind::NameNeverShown);
        }
    }
}

/// Whether pods are chosen by their labels, and their namespaces are not chosen at all.
fn by_labels_alone(pods: &LabelSelector, namespaces: Option<&LabelSelector>) -> bool {
    !pods.is_empty() && namespaces.is_none_or(LabelSelector::is_empty)
}

fn shadows(policy: &Policy, warn: &mut impl FnMut(String, WarningKind)) {
    let reached = reached_by_address(policy);
    for (index, rule) in policy.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        let earlier = &policy.rules[..index];
        if let Some(number) = earlier.iter().position(is_everything) {
            warn(field, WarningKind::AfterEverything(number));
        } else if let Some(number) = earlier.iter().position(|earlier| covers(earlier, rule)) {
            warn(field, WarningKind::Shadowed(number));
        } else if is_by_address(rule) && !reached.contains(&index) {
            warn(field, WarningKind::ShadowedTogether);
        }
    }
}

/// Whether the rule matches every flow.
fn is_everything(rule: &Rule) -> bool {
    rule.to.is_none() && rule.ports.is_none() && rule.http.is_none()
}

/// Whether `earlier` matches every request that `later` matches.
fn covers_http(earlier: &Rule, later: &Rule) -> bool {
    let Some(earlier) = &earlier.http else { return true };
    let Some(later) = &later.http else { return false };
    let covers = |e: &HttpMatch, l: &HttpMatch| {
        let methods = e.methods.as_ref().is_none_or(|known| {
            l.methods.as_ref().is_some_and(|methods| methods.iter().all(|method| known.contains(method)))
        });
        methods
            && e.path.as_ref().is_none_or(|path| match (path, &l.path) {
                (path, Some(PathMatch::Exact(value)))
                | (path @ PathMatch::Prefix(_), Some(PathMatch::Prefix(value))) => path.matches(value),
                _ => false,
            })
    };
    later.iter().all(|l| earlier.iter().any(|e| covers(e, l)))
}

/// Whether `earlier` matches every flow that `later` matches, in any world.
fn covers(earlier: &Rule, later: &Rule) -> bool {
    // What is unread matches a Deny rule only.
    let as_strict = earlier.http.is_none() || earlier.action == later.action;
    if !as_strict || !covers_http(earlier, later) {
        return false;
    }
    let (earlier, later) = (&tcp_only(earlier), &tcp_only(later));
    let ports = covers_ports(earlier.ports.as_deref(), later.ports.as_deref());
    let peers = match (&earlier.to, &later.to) {
        (None, None) => return ports,
        (Some(_), None) => return false,
        // A Service brings ports of its own, which are not those of the rule; only "any port" surely covers them.
        (None, Some(peers)) => {
            let service = peers.iter().any(|peer| matches!(peer, Peer::Services(_)));
            return ports && (!service || earlier.ports.is_none());
        }
        (Some(peers), Some(inner)) => inner.iter().all(|l| {
            let covered = peers.iter().any(|e| covers_peer(e, l));
            covered && (!matches!(l, Peer::DomainNames(_)) || asks_no_more(earlier, later))
        }),
    };
    ports && peers
}

/// Whether `earlier` matches by name wherever `later` does, if it means as many names: an address is enough for it, or the
/// same is asked of the flow. A Deny takes what is unread for what it denies, so only a Deny asks as little.
fn asks_no_more(earlier: &Rule, later: &Rule) -> bool {
    let as_strict = earlier.action == RuleAction::Deny || later.action != RuleAction::Deny;
    earlier.require_name == Some(false) || (earlier.require_name == later.require_name && as_strict)
}

fn covers_ports(earlier: Option<&[PortMatch]>, later: Option<&[PortMatch]>) -> bool {
    let Some(earlier) = earlier else { return true };
    let Some(later) = later else { return false };
    later.iter().all(|l| {
        earlier.iter().any(|e| {
            e.protocol == l.protocol
                && match (e.range, l.range) {
                    (None, _) => true,
                    (Some(e), Some(l)) => e.first <= l.first && l.last <= e.last,
                    (Some(e), None) => l.protocol != Protocol::Icmp && e.first <= 1 && e.last == u16::MAX,
                }
        })
    })
}

fn covers_peer(earlier: &Peer, later: &Peer) -> bool {
    match (earlier, later) {
        (Peer::Networks { networks, except }, Peer::Networks { networks: inner, except: cut }) => {
            inner.iter().all(|i| networks.iter().any(|n| n.covers(i)))
                // What the earlier one leaves out, the later one must not hold.
                && except.iter().all(|e| {
                    cut.iter().any(|c| c.covers(e)) || inner.iter().all(|i| !i.covers(e) && !e.covers(i))
                })
        }
        (Peer::DomainNames(patterns), Peer::DomainNames(inner)) => {
            inner.iter().all(|i| patterns.iter().any(|pattern| covers_name(pattern, i)))
        }
        (Peer::Services(names), Peer::Services(inner)) => inner.iter().all(|name| names.contains(name)),
        (Peer::Namespaces(selector), _) if selector.is_empty() => {
            matches!(later, Peer::Pods { .. } | Peer::Namespaces(_))
        }
        (Peer::Pods { pod_selector, namespace_selector: Some(namespaces) }, _)
            if pod_selector.is_empty() && namespaces.is_empty() =>
        {
            matches!(later, Peer::Pods { .. } | Peer::Namespaces(_))
        }
        _ => earlier == later,
    }
}

fn covers_name(earlier: &NamePattern, later: &NamePattern) -> bool {
    match (earlier, later) {
        (NamePattern::Below(domain), NamePattern::Exact(name) | NamePattern::Below(name)) => {
            earlier == later || name.domains().any(|above| above == domain.as_str())
        }
        _ => earlier == later,
    }
}

/// Whether the rule means addresses that the policy itself writes out.
fn is_by_address(rule: &Rule) -> bool {
    // What requests do is not seen in what is compiled.
    rule.http.is_none() && rule.to.iter().flatten().all(|peer| matches!(peer, Peer::Networks { .. }))
}

/// The rules that decide about some flow, when only rules by address are asked.
///
/// Compiling the policy alone tells it. Rules by other peers may only take flows away, so leaving them out never makes
/// a rule look shadowed that is not.
fn reached_by_address(policy: &Policy) -> BTreeSet<usize> {
    let kept: Vec<usize> =
        (0..policy.rules.len()).filter(|index| is_by_address(&policy.rules[*index])).collect();
    let rules = kept.iter().map(|index| {
        // A Pass decides nothing by itself, so it could not be seen in the result.
        let rule = &policy.rules[*index];
        let action = if rule.action == RuleAction::Pass { RuleAction::Allow } else { rule.action };
        Rule { action, ..rule.clone() }
    });
    let alone = Policy {
        rules: rules.collect(),
        mode: Mode::Enforce,
        default_action: DefaultAction::None,
        scope: Scope::Cluster {
            tier: crate::model::ClusterTier::Admin,
            namespace_selector: None,
            host_network: HostNetwork::Exclude,
        },
        ..policy.clone()
    };
    let compiled = compile(&Selection::new([Arc::new(alone)]), &World::default(), Posture::Enforce);
    compiled
        .lists
        .iter()
        .flat_map(|list| &list.entries)
        .filter(|entry| entry.class != Class::Opaque)
        .filter_map(|entry| compiled.rule(entry.ruling.applied_rule)?.rule.as_ref())
        .filter_map(|rule| kept.get(rule.index as usize).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn warnings(kind: &str, spec: &str) -> Vec<String> {
        let text =
            format!("{{apiVersion: sluice.dev/v1alpha1, kind: {kind}, metadata: {{name: p}}, spec: {spec}}}");
        let set = PolicySet::new(parse("f.yaml", &text).expect("a valid policy")).expect("no duplicates");
        check(&set).iter().map(ToString::to_string).collect()
    }

    fn of_rules(rules: &str) -> Vec<String> {
        warnings("EgressPolicy", &format!("{{podSelector: {{}}, rules: [{rules}]}}"))
            .iter()
            .map(|text| text.strip_prefix("f.yaml: EgressPolicy default/p: ").expect("the place").to_owned())
            .collect()
    }

    #[test]
    fn a_rule_after_everything_is_told_of() {
        assert_eq!(
            of_rules("{action: Deny}, {action: Allow, to: [{networks: [10.0.0.0/8]}]}"),
            ["spec.rules[1]: never matches: rule 0 before it already decides about every flow; \
              move this rule up or remove it"]
        );
    }

    #[test]
    fn a_rule_inside_another_is_told_of() {
        let message = "spec.rules[1]: never matches: rule 0 before it matches all of it; move this rule up or remove it";
        for (earlier, later) in [
            ("to: [{networks: [10.0.0.0/8]}]", "to: [{networks: [10.1.0.0/16]}], ports: [{port: 1}]"),
            ("ports: [{port: 1, endPort: 9}]", "to: [{networks: [10.1.0.0/16]}], ports: [{port: 5}]"),
            (
                "to: [{pods: {podSelector: {matchLabels: {a: b}}}}]",
                "to: [{pods: {podSelector: {matchLabels: {a: b}}}}]",
            ),
            (
                "to: [{networks: [10.0.0.0/8], except: [10.1.0.0/16]}]",
                "to: [{networks: [10.0.0.0/8], except: [10.0.0.0/9]}]",
            ),
            ("to: [{services: [{name: a}, {name: b}]}]", "to: [{services: [{name: b}]}], ports: [{port: 1}]"),
            (
                "to: [{domainNames: [\"*.b\", c]}]",
                "to: [{domainNames: [a.b, \"*.x.b\", c]}], ports: [{port: 1}]",
            ),
            ("to: [{domainNames: [\"*.b\"]}], requireName: false", "to: [{domainNames: [\"*.b\"]}]"),
        ] {
            assert_eq!(
                of_rules(&format!("{{action: Allow, {earlier}}}, {{action: Allow, {later}}}")),
                [message],
                "{later}"
            );
        }
    }

    #[test]
    fn a_rule_that_others_cover_together_is_told_of() {
        assert_eq!(
            of_rules(
                "{action: Allow, ports: [{port: 1, endPort: 100}]}, {action: Allow, ports: [{port: 101, endPort: 200}]}, \
                 {action: Deny, ports: [{port: 50, endPort: 150}]}"
            ),
            ["spec.rules[2]: never matches: the rules before it together match all of it; \
              move this rule up or remove it"]
        );
    }

    #[test]
    fn rules_that_match_something_are_left_alone() {
        for (earlier, later) in [
            ("to: [{networks: [10.1.0.0/16]}]", "to: [{networks: [10.0.0.0/8]}]"),
            ("to: [{networks: [10.0.0.0/8], except: [10.1.0.0/16]}]", "to: [{networks: [10.1.2.0/24]}]"),
            ("to: [{networks: [10.0.0.0/8], except: [10.1.0.0/16]}]", "to: [{networks: [10.0.0.0/8]}]"),
            ("ports: [{port: 1}]", "ports: [{port: 1, protocol: UDP}]"),
            ("ports: [{port: 80}]", "to: [{services: [{name: web}]}], ports: [{port: 80}]"),
            ("to: [{pods: {podSelector: {}}}]", "to: [{networks: [10.0.0.0/8]}]"),
            ("to: [{networks: [0.0.0.0/0]}]", "to: [{networks: [\"::/0\"]}]"),
            ("to: [{domainNames: [\"*.b\"]}]", "to: [{domainNames: [b]}]"),
            ("to: [{domainNames: [\"*.b\"]}]", "to: [{domainNames: [xb]}]"),
            ("to: [{domainNames: [a.b]}]", "to: [{domainNames: [a.b]}], requireName: false"),
        ] {
            let rules = format!("{{action: Allow, {earlier}}}, {{action: Allow, {later}}}");
            assert_eq!(of_rules(&rules), Vec::<String>::new(), "{later}");
        }
    }

    #[test]
    fn what_names_cannot_do_is_told_of() {
        let found = of_rules(
            "{action: Deny, to: [{networks: [10.0.0.0/8]}, {domainNames: [evil.test]}]}, \
             {action: Allow, to: [{domainNames: [a.test]}], ports: [{port: 443, protocol: UDP}], requireName: true}",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("spec.rules[0].to[1].domainNames: a Deny by name is best effort"));
        assert!(found[1].starts_with("spec.rules[1].requireName: never matches: only TCP shows a name"));
        // What is unread is taken for what is denied, which the Allow before it does not match.
        let rules =
            "{action: Allow, to: [{domainNames: [a.test]}]}, {action: Deny, to: [{domainNames: [a.test]}]}";
        assert_eq!(of_rules(rules).len(), 1);
    }

    #[test]
    fn what_is_not_enforced_of_requests_is_told_of() {
        let found = of_rules(
            "{action: Deny, http: [{path: {value: /admin}}]}, \
             {action: Allow, to: [{networks: [10.0.0.0/8]}], http: [{methods: [GET]}]}, \
             {action: Deny, ports: [{port: 22}]}, {action: Allow, to: [{networks: [10.0.0.0/8]}], ports: [{protocol: TCP}]}",
        );
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(
            found[0].starts_with("spec.rules[0].http: requests are told, not enforced: the kernel takes no")
        );
        assert!(found[1].starts_with("spec.rules[1].http: requests are told, not enforced: the kernel lets"));
        assert!(found[2].starts_with(
            "spec.rules[1].http: limits nothing: a request that it does not match goes on to rule 3"
        ));
        // A Deny between them decides.
        let found = of_rules(
            "{action: Allow, http: [{methods: [GET]}]}, {action: Deny, ports: [{protocol: TCP}]}, {action: Allow}",
        );
        assert_eq!(found.len(), 1, "{found:#?}");
    }

    #[test]
    fn rules_by_requests_are_compared() {
        let shadowed = |earlier: &str, later: &str| {
            let found = of_rules(&format!("{{action: Allow, {earlier}}}, {{action: Allow, {later}}}"));
            found.iter().any(|text| text.starts_with("spec.rules[1]: never matches"))
        };
        for (earlier, later, expected) in [
            ("http: [{methods: [GET, POST]}]", "http: [{methods: [GET], path: {value: /x}}]", true),
            ("http: [{path: {value: /a}}]", "ports: [{port: 80}], http: [{path: {value: /a/b}}]", true),
            ("http: [{path: {value: /a}}]", "http: [{path: {type: Exact, value: /a/b}}]", true),
            ("ports: [{protocol: TCP}]", "http: [{methods: [GET]}]", true),
            ("ports: [{port: 80}]", "ports: [{port: 80}], http: [{methods: [GET]}]", true),
            ("http: [{methods: [GET]}]", "http: [{path: {value: /x}}]", false),
            ("http: [{path: {value: /a/b}}]", "http: [{path: {value: /a}}]", false),
            ("http: [{path: {type: Exact, value: /a}}]", "http: [{path: {value: /a}}]", false),
            ("http: [{path: {value: /}}]", "ports: [{protocol: TCP}]", false),
            ("ports: [{port: 80}]", "http: [{methods: [GET]}]", false),
            ("ports: [{protocol: UDP}]", "http: [{methods: [GET]}]", false),
        ] {
            assert_eq!(shadowed(earlier, later), expected, "{earlier} / {later}");
        }
        let mixed = of_rules(
            "{action: Deny, http: [{path: {value: /}}]}, {action: Allow, ports: [{port: 80}], http: [{path: {value: /}}]}",
        );
        assert!(!mixed.iter().any(|text| text.contains("never matches")), "{mixed:#?}");
    }

    #[test]
    fn grants_by_labels_alone_are_told_of() {
        let policy = "f.yaml: ClusterEgressPolicy p: ";
        let to = format!(
            "{policy}spec.podSelector: grants by pod labels alone, and tenants choose those: any tenant can label a pod \
             to get it; add a namespaceSelector"
        );
        let towards = format!(
            "{policy}spec.rules[0].to[0].pods: opens the way to pods by their labels alone, and tenants choose those: \
             any tenant can label a pod to be reached; add a namespaceSelector"
        );
        let labelled = "podSelector: {matchLabels: {app: proxy}}";
        let kind = "ClusterEgressPolicy";
        assert_eq!(warnings(kind, &format!("{{{labelled}, rules: [{{action: Pass}}]}}")), [to.as_str()]);
        assert_eq!(
            warnings(kind, &format!("{{{labelled}, namespaceSelector: {{}}, rules: [{{action: Allow}}]}}")),
            [to.as_str()]
        );
        assert_eq!(
            warnings(
                kind,
                &format!("{{podSelector: {{}}, rules: [{{action: Allow, to: [{{pods: {{{labelled}}}}}]}}]}}")
            ),
            [towards.as_str()]
        );
        for spec in [
            format!("{{{labelled}, rules: [{{action: Deny}}]}}"),
            format!(
                "{{{labelled}, namespaceSelector: {{matchLabels: {{a: b}}}}, rules: [{{action: Allow}}]}}"
            ),
            "{podSelector: {}, rules: [{action: Allow, to: [{pods: {podSelector: {}}}]}]}".to_owned(),
        ] {
            assert_eq!(warnings(kind, &spec), Vec::<String>::new(), "{spec}");
        }
    }
}
