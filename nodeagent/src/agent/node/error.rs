//! What can be wrong with what the node is asked.

use std::io;
use std::path::PathBuf;

use sluice_abi::{MAX_CGROUP_LEVEL, MAX_ENDPOINTS, MAX_OWN_ADDRESSES};
use sluice_api::{Attachment, Refusal, RefusalKind};
use sluice_policy::compile::CompileError;

use crate::agent::store::StoreError;
use crate::datapath::DatapathError;

/// Why the node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel side failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The policies are too large together.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The thread that ends connections could not be started.
    #[error("cannot start a thread: {0}")]
    Cutter(io::Error),
    /// The node's own addresses cannot be listed.
    #[error("cannot list the node's own addresses: {0}")]
    OwnAddresses(nix::Error),
    /// The sockets of a pod that runs already cannot be looked at.
    #[error(
        "cannot look at the sockets in {netns}: {source}; is the agent in the host's mount and network namespaces?"
    )]
    Sockets {
        /// The pod's network namespace.
        netns: String,
        /// What the system said.
        source: io::Error,
    },
    /// The host's end of a pod's link cannot be watched.
    #[error("{name}, the host's end of the pod's link, cannot be watched: {problem}")]
    Guard {
        /// The interface.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The state could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request cannot be right.
    #[error("{0}")]
    Invalid(Invalid),
    /// The policy directory has never been read whole.
    #[error("the policies could not be read yet, see `sluice status`; no pod can start before")]
    NoPolicies,
    /// The programs are not exchanged, for a pod would be without its policy.
    #[error(
        "the programs of the earlier agent go on, for {pod}'s policies cannot be put into this agent's maps: see the error before this one"
    )]
    NotPlaced {
        /// The first such pod.
        pod: String,
    },
    /// This agent's programs are not attached yet.
    #[error("this agent's programs are not attached yet, see `sluice status`; no pod can start before")]
    NotAttached,
    /// There is no such attachment.
    #[error("attachment {container_id}/{ifname} is not governed here; was the pod added before sluice-cni joined the chain?",
        container_id = .0.container_id, ifname = .0.ifname)]
    Unknown(Attachment),
    /// Every slot is taken.
    #[error("{MAX_ENDPOINTS} pods are governed already, which is the most that a node can have")]
    Full,
}

/// Why a pod cannot be registered.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// The directory does not exist, or has another inode.
    #[error(
        "cgroup {path} has not the id {id}: {found}; the plugin must see the same cgroup2 mount as the agent"
    )]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// The id that the plugin saw.
        id: u64,
        /// What the agent sees.
        found: String,
    },
    /// The directory lies outside of what the programs are attached to.
    #[error(
        "cgroup {path} is not below the cgroup root {root}; set cgroupRoot in the plugin's configuration to it"
    )]
    OutsideRoot {
        /// The directory.
        path: PathBuf,
        /// The root.
        root: PathBuf,
    },
    /// The directory is deeper than the programs look.
    #[error("cgroup {path} is at level {level}; pods are looked for down to level {MAX_CGROUP_LEVEL}")]
    TooDeep {
        /// The directory.
        path: PathBuf,
        /// Its level.
        level: u32,
    },
    /// Another pod's cgroup contains it, or is contained in it.
    #[error("cgroup {path} and {other}, which is the pod {pod}'s, lie one in the other")]
    Nested {
        /// The directory.
        path: PathBuf,
        /// The other pod's.
        other: PathBuf,
        /// The other pod.
        pod: String,
    },
    /// No address: what the pod sends in another's name could not be told.
    #[error(
        "the previous plugin's result names no address of the pod; sluice-cni must come after the plugin that gives it one"
    )]
    NoAddress,
    /// More addresses than an endpoint can have.
    #[error("the pod has {0} addresses; at most {MAX_OWN_ADDRESSES} are supported")]
    Addresses(usize),
}

impl From<&NodeError> for Refusal {
    fn from(error: &NodeError) -> Self {
        let kind = match error {
            NodeError::Invalid(_) => RefusalKind::Invalid,
            NodeError::Unknown(_) => RefusalKind::Unknown,
            NodeError::NoPolicies | NodeError::NotAttached => RefusalKind::NotReady,
            _ => RefusalKind::Failed,
        };
        Self { kind, message: error.to_string() }
    }
}
