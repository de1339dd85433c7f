//! The node's endpoints and the policy that each has in the kernel.
//!
//! ```text
//!            add                      del                   cgroup gone
//!  (none) ────────► governed ───────────────► leaving ─────────────────────► (none)
//!                     ▲  │ policies, pods change: flip        │
//!                     └──┘                                    │ add (sandbox made again)
//!                     ▲───────────────────────────────────────┘
//! ```
//!
//! A pod stays governed while it is leaving: its sockets may outlive its attachment, and its cgroup names them.
//!
//! The order of every change is the same: the new compiled policies are written, then the slots flipped, then, after a
//! grace for packets that are being judged, the old ones removed. Pods with equal selections share one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::if_nametoindex;
use nix::time::{ClockId, clock_gettime};
use sluice_abi::{ConversationKey, MAX_CGROUP_LEVEL, MAX_ENDPOINTS, MAX_OWN_ADDRESSES, NO_POLICY};
use sluice_api::{Add, Attachment, Pod};
use sluice_policy::{Compiled, PodInfo, PolicySet, Posture, RuleRef, Selection, World, select};

use super::cgroup::Hierarchy;
use super::cutter::{self, Cut};
use super::sockets;
use super::store::{Link, Record, Store};
use crate::datapath::{Datapath, DatapathError, Ruleset, address_bytes};

mod error;
mod reconcile;
mod usage;

pub use error::{Invalid, NodeError};
use reconcile::Targets;

/// How long a retired policy stays in the maps. A program runs for microseconds.
const GRACE: Duration = Duration::from_secs(1);
/// How long the names of a retired policy's rules are kept for events that still lie in the ring buffer.
const NAMES_KEPT: Duration = Duration::from_mins(1);

/// The most entries that one compiled policy may take in the maps: a quarter of what they hold. A few hundred rules with
/// ports beside thousands of networks come to that.
const MAX_ENTRIES: usize = 1 << 18;

#[derive(Clone)]
struct Endpoint {
    record: Record,
    level: u32,
    policy: u32,
    leaving: bool,
    /// The policies that select it.
    selection: Selection,
}

struct Installed {
    ruleset: Ruleset,
    compiled: Arc<Compiled>,
}

struct Retired {
    since: Instant,
    ruleset: Option<Ruleset>,
    policy: u32,
}

/// The node's state. One owner at a time; every call is a handful of system calls.
pub struct Node {
    datapath: Datapath,
    store: Store,
    hierarchy: Hierarchy,
    posture: Posture,
    /// None until the policy directory could be read: until then nothing that the kernel holds is changed.
    policies: Option<PolicySet>,
    /// Endpoints that only the kernel knows, for their records are lost.
    orphans: BTreeMap<u64, PathBuf>,
    targets: Targets,
    endpoints: BTreeMap<u64, Endpoint>,
    installed: HashMap<u32, Installed>,
    by_content: HashMap<Arc<Compiled>, u32>,
    retired: Vec<Retired>,
    names: HashMap<u32, Arc<[RuleRef]>>,
    cuts: Sender<Cut>,
}

impl Node {
    /// Takes up what an earlier agent left: its endpoints stay governed by what is in the kernel until [`apply`]
    /// gives them this agent's policies.
    ///
    /// [`apply`]: Self::apply
    pub fn open(
        datapath: Datapath,
        store: Store,
        hierarchy: Hierarchy,
        posture: Posture,
    ) -> Result<Self, NodeError> {
        let cuts = cutter::start(datapath.flows()).map_err(NodeError::Cutter)?;
        let mut node = Self {
            cuts,
            datapath,
            store,
            hierarchy,
            posture,
            policies: None,
            orphans: BTreeMap::new(),
            targets: Targets::new(),
            endpoints: BTreeMap::new(),
            installed: HashMap::new(),
            by_content: HashMap::new(),
            retired: Vec::new(),
            names: HashMap::new(),
        };
        node.recover()?;
        Ok(node)
    }

    fn recover(&mut self) -> Result<(), NodeError> {
        for policy in self.store.kept_rules()? {
            match self.store.rules::<Vec<RuleRef>>(policy) {
                Ok(rules) => drop(self.names.insert(policy, rules.into())),
                Err(error) => tracing::warn!(%error, "the rules of an earlier agent will go without names"),
            }
            self.retired.push(Retired { since: Instant::now(), ruleset: None, policy });
        }
        let (records, damaged) = self.store.load()?;
        for error in damaged {
            tracing::error!(%error, "an endpoint's record cannot be read; the kernel goes on governing it");
        }
        let known: BTreeMap<u64, u32> = self.datapath.endpoints()?.into_iter().collect();
        for record in records {
            if known.get(&record.cgroup) != Some(&record.slot) {
                tracing::warn!(pod = %pod_name(&record.pod), "not in the kernel's maps; its record is dropped");
                self.store.remove(record.cgroup)?;
                continue;
            }
            let (policy, level) =
                (self.datapath.slot(record.slot).policy(), self.hierarchy.level(&record.path));
            let leaving = record.attachments.is_empty() || !Self::is_alive(&record);
            let endpoint = Endpoint { level, policy, leaving, record, selection: Selection::default() };
            let cgroup = endpoint.record.cgroup;
            self.endpoints.insert(cgroup, endpoint);
            if let Err(error) = self.guard(cgroup) {
                tracing::error!(%error, "a pod's link cannot be watched by this agent's program");
            }
        }
        for cgroup in known.into_keys().filter(|cgroup| !self.endpoints.contains_key(cgroup)) {
            if let Some(path) = self.hierarchy.find(cgroup) {
                tracing::error!(path = %path.display(), "governed by the kernel, but unknown here: restart its pod");
                self.orphans.insert(cgroup, path);
            } else {
                self.datapath.remove_endpoint(cgroup)?;
            }
        }
        Ok(())
    }

    /// Governs a pod. When this returns, its policy is in force.
    pub fn add(&mut self, add: &Add) -> Result<(), NodeError> {
        let path = PathBuf::from(&add.cgroup.path);
        let level = self.check(add, &path).map_err(NodeError::Invalid)?;
        let link = Link {
            network: add.network.clone(),
            netns: add.netns.clone(),
            ips: add.ips.clone(),
            host_interface: add.host_interface.clone(),
            guarded: add.host_interface.as_deref().map(interface_index).transpose()?,
        };
        let mut record = match self.endpoints.get(&add.cgroup.id) {
            // Another interface of the same pod, or its sandbox made again.
            Some(endpoint) if !endpoint.leaving => endpoint.record.clone(),
            Some(endpoint) => Record { attachments: BTreeMap::new(), ..endpoint.record.clone() },
            None => Record {
                cgroup: add.cgroup.id,
                path,
                slot: self.free_slot()?,
                pod: add.pod.clone(),
                since: jiff::Timestamp::now(),
                attachments: BTreeMap::new(),
            },
        };
        record.pod = add.pod.clone();
        record.attachments.insert(add.attachment.clone(), link);
        let addresses = addresses(&record);
        if addresses.is_empty() {
            return Err(NodeError::Invalid(Invalid::NoAddress));
        }
        if addresses.len() > MAX_OWN_ADDRESSES {
            return Err(NodeError::Invalid(Invalid::Addresses(addresses.len())));
        }

        let cgroup = record.cgroup;
        let previous = self.endpoints.get(&cgroup).cloned();
        let policy = previous.as_ref().map_or(NO_POLICY, |endpoint| endpoint.policy);
        let policies = self.policies.as_ref().ok_or(NodeError::NoPolicies)?;
        let selection = select(policies, &pod_info(&record), None);
        self.store.put(&record)?;
        self.endpoints.insert(cgroup, Endpoint { record, level, policy, leaving: false, selection });
        self.world_changed();
        let done = self.govern(cgroup, &addresses);
        match (&done, previous) {
            (Ok(()), _) => drop(self.orphans.remove(&cgroup)),
            // Nothing changed: a pod that was not governed before is not half governed now.
            (Err(_), Some(previous)) => {
                self.store.put(&previous.record)?;
                self.endpoints.insert(cgroup, previous);
            }
            (Err(_), None) => self.forget(cgroup)?,
        }
        done
    }

    /// Puts an endpoint in force in the kernel.
    fn govern(&mut self, cgroup: u64, addresses: &[IpAddr]) -> Result<(), NodeError> {
        let Some(record) = self.record(cgroup) else { return Ok(()) };
        let (slot, is_running) = (record.slot, is_populated(&record.path));
        // A pod that runs already may have accepted connections. They are asked for before it is governed, so that none
        // of their packets is taken for the pod's own, and after it, for those that came meanwhile.
        if is_running {
            self.note_accepted(cgroup)?;
        }
        self.reconcile_for(cgroup)?;
        self.datapath.set_endpoint(cgroup, slot, addresses)?;
        self.guard(cgroup)?;
        if is_running {
            self.note_accepted(cgroup)?;
            // What was judged before the evidence was there is judged again.
            self.datapath.flip(slot, self.datapath.slot(slot).policy());
        }
        Ok(())
    }

    /// Counts as replies what the listeners of a pod have accepted.
    fn note_accepted(&mut self, cgroup: u64) -> Result<(), NodeError> {
        let links = self.endpoints.get(&cgroup).map(|endpoint| endpoint.record.attachments.clone());
        let now =
            clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| Duration::from(time).as_nanos() as u64);
        for link in links.into_iter().flat_map(BTreeMap::into_values) {
            let found = sockets::accepted(Path::new(&link.netns), self.datapath.flows().as_raw_fd());
            for socket in found.map_err(|source| NodeError::Sockets { netns: link.netns, source })? {
                let conversation = ConversationKey {
                    endpoint: cgroup,
                    remote: address_bytes(socket.remote.ip()),
                    remote_port: socket.remote.port(),
                    local_port: socket.local.port(),
                    protocol: libc::IPPROTO_TCP as u8,
                    pad: [0; 3],
                };
                self.datapath.note_reply(conversation, now)?;
            }
        }
        Ok(())
    }

    /// Watches the host's end of every link of an endpoint.
    fn guard(&mut self, cgroup: u64) -> Result<(), NodeError> {
        let links = self.endpoints.get(&cgroup).map(|endpoint| &endpoint.record.attachments);
        for link in links.into_iter().flat_map(BTreeMap::values) {
            if let Some(interface) = link.guarded {
                self.datapath.guard(interface, cgroup)?;
            } else {
                tracing::warn!(
                    netns = link.netns,
                    "the primary plugin names no host end of the pod's link: packet sockets are not seen there"
                );
            }
        }
        Ok(())
    }

    /// Lets go of an attachment. What is not known is no error.
    pub fn del(&mut self, attachment: &Attachment) -> Result<(), NodeError> {
        let Some(endpoint) = self.holder_mut(attachment) else { return Ok(()) };
        endpoint.record.attachments.remove(attachment);
        endpoint.leaving = endpoint.record.attachments.is_empty();
        let (record, addresses, leaving) =
            (endpoint.record.clone(), addresses(&endpoint.record), endpoint.leaving);
        self.store.put(&record)?;
        // A pod that leaves keeps its addresses until its cgroup is gone.
        if !leaving {
            self.datapath.set_endpoint(record.cgroup, record.slot, &addresses)?;
        }
        self.world_changed();
        if self.policies.is_some() { self.reconcile() } else { Ok(()) }
    }

    /// Lets go of every attachment of a network that is not among `valid`; goes on past errors and gives the first.
    pub fn gc(&mut self, network: &str, valid: &BTreeSet<Attachment>) -> Result<(), NodeError> {
        let all = self.endpoints.values().flat_map(|endpoint| &endpoint.record.attachments);
        let stale = all.filter(|(attachment, link)| link.network == network && !valid.contains(attachment));
        let stale: Vec<Attachment> = stale.map(|(attachment, _)| attachment.clone()).collect();
        let mut result = Ok(());
        for attachment in stale {
            result = result.and(self.del(&attachment));
        }
        result
    }

    /// Is this attachment's pod governed by the policy that it should have?
    pub fn check_attachment(&mut self, attachment: &Attachment) -> Result<(), NodeError> {
        let unknown = || NodeError::Unknown(attachment.clone());
        let endpoint = self.holder_mut(attachment).ok_or_else(unknown)?;
        let (slot, policy) = (endpoint.record.slot, endpoint.policy);
        if self.datapath.slot(slot).policy() == policy { Ok(()) } else { Err(unknown()) }
    }

    /// The endpoint of a cgroup id, and the rule of a verdict there, as an event names them.
    pub fn record(&self, cgroup: u64) -> Option<&Record> {
        self.endpoints.get(&cgroup).map(|endpoint| &endpoint.record)
    }

    /// The names of a compiled policy's rules, also for a while after it is gone.
    pub fn rules(&self, policy: u32) -> Option<&Arc<[RuleRef]>> {
        self.names.get(&policy)
    }

    /// Every endpoint, with what governs it.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Record, bool, &Selection)> {
        self.endpoints.values().map(|endpoint| (&endpoint.record, endpoint.leaving, &endpoint.selection))
    }

    /// The cgroups of endpoints that only the kernel knows.
    pub fn orphans(&self) -> impl Iterator<Item = &Path> {
        self.orphans.values().map(PathBuf::as_path)
    }

    /// The policies in force; none if they could not be read yet.
    pub fn policies(&self) -> Option<&PolicySet> {
        self.policies.as_ref()
    }

    /// The kernel's counters.
    pub fn counters(&self) -> Result<[u64; sluice_abi::counter::COUNT as usize], DatapathError> {
        self.datapath.counters()
    }

    /// The cgroup directory of a process that still lives.
    pub fn cgroup_of(&self, pid: u32) -> Option<PathBuf> {
        if pid == 0 { None } else { self.hierarchy.of_process(pid) }
    }

    /// Is a cgroup path that of a governed pod, or below one?
    pub fn is_inside_pod(&self, path: &Path) -> bool {
        self.endpoints.values().any(|endpoint| path.starts_with(&endpoint.record.path))
    }

    fn check(&self, add: &Add, path: &Path) -> Result<u32, Invalid> {
        let found = |found: String| Invalid::Cgroup { path: path.to_owned(), id: add.cgroup.id, found };
        let metadata = std::fs::symlink_metadata(path).map_err(|error| found(error.to_string()))?;
        if !metadata.is_dir() || metadata.ino() != add.cgroup.id {
            return Err(found(format!("the agent sees id {}", metadata.ino())));
        }
        if !self.hierarchy.contains(path) {
            return Err(Invalid::OutsideRoot {
                path: path.to_owned(),
                root: self.hierarchy.root().to_owned(),
            });
        }
        let level = self.hierarchy.level(path);
        if level > MAX_CGROUP_LEVEL {
            return Err(Invalid::TooDeep { path: path.to_owned(), level });
        }
        let others = self.endpoints.values().filter(|endpoint| endpoint.record.cgroup != add.cgroup.id);
        for other in others.filter(|endpoint| Self::is_alive(&endpoint.record)) {
            if path.starts_with(&other.record.path) || other.record.path.starts_with(path) {
                let (other, pod) = (other.record.path.clone(), pod_name(&other.record.pod));
                return Err(Invalid::Nested { path: path.to_owned(), other, pod });
            }
        }
        Ok(level)
    }

    fn is_alive(record: &Record) -> bool {
        is_cgroup(&record.path, record.cgroup)
    }

    fn forget(&mut self, cgroup: u64) -> Result<(), NodeError> {
        self.datapath.remove_endpoint(cgroup)?;
        self.datapath.unguard(cgroup)?;
        self.endpoints.remove(&cgroup);
        self.orphans.remove(&cgroup);
        Ok(self.store.remove(cgroup)?)
    }

    fn free_slot(&self) -> Result<u32, NodeError> {
        let mut taken: BTreeSet<u32> = self.datapath.endpoints()?.into_iter().map(|(_, slot)| slot).collect();
        taken.extend(self.endpoints.values().map(|endpoint| endpoint.record.slot));
        (0..MAX_ENDPOINTS).find(|slot| !taken.contains(slot)).ok_or(NodeError::Full)
    }

    fn holder_mut(&mut self, attachment: &Attachment) -> Option<&mut Endpoint> {
        self.endpoints.values_mut().find(|endpoint| endpoint.record.attachments.contains_key(attachment))
    }

    /// What peers can name on a host without Kubernetes: the pods that are governed here.
    fn world(&self) -> World {
        let present = self.endpoints.values().filter(|endpoint| !endpoint.leaving);
        World { pods: present.map(|endpoint| pod_info(&endpoint.record)).collect(), ..World::default() }
    }
}

/// Is there a cgroup of this id at this path?
fn is_cgroup(path: &Path, id: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id)
}

/// Does any process live in the cgroup or below it?
fn is_populated(cgroup: &Path) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// The index of the host's end of a pod's link. Refuses what cannot be one: guarding a bridge or a network card would
/// judge other pods' packets as this one's.
fn interface_index(name: &str) -> Result<u32, NodeError> {
    let failed = |problem: &str| NodeError::Guard { name: name.to_owned(), problem: problem.to_owned() };
    let index = if_nametoindex(name)
        .map_err(|error| failed(&format!("{error}; is the agent in the host's network?")))?;
    let class = Path::new("/sys/class/net").join(name);
    if class.join("bridge").exists() {
        return Err(failed(
            "it is a bridge; the plugin takes the interface listed before the pod's as the host's end",
        ));
    }
    if class.join("device").exists() {
        return Err(failed(
            "it is a network card; the plugin takes the interface listed before the pod's as the host's end",
        ));
    }
    Ok(index)
}

fn pod_info(record: &Record) -> PodInfo {
    PodInfo {
        namespace: record.pod.namespace.clone(),
        name: record.pod.name.clone(),
        labels: record.pod.labels.clone(),
        addresses: addresses(record),
        host_network: false,
    }
}

fn addresses(record: &Record) -> Vec<IpAddr> {
    let all: BTreeSet<IpAddr> =
        record.attachments.values().flat_map(|link| link.ips.iter().copied()).collect();
    all.into_iter().collect()
}

/// A pod's name as people write it.
pub fn pod_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}
