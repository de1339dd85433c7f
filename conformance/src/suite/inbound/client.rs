//! The far end as a client of the pod. It remembers its own addresses and ports: what arrives there is a reply, and
//! everything else is the pod's own.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use crate::rig::decode::{ICMP, ICMPV6, TCP, UDP};
use crate::rig::{Count, FarEnd, Key};

/// How long an answer may take.
pub(in crate::suite) const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The types of echo replies.
const ECHO_REPLY: [u16; 2] = [0, 129];

/// What the client has used so far.
#[derive(Debug, Default)]
pub(in crate::suite) struct Client {
    addresses: BTreeSet<IpAddr>,
    tcp_ports: BTreeSet<u16>,
    udp_ports: BTreeSet<u16>,
    queries: u64,
    pings: u64,
}

/// A connection into the pod that stays open.
pub(in crate::suite) struct Held(TcpStream);

impl Held {
    /// Sends a text; what comes back.
    pub(in crate::suite) fn request(&mut self, text: &str) -> Result<String> {
        self.0.write_all(text.as_bytes())?;
        read(&mut self.0)
    }
}

/// Frames of the pod, as the far end saw them.
#[derive(Debug, Default)]
pub(in crate::suite) struct Seen {
    /// Frames that answer nothing.
    pub(in crate::suite) own: u64,
    /// Those, by flow.
    pub(in crate::suite) examples: Vec<String>,
    /// Answers to datagrams.
    pub(in crate::suite) datagrams: u64,
    /// Answers to echo requests.
    pub(in crate::suite) echoes: u64,
}

impl Client {
    /// Opens a connection and says nothing.
    pub(in crate::suite) async fn open(&mut self, far: &FarEnd, to: SocketAddr) -> Result<Held> {
        let stream = far.call(move || connect(to)).await?;
        self.note_tcp(stream.local_addr()?);
        Ok(Held(stream))
    }

    /// Makes connections one after the other, each with a request of its own; how many were answered rightly.
    pub(in crate::suite) async fn requests(
        &mut self,
        far: &FarEnd,
        to: SocketAddr,
        count: u32,
    ) -> Result<u32> {
        let (answered, locals) = far
            .call(move || {
                let mut answered = 0;
                let mut locals = Vec::new();
                for number in 0..count {
                    let mut stream = connect(to)?;
                    locals.push(stream.local_addr()?);
                    let text = format!("request {number}");
                    stream.write_all(text.as_bytes())?;
                    answered += u32::from(read(&mut stream)? == format!("re:{text}"));
                }
                Ok((answered, locals))
            })
            .await?;
        for local in locals {
            self.note_tcp(local);
        }
        Ok(answered)
    }

    /// Sends datagrams from one socket, each after the answer to the one before; how many were answered rightly.
    pub(in crate::suite) async fn queries(
        &mut self,
        far: &FarEnd,
        to: SocketAddr,
        count: u32,
    ) -> Result<u32> {
        let (answered, local) = far
            .call(move || {
                let any: IpAddr =
                    if to.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(to)?;
                socket.set_read_timeout(Some(ANSWER_LIMIT))?;
                let mut answered = 0;
                for number in 0..count {
                    let text = format!("query {number}");
                    socket.send(text.as_bytes())?;
                    let mut bytes = [0; 64];
                    let length = socket.recv(&mut bytes)?;
                    answered += u32::from(bytes[..length] == *format!("re:{text}").as_bytes());
                }
                Ok((answered, socket.local_addr()?))
            })
            .await?;
        self.addresses.insert(local.ip());
        self.udp_ports.insert(local.port());
        self.queries += u64::from(count);
        Ok(answered)
    }

    /// Sends an echo request; whether it was answered.
    pub(in crate::suite) async fn ping(&mut self, far: &FarEnd, to: IpAddr) -> Result<bool> {
        self.pings += 1;
        far.ping(to, ANSWER_LIMIT).await
    }

    /// The client's address of a family.
    pub(in crate::suite) fn address(&self, v6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == v6)
    }

    /// A port of the client that a datagram of the pod's reached.
    pub(in crate::suite) fn udp_port(&self) -> Option<u16> {
        self.udp_ports.first().copied()
    }

    /// How many datagrams were sent.
    pub(in crate::suite) fn queries_sent(&self) -> u64 {
        self.queries
    }

    /// How many echo requests were sent.
    pub(in crate::suite) fn pings_sent(&self) -> u64 {
        self.pings
    }

    /// Tells the pod's answers from its own packets. What goes to `permitted` is not looked at.
    pub(in crate::suite) fn sort(
        &self,
        counts: &HashMap<Key, Count>,
        pod: &[IpAddr],
        permitted: &[IpAddr],
    ) -> Seen {
        let mut seen = Seen::default();
        for (key, count) in counts {
            if !pod.contains(&key.source) || permitted.contains(&key.destination) {
                continue;
            }
            let to_client = self.addresses.contains(&key.destination);
            match key.protocol {
                TCP if to_client && self.tcp_ports.contains(&key.port) && count.attempts.is_empty() => {}
                UDP if to_client && self.udp_ports.contains(&key.port) => seen.datagrams += count.frames,
                ICMP | ICMPV6 if to_client && ECHO_REPLY.contains(&key.port) => seen.echoes += count.frames,
                _ => {
                    seen.own += count.frames;
                    seen.examples.push(format!("{} × {key:?}", count.frames));
                }
            }
        }
        seen.examples.sort();
        seen
    }

    fn note_tcp(&mut self, local: SocketAddr) {
        self.addresses.insert(local.ip());
        self.tcp_ports.insert(local.port());
    }
}

/// A connection from the node's own namespace, as kubelet's probes are: the node's address, and the answer.
pub(in crate::suite) async fn probe_from_node(to: SocketAddr) -> Result<(IpAddr, String)> {
    tokio::task::spawn_blocking(move || {
        let mut stream = connect(to)?;
        stream.write_all(b"probe")?;
        Ok((stream.local_addr()?.ip(), read(&mut stream)?))
    })
    .await?
}

fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    Ok(stream)
}

/// One chunk: the server answers each request with one write.
fn read(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = [0; 256];
    let length = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::net::IpAddr;
    use std::time::Instant;

    use super::Client;
    use crate::rig::decode::{ICMP, TCP, UDP};
    use crate::rig::{Count, Key};

    #[test]
    fn only_answers_to_the_clients_ports_are_answers() {
        let [pod, far, stranger]: [IpAddr; 3] =
            ["10.88.0.2", "192.0.2.2", "198.51.100.10"].map(|text| text.parse().unwrap());
        let mut client = Client::default();
        client.note_tcp((far, 40000).into());
        client.udp_ports.insert(40001);
        let now = Instant::now();
        let entry = |destination, protocol, port, syn: bool| {
            let key = Key { source: pod, destination, protocol, port, tag: 0, kind: 0 };
            let attempts = if syn { HashSet::from([(7000, 1)]) } else { HashSet::new() };
            (key, Count { frames: 2, attempts, first: now, last: now })
        };
        let seen = |entries: Vec<_>| client.sort(&HashMap::from_iter(entries), &[pod], &[]);
        let answers = seen(vec![
            entry(far, TCP, 40000, false),
            entry(far, UDP, 40001, false),
            entry(far, ICMP, 0, false),
        ]);
        assert_eq!((answers.own, answers.datagrams, answers.echoes), (0, 2, 2));
        let own = seen(vec![
            entry(far, TCP, 40001, false),
            entry(far, TCP, 40000, true),
            entry(far, UDP, 40000, false),
            entry(far, ICMP, 8, false),
            entry(stranger, ICMP, 0, false),
        ]);
        // The second replaces nothing: its key differs from all others.
        assert_eq!((own.own, own.examples.len()), (10, 5));
    }
}
