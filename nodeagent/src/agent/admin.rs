//! What the operator's commands ask of the agent, on `admin.sock`: one question, and an answer in one or more messages.

use std::io::{self, BufReader};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_abi::counter;
use sluice_api::frame::{self, FrameError};
use sluice_api::{Refusal, RefusalKind};
use sluice_policy::{PolicySet, Warning, not_enforced};

use super::events::Line;
use super::features::Feature;
use super::hub::{Observe, PodName};
use super::learned::LearnedName;
use super::metrics::LostAt;
use super::store::Record;
use super::tls::TlsUse;
use super::{Shared, observe, server, tls};

/// How long a command waits for the agent.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pods in one message: with the longest names and paths still far below a message's limit.
const PODS_AT_ONCE: usize = 128;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Question {
    /// Everything that `sluice status` and `sluice pods` show: [`Answer::Status`], [`Answer::Pods`] as often as it takes,
    /// [`Answer::End`].
    Status,
    /// Events: [`Answer::Event`] and [`Answer::Lost`] as they come, then [`Answer::End`].
    Observe(Observe),
    /// What a pod has learned from DNS.
    Dns {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Which processes of a pod, or of all, use which TLS library.
    Tls(Option<PodName>),
}

/// What the agent answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To [`Question::Status`], first: the agent, without its pods.
    Status(Box<Status>),
    /// Some of the pods.
    Pods(Vec<PodStatus>),
    /// To [`Question::Observe`]: an event.
    Event(Box<Line>),
    /// So many events were lost, for they were not read quickly enough.
    Lost(u64),
    /// That was all.
    End,
    /// To [`Question::Dns`].
    Dns(Vec<LearnedName>),
    /// To [`Question::Tls`].
    Tls(Vec<TlsUse>),
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
    /// Since when it is ready; none if it is not.
    pub ready_since: Option<jiff::Timestamp>,
    /// What it waits for before it is ready.
    pub waiting_for: Vec<String>,
    /// `observe`, `log` or `enforce`.
    pub posture: String,
    /// Where the programs are attached.
    pub cgroup_root: PathBuf,
    /// The policies in force.
    pub policies: Vec<String>,
    /// What is wrong with the policy directory. The last good policies are in force meanwhile.
    pub policy_errors: Vec<String>,
    /// What policies say that this agent does not enforce.
    #[serde(default)]
    pub not_enforced: Vec<String>,
    /// What else does not work as it was asked for. Nothing that is enforced depends on it.
    pub errors: Vec<String>,
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

/// What the programs counted since they were first loaded, and the agent since it was started.
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
    /// Events of excluded networks and names. Counted by the agent.
    pub events_excluded: u64,
    /// Events that whoever reads standard output was too slow for. Counted by the agent.
    pub events_not_printed: u64,
    /// Events that observers were too slow for. Counted by the agent.
    pub events_not_observed: u64,
    /// Verdicts that could not be kept with their socket, so that its next packet is judged again.
    pub storage_failed: u64,
    /// Packets denied because their policy was not in the kernel.
    pub policy_missing: u64,
    /// What was counted of names.
    #[serde(default)]
    pub names: NameCounters,
}

/// What the programs counted of names since they were first loaded.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NameCounters {
    /// Addresses learned from DNS, again or for the first time.
    pub learned: u64,
    /// Answers of which an address took the place of one that still counted, or found none.
    pub learned_full: u64,
    /// Addresses of answers that no name may open: loopback, link-local, multicast, the node's own.
    pub addresses_refused: u64,
    /// DNS messages that could not be read.
    pub dns_unreadable: u64,
    /// Answers to nobody's question.
    pub dns_unasked: u64,
    /// Questions refused because no rule could open the name.
    pub questions_refused: u64,
    /// First payloads whose name could not be read.
    pub names_unreadable: u64,
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// One question, and its answer.
pub(super) async fn converse(
    mut stream: tokio::net::UnixStream,
    shared: Arc<Shared>,
) -> Result<(), FrameError> {
    match server::receive::<Question>(&mut stream, &shared).await? {
        Ok(Question::Dns { namespace, name }) => {
            server::send(&mut stream, &super::learned::answer(&shared, &namespace, &name)).await
        }
        Ok(Question::Tls(pod)) => {
            let looked = tokio::task::spawn_blocking(move || tls::answer(&shared, pod.as_ref())).await;
            let answer = looked.unwrap_or_else(|error| {
                Answer::Refused(Refusal { kind: RefusalKind::Failed, message: error.to_string() })
            });
            server::send(&mut stream, &answer).await
        }
        Ok(Question::Status) => match status(&shared) {
            Ok((status, pods)) => {
                server::send(&mut stream, &Answer::Status(Box::new(status))).await?;
                for pods in pods.chunks(PODS_AT_ONCE) {
                    server::send(&mut stream, &Answer::Pods(pods.to_vec())).await?;
                }
                server::send(&mut stream, &Answer::End).await
            }
            Err(error) => server::send(&mut stream, &Answer::Refused(Refusal::from(&error.into()))).await,
        },
        Ok(Question::Observe(wanted)) => observe::converse(stream, &shared, &wanted).await,
        Err(refusal) => server::send(&mut stream, &Answer::from(refusal)).await,
    }
}

/// What `sluice status` says of it.
fn not_enforced_text(warning: &Warning) -> String {
    format!("{}: {}: {}", warning.policy, warning.field, warning.kind)
}

/// Is the host's end of each of its links watched?
pub(super) fn is_guarded(record: &Record) -> bool {
    record.attachments.values().all(|link| link.guarded.is_some())
}

fn status(shared: &Shared) -> Result<(Status, Vec<PodStatus>), crate::datapath::DatapathError> {
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
        guarded: is_guarded(record),
        policies: selection
            .tiers()
            .into_iter()
            .flatten()
            .map(|policy| policy.reference().to_string())
            .collect(),
    });
    let pods = pods.collect();
    let policies = node.policies().into_iter().flat_map(PolicySet::policies);
    let counters = node.counters()?;
    let count = |index: u32| counters[index as usize];
    let status = Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        abi: sluice_abi::ABI_VERSION,
        started: shared.started,
        ready_since: shared.readiness.since(),
        waiting_for: shared.readiness.pending().iter().map(ToString::to_string).collect(),
        posture: super::posture_name(shared.posture).to_owned(),
        cgroup_root: shared.cgroup_root.clone(),
        policies: policies.map(|policy| policy.reference().to_string()).collect(),
        orphans: node.orphans().map(Path::to_owned).collect(),
        policy_errors: shared.policy_errors().clone(),
        not_enforced: node
            .policies()
            .map(not_enforced)
            .unwrap_or_default()
            .iter()
            .map(not_enforced_text)
            .collect(),
        features: shared.features.clone(),
        errors: shared.errors().clone(),
        pods: Vec::new(),
        counters: Counters {
            allowed: count(counter::ALLOWED),
            denied: count(counter::DENIED),
            replies: count(counter::REPLIES),
            events_lost: count(counter::EVENTS_LOST),
            events_over_budget: count(counter::EVENTS_OVER_BUDGET),
            events_excluded: shared.metrics.excluded_so_far(),
            events_not_printed: shared.metrics.lost_so_far(LostAt::Stdout),
            events_not_observed: shared.metrics.lost_so_far(LostAt::Observer),
            storage_failed: count(counter::STORAGE_FAILED),
            policy_missing: count(counter::POLICY_MISSING),
            names: NameCounters {
                learned: count(counter::LEARNED),
                learned_full: count(counter::LEARNED_FULL),
                addresses_refused: count(counter::ADDRESSES_REFUSED),
                dns_unreadable: count(counter::DNS_UNREADABLE),
                dns_unasked: count(counter::DNS_UNASKED),
                questions_refused: count(counter::QUESTIONS_REFUSED),
                names_unreadable: count(counter::NAMES_UNREADABLE),
            },
        },
    };
    Ok((status, pods))
}

/// An agent's answer, one message after the other.
pub struct Answers(BufReader<UnixStream>);

impl Answers {
    /// The next message; waits for it.
    pub fn wait(&mut self) -> Result<Answer, AskError> {
        match frame::read(&mut self.0)? {
            Answer::Refused(refusal) => Err(AskError::Refused(refusal.message)),
            answer => Ok(answer),
        }
    }

    /// From now on, waits as long as it takes.
    pub fn be_patient(&self) -> io::Result<()> {
        self.0.get_ref().set_read_timeout(None)
    }
}

/// Asks a running agent.
pub fn ask(run_dir: &Path, question: &Question) -> Result<Answers, AskError> {
    let path = run_dir.join("admin.sock");
    let unreachable = |source| AskError::Unreachable { path: path.clone(), source };
    let mut stream = UnixStream::connect(&path).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(unreachable)?;
    frame::write(&mut stream, question)?;
    Ok(Answers(BufReader::new(stream)))
}

/// Asks a running agent what it is and what it governs.
pub fn ask_status(run_dir: &Path) -> Result<Status, AskError> {
    let mut answers = ask(run_dir, &Question::Status)?;
    let mut status = match answers.wait()? {
        Answer::Status(status) => *status,
        _ => return Err(AskError::OutOfOrder),
    };
    loop {
        match answers.wait()? {
            Answer::Pods(pods) => status.pods.extend(pods),
            Answer::End => return Ok(status),
            _ => return Err(AskError::OutOfOrder),
        }
    }
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
    /// The agent took the question, and said no.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the agent answered what was not asked; is it of another version?")]
    OutOfOrder,
    /// The conversation broke off.
    #[error("the agent did not answer: {0}")]
    Frame(#[from] FrameError),
}
