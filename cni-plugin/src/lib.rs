//! The chained CNI plugin of Sluice: tells the node agent of a pod before the pod's first packet.
//!
//! The runtime calls it after the primary plugin of the chain. ADD finds the pod's cgroup and addresses, registers
//! them with the agent and answers with the primary's result, unchanged, once the agent has confirmed that the
//! pod's policy is in the kernel. It keeps no state but a spool of what the agent missed.
//!
//! # Configuration
//!
//! An entry of a conflist's `plugins`. All fields but `type` are optional; unknown ones are left alone.
//!
//! | field | value | default |
//! | --- | --- | --- |
//! | `type` | `"sluice-cni"` | |
//! | `socket` | absolute path of the agent's socket, at most 107 bytes | [`sluice_api::DEFAULT_SOCKET`] |
//! | `failurePolicy` | `"Fail"`, or `"Ignore"`: ADD goes through, with a warning, while the agent is away or not ready, and is spooled for it | `"Fail"` |
//! | `exemptNamespaces` | list of namespaces whose ADD goes through whatever the agent says; spooled as above | `[]` |
//! | `cgroupRoot` | absolute path of the cgroup v2 directory under which pods' cgroups are | the cgroup2 mount |
//! | `stateDir` | absolute path of the directory of the `ready` marker and the `spool` | `/run/sluice` |
//! | `capabilities` | `{"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true}` | |
//!
//! # Error codes
//!
//! An error is a JSON document on stdout (CNI 1.1.0, "Error"); the exit status is then 1, whatever the code.
//!
//! | code | meaning |
//! | --- | --- |
//! | 1 | cniVersion unsupported, or too old for the verb |
//! | 3 | CHECK: the agent does not know the attachment |
//! | 4 | an environment variable is missing or wrong; `details` names it |
//! | 5 | stdin could not be read, or is above 4 MiB |
//! | 6 | stdin is not a JSON object |
//! | 7 | a field of the configuration is missing or wrong; `details` names it and what is accepted |
//! | 11 | the agent is away, not ready, of another version, or answers nonsense: try again |
//! | 50 | STATUS: the agent has not been ready since boot |
//! | 100 | the pod's cgroup was not found; `details` lists where |
//! | 101 | the pod's cgroup, or `cgroupRoot`, cannot be used |
//! | 102 | the agent says that the request cannot be right |
//! | 103 | the agent says that the kernel or the file system refused |
//! | 999 | a defect of the plugin |
//!
//! DEL knows no errors: it says on stderr what went wrong and exits 0, for an error would stop the chain and leak
//! what the plugins before it hold.

#![forbid(unsafe_code)]

pub mod agent;
pub mod cgroup;
pub mod conf;
pub mod env;
pub mod gc;
pub mod labels;
pub mod reply;
pub mod result;
pub mod spool;
mod verbs;

pub use env::Vars;
pub use verbs::run;

/// The CNI versions that the plugin speaks, oldest first.
pub const SUPPORTED_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
