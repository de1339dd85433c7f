//! Bringing the kernel to what the policies say, and removing what is not used any more.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sluice_abi::{MAX_CGROUP_LEVEL, NO_POLICY};
use sluice_policy::{Compiled, PolicySet, Posture, RuleRef, Selection, World, compile_within, select};

use super::{Endpoint, GRACE, Installed, MAX_ENTRIES, NAMES_KEPT, Node, NodeError, Retired};
use super::{addresses, pod_info, pod_name};
use crate::agent::cutter::Cut;
use crate::agent::resolvers::Resolvers;
use crate::agent::store::Record;

/// The compiled policy of each selection, for as long as neither policies nor what they name change.
///
/// A selection is known by the places of its policies in memory: they live as long as the set that is in force.
pub(super) type Targets = HashMap<Vec<usize>, u32>;

fn place(selection: &Selection) -> Vec<usize> {
    selection.tiers().into_iter().flatten().map(|policy| Arc::as_ptr(policy).addr()).collect()
}

impl Node {
    /// Puts a set of policies in force on every endpoint. An endpoint whose policies cannot be compiled keeps those it
    /// has; the first such error is returned.
    pub fn apply(&mut self, policies: PolicySet) -> Result<(), NodeError> {
        self.targets.clear();
        for endpoint in self.endpoints.values_mut() {
            endpoint.selection = select(&policies, &pod_info(&endpoint.record), None);
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
        self.world_changed();
        if self.policies.is_some() { self.reconcile() } else { Ok(()) }
    }

    /// Ends the connections of a pod that the kernel has denied because of names: of what they show, for want of one, or
    /// since an edit. Others were ended with the edit.
    pub fn end_denied(&mut self, cgroup: u64) {
        let Some(endpoint) = self.endpoints.get(&cgroup) else { return };
        let installed = self.installed.get(&endpoint.policy);
        if let Some(installed) = installed.filter(|installed| !installed.compiled.names.is_empty()) {
            // The thread lives as long as its sender.
            let _ = self.cuts.send(cut(&endpoint.record, Arc::clone(&installed.compiled)));
        }
    }

    /// Forgets what was compiled for selections that name pods: the pods have changed.
    pub(super) fn world_changed(&mut self) {
        let dependent = self.endpoints.values().map(|endpoint| &endpoint.selection);
        let dependent: BTreeSet<Vec<usize>> =
            dependent.filter(|selection| selection.names_peers()).map(place).collect();
        self.targets.retain(|place, _| !dependent.contains(place));
    }

    /// Brings the kernel to what the policies say: first every compiled policy is written, then each endpoint flipped.
    pub(super) fn reconcile(&mut self) -> Result<(), NodeError> {
        if self.policies.is_none() {
            return Err(NodeError::NoPolicies);
        }
        let world = self.world();
        let mut result = Ok(());
        let mut flips = Vec::new();
        let selections: Vec<_> =
            self.endpoints.iter().map(|(cgroup, e)| (*cgroup, e.selection.clone())).collect();
        for (cgroup, selection) in selections {
            match self.target(&selection, &world) {
                Ok(policy) => flips.push((cgroup, policy)),
                Err(error) => {
                    let pod = self.record(cgroup).map(|record| pod_name(&record.pod)).unwrap_or_default();
                    tracing::error!(pod, %error, "its policies cannot be put in force; it keeps those it has");
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
        result
    }

    /// As [`Self::reconcile`], failing only if it failed for this endpoint.
    pub(super) fn reconcile_for(&mut self, cgroup: u64) -> Result<(), NodeError> {
        let world = self.world();
        if let Some(selection) = self.endpoints.get(&cgroup).map(|endpoint| endpoint.selection.clone()) {
            self.target(&selection, &world)?;
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
            // The thread lives as long as its sender.
            let _ = self.cuts.send(cut(&endpoint.record, Arc::clone(&installed.compiled)));
        }
    }

    /// The compiled policy of a selection, written if it is not in the maps yet.
    fn target(&mut self, selection: &Selection, world: &World) -> Result<u32, NodeError> {
        if selection.is_empty() || self.posture == Posture::Observe {
            return Ok(NO_POLICY);
        }
        let place = place(selection);
        if let Some(policy) = self.targets.get(&place) {
            return Ok(*policy);
        }
        let compiled = compile_within(selection, world, self.posture, MAX_ENTRIES)?;
        let policy = match self.by_content.get(&compiled) {
            Some(policy) => *policy,
            None => self.install(compiled)?,
        };
        self.targets.insert(place, policy);
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
        self.targets.retain(|_, target| *target != policy);
        if let Some(installed) = self.installed.remove(&policy) {
            self.by_content.remove(&installed.compiled);
            self.retired.push(Retired { since: Instant::now(), ruleset: Some(installed.ruleset), policy });
        }
    }

    /// Removes what is past its grace: retired policies, the names of their rules, and pods whose cgroup is gone.
    pub fn sweep(&mut self) -> Result<(), NodeError> {
        let mut result = Ok(());
        for mut retired in std::mem::take(&mut self.retired) {
            let age = retired.since.elapsed();
            if age >= GRACE
                && let Some(ruleset) = retired.ruleset.take()
                && let Err(error) = self.datapath.retire(&ruleset)
            {
                retired.ruleset = Some(ruleset);
                result = result.and(Err(error.into()));
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
        for cgroup in gone.collect::<Vec<u64>>() {
            result = result.and(self.forget(cgroup));
        }
        let gone = self.orphans.iter().filter(|(cgroup, path)| !super::is_cgroup(path, **cgroup));
        for cgroup in gone.map(|(cgroup, _)| *cgroup).collect::<Vec<u64>>() {
            result = result.and(self.forget(cgroup));
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

fn cut(record: &Record, compiled: Arc<Compiled>) -> Cut {
    Cut {
        cgroup: record.cgroup,
        slot: record.slot,
        pod: pod_name(&record.pod),
        namespaces: record.attachments.values().map(|link| PathBuf::from(&link.netns)).collect(),
        own: addresses(record),
        compiled,
    }
}
