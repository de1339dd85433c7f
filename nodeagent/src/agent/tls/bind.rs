//! To which destination a request went.
//!
//! A probe knows the process and the library's structure, not the socket. So the destination is found among the connections
//! that the process opened: those to the host that the request names; else the only ones it has. Where they do not agree,
//! none is named: no destination is better than a wrong one.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::agent::events::{Kind, Line};

/// Connections that are remembered of one process, and processes.
const OF_PROCESS: usize = 64;
const PROCESSES: usize = 4096;

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Destination {
    pub(in crate::agent) address: IpAddr,
    pub(in crate::agent) port: u16,
    /// The pod's end, where it is known.
    pub(in crate::agent) local: Option<(IpAddr, u16)>,
    /// The name that the connection shows in TLS, where it is known.
    pub(in crate::agent) shown: Option<String>,
}

struct Opened {
    to: Destination,
    /// The name that led there, or that the flow shows.
    domain: Option<String>,
}

#[derive(Default)]
struct Process {
    opened: VecDeque<Opened>,
    /// TLS flows of it that no plain text was seen of so far.
    silent: u64,
    /// Plain text of it was seen.
    is_seen: bool,
}

/// The connections that processes opened lately.
#[derive(Default)]
pub(super) struct Connections {
    of_process: HashMap<u32, Process>,
    order: VecDeque<u32>,
    flows: u64,
    /// TLS flows of processes that are forgotten, and of which no plain text was seen.
    silent: u64,
}

impl Connections {
    /// Takes up what an event tells.
    pub(super) fn note(&mut self, line: &Line) {
        let (Some(pid), Some(port)) = (line.pid, line.dport) else { return };
        if !matches!(line.kind, Kind::Connect | Kind::Tls) || line.proto != "tcp" {
            return;
        }
        let process = self.process(pid);
        let is_silent = line.kind == Kind::Tls && !process.is_seen;
        process.silent += u64::from(is_silent);
        if process.opened.len() == OF_PROCESS {
            process.opened.pop_front();
        }
        let shown = line.domain.clone().filter(|_| line.kind == Kind::Tls);
        let to = Destination { address: line.dst, port, local: line.src.zip(line.sport), shown };
        process.opened.push_back(Opened { to, domain: line.domain.clone() });
        self.flows += u64::from(line.kind == Kind::Tls);
    }

    /// Plain text of a process was seen.
    pub(super) fn seen(&mut self, pid: u32) {
        let process = self.process(pid);
        (process.is_seen, process.silent) = (true, 0);
    }

    /// How many TLS flows there were, and how many of processes of which no plain text was seen.
    pub(super) fn flows(&self) -> (u64, u64) {
        let silent: u64 = self.of_process.values().map(|process| process.silent).sum();
        (self.flows, self.silent + silent)
    }

    fn process(&mut self, pid: u32) -> &mut Process {
        if !self.of_process.contains_key(&pid) {
            if self.order.len() == PROCESSES
                && let Some(oldest) = self.order.pop_front()
            {
                self.silent += self.of_process.remove(&oldest).map_or(0, |process| process.silent);
            }
            self.order.push_back(pid);
        }
        self.of_process.entry(pid).or_default()
    }

    /// Where a request of a process for a host went, if that is beyond doubt.
    pub(super) fn find(&self, pid: u32, host: Option<&str>) -> Option<Destination> {
        let opened = &self.of_process.get(&pid)?.opened;
        let address = host.and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
        let is_named = |one: &&Opened| {
            address == Some(one.to.address) || host.is_some() && one.domain.as_deref() == host
        };
        agreed(opened.iter().filter(is_named)).or_else(|| agreed(opened.iter()))
    }
}

/// The one destination of all; its local end only if that is the same, too.
fn agreed<'a>(mut opened: impl Iterator<Item = &'a Opened>) -> Option<Destination> {
    let mut one = opened.next()?.to.clone();
    let mut is_shown_alike = true;
    for other in opened {
        if (other.to.address, other.to.port) != (one.address, one.port) {
            return None;
        }
        one.local = match (one.local, other.to.local) {
            (None, known) | (known, None) => known,
            (one, other) if one == other => one,
            _ => None,
        };
        match (&one.shown, &other.to.shown) {
            (None, shown) => one.shown.clone_from(shown),
            (Some(one), Some(other)) => is_shown_alike &= one == other,
            (Some(_), None) => {}
        }
    }
    one.shown = one.shown.filter(|_| is_shown_alike);
    Some(one)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(opened: &[(&str, u16, Option<&str>)]) -> Connections {
        let mut connections = Connections::default();
        let process = connections.process(7);
        for (address, port, domain) in opened {
            let address = address.parse().expect("an address");
            let to = Destination { address, port: *port, local: None, shown: None };
            process.opened.push_back(Opened { to, domain: domain.map(str::to_owned) });
        }
        connections
    }

    #[test]
    fn the_host_of_a_request_picks_among_connections() {
        let both =
            connections(&[("192.0.2.1", 443, Some("a.example")), ("192.0.2.2", 443, Some("b.example"))]);
        let to = |host| both.find(7, host).map(|found| found.address.to_string());
        assert_eq!(to(Some("b.example")).as_deref(), Some("192.0.2.2"));
        assert_eq!(to(Some("192.0.2.1")).as_deref(), Some("192.0.2.1"));
        assert_eq!(to(Some("c.example")), None);
        assert_eq!(to(None), None);
        assert_eq!(both.find(8, Some("a.example")), None);
    }

    #[test]
    fn the_only_destination_needs_no_name() {
        let only = connections(&[("192.0.2.1", 443, None), ("192.0.2.1", 443, None)]);
        assert_eq!(only.find(7, Some("a.example")).map(|found| found.port), Some(443));
        let ports = connections(&[("192.0.2.1", 443, None), ("192.0.2.1", 8443, None)]);
        assert_eq!(ports.find(7, Some("a.example")), None);
    }
}
