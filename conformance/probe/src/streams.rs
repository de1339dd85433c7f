//! Long flows: each sends without end until its peer stops it or its socket is gone, and then tells how it went.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use crate::sys;

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of each send.
const CHUNK: [u8; 256] = [0x5a; 256];

/// A flow to open: `tcp/203.0.113.10`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    tcp: bool,
    to: IpAddr,
}

impl FromStr for Flow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, to) = text.split_once('/').ok_or_else(|| format!("{text:?} is not PROTO/IP"))?;
        let tcp = match protocol {
            "tcp" => true,
            "udp" => false,
            other => return Err(format!("unknown protocol {other:?}")),
        };
        Ok(Self { tcp, to: to.parse().map_err(|_| format!("{to:?} is no address"))? })
    }
}

/// How a flow went.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    /// Bytes of a connection, or datagrams, that the kernel took.
    sent: u64,
    /// Datagrams that it did not take, by errno.
    errors: BTreeMap<String, u64>,
}

/// Runs all flows, separated by blanks, at once, with a pause between two sends.
pub(crate) fn run(flows: &str, port: u16, pace: Duration) -> Result<(), String> {
    let flows = flows.split_whitespace().map(str::parse).collect::<Result<Vec<Flow>, _>>()?;
    std::thread::scope(|scope| {
        for flow in &flows {
            scope.spawn(move || {
                let mut tally = Tally::default();
                let end = match stream(flow, port, pace, &mut tally) {
                    Ok(()) => "stopped".to_owned(),
                    Err(error) => sys::errno_name(&error),
                };
                let flow = format!("{}/{}", if flow.tcp { "tcp" } else { "udp" }, flow.to);
                let line = json!({"flow": flow, "sent": tally.sent, "errors": tally.errors, "end": end});
                // One write for each line, whatever the other threads do.
                let _ = io::stdout().write_all(format!("{line}\n").as_bytes());
            });
        }
    });
    Ok(())
}

fn stream(flow: &Flow, port: u16, pace: Duration, tally: &mut Tally) -> io::Result<()> {
    let kind = if flow.tcp { libc::SOCK_STREAM } else { libc::SOCK_DGRAM };
    let fd = sys::socket(flow.to, kind, 0)?;
    match sys::connect(&fd, SocketAddr::new(flow.to, port)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    if sys::poll([(&fd, libc::POLLOUT)].into_iter(), CONNECT_LIMIT)[0] == 0 {
        return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
    }
    if let Some(error) = sys::socket_error(&fd) {
        return Err(error);
    }
    loop {
        match sys::send(&fd, &CHUNK, None) {
            Ok(taken) => tally.sent += if flow.tcp { taken as u64 } else { 1 },
            // A full buffer: tried again after the pace.
            Err(error) if flow.tcp && error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if flow.tcp => return Err(error),
            Err(error) => *tally.errors.entry(sys::errno_name(&error)).or_default() += 1,
        }
        if stopped(&fd, pace)? {
            return Ok(());
        }
    }
}

/// Waits for the pace. Whether the peer closed the connection or sent a datagram meanwhile.
fn stopped(fd: &OwnedFd, pace: Duration) -> io::Result<bool> {
    sys::poll([(fd, libc::POLLIN)].into_iter(), pace);
    match sys::receive(fd, &mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    use super::{CHUNK, Flow, Tally, stream};

    const PACE: std::time::Duration = std::time::Duration::from_millis(1);
    const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

    #[test]
    fn a_connection_ends_when_its_peer_stops_it() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let peer = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            peer.read_exact(&mut [0; 1]).unwrap();
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let mut rest = Vec::new();
            1 + peer.read_to_end(&mut rest).unwrap()
        });
        let mut tally = Tally::default();
        stream(&Flow { tcp: true, to: LOCAL.into() }, port, PACE, &mut tally).unwrap();
        assert_eq!(tally.sent, peer.join().unwrap() as u64);
    }

    #[test]
    fn datagrams_end_with_an_answer() {
        let peer = UdpSocket::bind((LOCAL, 0)).unwrap();
        let port = peer.local_addr().unwrap().port();
        let answered = std::thread::spawn(move || {
            let (length, from) = peer.recv_from(&mut [0; 512]).unwrap();
            peer.send_to(b"stop", from).unwrap();
            length
        });
        let mut tally = Tally::default();
        stream(&Flow { tcp: false, to: LOCAL.into() }, port, PACE, &mut tally).unwrap();
        assert_eq!(answered.join().unwrap(), CHUNK.len());
        assert!(tally.sent > 0 && tally.errors.is_empty(), "{tally:?}");
    }

    #[test]
    fn flows_are_read() {
        assert_eq!("udp/::1".parse(), Ok(Flow { tcp: false, to: "::1".parse().unwrap() }));
        assert!("sctp/::1".parse::<Flow>().is_err());
        assert!("tcp".parse::<Flow>().is_err());
    }
}
