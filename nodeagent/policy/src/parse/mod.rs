//! From text to policies: every fault of a file is told at once, with its place and what to write instead.

mod cursor;
mod error;
mod http;
mod node;
mod rules;
mod spec;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error as _};
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};

use self::cursor::Report;
pub use self::error::{PolicyError, Problem};
use self::node::Node;
use crate::model::{Policy, Source};

/// The largest text that is read, in bytes.
pub const MAX_TEXT: usize = 8 << 20;

/// Reads the documents of a text: YAML, one or several, or JSON. Empty documents are skipped.
///
/// `file` is the name that errors and [`Source`] give. Either all documents are good, or the answer is every fault of
/// all of them; broken YAML ends the reading.
pub fn parse(file: &str, text: &str) -> Result<Vec<Policy>, Vec<PolicyError>> {
    let shared: Arc<str> = Arc::from(file);
    let mut policies = Vec::new();
    let mut errors = Vec::new();
    // Read as a stream, so that a broken document does not hide the faults of those before it.
    let mut bytes = text.as_bytes();
    for (index, result) in serde_saphyr::read_with_options::<_, Node>(&mut bytes, options()).enumerate() {
        let document = index + 1;
        let mut report = Report::new(file, document);
        match result {
            Ok(node) => {
                let source = Source { file: Arc::clone(&shared), document };
                policies.extend(read(&node, source, &mut report));
            }
            Err(error) => {
                let error = error.without_snippet();
                let line = error.location().map(|location| location.line()).filter(|line| *line > 0);
                let problem = match error {
                    serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => {
                        Problem::DuplicateKey(node::shortened(key))
                    }
                    serde_saphyr::Error::MergeKeyNotAllowed { .. } => Problem::MergeKey,
                    other => Problem::Syntax(other.to_string()),
                };
                report.add_at(line, "", problem);
            }
        }
        errors.append(&mut report.errors);
    }
    if errors.is_empty() { Ok(policies) } else { Err(errors) }
}

/// Reads one document. A document that gives no policy always gives a fault: none is dropped in silence.
fn read(node: &Node, source: Source, report: &mut Report<'_>) -> Option<Policy> {
    let policy = spec::policy(node, source, report);
    if policy.is_none() && report.errors.is_empty() {
        report.add_at(node.line, "", Problem::Empty);
    }
    policy
}

/// The reader's limits: far above what policies need, far below what hurts.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_TEXT),
            max_depth: 48,
            flow_nesting_limit: 48,
            max_documents: 20_000,
            max_nodes: 1_000_000,
            max_events: 3_000_000,
            max_anchors: 1_000,
            max_aliases: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 8,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// Reads one document from any format, as the API server hands it out. Faults come as one message, one line each.
impl<'de> Deserialize<'de> for Policy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let mut report = Report::new("object", 1);
        let source = Source { file: Arc::from("object"), document: 1 };
        match read(&node, source, &mut report) {
            Some(policy) if report.errors.is_empty() => Ok(policy),
            _ => {
                let lines: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
                Err(D::Error::custom(lines.join("\n")))
            }
        }
    }
}
