//! Messages between `sluice-cni` and the node agent.
//!
//! One request and one reply per connection on `/run/sluice/cni.sock`, each a big-endian `u32` length followed by
//! that many bytes of JSON. See [`frame`] for the limits.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub mod frame;
pub mod spool;

/// The version that both ends must speak; raised whenever a message changes its meaning.
pub const PROTOCOL_VERSION: u32 = 1;

/// Where the agent listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/sluice/cni.sock";

/// What the plugin asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// [`PROTOCOL_VERSION`] of the sender.
    pub version: u32,
    /// The call itself.
    pub call: Call,
}

/// The calls, one for each CNI verb that needs the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one call per connection, so a box would save nothing"
)]
pub enum Call {
    /// Govern this pod. Answered only when its policy is in the kernel.
    Add(Add),
    /// Forget this attachment. Repeating it is not an error.
    Del(Attachment),
    /// Is this attachment still governed?
    Check(Attachment),
    /// Forget every attachment of this network that is not listed, and none of another network: a runtime
    /// collects one network at a time (CNI 1.1.0, "GC: Clean up any stale resources").
    Gc {
        /// `name` of the network configuration, as in [`Add::network`].
        network: String,
        /// The attachments that the runtime still has.
        valid: Vec<Attachment>,
    },
    /// Is the agent ready to govern new pods?
    Status,
}

/// A CNI attachment: the key of ADD, CHECK and DEL (CNI 1.1.0, "Section 2").
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// `CNI_CONTAINERID`: the sandbox.
    pub container_id: String,
    /// `CNI_IFNAME`: the interface inside the pod.
    pub ifname: String,
}

/// A pod to govern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Add {
    /// The attachment that brings the pod.
    pub attachment: Attachment,
    /// `name` of the network configuration; what [`Call::Gc`] is limited to.
    pub network: String,
    /// Network namespace of the pod, as the runtime named it.
    pub netns: String,
    /// The pod-level cgroup.
    pub cgroup: Cgroup,
    /// Who the pod is.
    pub pod: Pod,
    /// The pod's own addresses, from the previous plugin's result.
    pub ips: Vec<IpAddr>,
    /// The host's end of the pod's link, where the previous plugin's result names it.
    pub host_interface: Option<String>,
}

/// A cgroup v2 directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cgroup {
    /// Absolute path of the directory as the plugin sees it.
    pub path: String,
    /// Its inode number, which is the id that the kernel compares.
    pub id: u64,
}

/// The identity of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty where the runtime gives none.
    pub uid: String,
    /// Labels that the runtime passed on a host without Kubernetes.
    pub labels: BTreeMap<String, String>,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub version: u32,
    /// Done, or why not.
    pub outcome: Outcome,
}

/// Done, or why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Done; what was asked for is in force.
    Done,
    /// Not done; nothing was changed.
    Refused(Refusal),
}

/// Why the agent did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refusal {
    /// The kind, from which the plugin takes its CNI error code.
    pub kind: RefusalKind,
    /// One sentence that says what is wrong and what to fix.
    pub message: String,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalKind {
    /// The request cannot be right: trying again does not help.
    Invalid,
    /// No such attachment.
    Unknown,
    /// The agent cannot do it now: try again.
    NotReady,
    /// The kernel or the file system said no.
    Failed,
}

#[cfg(test)]
mod tests;

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self { version: PROTOCOL_VERSION, outcome: Outcome::Refused(refusal) }
    }
}
