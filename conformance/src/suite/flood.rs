//! What the probe's `flood` reports, and how it is compared with what arrived.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::rig::decode::{ICMP, ICMPV6, TCP, UDP};
use crate::rig::net::Destinations;
use crate::rig::{Container, ContainerSpec, Count, Key};

/// The port of the far end's UDP server.
pub const UDP_PORT: u16 = 5353;
/// The port of the far end's TCP server.
pub const TCP_PORT: u16 = 8080;

/// The ways of sending.
pub const PROTOCOLS: [&str; 4] = ["udp", "udp-connected", "tcp", "icmp"];

/// One line of the probe's report.
#[derive(Clone, Debug, Deserialize)]
pub struct Line {
    /// Of the run.
    pub tag: u64,
    /// 4 or 6.
    pub family: u8,
    /// One of [`PROTOCOLS`].
    pub protocol: String,
    /// `allowed` or `forbidden`.
    pub destination: String,
    /// How often it tried.
    pub attempted: u64,
    /// How often a datagram was taken by the kernel or a connection came about.
    pub ok: u64,
    /// Failures by errno.
    pub errors: BTreeMap<String, u64>,
    /// Answers that came back.
    pub replies: u64,
}

impl Line {
    /// Whether it went to the allowed destination.
    pub fn is_allowed(&self) -> bool {
        self.destination == "allowed"
    }

    /// For messages: `IPv4 udp to allowed`.
    pub fn label(&self) -> String {
        format!("IPv{} {} to {}", self.family, self.protocol, self.destination)
    }

    /// Where it sent to.
    pub fn address(&self, destinations: &Destinations) -> IpAddr {
        let of_family = if self.is_allowed() { destinations.allowed } else { destinations.forbidden };
        of_family[usize::from(self.family == 6)]
    }
}

/// A container that floods.
pub fn container(
    name: &str,
    tag: u64,
    rounds: u32,
    seconds: f64,
    destinations: &Destinations,
) -> ContainerSpec {
    let Destinations { allowed, forbidden } = destinations;
    let options = [
        ("--tag", tag.to_string()),
        ("--rounds", rounds.to_string()),
        ("--seconds", seconds.to_string()),
        ("--allowed4", allowed[0].to_string()),
        ("--allowed6", allowed[1].to_string()),
        ("--forbidden4", forbidden[0].to_string()),
        ("--forbidden6", forbidden[1].to_string()),
        ("--udp-port", UDP_PORT.to_string()),
        ("--tcp-port", TCP_PORT.to_string()),
    ];
    let options = options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
    ContainerSpec::new(name, std::iter::once("flood".to_owned()).chain(options))
}

/// Reads the report of a container that has ended: all 16 lines.
pub async fn report(container: &Container) -> Result<Vec<Line>> {
    container.succeed().await?;
    let lines: Vec<Line> = container
        .json()?
        .into_iter()
        .map(serde_json::from_value)
        .collect::<Result<_, _>>()
        .context("the flood's report")?;
    ensure!(lines.len() == 16, "a flood reported {} lines of 16", lines.len());
    Ok(lines)
}

/// What arrived at the far end, by what the suites ask for.
pub struct Arrivals {
    counts: HashMap<Key, Count>,
}

impl Arrivals {
    /// From the counter's figures.
    pub fn new(counts: HashMap<Key, Count>) -> Self {
        Self { counts }
    }

    /// How much of a line's traffic arrived: datagrams by their tag, connections as attempts from the pod's addresses.
    ///
    /// Connections carry no tag, so for TCP this covers all floods of the pod.
    pub fn of_line(&self, line: &Line, sources: &[IpAddr], destinations: &Destinations) -> u64 {
        let to = line.address(destinations);
        let (protocol, port, kind) = match (line.protocol.as_str(), line.family) {
            ("udp", _) => (UDP, UDP_PORT, 0),
            ("udp-connected", _) => (UDP, UDP_PORT, 1),
            ("icmp", 4) => (ICMP, 8, 2),
            ("icmp", _) => (ICMPV6, 128, 2),
            _ => (TCP, TCP_PORT, 0),
        };
        let tag = if protocol == TCP { 0 } else { line.tag };
        sources
            .iter()
            .filter_map(|source| {
                let key = Key { source: *source, destination: to, protocol, port, tag, kind };
                self.counts.get(&key)
            })
            .map(|count| if protocol == TCP { count.attempts.len() as u64 } else { count.frames })
            .sum()
    }

    /// Everything from these addresses to any destination but these: frames, with an example of each flow.
    pub fn elsewhere(&self, sources: &HashSet<IpAddr>, allowed: &[IpAddr]) -> (u64, Vec<String>) {
        let mut frames = 0;
        let mut examples = Vec::new();
        for (key, count) in &self.counts {
            if sources.contains(&key.source) && !allowed.contains(&key.destination) {
                frames += count.frames;
                examples.push(format!("{} × {key:?}", count.frames));
            }
        }
        examples.sort();
        (frames, examples)
    }

    /// Frames whose source is none of these: nothing that a pod sent under its own name.
    pub fn from_strangers(&self, known: impl Fn(IpAddr) -> bool) -> Vec<String> {
        self.counts.keys().filter(|key| !known(key.source)).map(|key| format!("{key:?}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap, HashSet};
    use std::time::Instant;

    use super::{Arrivals, Line, TCP_PORT, UDP_PORT};
    use crate::rig::decode::{TCP, UDP};
    use crate::rig::net::DESTINATIONS;
    use crate::rig::{Count, Key};

    #[test]
    fn arrivals_are_found_by_tag_and_by_attempt() {
        let pod = "10.88.0.2".parse().unwrap();
        let now = Instant::now();
        let [allowed, forbidden] = [DESTINATIONS.allowed[0], DESTINATIONS.forbidden[0]];
        let key =
            |protocol, port, tag, destination| Key { source: pod, destination, protocol, port, tag, kind: 0 };
        let count = |frames, attempts| Count { frames, attempts, first: now, last: now };
        let arrivals = Arrivals::new(HashMap::from([
            (key(UDP, UDP_PORT, 7, allowed), count(3, HashSet::new())),
            (key(UDP, UDP_PORT, 8, allowed), count(4, HashSet::new())),
            (key(TCP, TCP_PORT, 0, forbidden), count(9, HashSet::from([(1, 1), (1, 2)]))),
        ]));
        let line = |protocol: &str, destination: &str| Line {
            tag: 7,
            family: 4,
            protocol: protocol.to_owned(),
            destination: destination.to_owned(),
            attempted: 3,
            ok: 3,
            errors: BTreeMap::new(),
            replies: 0,
        };
        assert_eq!(arrivals.of_line(&line("udp", "allowed"), &[pod], &DESTINATIONS), 3);
        assert_eq!(arrivals.of_line(&line("tcp", "forbidden"), &[pod], &DESTINATIONS), 2);
        assert_eq!(arrivals.of_line(&line("icmp", "allowed"), &[pod], &DESTINATIONS), 0);
        let (frames, examples) = arrivals.elsewhere(&HashSet::from([pod]), &DESTINATIONS.allowed);
        assert_eq!((frames, examples.len()), (9, 1));
        assert!(arrivals.from_strangers(|source| source == pod).is_empty());
    }
}
