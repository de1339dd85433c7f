//! From a policy back to its document, with every default written out.

use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use crate::model::{API_VERSION, Peer, Policy, PortMatch, Queries, Rule, Scope};
use crate::request::{HttpMatch, PathMatch};

/// Writes the document; reading it again gives the same policy, but for its [`Source`](crate::Source).
impl Serialize for Policy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        document(self).serialize(serializer)
    }
}

fn document(policy: &Policy) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(policy.name));
    if let Some(namespace) = policy.namespace() {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
    for (field, labels) in [("labels", &policy.labels), ("annotations", &policy.annotations)] {
        if !labels.is_empty() {
            metadata.insert(field.to_owned(), json!(labels));
        }
    }
    let mut spec = Map::new();
    spec.insert("podSelector".to_owned(), json!(policy.pod_selector));
    if let Scope::Cluster { tier, namespace_selector, host_network } = &policy.scope {
        if let Some(selector) = namespace_selector {
            spec.insert("namespaceSelector".to_owned(), json!(selector));
        }
        spec.insert("hostNetwork".to_owned(), json!(host_network));
        spec.insert("tier".to_owned(), json!(tier));
    }
    spec.insert("priority".to_owned(), json!(policy.priority));
    spec.insert("mode".to_owned(), json!(policy.mode));
    spec.insert("defaultAction".to_owned(), json!(policy.default_action));
    if policy.queries != Queries::default() {
        spec.insert("dns".to_owned(), json!({ "queries": policy.queries }));
    }
    spec.insert("rules".to_owned(), policy.rules.iter().map(rule).collect());
    json!({ "apiVersion": API_VERSION, "kind": policy.kind().as_str(), "metadata": metadata, "spec": spec })
}

fn rule(rule: &Rule) -> Value {
    let mut fields = Map::new();
    if let Some(name) = &rule.name {
        fields.insert("name".to_owned(), json!(name));
    }
    fields.insert("action".to_owned(), json!(rule.action));
    if let Some(peers) = &rule.to {
        fields.insert("to".to_owned(), peers.iter().map(peer).collect());
    }
    if let Some(ports) = &rule.ports {
        fields.insert("ports".to_owned(), ports.iter().copied().map(port).collect());
    }
    if let Some(entries) = &rule.http {
        fields.insert("http".to_owned(), entries.iter().map(http).collect());
    }
    if let Some(required) = rule.require_name {
        fields.insert("requireName".to_owned(), json!(required));
    }
    Value::Object(fields)
}

fn peer(peer: &Peer) -> Value {
    let texts = |networks: &[crate::Network]| networks.iter().map(ToString::to_string).collect::<Vec<_>>();
    match peer {
        Peer::Networks { networks, except } if except.is_empty() => json!({ "networks": texts(networks) }),
        Peer::Networks { networks, except } => {
            json!({ "networks": texts(networks), "except": texts(except) })
        }
        Peer::Pods { pod_selector, namespace_selector: None } => {
            json!({ "pods": { "podSelector": pod_selector } })
        }
        Peer::Pods { pod_selector, namespace_selector } => {
            json!({ "pods": { "podSelector": pod_selector, "namespaceSelector": namespace_selector } })
        }
        Peer::Namespaces(selector) => json!({ "namespaces": selector }),
        Peer::DomainNames(names) => json!({ "domainNames": names }),
        Peer::Services(services) => json!({ "services": services }),
    }
}

fn http(entry: &HttpMatch) -> Value {
    let mut fields = Map::new();
    if let Some(methods) = &entry.methods {
        fields.insert("methods".to_owned(), json!(methods));
    }
    let path = entry.path.as_ref().map(|path| match path {
        PathMatch::Exact(value) => json!({ "type": "Exact", "value": value }),
        PathMatch::Prefix(value) => json!({ "type": "PathPrefix", "value": value }),
    });
    fields.extend(path.map(|path| ("path".to_owned(), path)));
    Value::Object(fields)
}

fn port(entry: PortMatch) -> Value {
    match entry.range {
        None => json!({ "protocol": entry.protocol }),
        Some(range) if range.first == range.last => {
            json!({ "protocol": entry.protocol, "port": range.first })
        }
        Some(range) => json!({ "protocol": entry.protocol, "port": range.first, "endPort": range.last }),
    }
}
