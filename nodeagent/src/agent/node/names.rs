//! What the kernel knows of names, beside the policies: how long it counts, what none may open, what pods have learned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use sluice_policy::{Flow, Judgement, Name, Requested, World, evaluate};

use super::super::store::Link;
use super::{Node, NodeError, pod_info, pod_name};
use crate::agent::config::Ech;
use crate::datapath::{DatapathError, Learned, address_bytes};

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

    /// Judges a request of an endpoint, and its connection as it was opened; none if there is no such endpoint. To the names
    /// that the flow goes by come those that the destination was learned from.
    pub fn judge(&self, cgroup: u64, opening: &Flow, request: Requested) -> Option<(Judgement, Judgement)> {
        let selection = &self.endpoints.get(&cgroup)?.selection;
        let mut opening = opening.clone();
        if selection.names_domains() {
            let learned = self.datapath.learned_names(cgroup, address_bytes(opening.destination));
            for name in learned.iter().filter_map(|name| name.parse::<Name>().ok()) {
                if !opening.names.learned.contains(&name) {
                    opening.names.learned.push(name);
                }
            }
        }
        let world =
            if selection.names_peers() { self.world_at(opening.destination) } else { World::default() };
        let known = Flow { request: Some(request), ..opening.clone() };
        Some((
            evaluate(selection, &world, self.posture, &known),
            evaluate(selection, &world, self.posture, &opening),
        ))
    }

    /// Whether any policy selects an endpoint.
    pub fn is_selected(&self, cgroup: u64) -> bool {
        self.endpoints.get(&cgroup).is_some_and(|endpoint| !endpoint.selection.is_empty())
    }

    /// What of the world has that address: nothing else counts for a flow to it.
    fn world_at(&self, address: IpAddr) -> World {
        let is_there = |link: &Link| link.ips.iter().any(|ip| ip.to_canonical() == address.to_canonical());
        let present = self.endpoints.values().filter(|endpoint| !endpoint.leaving);
        let there = present.filter(|endpoint| endpoint.record.attachments.values().any(is_there));
        World {
            pods: there.map(|endpoint| pod_info(&endpoint.record)).collect(),
            resolvers: self.resolvers.addresses.iter().copied().collect(),
            ..World::default()
        }
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
