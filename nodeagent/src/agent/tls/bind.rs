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
}

struct Opened {
    to: Destination,
    /// The name that led there, or that the flow shows.
    domain: Option<String>,
}

/// The connections that processes opened lately.
#[derive(Default)]
pub(super) struct Connections {
    of_process: HashMap<u32, VecDeque<Opened>>,
    order: VecDeque<u32>,
}

impl Connections {
    /// Takes up what an event tells.
    pub(super) fn note(&mut self, line: &Line) {
        let (Some(pid), Some(port)) = (line.pid, line.dport) else { return };
        if !matches!(line.kind, Kind::Connect | Kind::Tls) || line.proto != "tcp" {
            return;
        }
        if !self.of_process.contains_key(&pid) {
            if self.order.len() == PROCESSES
                && let Some(oldest) = self.order.pop_front()
            {
                self.of_process.remove(&oldest);
            }
            self.order.push_back(pid);
        }
        let of_process = self.of_process.entry(pid).or_default();
        if of_process.len() == OF_PROCESS {
            of_process.pop_front();
        }
        let to = Destination { address: line.dst, port, local: line.src.zip(line.sport) };
        of_process.push_back(Opened { to, domain: line.domain.clone() });
    }

    /// Where a request of a process for a host went, if that is beyond doubt.
    pub(super) fn find(&self, pid: u32, host: Option<&str>) -> Option<Destination> {
        let opened = self.of_process.get(&pid)?;
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
    for other in opened {
        if (other.to.address, other.to.port) != (one.address, one.port) {
            return None;
        }
        one.local = match (one.local, other.to.local) {
            (None, known) | (known, None) => known,
            (one, other) if one == other => one,
            _ => None,
        };
    }
    Some(one)
}
