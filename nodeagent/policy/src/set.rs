//! All the policies that are in force together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::flow::PolicyRef;
use crate::model::{Kind, Policy, Source};

/// Policies of which no two have the same kind, namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicySet {
    policies: Vec<Arc<Policy>>,
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

    /// The policies, in the order in which they were given.
    pub fn policies(&self) -> &[Arc<Policy>] {
        &self.policies
    }
}
