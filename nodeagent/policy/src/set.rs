//! All the policies that are in force together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::flow::PolicyRef;
use crate::model::{Kind, Policy, Source};

/// Policies of which no two have the same kind, namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    policies: Vec<Arc<Policy>>,
}

/// What makes one set out of another.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Policies of the old set, by their places: held, so that nothing else comes to be there.
    gone: HashMap<usize, Arc<Policy>>,
    /// Policies of the new one.
    pub(crate) come: Vec<Arc<Policy>>,
}

impl Change {
    /// Is a policy of the old set not in the new one?
    pub(crate) fn removes(&self, policy: &Arc<Policy>) -> bool {
        self.gone.contains_key(&place(policy))
    }
}

/// Where a policy is in memory.
fn place(policy: &Arc<Policy>) -> usize {
    Arc::as_ptr(policy).addr()
}

/// Why policies cannot be in force together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// Two documents define one policy.
    #[error("{policy} is defined twice, in {first} and in {second}; rename or remove one of them")]
    Duplicate {
        /// The policy.
        policy: PolicyRef,
        /// Where it was met first.
        first: Source,
        /// Where it was met again.
        second: Source,
    },
}

impl PolicySet {
    /// Makes a set; fails with one error for every document that defines a policy again.
    pub fn new(policies: Vec<Policy>) -> Result<Self, Vec<SetError>> {
        Self::from_shared(policies.into_iter().map(Arc::new).collect())
    }

    /// As [`PolicySet::new`], of policies that are already shared.
    pub fn from_shared(policies: Vec<Arc<Policy>>) -> Result<Self, Vec<SetError>> {
        let mut seen: HashMap<(Kind, Option<&str>, &str), &Source> = HashMap::new();
        let mut errors = Vec::new();
        for policy in &policies {
            let identity = (policy.kind(), policy.namespace(), policy.name.as_str());
            if let Some(first) = seen.get(&identity) {
                errors.push(SetError::Duplicate {
                    policy: policy.reference(),
                    first: (*first).clone(),
                    second: policy.source.clone(),
                });
            } else {
                seen.insert(identity, &policy.source);
            }
        }
        if errors.is_empty() { Ok(Self { policies }) } else { Err(errors) }
    }

    /// What is not in both sets. Policies count as the same if they are shared: equal ones that are not may be in it.
    pub fn change_from(&self, before: &Self) -> Change {
        let places = |set: &Self| set.policies.iter().map(place).collect::<HashSet<usize>>();
        let (old, new) = (places(before), places(self));
        let come = self.policies.iter().filter(|policy| !old.contains(&place(policy))).cloned().collect();
        let gone = before.policies.iter().filter(|policy| !new.contains(&place(policy)));
        let gone = gone.map(|policy| (place(policy), Arc::clone(policy))).collect();
        Change { gone, come }
    }

    /// The policies, in the order in which they were given.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }
}
