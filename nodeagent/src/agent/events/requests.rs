//! What a request over TLS tells.

use std::net::{IpAddr, Ipv6Addr};

use sluice_abi::{PlaintextHeader, library};
use sluice_requests::Request;

use super::{Action, Describer, Hook, Kind, Line, RequestLine, SCHEMA, text, wall_clock};
use crate::agent::node::Node;
use crate::agent::requests;
use crate::agent::tls::Destination;

impl Describer {
    /// Describes a request. Where its destination is not known, that is the unspecified address, without a port.
    pub(in crate::agent) fn request(
        &self,
        header: &PlaintextHeader,
        request: Request,
        destination: Option<&Destination>,
        node: &Node,
    ) -> Line {
        let record = node.record(header.endpoint);
        let local = destination.and_then(|destination| destination.local);
        let line = Line {
            v: SCHEMA,
            ts: wall_clock(header.time_ns),
            kind: Kind::Https,
            pod: record.map(|record| self.pod(record, header.pid, node)),
            src: local.map(|(address, _)| address),
            sport: local.map(|(_, port)| port),
            dst: destination.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |destination| destination.address),
            dport: destination.map(|destination| destination.port),
            proto: "tcp".to_owned(),
            domain: request.host.clone(),
            dns_type: None,
            dns_code: None,
            answers: None,
            method: None,
            path: None,
            request: RequestLine::default(),
            pid: Some(header.pid),
            comm: Some(text(&header.comm)),
            action: Action::Allow,
            policy: None,
            rule: None,
            reason: if destination.is_some() {
                "a request over TLS".to_owned()
            } else {
                "a request over TLS; to where is not known for certain".to_owned()
            },
            hook: Hook::Library,
            repeats: 0,
        };
        let shown = destination.and_then(|destination| destination.shown.as_deref());
        requests::describe(line, request, header.endpoint, shown, library_name(header.library), node)
    }
}

/// A library as `sluice tls` names it.
fn library_name(number: u8) -> Option<&'static str> {
    Some(match number {
        library::OPENSSL => "openssl",
        library::GNUTLS => "gnutls",
        library::GO => "go",
        library::RUSTLS => "rustls",
        _ => return None,
    })
}
