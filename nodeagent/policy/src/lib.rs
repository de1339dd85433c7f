//! Sluice's policy: what the documents say, which of them govern a pod, what they rule about a flow, and how that
//! is laid out for the kernel.
//!
//! ```text
//! text ──parse──► Policy ──PolicySet::new──► PolicySet ──select(pod)──► Selection ─┬─evaluate(world, flow)─► Judgement
//!                                              │                                 └─compile(world)──► Compiled
//!                                              └──check──► Warning
//! ```
//!
//! [`evaluate()`] is the definition of what a policy means. [`compile()`] is the quick form of it; a property test holds
//! the two together, and the kernel's own test holds the programs to [`evaluate()`] as well. The two share the types
//! of [`model`] and nothing else.
//!
//! The crate does no I/O and reads no clock. Loopback, the pod's own addresses and replies pass before any policy is
//! asked: the datapath sees to that, and neither [`evaluate()`] nor [`compile()`] knows of it.

#![forbid(unsafe_code)]

#[cfg(any(test, feature = "arbitrary"))]
pub mod arbitrary;
pub mod check;
pub mod compile;
mod document;
pub mod evaluate;
pub mod flow;
pub mod model;
pub mod name;
pub mod network;
pub mod parse;
pub mod request;
pub mod select;
pub mod selector;
pub mod set;
pub mod world;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod ruling_tests;

pub use check::{Warning, WarningKind, check, not_enforced};
pub use compile::{
    Class, CompileError, Compiled, CompiledRuling, First, Firsts, List, NameEntry, PortEntry, Prefix, Steps,
    compile, compile_within,
};
pub use evaluate::{evaluate, may_ask};
pub use flow::{
    Action, Flow, FlowProtocol, Judgement, Names, PolicyRef, Requested, RuleId, RuleRef, Ruling, Shown,
};
pub use model::{
    DefaultAction, HostNetwork, Kind, Mode, Peer, Policy, PortMatch, PortRange, Posture, Protocol, Queries,
    Rule, RuleAction, Scope, ServiceRef, Source, Tier,
};
pub use name::{Name, NameError, NamePattern};
pub use network::{Network, NetworkError};
pub use parse::{PolicyError, Problem, parse};
pub use request::{HttpMatch, Method, PathMatch};
pub use select::{Selection, select};
pub use selector::{LabelSelector, Labels, Operator, Requirement};
pub use set::{Change, PolicySet, SetError};
pub use world::{PodInfo, ServiceInfo, ServicePort, World};
