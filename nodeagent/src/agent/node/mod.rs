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
//! An agent that lays out the kernel's maps in another way than the one before it finds them empty. It fills them from its
//! records, and exchanges the programs when every endpoint has its policy there ([`Node::attach`]); until then those of the
//! earlier agent go on, and no pod is added.
//!
//! The order of every change is the same: the new compiled policies are written, then the slots flipped, then, after a
//! grace for packets that are being judged, the old ones removed. Pods with equal selections share one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::libc;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::time::{ClockId, clock_gettime};
use sluice_abi::{ConversationKey, FlowEvent, MAX_CGROUP_LEVEL, MAX_ENDPOINTS, MAX_OWN_ADDRESSES, NO_POLICY};
use sluice_api::{Add, Attachment, Pod};
use sluice_policy::{Compiled, PodInfo, PolicySet, Posture, RuleRef, Selection, World, select};

use super::cgroup::Hierarchy;
use super::cutter::{self, Cut};
use super::resolvers::Resolvers;
use super::sockets;
use super::store::{Link, Record, Store};
use super::unregistered::{Found, Network};
use crate::datapath::{Datapath, DatapathError, Ruleset, address_bytes};

mod error;
mod names;
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
    /// The policies that select it; endpoints with the same share it.
    selection: Arc<Selection>,
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
    /// Packets meet this agent's programs.
    attached: bool,
    targets: Targets,
    endpoints: BTreeMap<u64, Endpoint>,
    installed: HashMap<u32, Installed>,
    by_content: HashMap<Arc<Compiled>, u32>,
    retired: Vec<Retired>,
    names: HashMap<u32, Arc<[RuleRef]>>,
    resolvers: Resolvers,
    /// The addresses that the kernel knows as the node's own.
    own_addresses: BTreeSet<IpAddr>,
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
        let cuts = cutter::start(datapath.flow_maps()?).map_err(NodeError::Cutter)?;
        let mut node = Self {
            cuts,
            resolvers: Resolvers::default(),
            own_addresses: BTreeSet::new(),
            datapath,
            store,
            hierarchy,
            posture,
            policies: None,
            orphans: BTreeMap::new(),
            attached: false,
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
            self.datapath.skip_ids(policy);
            self.retired.push(Retired { since: Instant::now(), ruleset: None, policy });
        }
        let (records, damaged) = self.store.load()?;
        for error in damaged {
            tracing::error!(%error, "an endpoint's record cannot be read; the kernel goes on governing it");
        }
        let known: BTreeMap<u64, u32> = self.datapath.endpoints()?.into_iter().collect();
        for record in records {
            let is_adopted = self.datapath.is_fresh() && Self::is_alive(&record);
            if !is_adopted && known.get(&record.cgroup) != Some(&record.slot) {
                tracing::warn!(pod = %pod_name(&record.pod), "not in the kernel's maps; its record is dropped");
                self.store.remove(record.cgroup)?;
                continue;
            }
            let (policy, level) =
                (self.datapath.slot(record.slot).policy(), self.hierarchy.level(&record.path));
            let leaving = record.attachments.is_empty() || !Self::is_alive(&record);
            let endpoint = Endpoint { level, policy, leaving, record, selection: Arc::default() };
            self.endpoints.insert(endpoint.record.cgroup, endpoint);
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

    /// Lets packets meet this agent's programs, once every endpoint has its policy in the maps that they read.
    pub(super) fn attach(&mut self) -> Result<(), NodeError> {
        if self.attached {
            return Ok(());
        }
        let endpoints: Vec<Record> =
            self.endpoints.values().map(|endpoint| endpoint.record.clone()).collect();
        let is_fresh = self.datapath.is_fresh();
        if is_fresh {
            let without = |record: &&Record| self.datapath.slot(record.slot).generation() == 0;
            if let Some(record) = endpoints.iter().find(without) {
                return Err(NodeError::NotPlaced { pod: pod_name(&record.pod) });
            }
            for record in &endpoints {
                self.place(record)?;
                self.renew(record.cgroup, Self::note_accepted);
            }
        }
        self.datapath.attach()?;
        self.attached = true;
        for record in &endpoints {
            self.renew(record.cgroup, Self::guard);
            if is_fresh {
                // Connections that were accepted between the first look and the exchange.
                self.renew(record.cgroup, Self::note_accepted);
                self.datapath.flip(record.slot, self.datapath.slot(record.slot).policy());
            }
        }
        Ok(())
    }

    /// Does something for an endpoint that was there before this agent. It is governed whether that succeeds or not.
    fn renew(&mut self, cgroup: u64, what: impl Fn(&mut Self, u64) -> Result<(), NodeError>) {
        let Some(endpoint) = self.endpoints.get(&cgroup).filter(|endpoint| !endpoint.leaving) else { return };
        let pod = pod_name(&endpoint.record.pod);
        // One that was deleted meanwhile has no link any more; its DEL waits in the spool.
        let mut links = endpoint.record.attachments.values().filter_map(|link| link.guarded);
        let is_gone = links.any(|interface| if_indextoname(interface).is_err());
        match what(self, cgroup) {
            Ok(()) => {}
            Err(error) if is_gone => tracing::debug!(pod, %error, "a pod of an earlier agent is going"),
            Err(error) => {
                tracing::error!(pod, %error, "a pod of an earlier agent is governed, but not all is as it should be");
            }
        }
    }

    /// Governs a pod. When this returns, its policy is in force.
    pub fn add(&mut self, add: &Add) -> Result<(), NodeError> {
        let path = PathBuf::from(&add.cgroup.path);
        let level = self.check(add.cgroup.id, &path).map_err(NodeError::Invalid)?;
        // The chain may have made the bridge just now, with an address of the node's.
        self.find_own_addresses()?;
        let link = link(add)?;
        let mut record = match self.endpoints.get(&add.cgroup.id).map(|endpoint| (endpoint, &endpoint.record))
        {
            // Another interface of the same pod.
            Some((endpoint, record)) if !endpoint.leaving && !record.found => record.clone(),
            // Its sandbox made again, or what was known of it was only found.
            Some((_, record)) => Record { attachments: BTreeMap::new(), ..record.clone() },
            None => self.new_record(add.cgroup.id, path, &add.pod)?,
        };
        record.pod = add.pod.clone();
        (record.found, record.host_network) = (false, false);
        record.attachments.insert(add.attachment.clone(), link);
        self.enter(record, level)
    }

    /// Governs a pod that no CNI call told of, as far as it can be known: nobody says who it is, so cluster policies judge
    /// it as a pod without labels. One that is governed already stays as it is.
    pub(super) fn add_found(&mut self, found: &Found) -> Result<(), NodeError> {
        if self.endpoints.contains_key(&found.cgroup) || self.orphans.contains_key(&found.cgroup) {
            return Ok(());
        }
        let level = self.check(found.cgroup, &found.path).map_err(NodeError::Invalid)?;
        let (name, uid) = (format!("pod{}", found.uid), found.uid.clone());
        let pod = Pod { namespace: String::new(), name, uid, labels: BTreeMap::new() };
        let mut record = self.new_record(found.cgroup, found.path.clone(), &pod)?;
        (record.found, record.host_network) = (true, found.host_network);
        let Network { netns, ifname, ips, host_interface } = found.network.clone();
        let guarded = host_interface.as_deref().map(interface_index).transpose()?;
        // A node may have more addresses than an endpoint can. The pod's traffic to the others is judged.
        let room = if found.host_network { MAX_OWN_ADDRESSES } else { usize::MAX };
        let ips = ips.into_iter().take(room).collect();
        // No network configuration is named so: no GC touches it, and no DEL.
        let (network, netns) = (String::new(), netns.to_string_lossy().into_owned());
        let attachment = Attachment { container_id: record.pod.name.clone(), ifname };
        record.attachments.insert(attachment, Link { network, netns, ips, host_interface, guarded });
        self.enter(record, level)?;
        tracing::warn!(
            cgroup = %found.path.display(),
            host_network = found.host_network,
            "ALERT: a pod that no CNI call told of is judged by cluster policies, as one without labels"
        );
        Ok(())
    }

    fn new_record(&self, cgroup: u64, path: PathBuf, pod: &Pod) -> Result<Record, NodeError> {
        Ok(Record {
            cgroup,
            path,
            slot: self.free_slot()?,
            pod: pod.clone(),
            since: jiff::Timestamp::now(),
            found: false,
            host_network: false,
            attachments: BTreeMap::new(),
        })
    }

    /// Puts an endpoint in force, or leaves all as it was.
    fn enter(&mut self, record: Record, level: u32) -> Result<(), NodeError> {
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
        if !self.attached {
            return Err(NodeError::NotAttached);
        }
        let pod = pod_info(&record);
        let selection = self.targets.share(select(policies, &pod, None));
        self.store.put(&record)?;
        self.endpoints.insert(cgroup, Endpoint { record, level, policy, leaving: false, selection });
        // Also what it was before, if its sandbox is made again.
        let was = previous.as_ref().map(|endpoint| pod_info(&endpoint.record));
        for pod in was.iter().chain([&pod]) {
            self.world_changed(pod);
        }
        let done = self.govern(cgroup);
        match (&done, previous) {
            (Ok(()), _) => drop(self.orphans.remove(&cgroup)),
            // Nothing changed: a pod that was not governed before is not half governed now.
            (Err(_), Some(previous)) => {
                self.store.put(&previous.record)?;
                self.endpoints.insert(cgroup, previous);
            }
            (Err(_), None) => self.forget(cgroup)?,
        }
        if done.is_err() {
            self.world_changed(&pod);
        }
        done
    }

    /// Puts an endpoint in force in the kernel.
    fn govern(&mut self, cgroup: u64) -> Result<(), NodeError> {
        let Some(record) = self.record(cgroup).cloned() else { return Ok(()) };
        let (slot, is_running) = (record.slot, is_populated(&record.path));
        // A pod that runs already may have accepted connections. They are asked for before it is governed, so that none
        // of their packets is taken for the pod's own, and after it, for those that came meanwhile.
        if is_running {
            self.note_accepted(cgroup)?;
        }
        self.reconcile_for(cgroup)?;
        self.place(&record)?;
        self.guard(cgroup)?;
        if is_running {
            self.note_accepted(cgroup)?;
            // What was judged before the evidence was there is judged again.
            self.datapath.flip(slot, self.datapath.slot(slot).policy());
        }
        Ok(())
    }

    /// Makes an endpoint known to the kernel.
    fn place(&mut self, record: &Record) -> Result<(), NodeError> {
        let own = addresses(record);
        Ok(self.datapath.set_endpoint(record.cgroup, record.slot, &own, record.host_network)?)
    }

    /// Counts as replies what the listeners of a pod have accepted.
    fn note_accepted(&mut self, cgroup: u64) -> Result<(), NodeError> {
        let links = self.endpoints.get(&cgroup).map(|endpoint| endpoint.record.attachments.clone());
        let now =
            clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| Duration::from(time).as_nanos() as u64);
        for link in links.into_iter().flat_map(BTreeMap::into_values) {
            let found = sockets::accepted(Path::new(&link.netns), &self.datapath.flow_maps()?);
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
        let Some(record) = self.record(cgroup) else { return Ok(()) };
        let (links, host_network) = (record.attachments.clone(), record.host_network);
        for link in links.into_values() {
            if let Some(interface) = link.guarded {
                self.datapath.guard(interface, cgroup)?;
            } else if !host_network {
                tracing::warn!(
                    netns = link.netns,
                    "the primary plugin names no host end of the pod's link: packet sockets are not seen there"
                );
            }
        }
        Ok(())
    }

    /// The interfaces that are watched.
    pub(super) fn guarded(&self) -> Vec<u32> {
        let links = self.endpoints.values().flat_map(|endpoint| endpoint.record.attachments.values());
        links.filter_map(|link| link.guarded).collect()
    }

    /// Watches an interface again whose guard somebody took away. Says whose it is; `None` if it is nobody's, or going.
    pub(super) fn renew_guard(&mut self, interface: u32) -> Result<Option<String>, NodeError> {
        let has = |endpoint: &&Endpoint| {
            endpoint.record.attachments.values().any(|link| link.guarded == Some(interface))
        };
        let Some(endpoint) = self.endpoints.values().find(has) else { return Ok(None) };
        let (cgroup, pod) = (endpoint.record.cgroup, pod_name(&endpoint.record.pod));
        if !self.attached || if_indextoname(interface).is_err() {
            return Ok(None);
        }
        self.datapath.guard(interface, cgroup)?;
        Ok(Some(pod))
    }

    /// Lets go of an attachment. What is not known is no error.
    pub fn del(&mut self, attachment: &Attachment) -> Result<(), NodeError> {
        let Some(endpoint) = self.holder(attachment) else { return Ok(()) };
        let mut record = endpoint.record.clone();
        record.attachments.remove(attachment);
        let leaving = record.attachments.is_empty();
        self.store.put(&record)?;
        // A pod that leaves keeps its addresses until its cgroup is gone.
        if !leaving {
            self.place(&record)?;
        }
        if let Some(endpoint) = self.endpoints.get_mut(&record.cgroup) {
            self.targets.pod_changed(&pod_info(&endpoint.record));
            (endpoint.record, endpoint.leaving) = (record, leaving);
        }
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
    pub fn check_attachment(&self, attachment: &Attachment) -> Result<(), NodeError> {
        let unknown = || NodeError::Unknown(attachment.clone());
        let endpoint = self.holder(attachment).ok_or_else(unknown)?;
        let (slot, policy) = (endpoint.record.slot, endpoint.policy);
        if self.datapath.slot(slot).policy() == policy { Ok(()) } else { Err(unknown()) }
    }

    /// The endpoint of a cgroup id, and the rule of a verdict there, as an event names them.
    pub fn record(&self, cgroup: u64) -> Option<&Record> {
        self.endpoints.get(&cgroup).map(|endpoint| &endpoint.record)
    }

    /// The name that led an endpoint to the destination of an event.
    pub fn domain(&self, event: &FlowEvent) -> Option<String> {
        self.datapath.learned_name(event.endpoint, event.remote, event.name)
    }

    /// The names of a compiled policy's rules, also for a while after it is gone.
    pub fn rules(&self, policy: u32) -> Option<&Arc<[RuleRef]>> {
        self.names.get(&policy)
    }

    /// Every endpoint, with what governs it.
    pub fn endpoints(&self) -> impl Iterator<Item = (&Record, bool, &Selection)> {
        self.endpoints.values().map(|endpoint| (&endpoint.record, endpoint.leaving, &*endpoint.selection))
    }

    /// The cgroups of endpoints that only the kernel knows.
    pub fn orphans(&self) -> impl Iterator<Item = &Path> {
        self.orphans.values().map(PathBuf::as_path)
    }

    /// The policies in force; none if they could not be read yet.
    pub fn policies(&self) -> Option<&PolicySet> {
        self.policies.as_ref()
    }

    /// Can the guard of a pod's link be a link of the kernel's?
    pub fn has_links_on_interfaces(&self) -> bool {
        self.datapath.has_links_on_interfaces()
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
        self.endpoints.values().any(|endpoint| lies_in(path, &endpoint.record.path))
    }

    fn check(&self, id: u64, path: &Path) -> Result<u32, Invalid> {
        let found = |found: String| Invalid::Cgroup { path: path.to_owned(), id, found };
        let metadata = std::fs::symlink_metadata(path).map_err(|error| found(error.to_string()))?;
        if !metadata.is_dir() || metadata.ino() != id {
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
        let others = self.endpoints.values().filter(|endpoint| endpoint.record.cgroup != id);
        for other in others {
            let is_nested = lies_in(path, &other.record.path) || lies_in(&other.record.path, path);
            if is_nested && Self::is_alive(&other.record) {
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
        // One that leaves is out of the world already.
        if let Some(gone) = self.endpoints.remove(&cgroup).filter(|gone| !gone.leaving) {
            self.world_changed(&pod_info(&gone.record));
        }
        self.orphans.remove(&cgroup);
        Ok(self.store.remove(cgroup)?)
    }

    fn free_slot(&self) -> Result<u32, NodeError> {
        let mut taken: BTreeSet<u32> = self.endpoints.values().map(|endpoint| endpoint.record.slot).collect();
        // Only the orphans are in the kernel alone.
        if !self.orphans.is_empty() {
            taken.extend(self.datapath.endpoints()?.into_iter().map(|(_, slot)| slot));
        }
        (0..MAX_ENDPOINTS).find(|slot| !taken.contains(slot)).ok_or(NodeError::Full)
    }

    fn holder(&self, attachment: &Attachment) -> Option<&Endpoint> {
        self.endpoints.values().find(|endpoint| endpoint.record.attachments.contains_key(attachment))
    }

    /// What peers can name on a host without Kubernetes: the pods that are governed here.
    fn world(&self) -> World {
        let present = self.endpoints.values().filter(|endpoint| !endpoint.leaving);
        World {
            pods: present.map(|endpoint| pod_info(&endpoint.record)).collect(),
            resolvers: self.resolvers.addresses.iter().copied().collect(),
            search: self.resolvers.search.iter().cloned().collect(),
            ..World::default()
        }
    }
}

/// Is `path` that directory, or below it? Bytes tell most apart, far faster than names do.
fn lies_in(path: &Path, directory: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(directory.as_os_str().as_bytes()) && path.starts_with(directory)
}

/// Is there a cgroup of this id at this path?
fn is_cgroup(path: &Path, id: u64) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.ino() == id)
}

/// Does any process live in the cgroup or below it?
pub(super) fn is_populated(cgroup: &Path) -> bool {
    std::fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|events| events.contains("populated 1"))
}

/// What an attachment brought.
fn link(add: &Add) -> Result<Link, NodeError> {
    Ok(Link {
        network: add.network.clone(),
        netns: add.netns.clone(),
        ips: add.ips.clone(),
        host_interface: add.host_interface.clone(),
        guarded: add.host_interface.as_deref().map(interface_index).transpose()?,
    })
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
        host_network: record.host_network,
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
