//! The suites.

pub mod broken_input;
pub mod demo;
pub mod edits;
pub mod escape;
pub mod first_packet;
pub mod flood;
pub mod inbound;
pub mod meaning;
pub mod names;
pub mod smoke;
pub mod unregistered;

/// A default-deny policy for the pods of a namespace with such a label `app`, with these rules in YAML's flow style.
fn policy(namespace: &str, name: &str, label: &str, rules: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  podSelector: {{matchLabels: {{app: {label}}}}}
  defaultAction: Deny
  rules: {rules}
"
    )
}
