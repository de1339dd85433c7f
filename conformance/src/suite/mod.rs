//! The suites.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::Result;

pub mod broken_input;
pub mod cni;
pub mod demo;
mod detached;
pub mod edits;
pub mod escape;
pub mod first_packet;
pub mod flood;
pub mod inbound;
pub mod meaning;
pub mod names;
pub mod operate;
pub mod requests;
pub mod smoke;
pub mod soak;
pub mod unregistered;

/// Names the file in which skips are noted.
const SKIP_LOG: &str = "SLUICE_SKIP_LOG";

/// A skip is printed, and noted for whoever runs the suite.
fn skip(suite: &str, name: &str, reason: &str) -> Result<()> {
    eprintln!("{suite}: {name} is skipped: {reason}");
    if let Some(path) = std::env::var_os(SKIP_LOG) {
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        writeln!(file, "{suite} {name}: {reason}")?;
    }
    Ok(())
}

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
