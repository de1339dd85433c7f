//! Bringing the kernel to what the policies say, and removing what is not used any more.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sluice_abi::{MAX_CGROUP_LEVEL, NO_POLICY, SlotWord};
use sluice_policy::{
    Compiled, PodInfo, PolicySet, Posture, RuleRef, Selection, World, compile_within, select,
};

use super::{Endpoint, GRACE, Installed, MAX_ENTRIES, NAMES_KEPT, Node, NodeError, Retired};
use super::{addresses, pod_info, pod_name};
use crate::agent::cutter::Cut;
use crate::agent::memory;
use crate::agent::resolvers::Resolvers;
use crate::agent::store::Record;

/// Every selection once, and its compiled policy for as long as what its policies name does not change.
///
/// A selection is found by the places of its policies in memory, which it keeps alive.
#[derive(Default)]
pub(super) struct Targets {
    selections: HashMap<Vec<usize>, Arc<Selection>>,
    /// By the place of the selection.
    policies: HashMap<usize, u32>,
}

impl Targets {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The one copy of a selection.
    pub(super) fn share(&mut self, selection: Selection) -> Arc<Selection> {
        let places = selection.tiers().into_iter().flatten().map(|policy| Arc::as_ptr(policy).addr());
        let shared = self.selections.entry(places.collect()).or_insert_with(|| Arc::new(selection));
        Arc::clone(shared)
    }

    /// Forgets what was compiled for the selections that name a pod.
    pub(super) fn pod_changed(&mut self, pod: &PodInfo) {
        for selection in self.selections.values().filter(|selection| selection.names(pod, None)) {
            self.policies.remove(&place(selection));
        }
    }

    /// The resolvers have changed: forgets what was compiled for selections that go by name.
    fn names_changed(&mut self) {
        for selection in self.selections.values().filter(|selection| selection.names_domains()) {
            self.policies.remove(&place(selection));
        }
    }

    /// Forgets the selections that no endpoint has.
    fn drop_unused(&mut self) {
        let Self { selections, policies } = self;
        selections.retain(|_, selection| {
            let is_used = Arc::strong_count(selection) > 1;
            if !is_used {
                policies.remove(&place(selection));
            }
            is_used
        });
    }
}

fn place(selection: &Arc<Selection>) -> usize {
    Arc::as_ptr(selection).addr()
}

impl Node {
    /// Puts a set of policies in force on every endpoint. An endpoint whose policies cannot be compiled keeps those it
    /// has; the first such error is returned.
    pub fn apply(&mut self, policies: PolicySet) -> Result<(), NodeError> {
        let change = self.policies.as_ref().map(|before| policies.change_from(before));
        for endpoint in self.endpoints.values_mut() {
            let pod = pod_info(&endpoint.record);
            let selection = match &change {
                Some(change) => endpoint.selection.revised(change, &pod, None),
                None => Some(select(&policies, &pod, None)),
            };
            if let Some(selection) = selection {
                endpoint.selection = self.targets.share(selection);
            }
        }
        self.policies = Some(policies);
        let reconciled = self.reconcile();
        let attached = self.attach();
        reconciled.and(attached)
    }

    /// Believes these resolvers from now on, and opens the way to them for pods whose policies go by name.
    pub fn set_resolvers(&mut self, resolvers: Resolvers) -> Result<(), NodeError> {
        if self.resolvers == resolvers {
            return Ok(());
        }
        self.datapath.set_resolvers(&resolvers.addresses)?;
        tracing::info!(addresses = ?resolvers.addresses, "resolvers whose answers count");
        self.resolvers = resolvers;
        self.targets.names_changed();
        if self.policies.is_some() { self.reconcile() } else { Ok(()) }
    }

    /// Ends the connections of a pod that the kernel has denied because of names: of what they show, for want of one, or
    /// since an edit. Others were ended with the edit.
    pub fn end_denied(&mut self, cgroup: u64) {
        let Some(endpoint) = self.endpoints.get(&cgroup) else { return };
        let installed = self.installed.get(&endpoint.policy);
        if let Some(installed) = installed.filter(|installed| !installed.compiled.names.is_empty()) {
            let word = self.datapath.slot(endpoint.record.slot);
            // The thread lives as long as its sender.
            let _ = self.cuts.send(cut(&endpoint.record, word, Arc::clone(&installed.compiled)));
        }
    }

    /// A pod is there, is gone, or is not what it was: forgets what was compiled for selections that name it.
    pub(super) fn world_changed(&mut self, pod: &PodInfo) {
        self.targets.pod_changed(pod);
    }

    /// Brings the kernel to what the policies say: first every compiled policy is written, then each endpoint flipped.
    pub(super) fn reconcile(&mut self) -> Result<(), NodeError> {
        if self.policies.is_none() {
            return Err(NodeError::NoPolicies);
        }
        let mut world = None;
        let mut result = Ok(());
        let mut flips = Vec::new();
        let mut groups: HashMap<usize, (Arc<Selection>, Vec<u64>)> = HashMap::new();
        for (cgroup, endpoint) in &self.endpoints {
            let group = groups.entry(place(&endpoint.selection));
            group.or_insert_with(|| (Arc::clone(&endpoint.selection), Vec::new())).1.push(*cgroup);
        }
        for (selection, cgroups) in groups.into_values() {
            match self.target(&selection, &mut world) {
                Ok(policy) => flips.extend(cgroups.into_iter().map(|cgroup| (cgroup, policy))),
                Err(error) => {
                    for record in cgroups.into_iter().filter_map(|cgroup| self.record(cgroup)) {
                        let pod = pod_name(&record.pod);
                        tracing::error!(pod, %error, "its policies cannot be put in force; it keeps those it has");
                    }
                    result = result.and(Err(error));
                }
            }
        }
        self.set_levels();
        for (cgroup, policy) in flips {
            self.flip(cgroup, policy);
        }
        let used: BTreeSet<u32> = self.endpoints.values().map(|endpoint| endpoint.policy).collect();
        let unused: Vec<u32> =
            self.installed.keys().filter(|policy| !used.contains(policy)).copied().collect();
        for policy in unused {
            self.retire(policy);
        }
        self.targets.drop_unused();
        result
    }

    /// As [`Self::reconcile`], failing only if it failed for this endpoint.
    pub(super) fn reconcile_for(&mut self, cgroup: u64) -> Result<(), NodeError> {
        if let Some(selection) = self.endpoints.get(&cgroup).map(|endpoint| Arc::clone(&endpoint.selection)) {
            self.target(&selection, &mut None)?;
        }
        // What else is wrong has been told, and is not this endpoint's fault.
        let _ = self.reconcile();
        Ok(())
    }

    /// The programs look for endpoints at these levels: of those that are known here, and of those that only the kernel
    /// knows.
    fn set_levels(&mut self) {
        let orphans = self.orphans.values().map(|path| self.hierarchy.level(path));
        let levels = self.endpoints.values().map(|endpoint| endpoint.level).chain(orphans);
        let levels = levels.filter(|level| *level <= MAX_CGROUP_LEVEL).collect();
        self.datapath.set_levels(&levels);
    }

    fn flip(&mut self, cgroup: u64, policy: u32) {
        let Some(endpoint) = self.endpoints.get_mut(&cgroup) else { return };
        endpoint.policy = policy;
        let word = self.datapath.slot(endpoint.record.slot);
        if word.policy() == policy && word.generation() != 0 {
            return;
        }
        self.datapath.flip(endpoint.record.slot, policy);
        if let Some(installed) = self.installed.get(&policy) {
            let word = self.datapath.slot(endpoint.record.slot);
            // The thread lives as long as its sender.
            let _ = self.cuts.send(cut(&endpoint.record, word, Arc::clone(&installed.compiled)));
        }
    }

    /// The compiled policy of a selection, written if it is not in the maps yet. The world is looked up for the first that
    /// names anything of it.
    fn target(&mut self, selection: &Arc<Selection>, world: &mut Option<World>) -> Result<u32, NodeError> {
        if selection.is_empty() || self.posture == Posture::Observe {
            return Ok(NO_POLICY);
        }
        if let Some(policy) = self.targets.policies.get(&place(selection)) {
            return Ok(*policy);
        }
        let nothing = World::default();
        let world =
            if selection.names_peers() { world.get_or_insert_with(|| self.world()) } else { &nothing };
        let compiled = compile_within(selection, world, self.posture, MAX_ENTRIES)?;
        let policy = match self.by_content.get(&compiled) {
            Some(policy) => *policy,
            None => self.install(compiled)?,
        };
        self.targets.policies.insert(place(selection), policy);
        Ok(policy)
    }

    fn install(&mut self, compiled: Compiled) -> Result<u32, NodeError> {
        let ruleset = self.datapath.install(&compiled)?;
        let policy = ruleset.id;
        let rules: Arc<[RuleRef]> = compiled.rules.clone().into();
        let compiled = Arc::new(compiled);
        self.by_content.insert(Arc::clone(&compiled), policy);
        self.installed.insert(policy, Installed { ruleset, compiled });
        // Without it an event names a number in place of a rule, after a restart: no reason not to go on.
        if let Err(error) = self.store.put_rules(policy, &*rules) {
            tracing::error!(%error, "the names of rules are not kept");
        }
        self.names.insert(policy, rules);
        Ok(policy)
    }

    fn retire(&mut self, policy: u32) {
        self.targets.policies.retain(|_, target| *target != policy);
        if let Some(installed) = self.installed.remove(&policy) {
            self.by_content.remove(&installed.compiled);
            self.retired.push(Retired { since: Instant::now(), ruleset: Some(installed.ruleset), policy });
        }
    }

    /// Removes what is past its grace: retired policies, the names of their rules, and pods whose cgroup is gone.
    pub fn sweep(&mut self) -> Result<(), NodeError> {
        let mut result = Ok(());
        let mut has_freed = false;
        for mut retired in std::mem::take(&mut self.retired) {
            let age = retired.since.elapsed();
            if age >= GRACE
                && let Some(ruleset) = retired.ruleset.take()
            {
                match self.datapath.retire(&ruleset) {
                    Ok(()) => has_freed = true,
                    Err(error) => {
                        retired.ruleset = Some(ruleset);
                        result = result.and(Err(error.into()));
                    }
                }
            }
            if age < NAMES_KEPT || retired.ruleset.is_some() {
                self.retired.push(retired);
            } else if !self.installed.contains_key(&retired.policy) {
                self.names.remove(&retired.policy);
                result = result.and(self.store.remove_rules(retired.policy).map_err(NodeError::from));
            }
        }
        // Nothing tells when a pod leaves that no CNI call told of.
        let may_be_gone = |endpoint: &Endpoint| endpoint.leaving || endpoint.record.found;
        let is_gone = |endpoint: &&Endpoint| may_be_gone(endpoint) && !Self::is_alive(&endpoint.record);
        let gone = self.endpoints.values().filter(is_gone).map(|endpoint| endpoint.record.cgroup);
        let gone: Vec<u64> = gone.collect();
        for cgroup in &gone {
            result = result.and(self.forget(*cgroup));
        }
        // Their policies may be nobody's now.
        if !gone.is_empty() && self.policies.is_some() {
            result = result.and(self.reconcile());
        }
        let gone = self.orphans.iter().filter(|(cgroup, path)| !super::is_cgroup(path, **cgroup));
        for cgroup in gone.map(|(cgroup, _)| *cgroup).collect::<Vec<u64>>() {
            result = result.and(self.forget(cgroup));
        }
        if has_freed {
            memory::give_back();
        }
        result
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
}

fn cut(record: &Record, word: SlotWord, compiled: Arc<Compiled>) -> Cut {
    Cut {
        cgroup: record.cgroup,
        slot: record.slot,
        word: word.0,
        pod: pod_name(&record.pod),
        namespaces: record.attachments.values().map(|link| PathBuf::from(&link.netns)).collect(),
        own: addresses(record),
        compiled,
    }
}
