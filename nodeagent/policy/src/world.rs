//! What peers are resolved against: the pods, namespaces and Services that are known.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::Protocol;
use crate::name::Name;
use crate::selector::Labels;

/// Everything that peers can name. On a host without Kubernetes it holds just the node's own governed pods.
///
/// Addresses may be IPv4-mapped; they are taken for the IPv4 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// The pods, in any order.
    pub pods: Vec<PodInfo>,
    /// The labels of the namespaces, by name. A namespace that is not here has only the label of its name.
    pub namespaces: BTreeMap<String, Labels>,
    /// The Services, in any order.
    pub services: Vec<ServiceInfo>,
    /// The trusted resolvers, in any order: whose answers are believed, and to whom domain rules allow questions.
    pub resolvers: Vec<IpAddr>,
    /// The suffixes that pods add to names when they ask.
    pub search: Vec<Name>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodInfo {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// It lives in the host's network namespace, so its addresses are the node's: it is no peer, and is governed only
    /// by a `ClusterEgressPolicy` with `hostNetwork: Include`.
    pub host_network: bool,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceInfo {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its own addresses; none for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// TCP, UDP or SCTP; a port of any other protocol matches nothing.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// What is behind it: addresses and the ports there.
    pub targets: Vec<(IpAddr, u16)>,
}
