//! What the operator's commands ask of the agent, on `admin.sock`.

use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_abi::counter;
use sluice_api::Refusal;
use sluice_api::frame::{self, FrameError};
use sluice_policy::PolicySet;

use super::Shared;
use super::features::Feature;
use super::learned::LearnedName;

/// How long a command waits for the agent.
const PATIENCE: Duration = Duration::from_secs(5);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Question {
    /// Everything that `sluice status` shows.
    Status,
    /// What a pod has learned from DNS.
    Dns {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Question::Status`].
    Status(Box<Status>),
    /// To [`Question::Dns`].
    Dns(Vec<LearnedName>),
    /// The question was not taken.
    Refused(Refusal),
}

/// The agent and what it governs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the agent.
    pub version: String,
    /// Version of the layout of its pins.
    pub abi: u32,
    /// Since when this agent runs.
    pub started: jiff::Timestamp,
    /// `observe`, `log` or `enforce`.
    pub posture: String,
    /// Where the programs are attached.
    pub cgroup_root: PathBuf,
    /// The policies in force.
    pub policies: Vec<String>,
    /// What is wrong with the policy directory. The last good policies are in force meanwhile.
    pub policy_errors: Vec<String>,
    /// Cgroups that the kernel governs, but whose pods are not known any more. Restart those pods.
    pub orphans: Vec<PathBuf>,
    /// The governed pods.
    pub pods: Vec<PodStatus>,
    /// What the programs counted.
    pub counters: Counters,
    /// What this kernel can do and what not.
    pub features: Vec<Feature>,
}

/// A governed pod.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that a reader of the JSON looks for"
)]
pub struct PodStatus {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its own addresses.
    pub ips: Vec<IpAddr>,
    /// Its cgroup.
    pub cgroup: PathBuf,
    /// Since when it is governed.
    pub since: jiff::Timestamp,
    /// No CNI call told of it: it was found by its cgroup, and cluster policies judge it as a pod without labels.
    pub found: bool,
    /// It is in the host's network namespace.
    pub host_network: bool,
    /// Its attachments are gone, its cgroup is not yet.
    pub leaving: bool,
    /// Whether the host's end of each of its links is watched for what the cgroup hooks do not see.
    pub guarded: bool,
    /// The policies that select it, first to last.
    pub policies: Vec<String>,
}

/// What the programs counted since they were first loaded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    /// Flows that policy allowed; packets, for sockets without one peer.
    pub allowed: u64,
    /// Packets and calls that policy denied.
    pub denied: u64,
    /// Replies that passed on evidence; packets, for datagrams.
    pub replies: u64,
    /// Events that found the ring buffer full.
    pub events_lost: u64,
    /// Events held back because one pod gave too many.
    pub events_over_budget: u64,
    /// Verdicts that could not be kept with their socket, so that its next packet is judged again.
    pub storage_failed: u64,
    /// Packets denied because their policy was not in the kernel.
    pub policy_missing: u64,
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Answers a command.
pub(super) fn answer(shared: &Shared, question: &Question) -> Answer {
    match question {
        Question::Dns { namespace, name } => super::learned::answer(shared, namespace, name),
        Question::Status => match status(shared) {
            Ok(status) => Answer::Status(Box::new(status)),
            Err(error) => Answer::Refused(Refusal::from(&error.into())),
        },
    }
}

fn status(shared: &Shared) -> Result<Status, crate::datapath::DatapathError> {
    let node = shared.node();
    let pods = node.endpoints().map(|(record, leaving, selection)| PodStatus {
        namespace: record.pod.namespace.clone(),
        name: record.pod.name.clone(),
        uid: record.pod.uid.clone(),
        ips: record.attachments.values().flat_map(|link| link.ips.iter().copied()).collect(),
        cgroup: record.path.clone(),
        since: record.since,
        found: record.found,
        host_network: record.host_network,
        leaving,
        guarded: record.attachments.values().all(|link| link.guarded.is_some()),
        policies: selection
            .tiers()
            .into_iter()
            .flatten()
            .map(|policy| policy.reference().to_string())
            .collect(),
    });
    let policies = node.policies().into_iter().flat_map(PolicySet::policies);
    let counters = node.counters()?;
    let count = |index: u32| counters[index as usize];
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: sluice_abi::ABI_VERSION,
        started: shared.started,
        posture: format!("{:?}", shared.posture).to_lowercase(),
        cgroup_root: shared.cgroup_root.clone(),
        policies: policies.map(|policy| policy.reference().to_string()).collect(),
        orphans: node.orphans().map(Path::to_owned).collect(),
        policy_errors: shared.policy_errors().clone(),
        pods: pods.collect(),
        features: shared.features.clone(),
        counters: Counters {
            allowed: count(counter::ALLOWED),
            denied: count(counter::DENIED),
            replies: count(counter::REPLIES),
            events_lost: count(counter::EVENTS_LOST),
            events_over_budget: count(counter::EVENTS_OVER_BUDGET),
            storage_failed: count(counter::STORAGE_FAILED),
            policy_missing: count(counter::POLICY_MISSING),
        },
    })
}

/// Asks a running agent.
pub fn ask(run_dir: &Path, question: &Question) -> Result<Answer, AskError> {
    let path = run_dir.join("admin.sock");
    let unreachable = |source| AskError::Unreachable { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    frame::write(&mut stream, question)?;
    Ok(frame::read(&mut stream)?)
}

/// Why the agent gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent answers on {path}: {source}; is `sluice agent` running, with this --run-dir?")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent did not answer: {0}")]
    Frame(#[from] FrameError),
}
