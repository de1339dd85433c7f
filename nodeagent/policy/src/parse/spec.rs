//! The document, its metadata and its spec.

use super::cursor::{At, Fields, Report};
use super::error::Problem;
use super::node::{Node, shortened};
use super::rules;
use crate::model::{
    API_VERSION, ClusterTier, DEFAULT_NAMESPACE, DEFAULT_PRIORITY, DefaultAction, HostNetwork, Kind,
    MAX_PRIORITY, MAX_RULES, Mode, Policy, Queries, Rule, Scope, Source,
};
use crate::selector::{LabelSelector, Labels, Operator, Requirement};

/// What the API server adds to metadata; read past.
const SERVER_METADATA: [&str; 11] = [
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

const SUBDOMAIN: &str =
    "at most 253 lower-case letters, digits, `-` and `.`, with a letter or digit at both ends";
const DNS_LABEL: &str = "at most 63 lower-case letters, digits and `-`, with a letter or digit at both ends";
const LABEL_VALUE: &str =
    "at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends, or nothing";
const LABEL_KEY: &str =
    "a name of at most 63 letters, digits, `-`, `_` and `.`, if need be after a domain and `/`";

/// Reads a document; none if it has faults that leave no policy.
pub(super) fn policy(node: &Node, source: Source, report: &mut Report<'_>) -> Option<Policy> {
    let document = At { node, path: String::new() };
    // `status` is the agent's own, and read past.
    let fields = document.fields(report, &["apiVersion", "kind", "metadata", "spec", "status"])?;
    if let Some(version) = fields.need(report, "apiVersion", API_VERSION)
        && let Some(text) = version.text(report)
        && text != API_VERSION
    {
        version.fault(report, Problem::ApiVersion(shortened(text)));
        return None;
    }
    let kinds = [Kind::EgressPolicy, Kind::ClusterEgressPolicy].map(|kind| (kind.as_str(), kind));
    let expected = "EgressPolicy or ClusterEgressPolicy";
    let kind = fields.need(report, "kind", expected)?.choice(report, &kinds, expected)?;

    let metadata =
        fields.need(report, "metadata", "a map with `name`").and_then(|at| metadata(&at, kind, report));
    let spec = fields.need(report, "spec", "a map with `podSelector` and `rules`")?;
    let (metadata, namespace) = match metadata {
        Some((metadata, namespace)) => (Some(metadata), namespace),
        None => (None, DEFAULT_NAMESPACE.to_owned()),
    };
    let policy = read_spec(&spec, kind, &namespace, report)?;
    let metadata = metadata?;
    Some(Policy {
        source,
        name: metadata.name,
        labels: metadata.labels,
        annotations: metadata.annotations,
        ..policy
    })
}

struct Metadata {
    name: String,
    labels: Labels,
    annotations: Labels,
}

/// Reads the metadata, and gives the namespace beside it; for a `ClusterEgressPolicy` that is of no account.
fn metadata(at: &At<'_>, kind: Kind, report: &mut Report<'_>) -> Option<(Metadata, String)> {
    let fields = at.open_fields(report)?;
    for (name, field) in fields.all() {
        let known = ["name", "namespace", "labels", "annotations"].contains(&name);
        if !known && !SERVER_METADATA.contains(&name) {
            field.fault(report, Problem::UnknownField("name, namespace, labels, annotations".to_owned()));
        } else if known && fields.get(name).is_none() {
            field.fault(report, Problem::Empty);
        }
    }
    let name = fields.need(report, "name", "the policy's name").and_then(|at| object_name(&at, report));
    let mut namespace = DEFAULT_NAMESPACE.to_owned();
    if let Some(field) = fields.get("namespace") {
        if kind == Kind::ClusterEgressPolicy {
            field.fault(
                report,
                Problem::UnknownField("name, labels, annotations (the policy has no namespace)".to_owned()),
            );
        } else {
            namespace = dns_label(&field, report)?;
        }
    }
    let labels = fields.get("labels").map_or_else(|| Some(Labels::new()), |at| texts(&at, report));
    let annotations = fields.get("annotations").map_or_else(|| Some(Labels::new()), |at| texts(&at, report));
    Some((Metadata { name: name?, labels: labels?, annotations: annotations? }, namespace))
}

/// Reads a map of texts, of which no more is asked.
fn texts(at: &At<'_>, report: &mut Report<'_>) -> Option<Labels> {
    let fields = at.open_fields(report)?;
    let mut all = Labels::new();
    for (name, field) in fields.all() {
        if let Some(text) = field.text(report) {
            all.insert(name.to_owned(), text.to_owned());
        }
    }
    Some(all)
}

/// Reads the spec into a policy whose name and source are still missing.
fn read_spec(at: &At<'_>, kind: Kind, namespace: &str, report: &mut Report<'_>) -> Option<Policy> {
    let common = ["podSelector", "priority", "mode", "defaultAction", "dns", "rules"];
    let cluster = ["namespaceSelector", "hostNetwork", "tier"];
    let mut known = common.to_vec();
    // For the sake of a better answer below, an EgressPolicy's fields are first held against both lists.
    known.extend(cluster);
    let fields = at.fields(report, &known)?;
    if kind == Kind::EgressPolicy {
        for name in cluster {
            if let Some(field) = fields.get(name) {
                field.fault(report, Problem::ClusterOnly("remove it"));
            }
        }
    }
    let selector = "podSelector: {} for every pod, or labels to choose by";
    let pod_selector =
        fields.need(report, "podSelector", selector).and_then(|at| label_selector(&at, report));
    let priority = priority(&fields, report);
    let modes = [("Enforce", Mode::Enforce), ("Audit", Mode::Audit)];
    let mode = option(&fields, "mode", report, &modes, "Enforce or Audit");
    let defaults = [("Deny", DefaultAction::Deny), ("None", DefaultAction::None)];
    let default_action = option(&fields, "defaultAction", report, &defaults, "Deny or None");
    let scope = match kind {
        Kind::EgressPolicy => Scope::Namespace { namespace: namespace.to_owned() },
        Kind::ClusterEgressPolicy => cluster_scope(&fields, report),
    };
    let absent = match kind {
        Kind::EgressPolicy => DefaultAction::Deny,
        Kind::ClusterEgressPolicy => DefaultAction::None,
    };
    let rules = match fields.get("rules") {
        Some(at) => read_rules(&at, &scope, report)?,
        None => Vec::new(),
    };
    Some(Policy {
        source: Source::default(),
        name: String::new(),
        labels: Labels::new(),
        annotations: Labels::new(),
        scope,
        pod_selector: pod_selector?,
        priority: priority?,
        mode: mode.unwrap_or_default(),
        default_action: default_action.unwrap_or(absent),
        queries: fields.get("dns").map(|at| queries(&at, report)).unwrap_or_default(),
        rules,
    })
}

fn queries(at: &At<'_>, report: &mut Report<'_>) -> Queries {
    let choices = [("Any", Queries::Any), ("RuleNames", Queries::RuleNames)];
    let fields = at.fields(report, &["queries"]);
    let queries = fields.and_then(|fields| option(&fields, "queries", report, &choices, "Any or RuleNames"));
    queries.unwrap_or_default()
}

fn priority(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<u16> {
    let Some(at) = fields.get("priority") else { return Some(DEFAULT_PRIORITY) };
    let number = at.integer(report)?;
    let priority = u16::try_from(number).ok().filter(|priority| *priority <= MAX_PRIORITY);
    if priority.is_none() {
        at.fault(report, Problem::Priority(number));
    }
    priority
}

fn cluster_scope(fields: &Fields<'_>, report: &mut Report<'_>) -> Scope {
    let tiers = [("Admin", ClusterTier::Admin), ("Baseline", ClusterTier::Baseline)];
    let host = [("Exclude", HostNetwork::Exclude), ("Include", HostNetwork::Include)];
    Scope::Cluster {
        tier: option(fields, "tier", report, &tiers, "Admin or Baseline").unwrap_or_default(),
        namespace_selector: fields.get("namespaceSelector").and_then(|at| label_selector(&at, report)),
        host_network: option(fields, "hostNetwork", report, &host, "Exclude or Include").unwrap_or_default(),
    }
}

fn read_rules(at: &At<'_>, scope: &Scope, report: &mut Report<'_>) -> Option<Vec<Rule>> {
    let items = at.items(report)?;
    if items.len() > MAX_RULES {
        at.fault(report, Problem::TooManyRules(items.len()));
        return None;
    }
    Some(items.iter().filter_map(|item| rules::rule(item, scope, report)).collect())
}

fn option<T: Copy>(
    fields: &Fields<'_>,
    name: &str,
    report: &mut Report<'_>,
    choices: &[(&str, T)],
    expected: &'static str,
) -> Option<T> {
    fields.get(name)?.choice(report, choices, expected)
}

/// Reads a label selector.
pub(super) fn label_selector(at: &At<'_>, report: &mut Report<'_>) -> Option<LabelSelector> {
    let fields = at.fields(report, &["matchLabels", "matchExpressions"])?;
    let mut selector = LabelSelector::default();
    if let Some(labels) = fields.get("matchLabels").and_then(|at| at.open_fields(report)) {
        for (key, field) in labels.all() {
            check_key(key, &field, report);
            if let Some(value) = field.text(report) {
                check_value(value, &field, report);
                selector.match_labels.insert(key.to_owned(), value.to_owned());
            }
        }
    }
    if let Some(items) = fields.get("matchExpressions").and_then(|at| at.items(report)) {
        selector.match_expressions = items.iter().filter_map(|item| requirement(item, report)).collect();
    }
    Some(selector)
}

fn requirement(at: &At<'_>, report: &mut Report<'_>) -> Option<Requirement> {
    let fields = at.fields(report, &["key", "operator", "values"])?;
    let key = fields.need(report, "key", "the label's key").and_then(|at| {
        let key = at.text(report)?;
        check_key(key, &at, report);
        Some(key.to_owned())
    });
    let operators = [
        ("In", Operator::In),
        ("NotIn", Operator::NotIn),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ];
    let expected = "In, NotIn, Exists or DoesNotExist";
    let operator = fields.need(report, "operator", expected)?.choice(report, &operators, expected)?;
    let mut values = Vec::new();
    for item in fields.get("values").and_then(|at| at.items(report)).unwrap_or_default() {
        if let Some(value) = item.text(report) {
            check_value(value, &item, report);
            values.push(value.to_owned());
        }
    }
    let wants = matches!(operator, Operator::In | Operator::NotIn);
    let given = fields.get("values").and_then(|at| at.items(report)).is_some_and(|items| !items.is_empty());
    if wants != given {
        let operator = operators.iter().find(|(_, o)| *o == operator).map_or("", |(word, _)| word);
        let takes = if wants { "at least one of `values`" } else { "no `values`; remove them" };
        at.fault(report, Problem::Values { operator, takes });
    }
    Some(Requirement { key: key?, operator, values })
}

fn check_key(key: &str, at: &At<'_>, report: &mut Report<'_>) {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    if name.is_empty() || !is_label_value(name) || !domain.is_none_or(is_subdomain) {
        at.fault(report, Problem::Label(shortened(key), "label key", LABEL_KEY));
    }
}

fn check_value(value: &str, at: &At<'_>, report: &mut Report<'_>) {
    if !is_label_value(value) {
        at.fault(report, Problem::Label(shortened(value), "label value", LABEL_VALUE));
    }
}

/// Reads the name of an object: a DNS subdomain (RFC 1123).
pub(super) fn object_name(at: &At<'_>, report: &mut Report<'_>) -> Option<String> {
    let name = at.text(report)?;
    if !is_subdomain(name) {
        at.fault(report, Problem::Name(shortened(name), SUBDOMAIN));
        return None;
    }
    Some(name.to_owned())
}

/// Reads the name of a namespace: a DNS label (RFC 1123).
pub(super) fn dns_label(at: &At<'_>, report: &mut Report<'_>) -> Option<String> {
    let name = at.text(report)?;
    if !is_dns_label(name) {
        at.fault(report, Problem::Name(shortened(name), DNS_LABEL));
        return None;
    }
    Some(name.to_owned())
}

fn is_subdomain(name: &str) -> bool {
    name.len() <= 253 && name.split('.').all(|part| well_formed(part, |b| b == b'-', false))
}

fn is_dns_label(name: &str) -> bool {
    name.len() <= 63 && well_formed(name, |b| b == b'-', false)
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || (value.len() <= 63 && well_formed(value, |b| matches!(b, b'-' | b'_' | b'.'), true))
}

/// Letters, digits and what `inner` allows; both ends a letter or digit.
fn well_formed(text: &str, inner: impl Fn(u8) -> bool, upper: bool) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || (upper && b.is_ascii_uppercase());
    let bytes = text.as_bytes();
    let ends = bytes.first().zip(bytes.last()).is_some_and(|(first, last)| plain(*first) && plain(*last));
    ends && bytes.iter().all(|b| plain(*b) || inner(*b))
}
