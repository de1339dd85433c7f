//! Sends to an allowed and a forbidden destination from the first instruction on, in every way that a pod may use
//! without special privileges, and tells how each of them went.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::sys;
use crate::wire::{Mark, echo_reply, echo_request};

/// How long an allowed connection may take before it counts as failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the last replies are waited for.
const REPLY_LIMIT: Duration = Duration::from_secs(1);
/// A forbidden connection that the kernel lets wait is given up after this.
const FORBIDDEN_LIMIT: Duration = Duration::from_millis(200);
/// Datagrams that may be unanswered before the sender waits a little. A queue of the kernel holds 1,000 packets.
const WINDOW: u64 = 96;
/// Connections that may be open at once.
const OPEN_CONNECTIONS: usize = 128;

/// What to send where.
pub(crate) struct Plan {
    pub(crate) tag: u64,
    pub(crate) rounds: u32,
    /// IPv4, IPv6.
    pub(crate) allowed: [IpAddr; 2],
    /// IPv4, IPv6.
    pub(crate) forbidden: [IpAddr; 2],
    pub(crate) udp_port: u16,
    pub(crate) tcp_port: u16,
    /// After the rounds, go on with one at every pace until this has passed since the start, or SIGTERM came.
    pub(crate) lasting: Duration,
    pub(crate) pace: Duration,
}

/// The ways of sending. The numbers of the datagram kinds travel in the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// `sendto` on an unconnected socket.
    Udp = 0,
    /// `connect`, then `send`.
    UdpConnected = 1,
    /// An echo request through a raw socket.
    Icmp = 2,
    Tcp = 3,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Udp, Self::UdpConnected, Self::Tcp, Self::Icmp];

    fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::UdpConnected => "udp-connected",
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
        }
    }
}

/// One of the 16 lines of the report: (IPv6, allowed, kind).
type Line = (bool, bool, Kind);

#[derive(Default)]
struct Tally {
    attempted: u64,
    ok: u64,
    errors: BTreeMap<String, u64>,
    replies: u64,
}

/// A connection that is being made.
struct Pending {
    fd: OwnedFd,
    line: Line,
    since: Instant,
}

struct Flood<'a> {
    plan: &'a Plan,
    sequence: u32,
    lines: BTreeMap<Line, Tally>,
    /// Unconnected UDP and raw ICMP sockets by (IPv6, is ICMP), and connected UDP ones by line.
    shared: BTreeMap<(bool, bool), OwnedFd>,
    connected: BTreeMap<Line, OwnedFd>,
    pending: Vec<Pending>,
}

/// Runs the plan and prints the report.
pub(crate) fn run(plan: &Plan) {
    let start = Instant::now();
    sys::note_termination();
    let mut flood = Flood::new(plan);
    for _ in 0..plan.rounds {
        flood.round();
    }
    while start.elapsed() < plan.lasting && !sys::is_terminated() {
        flood.pace(plan.pace);
        flood.round();
    }
    flood.finish();
    flood.report();
}

impl<'a> Flood<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            plan,
            sequence: 0,
            lines: BTreeMap::new(),
            shared: BTreeMap::new(),
            connected: BTreeMap::new(),
            pending: Vec::new(),
        }
    }

    fn round(&mut self) {
        for v6 in [false, true] {
            for allowed in [false, true] {
                for kind in Kind::ALL {
                    self.send((v6, allowed, kind));
                }
            }
        }
        if self.sequence == 1 {
            sys::lift_file_limit();
        }
        self.sequence += 1;
        self.collect();
        let wait_until = Instant::now() + Duration::from_millis(50);
        while (self.unanswered() > WINDOW || self.pending.len() > OPEN_CONNECTIONS)
            && Instant::now() < wait_until
        {
            self.wait(Duration::from_millis(10));
            self.collect();
        }
    }

    fn address(&self, (v6, allowed, kind): Line) -> SocketAddr {
        let of_family = if allowed { self.plan.allowed } else { self.plan.forbidden };
        let port = match kind {
            Kind::Udp | Kind::UdpConnected => self.plan.udp_port,
            Kind::Tcp => self.plan.tcp_port,
            Kind::Icmp => 0,
        };
        SocketAddr::new(of_family[usize::from(v6)], port)
    }

    fn send(&mut self, line: Line) {
        let outcome = self.attempt(line);
        let tally = self.lines.entry(line).or_default();
        tally.attempted += 1;
        match outcome {
            Ok(()) if line.2 != Kind::Tcp => tally.ok += 1,
            Ok(()) => {} // counted once it is connected
            Err(error) => *tally.errors.entry(sys::errno_name(&error)).or_default() += 1,
        }
    }

    fn attempt(&mut self, line: Line) -> io::Result<()> {
        let (v6, allowed, kind) = line;
        let to = self.address(line);
        let mark = Mark {
            tag: self.plan.tag,
            kind: kind as u8,
            destination: u8::from(allowed),
            sequence: self.sequence,
        };
        match kind {
            Kind::Udp => {
                let fd = shared(&mut self.shared, to.ip(), false)?;
                sys::send(fd, &mark.encode(), Some(to)).map(drop)
            }
            Kind::Icmp => {
                let fd = shared(&mut self.shared, to.ip(), true)?;
                sys::send(fd, &echo_request(v6, mark), Some(to)).map(drop)
            }
            Kind::UdpConnected => {
                let fd = match self.connected.entry(line) {
                    Entry::Occupied(entry) => entry.into_mut(),
                    Entry::Vacant(entry) => {
                        let fd = sys::socket(to.ip(), libc::SOCK_DGRAM, 0)?;
                        sys::connect(&fd, to)?;
                        entry.insert(fd)
                    }
                };
                sys::send(fd, &mark.encode(), None).map(drop)
            }
            Kind::Tcp => {
                let fd = sys::socket(to.ip(), libc::SOCK_STREAM, 0)?;
                sys::reset_on_close(&fd);
                match sys::connect(&fd, to) {
                    Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
                    _ => self.pending.push(Pending { fd, line, since: Instant::now() }),
                }
                Ok(())
            }
        }
    }

    /// Takes in what has arrived, without waiting.
    fn collect(&mut self) {
        let mut bytes = [0; 256];
        for (&(v6, icmp), fd) in &self.shared {
            while let Ok(length) = sys::receive(fd, &mut bytes) {
                let mark =
                    if icmp { echo_reply(v6, &bytes[..length]) } else { Mark::decode(&bytes[..length]) };
                if let Some(mark) = mark.filter(|mark| mark.tag == self.plan.tag) {
                    let kind = if icmp { Kind::Icmp } else { Kind::Udp };
                    self.lines.entry((v6, mark.destination == 1, kind)).or_default().replies += 1;
                }
            }
        }
        for (line, fd) in &self.connected {
            while sys::receive(fd, &mut bytes).is_ok() {
                self.lines.entry(*line).or_default().replies += 1;
            }
        }
        if self.pending.is_empty() {
            return;
        }
        let events = sys::poll(self.pending.iter().map(|p| (&p.fd, libc::POLLOUT)), Duration::ZERO);
        let mut events = events.into_iter();
        let lines = &mut self.lines;
        self.pending.retain(|pending| {
            let tally = lines.entry(pending.line).or_default();
            if events.next().unwrap_or(0) != 0 {
                match sys::socket_error(&pending.fd) {
                    None => tally.ok += 1,
                    Some(error) => *tally.errors.entry(sys::errno_name(&error)).or_default() += 1,
                }
                return false;
            }
            let limit = if pending.line.1 { CONNECT_LIMIT } else { FORBIDDEN_LIMIT };
            if pending.since.elapsed() < limit {
                return true;
            }
            *tally.errors.entry("TIMEOUT".to_owned()).or_default() += 1;
            false
        });
    }

    /// Waits until something may be collected.
    fn wait(&self, limit: Duration) {
        let readable = self.shared.values().chain(self.connected.values()).map(|fd| (fd, libc::POLLIN));
        let writable = self.pending.iter().map(|pending| (&pending.fd, libc::POLLOUT));
        sys::poll(readable.chain(writable), limit);
    }

    /// Lets `span` pass, collecting meanwhile.
    fn pace(&mut self, span: Duration) {
        let end = Instant::now() + span;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(left);
            self.collect();
        }
    }

    /// Datagrams to the allowed destination that went out and were not answered yet.
    fn unanswered(&self) -> u64 {
        self.lines
            .iter()
            .filter(|((_, allowed, kind), _)| *allowed && *kind != Kind::Tcp)
            .map(|(_, tally)| tally.ok.saturating_sub(tally.replies))
            .sum()
    }

    /// Waits for the connections and the replies that are still out.
    fn finish(&mut self) {
        let start = Instant::now();
        while !self.pending.is_empty() || (self.unanswered() > 0 && start.elapsed() < REPLY_LIMIT) {
            self.wait(Duration::from_millis(20));
            self.collect();
        }
    }

    fn report(&self) {
        for ((v6, allowed, kind), tally) in &self.lines {
            println!(
                "{}",
                json!({
                    "tag": self.plan.tag,
                    "family": if *v6 { 6 } else { 4 },
                    "protocol": kind.name(),
                    "destination": if *allowed { "allowed" } else { "forbidden" },
                    "attempted": tally.attempted,
                    "ok": tally.ok,
                    "errors": tally.errors,
                    "replies": tally.replies,
                })
            );
        }
    }
}

/// The unconnected socket for a family, made when it is first needed.
fn shared(sockets: &mut BTreeMap<(bool, bool), OwnedFd>, to: IpAddr, icmp: bool) -> io::Result<&OwnedFd> {
    match sockets.entry((to.is_ipv6(), icmp)) {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => {
            let (kind, protocol) = match (icmp, to.is_ipv6()) {
                (false, _) => (libc::SOCK_DGRAM, 0),
                (true, false) => (libc::SOCK_RAW, libc::IPPROTO_ICMP),
                (true, true) => (libc::SOCK_RAW, libc::IPPROTO_ICMPV6),
            };
            Ok(entry.insert(sys::socket(to, kind, protocol)?))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv6Addr, TcpListener, UdpSocket};
    use std::time::Duration;

    use super::{Flood, Kind, Plan};

    #[test]
    fn a_flood_over_loopback_is_counted_and_answered() {
        let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let streams = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let addresses = ["127.0.0.1", "::1"].map(|text| text.parse::<IpAddr>().unwrap());
        let plan = Plan {
            tag: 42,
            rounds: 3,
            allowed: addresses,
            forbidden: addresses,
            udp_port: datagrams.local_addr().unwrap().port(),
            tcp_port: streams.local_addr().unwrap().port(),
            lasting: Duration::ZERO,
            pace: Duration::ZERO,
        };
        std::thread::spawn(move || {
            let mut bytes = [0; 64];
            while let Ok((length, peer)) = datagrams.recv_from(&mut bytes) {
                datagrams.send_to(&bytes[..length], peer).unwrap();
            }
        });
        let mut flood = Flood::new(&plan);
        for _ in 0..plan.rounds {
            flood.round();
        }
        flood.finish();
        assert_eq!(flood.lines.len(), 16);
        for (line, tally) in &flood.lines {
            assert_eq!(tally.attempted, 3, "{line:?}");
            match line.2 {
                // Raw sockets need a capability, which a plain test run does not have.
                Kind::Icmp => assert_eq!(tally.ok + tally.errors.values().sum::<u64>(), 3, "{line:?}"),
                Kind::Tcp => assert_eq!(tally.ok, 3, "{line:?}: {:?}", tally.errors),
                Kind::Udp | Kind::UdpConnected => {
                    assert_eq!((tally.ok, tally.replies), (3, 3), "{line:?}: {:?}", tally.errors);
                }
            }
        }
    }
}
