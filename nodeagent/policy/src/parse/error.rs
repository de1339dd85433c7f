//! What can be wrong with a policy document.

use std::fmt;

use crate::model::{API_VERSION, MAX_NAMES, MAX_PRIORITY, MAX_RULES};
use crate::name::NameError;
use crate::network::{Network, NetworkError};
use crate::request::{MAX_MATCHES, MAX_PATH, UnclearPath};

/// One fault of a document: where it is, what is wrong and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyError {
    /// The file, as given to [`parse`](super::parse).
    pub file: String,
    /// The number of the document in the file, from 1; empty documents are not counted.
    pub document: usize,
    /// The line in the file, from 1, where it is known.
    pub line: Option<u64>,
    /// The path of the field, such as `spec.rules[2].to[0].networks[1]`; empty for the document itself.
    pub field: String,
    /// What is wrong.
    pub problem: Problem,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: document {}", self.file, self.document)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for PolicyError {}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The YAML itself is broken, or is larger or deeper than any policy needs.
    #[error("{0}; the document was not read further")]
    Syntax(String),
    /// A map holds a key twice.
    #[error("`{0}` is given twice; remove one of them; the document was not read further")]
    DuplicateKey(String),
    /// A map takes over the fields of another.
    #[error("merge keys (`<<`) are not read; write the fields out; the document was not read further")]
    MergeKey,
    /// A field that must be there is not.
    #[error("missing; write {0}")]
    Missing(&'static str),
    /// A field that the document's kind does not have.
    #[error("no such field; known here: {0}")]
    UnknownField(String),
    /// A field that only a `ClusterEgressPolicy` has.
    #[error("only a ClusterEgressPolicy can have this; {0}")]
    ClusterOnly(&'static str),
    /// A field is there without a value, which could be taken for its absence.
    #[error("has no value; give it one or remove the field")]
    Empty,
    /// A list without items.
    #[error("the list is empty, so nothing would match; {0}")]
    EmptyList(&'static str),
    /// The value is of another type.
    #[error("expected {expected}, found {found}{}", advice.as_ref().map(|a| format!("; write {a}")).unwrap_or_default())]
    Type {
        /// What belongs here.
        expected: &'static str,
        /// What is there.
        found: String,
        /// What to write instead, where it can be guessed.
        advice: Option<String>,
    },
    /// The value is none of those that the field knows.
    #[error("`{found}` is not known here; write {expected}")]
    Choice {
        /// What is there.
        found: String,
        /// The values that are known.
        expected: &'static str,
    },
    /// Another API version.
    #[error("`{0}` is not supported; write {API_VERSION}")]
    ApiVersion(String),
    /// A name that Kubernetes would refuse.
    #[error("`{0}` is no valid name; write {1}")]
    Name(String, &'static str),
    /// A label or key that Kubernetes would refuse.
    #[error("`{0}` is no valid {1}; write {2}")]
    Label(String, &'static str, &'static str),
    /// A priority beyond the limit.
    #[error("{0} is out of range; write a number from 0 (first) to {MAX_PRIORITY}")]
    Priority(i128),
    /// A port beyond the limits.
    #[error("{0} is no port; write a number from 1 to 65535, or leave the field out for all ports")]
    Port(i128),
    /// `endPort` below `port`.
    #[error("{last} is below port {first}; write a number from {first} to 65535")]
    PortOrder {
        /// `port`.
        first: u16,
        /// `endPort`.
        last: u16,
    },
    /// `endPort` without `port`.
    #[error("needs `port`, the first port of the range; write both, or remove this field")]
    EndWithoutPort,
    /// ICMP with a port.
    #[error("ICMP has no ports; remove this field")]
    IcmpPort,
    /// Too many rules.
    #[error("{0} rules are too many; the most is {MAX_RULES}: split the policy")]
    TooManyRules(usize),
    /// A peer that is no kind of peer, or several.
    #[error("holds {found}; write exactly one of {expected}")]
    PeerKind {
        /// The kinds that it holds.
        found: String,
        /// The kinds that there are.
        expected: &'static str,
    },
    /// `except` beside something else than `networks`.
    #[error(
        "goes only with `networks`; to cut something out of this peer, write a Deny rule before this rule"
    )]
    ExceptAlone,
    /// An exception that lies in none of the networks, or that is as wide as one.
    #[error("{0} lies inside none of the networks of this peer; write a smaller part of one of them")]
    ExceptOutside(Network),
    /// A requirement whose values do not go with its operator.
    #[error("{operator} takes {takes}")]
    Values {
        /// The operator.
        operator: &'static str,
        /// What it takes.
        takes: &'static str,
    },
    /// `requireName` in a rule without names.
    #[error("goes only with `domainNames` in `to`; remove it")]
    NameRequiredOfNothing,
    /// `http` in a rule that passes a tier.
    #[error("a Pass rule leaves its tier before any request is known; write an Allow or a Deny rule")]
    HttpPass,
    /// An entry of `http` that says nothing.
    #[error("says nothing of requests; write methods, path or both; `path: {{value: /}}` means any request")]
    HttpEmpty,
    /// `http` beside a port of another protocol.
    #[error(
        "HTTP goes over TCP, and the rule has `http`; write a TCP port, or a rule of its own for this one"
    )]
    HttpPort,
    /// Too many entries of `http`.
    #[error("{0} entries are too many; the most is {MAX_MATCHES}: split the rule")]
    TooManyMatches(usize),
    /// A path that is longer than any rule's may be.
    #[error("{0} bytes are too many; the most is {MAX_PATH}")]
    LongPath(usize),
    /// A path that servers read in different ways.
    #[error("`{found}` is no path that a request could be compared with: {why}")]
    Path {
        /// What is there.
        found: String,
        /// Why.
        why: UnclearPath,
    },
    /// A path in another form.
    #[error("`{found}` is compared as `{normal}`; write that")]
    PathForm {
        /// What is there.
        found: String,
        /// What belongs there.
        normal: String,
    },
    /// Too many names in a peer.
    #[error(
        "{0} names are too many; the most is {MAX_NAMES}: split the peer, or name their domain with `*.`"
    )]
    TooManyNames(usize),
    /// A name that cannot be matched.
    #[error(transparent)]
    DomainName(#[from] NameError),
    /// A network that cannot be read.
    #[error(transparent)]
    Network(#[from] NetworkError),
}
