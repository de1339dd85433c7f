//! Which policies govern a pod, and in which order.

use std::sync::Arc;

use crate::model::{HostNetwork, Peer, Policy, Scope, Tier};
use crate::selector::Labels;
use crate::set::{Change, PolicySet};
use crate::world::PodInfo;

/// The policies that govern a pod: by tier, and within a tier by priority, namespace and name.
///
/// Pods with equal selections share one compiled policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    admin: Vec<Arc<Policy>>,
    namespace: Vec<Arc<Policy>>,
    baseline: Vec<Arc<Policy>>,
}

impl Selection {
    /// Puts policies into order, without asking what they select.
    pub fn new(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut selection = Self::default();
        for policy in policies {
            match policy.tier() {
                Tier::Admin => selection.admin.push(policy),
                Tier::Namespace => selection.namespace.push(policy),
                Tier::Baseline => selection.baseline.push(policy),
            }
        }
        for tier in [&mut selection.admin, &mut selection.namespace, &mut selection.baseline] {
            tier.sort_by(|a, b| order(a).cmp(&order(b)));
        }
        selection
    }

    /// The policies of one tier, first to last.
    pub fn tier(&self, tier: Tier) -> &[Arc<Policy>] {
        match tier {
            Tier::Admin => &self.admin,
            Tier::Namespace => &self.namespace,
            Tier::Baseline => &self.baseline,
        }
    }

    /// The tiers in the order in which they are asked.
    pub fn tiers(&self) -> [&[Arc<Policy>]; 3] {
        [&self.admin, &self.namespace, &self.baseline]
    }

    /// Whether what the policies rule depends on pods, namespaces or Services, and so changes with them.
    pub fn names_peers(&self) -> bool {
        let rules = self.tiers().into_iter().flatten().flat_map(|policy| &policy.rules);
        rules.flat_map(|rule| rule.to.iter().flatten()).any(|peer| !matches!(peer, Peer::Networks { .. }))
    }

    /// Whether what the policies rule depends on names, and so on who answers for them.
    pub fn names_domains(&self) -> bool {
        let rules = self.tiers().into_iter().flatten().flat_map(|policy| &policy.rules);
        rules.flat_map(|rule| rule.to.iter().flatten()).any(|peer| matches!(peer, Peer::DomainNames(_)))
    }

    /// Whether what the policies rule depends on this pod. `namespace_labels` are those of its namespace, where known.
    pub fn names(&self, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
        let is_named = |policy: &Policy, peer: &Peer| match peer {
            Peer::Networks { .. } | Peer::DomainNames(_) => false,
            Peer::Pods { pod_selector, namespace_selector } => {
                let in_namespace = match (namespace_selector, policy.namespace()) {
                    (Some(selector), _) => selector.matches_namespace(&pod.namespace, namespace_labels),
                    (None, Some(own)) => own == pod.namespace,
                    (None, None) => true,
                };
                in_namespace && pod_selector.matches(&pod.labels)
            }
            Peer::Namespaces(selector) => selector.matches_namespace(&pod.namespace, namespace_labels),
            // The pod may be behind one.
            Peer::Services(_) => true,
        };
        self.tiers().into_iter().flatten().any(|policy| {
            policy.rules.iter().any(|rule| rule.to.iter().flatten().any(|peer| is_named(policy, peer)))
        })
    }

    /// The selection for a pod after its set of policies has changed; `None` if it stays what it is.
    pub fn revised(&self, change: &Change, pod: &PodInfo, namespace_labels: Option<&Labels>) -> Option<Self> {
        let stays = |policy: &&Arc<Policy>| !change.removes(policy);
        let old = || self.tiers().into_iter().flatten();
        let mut come = change.come.iter().filter(|policy| governs(policy, pod, namespace_labels)).peekable();
        if come.peek().is_none() && old().all(|policy| stays(&policy)) {
            return None;
        }
        Some(Self::new(old().filter(stays).chain(come).cloned()))
    }

    /// Whether no policy governs the pod.
    pub fn is_empty(&self) -> bool {
        self.tiers().iter().all(|tier| tier.is_empty())
    }
}

fn order(policy: &Policy) -> (u16, Option<&str>, &str) {
    (policy.priority, policy.namespace(), &policy.name)
}

/// The policies of `set` that govern `pod`. `namespace_labels` are those of the pod's namespace, where known.
pub fn select(set: &PolicySet, pod: &PodInfo, namespace_labels: Option<&Labels>) -> Selection {
    Selection::new(set.policies().iter().filter(|policy| governs(policy, pod, namespace_labels)).cloned())
}

fn governs(policy: &Policy, pod: &PodInfo, namespace_labels: Option<&Labels>) -> bool {
    let in_scope = match &policy.scope {
        Scope::Namespace { namespace } => !pod.host_network && *namespace == pod.namespace,
        Scope::Cluster { namespace_selector, host_network, .. } => {
            (!pod.host_network || *host_network == HostNetwork::Include)
                && namespace_selector
                    .as_ref()
                    .is_none_or(|selector| selector.matches_namespace(&pod.namespace, namespace_labels))
        }
    };
    in_scope && policy.pod_selector.matches(&pod.labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn set(text: &str) -> PolicySet {
        PolicySet::new(parse("test.yaml", text).expect("valid policies")).expect("no duplicates")
    }

    fn names(policies: &[Arc<Policy>]) -> Vec<&str> {
        policies.iter().map(|p| p.name.as_str()).collect()
    }

    fn policy(kind: &str, name: &str, rest: &str) -> String {
        format!(
            "---\napiVersion: sluice.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n\
             spec: {{podSelector: {{}}, rules: [], {rest}}}\n"
        )
    }

    #[test]
    fn order_is_priority_then_name_within_a_tier() {
        let text = [
            policy("ClusterEgressPolicy", "late", "priority: 900"),
            policy("ClusterEgressPolicy", "b", ""),
            policy("ClusterEgressPolicy", "a", "priority: 500"),
            policy("ClusterEgressPolicy", "first", "priority: 0"),
            policy("ClusterEgressPolicy", "base", "tier: Baseline"),
            policy("EgressPolicy", "own", ""),
        ]
        .concat();
        let pod = PodInfo { namespace: "default".to_owned(), ..PodInfo::default() };
        let selection = select(&set(&text), &pod, None);
        assert_eq!(names(selection.tier(Tier::Admin)), ["first", "a", "b", "late"]);
        assert_eq!(names(selection.tier(Tier::Namespace)), ["own"]);
        assert_eq!(names(selection.tier(Tier::Baseline)), ["base"]);
    }

    #[test]
    fn host_network_pods_are_governed_only_when_asked_for() {
        let text = [
            policy("ClusterEgressPolicy", "excludes", ""),
            policy("ClusterEgressPolicy", "includes", "hostNetwork: Include"),
            policy("EgressPolicy", "own", ""),
        ]
        .concat();
        let set = set(&text);
        let mut pod = PodInfo { namespace: "default".to_owned(), ..PodInfo::default() };
        assert_eq!(names(select(&set, &pod, None).tier(Tier::Admin)), ["excludes", "includes"]);
        pod.host_network = true;
        let selection = select(&set, &pod, None);
        assert_eq!(names(selection.tier(Tier::Admin)), ["includes"]);
        assert!(selection.tier(Tier::Namespace).is_empty());
    }

    #[test]
    fn namespaces_and_labels_narrow() {
        let text = [
            policy(
                "ClusterEgressPolicy",
                "by-name",
                "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}",
            ),
            policy("ClusterEgressPolicy", "by-label", "namespaceSelector: {matchLabels: {team: red}}"),
            policy("EgressPolicy", "elsewhere", ""),
        ]
        .concat();
        let pod = PodInfo { namespace: "shop".to_owned(), ..PodInfo::default() };
        let red = Labels::from([("team".to_owned(), "red".to_owned())]);
        assert_eq!(names(select(&set(&text), &pod, None).tier(Tier::Admin)), ["by-name"]);
        let selection = select(&set(&text), &pod, Some(&red));
        assert_eq!(names(selection.tier(Tier::Admin)), ["by-label", "by-name"]);
        assert!(selection.tier(Tier::Namespace).is_empty());
    }

    #[test]
    fn a_change_revises_only_what_it_concerns() {
        let pod = PodInfo { namespace: "default".to_owned(), ..PodInfo::default() };
        let elsewhere = PodInfo { namespace: "shop".to_owned(), ..PodInfo::default() };
        let shared = |text: &str| set(text).policies().to_vec();
        let [kept, old, new] = [
            policy("EgressPolicy", "kept", ""),
            policy("EgressPolicy", "old", ""),
            policy("EgressPolicy", "new", "priority: 1"),
        ]
        .map(|text| shared(&text).remove(0));
        let before = PolicySet::from_shared(vec![Arc::clone(&kept), old]).expect("no duplicates");
        let after = PolicySet::from_shared(vec![kept, new]).expect("no duplicates");
        let change = after.change_from(&before);
        for pod in [&pod, &elsewhere] {
            let (was, is) = (select(&before, pod, None), select(&after, pod, None));
            assert_eq!(was.revised(&change, pod, None).unwrap_or(was), is);
        }
        assert!(select(&before, &elsewhere, None).revised(&change, &elsewhere, None).is_none());
        assert!(select(&after, &pod, None).revised(&after.change_from(&after), &pod, None).is_none());
    }

    #[test]
    fn only_the_pods_that_peers_mean_are_named() {
        let text = "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: a, namespace: shop}\n\
                    spec: {podSelector: {}, rules: [{action: Allow, to: [{pods: {podSelector: {matchLabels: {app: db}}}}]}]}\n";
        let pod = |namespace: &str, app: &str| PodInfo {
            namespace: namespace.to_owned(),
            labels: Labels::from([("app".to_owned(), app.to_owned())]),
            ..PodInfo::default()
        };
        let selection = select(&set(text), &pod("shop", "web"), None);
        assert!(selection.names(&pod("shop", "db"), None));
        assert!(!selection.names(&pod("shop", "web"), None) && !selection.names(&pod("other", "db"), None));
    }

    #[test]
    fn one_name_twice_is_refused_with_both_places() {
        let text = [policy("EgressPolicy", "web", ""), policy("EgressPolicy", "web", "")].concat();
        let errors = PolicySet::new(parse("a.yaml", &text).expect("valid")).expect_err("a duplicate");
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "EgressPolicy default/web is defined twice, in a.yaml (document 1) and in a.yaml (document 2); \
              rename or remove one of them"
            ]
        );
    }
}
