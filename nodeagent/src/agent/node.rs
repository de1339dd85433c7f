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
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_abi::{MAX_CGROUP_LEVEL, MAX_ENDPOINTS, MAX_OWN_ADDRESSES, NO_POLICY};
use sluice_api::{Add, Attachment, Pod, Refusal, RefusalKind};
use sluice_policy::compile::CompileError;
use sluice_policy::{
    Compiled, PodInfo, PolicySet, Posture, RuleRef, Selection, World, compile_within, select,
};

use super::cgroup::Hierarchy;
use super::store::{Link, Record, Store, StoreError};
use crate::datapath::{Datapath, DatapathError, Ruleset};

/// How long a retired policy stays in the maps. A program runs for microseconds.
const GRACE: Duration = Duration::from_secs(1);
/// How long the names of a retired policy's rules are kept for events that still lie in the ring buffer.
const NAMES_KEPT: Duration = Duration::from_secs(60);

/// Why the node could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The kernel side failed.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The policies are too large together.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The state could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The request cannot be right.
    #[error("{0}")]
    Invalid(Invalid),
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
    /// More addresses than an endpoint can have.
    #[error("the pod has {0} addresses; at most {MAX_OWN_ADDRESSES} are supported")]
    Addresses(usize),
}

impl From<&NodeError> for Refusal {
    fn from(error: &NodeError) -> Self {
        let kind = match error {
            NodeError::Invalid(_) => RefusalKind::Invalid,
            NodeError::Unknown(_) => RefusalKind::Unknown,
            NodeError::Full | NodeError::Compile(_) | NodeError::Datapath(_) | NodeError::Store(_) => {
                RefusalKind::Failed
            }
        };
        Self { kind, message: error.to_string() }
    }
}

/// The most entries that one compiled policy may take in the maps: a quarter of what they hold. A few hundred rules with
/// ports beside thousands of networks come to that.
const MAX_ENTRIES: usize = 1 << 18;

struct Endpoint {
    record: Record,
    level: u32,
    policy: u32,
    leaving: bool,
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
    policies: PolicySet,
    endpoints: BTreeMap<u64, Endpoint>,
    installed: HashMap<u32, Installed>,
    by_content: HashMap<Arc<Compiled>, u32>,
    retired: Vec<Retired>,
    names: HashMap<u32, Arc<[RuleRef]>>,
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
        let mut node = Self {
            datapath,
            store,
            hierarchy,
            posture,
            policies: PolicySet::default(),
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
            let endpoint = Endpoint { level, policy, leaving: !self.is_alive(&record), record };
            self.endpoints.insert(endpoint.record.cgroup, endpoint);
        }
        for cgroup in known.keys().filter(|cgroup| !self.endpoints.contains_key(cgroup)) {
            if let Some(path) = self.hierarchy.find(*cgroup) {
                tracing::warn!(path = %path.display(), "governed by the kernel, but unknown here: restart its pod");
            } else {
                self.datapath.remove_endpoint(*cgroup)?;
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
        if addresses.len() > MAX_OWN_ADDRESSES {
            return Err(NodeError::Invalid(Invalid::Addresses(addresses.len())));
        }

        let cgroup = record.cgroup;
        let previous = self.endpoints.get(&cgroup).map(|endpoint| endpoint.record.clone());
        let policy = self.endpoints.get(&cgroup).map_or(NO_POLICY, |endpoint| endpoint.policy);
        let slot = record.slot;
        self.store.put(&record)?;
        self.endpoints.insert(cgroup, Endpoint { record, level, policy, leaving: false });
        let done =
            self.reconcile().and_then(|()| Ok(self.datapath.set_endpoint(cgroup, slot, &addresses)?));
        if done.is_err() {
            // Nothing changed: a pod that was not governed before is not half governed now.
            match previous {
                Some(record) => {
                    self.store.put(&record)?;
                    if let Some(endpoint) = self.endpoints.get_mut(&cgroup) {
                        endpoint.record = record;
                    }
                }
                None => self.forget(cgroup)?,
            }
        }
        done
    }

    /// Lets go of an attachment. What is not known is no error.
    pub fn del(&mut self, attachment: &Attachment) -> Result<(), NodeError> {
        let Some(endpoint) = self.holder_mut(attachment) else { return Ok(()) };
        endpoint.record.attachments.remove(attachment);
        endpoint.leaving = endpoint.record.attachments.is_empty();
        let (record, addresses) = (endpoint.record.clone(), addresses(&endpoint.record));
        self.store.put(&record)?;
        self.datapath.set_endpoint(record.cgroup, record.slot, &addresses)?;
        self.reconcile()
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

    /// Puts a set of policies in force on every endpoint.
    pub fn apply(&mut self, policies: PolicySet) -> Result<(), NodeError> {
        let before = std::mem::replace(&mut self.policies, policies);
        let done = self.reconcile();
        if done.is_err() {
            self.policies = before;
        }
        done
    }

    /// Brings the kernel to what the policies say. Either every slot is flipped or none.
    fn reconcile(&mut self) -> Result<(), NodeError> {
        let world = self.world();
        let mut targets: HashMap<Selection, u32> = HashMap::new();
        let mut flips = Vec::new();
        let mut fresh = Vec::new();
        for (cgroup, endpoint) in &self.endpoints {
            let selection = select(&self.policies, &pod_info(&endpoint.record), None);
            flips.push((*cgroup, selection));
        }
        for (_, selection) in &flips {
            if targets.contains_key(selection) {
                continue;
            }
            match Self::target(
                &mut self.datapath,
                &mut self.by_content,
                &mut self.installed,
                selection,
                &world,
                self.posture,
                &mut fresh,
            ) {
                Ok(policy) => drop(targets.insert(selection.clone(), policy)),
                Err(error) => {
                    for policy in fresh {
                        self.retire(policy);
                    }
                    return Err(error);
                }
            }
        }
        for policy in fresh {
            let rules: Arc<[RuleRef]> = self.installed[&policy].compiled.rules.clone().into();
            self.store.put_rules(policy, &*rules)?;
            self.names.insert(policy, rules);
        }
        let levels = self.endpoints.values().map(|endpoint| endpoint.level);
        let levels = levels.filter(|level| *level <= MAX_CGROUP_LEVEL).collect();
        self.datapath.set_levels(&levels);
        for (cgroup, selection) in flips {
            let policy = targets[&selection];
            if let Some(endpoint) = self.endpoints.get_mut(&cgroup) {
                endpoint.policy = policy;
                let slot = endpoint.record.slot;
                if self.datapath.slot(slot).policy() != policy || self.datapath.slot(slot).generation() == 0 {
                    self.datapath.flip(slot, policy);
                }
            }
        }
        let used: BTreeSet<u32> = self.endpoints.values().map(|endpoint| endpoint.policy).collect();
        let unused: Vec<u32> =
            self.installed.keys().filter(|policy| !used.contains(policy)).copied().collect();
        for policy in unused {
            self.retire(policy);
        }
        Ok(())
    }

    fn target(
        datapath: &mut Datapath,
        by_content: &mut HashMap<Arc<Compiled>, u32>,
        installed: &mut HashMap<u32, Installed>,
        selection: &Selection,
        world: &World,
        posture: Posture,
        fresh: &mut Vec<u32>,
    ) -> Result<u32, NodeError> {
        if selection.is_empty() || posture == Posture::Observe {
            return Ok(NO_POLICY);
        }
        let compiled = compile_within(selection, world, posture, MAX_ENTRIES)?;
        if let Some(policy) = by_content.get(&compiled) {
            return Ok(*policy);
        }
        let ruleset = datapath.install(&compiled)?;
        let (policy, compiled) = (ruleset.id, Arc::new(compiled));
        by_content.insert(Arc::clone(&compiled), policy);
        installed.insert(policy, Installed { ruleset, compiled });
        fresh.push(policy);
        Ok(policy)
    }

    fn retire(&mut self, policy: u32) {
        if let Some(installed) = self.installed.remove(&policy) {
            self.by_content.remove(&installed.compiled);
            self.retired.push(Retired { since: Instant::now(), ruleset: Some(installed.ruleset), policy });
        }
    }

    /// Removes what is past its grace: retired policies, the names of their rules, and pods whose cgroup is gone.
    pub fn sweep(&mut self) -> Result<(), NodeError> {
        let mut kept = Vec::new();
        for mut retired in std::mem::take(&mut self.retired) {
            let age = retired.since.elapsed();
            if age >= GRACE
                && let Some(ruleset) = retired.ruleset.take()
            {
                self.datapath.retire(&ruleset)?;
            }
            if age < NAMES_KEPT {
                kept.push(retired);
            } else if !self.installed.contains_key(&retired.policy) {
                self.names.remove(&retired.policy);
                self.store.remove_rules(retired.policy)?;
            }
        }
        self.retired = kept;
        let gone = |endpoint: &&Endpoint| endpoint.leaving && !self.is_alive(&endpoint.record);
        let gone: Vec<u64> =
            self.endpoints.values().filter(gone).map(|endpoint| endpoint.record.cgroup).collect();
        for cgroup in &gone {
            self.forget(*cgroup)?;
        }
        if gone.is_empty() { Ok(()) } else { self.reconcile() }
    }

    /// Removes from the maps what earlier agents left there and no endpoint uses. For when every endpoint has this
    /// agent's policies.
    pub fn collect_leftovers(&mut self) -> Result<(), NodeError> {
        let mut live: BTreeSet<u32> = self.installed.keys().copied().collect();
        live.extend(self.datapath.endpoints()?.iter().map(|(_, slot)| self.datapath.slot(*slot).policy()));
        for ruleset in self.datapath.leftovers(&live)? {
            let policy = ruleset.id;
            self.retired.push(Retired { since: Instant::now(), ruleset: Some(ruleset), policy });
        }
        Ok(())
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
    pub fn endpoints(&self) -> impl Iterator<Item = (&Record, bool, Selection)> {
        self.endpoints.values().map(|endpoint| {
            let selection = select(&self.policies, &pod_info(&endpoint.record), None);
            (&endpoint.record, endpoint.leaving, selection)
        })
    }

    /// The policies in force.
    pub fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The kernel's counters.
    pub fn counters(&self) -> Result<[u64; sluice_abi::counter::COUNT as usize], DatapathError> {
        self.datapath.counters()
    }

    /// The cgroup directory of a process that still lives.
    pub fn cgroup_of(&self, pid: u32) -> Option<PathBuf> {
        self.hierarchy.of_process(i32::try_from(pid).ok().filter(|pid| *pid > 0)?)
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
        for other in others.filter(|endpoint| self.is_alive(&endpoint.record)) {
            if path.starts_with(&other.record.path) || other.record.path.starts_with(path) {
                let (other, pod) = (other.record.path.clone(), pod_name(&other.record.pod));
                return Err(Invalid::Nested { path: path.to_owned(), other, pod });
            }
        }
        Ok(level)
    }

    fn is_alive(&self, record: &Record) -> bool {
        std::fs::metadata(&record.path).is_ok_and(|metadata| metadata.ino() == record.cgroup)
    }

    fn forget(&mut self, cgroup: u64) -> Result<(), NodeError> {
        self.datapath.remove_endpoint(cgroup)?;
        self.endpoints.remove(&cgroup);
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
