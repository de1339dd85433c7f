//! The two kinds.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::core::Rule as Cel;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rule::EgressRule;
use crate::status::PolicyStatus;

/// What pods of the policy's namespace may connect to.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "EgressPolicy",
    plural = "egresspolicies",
    shortname = "segp",
    category = "sluice",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "What pods of its namespace may connect to.",
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "Enforce, or Audit: told, not applied"}"#,
    printcolumn = r#"{"name": "Default", "type": "string", "jsonPath": ".spec.defaultAction", "description": "What becomes of what no rule matches"}"#,
    printcolumn = r#"{"name": "Rules", "type": "string", "jsonPath": ".spec.rules[*].action", "description": "The actions of the rules, in order"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status", "description": "Whether the policy can be read"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Cel::new("!has(self.rules) || self.rules.all(rule, rule.action != 'Pass')")
        .message("action Pass is for a ClusterEgressPolicy; write Allow or Deny")
        .field_path(".rules"),
    validation = Cel::new(
        "!has(self.rules) || self.rules.all(rule, !has(rule.to) || rule.to.all(peer, !has(peer.namespaces)))"
    )
    .message("namespaces is for a ClusterEgressPolicy; write pods: {podSelector: {}, namespaceSelector: …}")
    .field_path(".rules")
)]
pub struct EgressPolicySpec {
    /// The pods that the policy governs, in its namespace; {} for every one.
    pub pod_selector: LabelSelector,
    /// Lower goes first; then by name.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: u16,
    /// Enforce, or Audit: told, not applied.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of what no rule of a policy that selects the pod matches: Deny, or None, which says nothing about it.
    #[serde(default = "DefaultAction::deny")]
    pub default_action: DefaultAction,
    /// What the pods may ask their resolvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// In order; the first that matches ends it.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub rules: Vec<EgressRule>,
}

/// What pods of all namespaces may connect to: before tenants' policies, or where they say nothing.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "ClusterEgressPolicy",
    plural = "clusteregresspolicies",
    shortname = "csegp",
    category = "sluice",
    status = "PolicyStatus",
    derive = "PartialEq",
    doc = "What pods of all namespaces may connect to: before tenants' policies, or where they say nothing.",
    printcolumn = r#"{"name": "Tier", "type": "string", "jsonPath": ".spec.tier", "description": "Admin goes before tenants' policies, Baseline after"}"#,
    printcolumn = r#"{"name": "Mode", "type": "string", "jsonPath": ".spec.mode", "description": "Enforce, or Audit: told, not applied"}"#,
    printcolumn = r#"{"name": "Default", "type": "string", "jsonPath": ".spec.defaultAction", "description": "What becomes of what no rule matches"}"#,
    printcolumn = r#"{"name": "Rules", "type": "string", "jsonPath": ".spec.rules[*].action", "description": "The actions of the rules, in order"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Accepted\")].status", "description": "Whether the policy can be read"}"#,
    printcolumn = r#"{"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Cel::new(
        "!has(self.rules) || self.rules.all(rule, !has(rule.to) || rule.to.all(peer, \
         !has(peer.services) || peer.services.all(service, has(service.__namespace__))))"
    )
    .message("a ClusterEgressPolicy has no namespace of its own: name the Service's")
    .field_path(".rules")
)]
pub struct ClusterEgressPolicySpec {
    /// The pods that the policy governs; {} for every one.
    pub pod_selector: LabelSelector,
    /// The namespaces whose pods it governs. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Whether pods in the host's network are governed too.
    #[serde(default)]
    pub host_network: HostNetwork,
    /// Admin goes before tenants' policies, Baseline after them.
    #[serde(default)]
    pub tier: Tier,
    /// Lower goes first; then by name.
    #[serde(default = "default_priority")]
    #[schemars(range(min = 0, max = 1000))]
    pub priority: u16,
    /// Enforce, or Audit: told, not applied.
    #[serde(default)]
    pub mode: Mode,
    /// What becomes of what no rule of a policy of this tier that selects the pod matches: Deny, or None, which says
    /// nothing about it.
    #[serde(default = "DefaultAction::none")]
    pub default_action: DefaultAction,
    /// What the pods may ask their resolvers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// In order; the first that matches ends it.
    #[serde(default)]
    #[schemars(length(max = 500))]
    pub rules: Vec<EgressRule>,
}

const fn default_priority() -> u16 {
    500
}

/// Whether a policy is applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Told and applied.
    #[default]
    Enforce,
    /// Told, not applied.
    Audit,
}

/// What becomes of what no rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DefaultAction {
    /// It is denied.
    Deny,
    /// The policy says nothing about it.
    None,
}

impl DefaultAction {
    const fn deny() -> Self {
        Self::Deny
    }

    const fn none() -> Self {
        Self::None
    }
}

/// Where a cluster policy stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Tier {
    /// Before tenants' policies.
    #[default]
    Admin,
    /// After them.
    Baseline,
}

/// Pods in the host's network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HostNetwork {
    /// Are left alone.
    #[default]
    Exclude,
    /// Are governed as others are.
    Include,
}

/// What the pods may ask their resolvers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct Dns {
    /// Any name, or RuleNames: only names that a rule could open. Another question is answered with an error at once.
    #[serde(default)]
    pub queries: Queries,
}

/// Which questions pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Queries {
    /// All.
    #[default]
    Any,
    /// Those for names that a rule could open.
    RuleNames,
}
