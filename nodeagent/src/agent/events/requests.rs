//! What a request over TLS tells.

use std::net::{IpAddr, Ipv6Addr};

use sluice_abi::PlaintextHeader;
use sluice_requests::Request;

use super::{Action, Describer, Hook, Kind, Line, SCHEMA, text, wall_clock};
use crate::agent::node::Node;
use crate::agent::tls::Destination;

impl Describer {
    /// Describes a request. Its destination is the unspecified address where it is not known.
    pub(in crate::agent) fn request(
        &self,
        header: &PlaintextHeader,
        request: Request,
        destination: Option<Destination>,
        node: &Node,
    ) -> Line {
        let record = node.record(header.endpoint);
        let local = destination.as_ref().and_then(|destination| destination.local);
        Line {
            v: SCHEMA,
            ts: wall_clock(header.time_ns),
            kind: Kind::Https,
            pod: record.map(|record| self.pod(record, header.pid, node)),
            src: local.map(|(address, _)| address),
            sport: local.map(|(_, port)| port),
            dst: destination
                .as_ref()
                .map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |destination| destination.address),
            dport: destination.as_ref().map(|destination| destination.port),
            proto: "tcp".to_owned(),
            domain: request.host,
            dns_type: None,
            dns_code: None,
            answers: None,
            method: Some(request.method),
            path: Some(request.path),
            pid: Some(header.pid),
            comm: Some(text(&header.comm)),
            action: Action::Allow,
            policy: None,
            rule: None,
            reason: format!("a request, {}", request.protocol),
            hook: Hook::Library,
            repeats: 0,
        }
    }
}
