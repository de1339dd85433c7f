//! What a policy document says, checked and with its defaults filled in.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::PolicyRef;
use crate::name::NamePattern;
use crate::network::Network;
use crate::request::HttpMatch;
use crate::selector::{LabelSelector, Labels};

/// The API group and version of the documents.
pub const API_VERSION: &str = "sluice.dev/v1alpha1";

/// The most rules that one policy may hold.
pub const MAX_RULES: usize = 500;

/// The most `domainNames` that one peer may hold.
pub const MAX_NAMES: usize = 250;

/// The highest `priority`; 0 is the lowest, and goes first.
pub const MAX_PRIORITY: u16 = 1000;

/// The `priority` of a policy that sets none: the middle, so that others can go before it and after it.
pub const DEFAULT_PRIORITY: u16 = 500;

/// The namespace of an `EgressPolicy` that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// One `EgressPolicy` or `ClusterEgressPolicy`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Where the document was read.
    pub source: Source,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`; no rule depends on them.
    pub labels: Labels,
    /// `metadata.annotations`; no rule depends on them.
    pub annotations: Labels,
    /// What differs between the two kinds.
    pub scope: Scope,
    /// `spec.podSelector`: the pods that the policy governs, within its scope.
    pub pod_selector: LabelSelector,
    /// `spec.priority`: 0–1000, lower first within a tier. [`DEFAULT_PRIORITY`] when absent.
    pub priority: u16,
    /// `spec.mode`: `Enforce` when absent.
    pub mode: Mode,
    /// `spec.defaultAction`: `Deny` when absent from an `EgressPolicy`, `None` from a `ClusterEgressPolicy`.
    pub default_action: DefaultAction,
    /// `spec.dns.queries`: `Any` when absent.
    pub queries: Queries,
    /// `spec.rules`, at most [`MAX_RULES`]; the first match wins.
    pub rules: Vec<Rule>,
}

/// Where a document was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Source {
    /// The file, or whatever the caller of [`parse`](crate::parse()) named instead.
    pub file: Arc<str>,
    /// The number of the document in the file, from 1; empty documents are not counted.
    pub document: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (document {})", self.file, self.document)
    }
}

/// The fields that only one of the two kinds has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// An `EgressPolicy`: governs pods of its own namespace.
    Namespace {
        /// `metadata.namespace`; [`DEFAULT_NAMESPACE`] when absent.
        namespace: String,
    },
    /// A `ClusterEgressPolicy`: governs pods of all namespaces.
    Cluster {
        /// `spec.tier`.
        tier: ClusterTier,
        /// `spec.namespaceSelector`: narrows the policy to pods of these namespaces. Absent: all.
        namespace_selector: Option<LabelSelector>,
        /// `spec.hostNetwork`: whether pods in the host's network namespace are governed. `Exclude` when absent.
        host_network: HostNetwork,
    },
}

/// The two kinds of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaced, a tenant's.
    EgressPolicy,
    /// Cluster-wide, an administrator's.
    ClusterEgressPolicy,
}

impl Kind {
    /// The name as `kind:` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EgressPolicy => "EgressPolicy",
            Self::ClusterEgressPolicy => "ClusterEgressPolicy",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The three tiers, in the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// `ClusterEgressPolicy` with `tier: Admin`: before anything a tenant says.
    Admin,
    /// `EgressPolicy`.
    Namespace,
    /// `ClusterEgressPolicy` with `tier: Baseline`: where no tenant has spoken.
    Baseline,
}

/// `spec.tier` of a `ClusterEgressPolicy`. `Admin` when absent, so that a forgotten field never lets a tenant's
/// policy go first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum ClusterTier {
    /// Before the namespace's policies.
    #[default]
    Admin,
    /// After them.
    Baseline,
}

/// `spec.hostNetwork` of a `ClusterEgressPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum HostNetwork {
    /// Pods in the host's network namespace are left alone.
    #[default]
    Exclude,
    /// They are governed as others are.
    Include,
}

/// `spec.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Mode {
    /// Reported and applied.
    #[default]
    Enforce,
    /// Reported, not applied.
    Audit,
}

/// `spec.defaultAction`: what holds for a flow that no rule of the tier matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum DefaultAction {
    /// It is denied.
    Deny,
    /// The policy says nothing about it.
    None,
}

/// `spec.dns.queries`: what the pod may ask the trusted resolvers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub enum Queries {
    /// Any name.
    #[default]
    Any,
    /// Only names that an Allow or Pass rule of a policy that selects the pod means, and those with a search suffix added.
    /// One such policy is enough to restrict the pod.
    RuleNames,
}

/// What the agent does with verdicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Posture {
    /// Nothing is judged: both verdicts are Allow, by no rule.
    Observe,
    /// Every policy is taken for `mode: Audit`.
    Log,
    /// As the policies are written.
    #[default]
    Enforce,
}

/// One entry of `spec.rules`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `name`, for events and the operator.
    pub name: Option<String>,
    /// `action`.
    pub action: RuleAction,
    /// `to`: any of these peers. Absent: anywhere. Never empty.
    pub to: Option<Vec<Peer>>,
    /// `ports`: any of these. Absent: any protocol and port. Never empty.
    pub ports: Option<Vec<PortMatch>>,
    /// `http`: any of these requests. Absent: any traffic, HTTP or not. Never empty, never in a Pass rule, and then `ports` names
    /// TCP only.
    ///
    /// Of a flow whose requests are not known yet, an Allow rule matches what it would match without this field, and a Deny
    /// rule nothing: the flow may go if some request might. What cannot be read matches no Allow rule, and every Deny rule.
    pub http: Option<Vec<HttpMatch>>,
    /// `requireName`: whether `domainNames` match a flow only if it shows such a name. Absent: on TCP 80 and 443.
    pub require_name: Option<bool>,
}

/// `action` of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum RuleAction {
    /// The flow may go.
    Allow,
    /// The flow may not go.
    Deny,
    /// The tier says nothing, its default included; `ClusterEgressPolicy` only.
    Pass,
}

/// One entry of a rule's `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Peer {
    /// `networks`: addresses in any of the networks and in none of the exceptions.
    Networks {
        /// At least one.
        networks: Vec<Network>,
        /// `except`; each lies inside one of the networks. Cuts this peer only.
        except: Vec<Network>,
    },
    /// `pods`: the addresses of pods. Pods in the host's network namespace are never meant: their addresses are the
    /// node's.
    Pods {
        /// `podSelector`.
        pod_selector: LabelSelector,
        /// `namespaceSelector`. Absent: the policy's own namespace, for a `ClusterEgressPolicy` every namespace.
        namespace_selector: Option<LabelSelector>,
    },
    /// `namespaces`: the addresses of all pods of the namespaces, as with [`Peer::Pods`]; `ClusterEgressPolicy` only.
    Namespaces(LabelSelector),
    /// `domainNames`: the addresses that a trusted resolver gave to the pod for any of these names.
    ///
    /// Where a name is required, an Allow or Pass rule matches a TCP flow only if it shows such a name, and the address was
    /// learned from that very name. A Deny rule then goes by the name shown; if none is, or none that the address was
    /// learned from, by all that it was learned from. Only TCP can show a name.
    DomainNames(Vec<NamePattern>),
    /// `services`: the addresses of Services and of what is behind them. The rule's `ports` are the Service's ports.
    Services(Vec<ServiceRef>),
}

/// The name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServiceRef {
    /// `name`.
    pub name: String,
    /// `namespace`; when absent from an `EgressPolicy`, the policy's own.
    pub namespace: String,
}

/// One entry of a rule's `ports`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// `protocol`; TCP when absent.
    pub protocol: Protocol,
    /// `port` to `endPort`. Absent: all ports of the protocol. Always absent with ICMP.
    pub range: Option<PortRange>,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// `port`: 1–65535.
    pub first: u16,
    /// `endPort`, not below `first`; the same as `first` when absent.
    pub last: u16,
}

/// `protocol` of a port entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Protocol 6.
    #[default]
    Tcp,
    /// Protocol 17.
    Udp,
    /// Protocol 132.
    Sctp,
    /// ICMP (1) on IPv4, `ICMPv6` (58) on IPv6.
    Icmp,
}

impl PortMatch {
    /// All ports of TCP.
    pub const TCP: Self = Self { protocol: Protocol::Tcp, range: None };
}

impl Rule {
    /// Whether the rule grants something by name, for which the pod must be able to ask its resolvers.
    pub fn grants_by_name(&self) -> bool {
        self.action != RuleAction::Deny
            && self.to.iter().flatten().any(|peer| matches!(peer, Peer::DomainNames(_)))
    }
}

impl Policy {
    /// Whether any of its rules grants something by name. Such a policy also allows UDP and TCP 53 to the trusted
    /// resolvers, after all rules of its tier and before the tier's default.
    pub fn grants_by_name(&self) -> bool {
        self.rules.iter().any(Rule::grants_by_name)
    }

    /// The kind of document.
    pub fn kind(&self) -> Kind {
        match self.scope {
            Scope::Namespace { .. } => Kind::EgressPolicy,
            Scope::Cluster { .. } => Kind::ClusterEgressPolicy,
        }
    }

    /// The tier in which the policy is asked.
    pub fn tier(&self) -> Tier {
        match self.scope {
            Scope::Namespace { .. } => Tier::Namespace,
            Scope::Cluster { tier: ClusterTier::Admin, .. } => Tier::Admin,
            Scope::Cluster { tier: ClusterTier::Baseline, .. } => Tier::Baseline,
        }
    }

    /// The namespace of an `EgressPolicy`; none for a `ClusterEgressPolicy`.
    pub fn namespace(&self) -> Option<&str> {
        match &self.scope {
            Scope::Namespace { namespace } => Some(namespace),
            Scope::Cluster { .. } => None,
        }
    }

    /// What events and rulings call the policy.
    pub fn reference(&self) -> PolicyRef {
        PolicyRef {
            tier: self.tier(),
            namespace: self.namespace().map(str::to_owned),
            name: self.name.clone(),
        }
    }
}
