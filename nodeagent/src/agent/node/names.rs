//! What the kernel knows of names, beside the policies: how long it counts, what none may open, what pods have learned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::{Node, NodeError, pod_name};
use crate::agent::config::Ech;
use crate::datapath::{DatapathError, Learned};

impl Node {
    /// How long an address that a name led to counts: at least `floor`, and `grace` past its TTL. And by which name a flow
    /// goes that encrypts one.
    pub fn configure_names(&mut self, floor: Duration, grace: Duration, ech: Ech) -> Result<(), NodeError> {
        Ok(self.datapath.configure_names(floor, grace, ech == Ech::OuterName)?)
    }

    /// Says which addresses are the node's own now: no name may open them.
    pub fn find_own_addresses(&mut self) -> Result<(), NodeError> {
        let interfaces = getifaddrs().map_err(NodeError::OwnAddresses)?;
        let own: BTreeSet<IpAddr> =
            interfaces.filter_map(|interface| ip_address(&interface.address?)).collect();
        if own != self.own_addresses {
            self.datapath.set_node_addresses(&own)?;
            self.own_addresses = own;
        }
        Ok(())
    }

    /// What a pod has learned; none if no such pod is governed.
    pub fn learned(&self, namespace: &str, name: &str) -> Option<Result<Vec<Learned>, DatapathError>> {
        let wanted = format!("{namespace}/{name}");
        let (record, ..) = self.endpoints().find(|(record, ..)| pod_name(&record.pod) == wanted)?;
        Some(self.datapath.learned(record.cgroup))
    }
}

fn ip_address(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}
