//! A flow, and what is ruled about it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::model::{Kind, Policy, Tier};
use crate::name::Name;

/// What a packet that leaves a pod shows of itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Where it goes. An IPv4-mapped IPv6 address is taken for the IPv4 address.
    pub destination: IpAddr,
    /// How it goes.
    pub protocol: FlowProtocol,
    /// The destination port; 0 where the protocol has none.
    pub port: u16,
    /// The destination or the port cannot be trusted: a fragment, IP options, extension headers, IP in IP.
    ///
    /// What cannot be read matches no Allow rule that needs it, and every Deny rule: an Allow or Pass rule matches
    /// only if it has neither `to` nor `ports`, a Deny rule always, for the packet may hide what the rule denies.
    pub opaque: bool,
    /// The names that it goes by.
    pub names: Names,
    /// The request that is being sent; none as long as none is known.
    pub request: Option<Requested>,
}

/// What a flow asks for over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Requested {
    /// This.
    Request {
        /// The method, as it was sent.
        method: String,
        /// The path, as it was sent, without the query; nothing for CONNECT, `*` for the server itself.
        path: String,
    },
    /// No HTTP, or none that can be read.
    Unreadable,
}

/// The names of a [`Flow`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Names {
    /// The names for which a trusted resolver gave the pod the destination, and which still count.
    pub learned: Vec<Name>,
    /// What its first payload shows; none as long as nothing was sent.
    ///
    /// The opening of a TCP flow is judged as if it showed the first of the learned names with which it may go, or as if
    /// it showed none if there is no such name. Protocols other than TCP show nothing.
    pub shown: Option<Shown>,
}

/// What the first payload of a flow shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Shown {
    /// This name, in TLS or HTTP.
    Name(Name),
    /// No name, or none that can be read.
    Unreadable,
}

/// The protocol of a [`Flow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowProtocol {
    /// Protocol 6.
    Tcp,
    /// Protocol 17.
    Udp,
    /// Protocol 132.
    Sctp,
    /// ICMP on IPv4, `ICMPv6` on IPv6.
    Icmp,
    /// Any other protocol number. No rule with `ports` matches it.
    Other(u8),
}

impl FlowProtocol {
    /// The protocol of an IP header's number. ICMP over IPv6 and `ICMPv6` over IPv4 are no ICMP, but
    /// [`Other`](Self::Other).
    pub fn from_number(number: u8, over_ipv6: bool) -> Self {
        match (number, over_ipv6) {
            (6, _) => Self::Tcp,
            (17, _) => Self::Udp,
            (132, _) => Self::Sctp,
            (1, false) | (58, true) => Self::Icmp,
            _ => Self::Other(number),
        }
    }
}

/// Whether a flow may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

/// Both rulings about a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What happens: counts policies with `mode: Enforce`.
    pub applied: Ruling,
    /// What would happen if every policy were enforced: counts all.
    pub reported: Ruling,
}

/// One ruling, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What was ruled.
    pub action: Action,
    /// The rule or default that decided. None: nothing had anything to say, so the flow may go.
    pub by: Option<RuleRef>,
}

/// The name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    /// Its tier, which also tells its kind.
    pub tier: Tier,
    /// The namespace of an `EgressPolicy`.
    pub namespace: Option<String>,
    /// `metadata.name`.
    pub name: String,
}

/// The name of a rule, or of a policy's default.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleRef {
    /// The policy.
    pub policy: PolicyRef,
    /// The rule in it; none means the policy's `defaultAction`.
    pub rule: Option<RuleId>,
}

/// A rule within its policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RuleId {
    /// The index in `spec.rules`, from 0.
    pub index: u32,
    /// The rule's `name`.
    pub name: Option<String>,
}

impl RuleRef {
    /// What lets a pod ask its resolvers because of a policy that grants by name: an Allow after the policy's own rules.
    pub fn implied_dns(policy: &Policy) -> Self {
        let id = RuleId { index: policy.rules.len() as u32, name: Some("implied DNS".to_owned()) };
        Self { policy: policy.reference(), rule: Some(id) }
    }
}

impl PolicyRef {
    /// The kind of the policy.
    pub fn kind(&self) -> Kind {
        match self.tier {
            Tier::Namespace => Kind::EgressPolicy,
            Tier::Admin | Tier::Baseline => Kind::ClusterEgressPolicy,
        }
    }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind())?;
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, ", self.policy)?;
        match &self.rule {
            None => f.write_str("default action"),
            Some(RuleId { index, name: None }) => write!(f, "rule {index}"),
            Some(RuleId { index, name: Some(name) }) => write!(f, "rule {index} ({name})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_well() {
        let policy =
            PolicyRef { tier: Tier::Namespace, namespace: Some("shop".to_owned()), name: "web".to_owned() };
        let rule = RuleId { index: 2, name: Some("payments".to_owned()) };
        let named = RuleRef { policy: policy.clone(), rule: Some(rule) };
        assert_eq!(named.to_string(), "EgressPolicy shop/web, rule 2 (payments)");
        assert_eq!(RuleRef { policy, rule: None }.to_string(), "EgressPolicy shop/web, default action");
        let policy = PolicyRef { tier: Tier::Baseline, namespace: None, name: "base".to_owned() };
        let rule = Some(RuleId { index: 0, name: None });
        assert_eq!(RuleRef { policy, rule }.to_string(), "ClusterEgressPolicy base, rule 0");
    }

    #[test]
    fn icmp_belongs_to_its_family() {
        assert_eq!(FlowProtocol::from_number(1, false), FlowProtocol::Icmp);
        assert_eq!(FlowProtocol::from_number(58, true), FlowProtocol::Icmp);
        assert_eq!(FlowProtocol::from_number(1, true), FlowProtocol::Other(1));
        assert_eq!(FlowProtocol::from_number(58, false), FlowProtocol::Other(58));
        assert_eq!(FlowProtocol::from_number(136, false), FlowProtocol::Other(136));
    }
}
