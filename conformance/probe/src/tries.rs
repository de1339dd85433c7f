//! A list of flows out of a file, each tried once on a socket of its own.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde_json::json;

use crate::sys;
use crate::wire::{Mark, echo_request};

/// How long a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How a flow is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Tcp,
    /// `sendto` on an unconnected socket.
    Udp,
    /// `connect`, then `send`.
    UdpConnected,
    Icmp,
    /// A packet through a raw socket: no kernel need know SCTP.
    Sctp,
    /// The same of another protocol.
    Raw(u8),
}

/// A line of the file: `udp 203.0.113.7 53 12345`, where the last is the tag of its datagram. Behind that a connection may
/// have a name that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    way: Way,
    to: SocketAddr,
    tag: u64,
    shows: Option<String>,
}

impl FromStr for Flow {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let bad = || format!("{line:?} is not WAY IP PORT TAG [NAME]");
        let words: Vec<&str> = line.split_whitespace().collect();
        let (words, shows) = match words[..] {
            ["tcp", .., name] if words.len() == 5 => (&words[..4], Some(name.to_owned())),
            _ => (&words[..], None),
        };
        let [way, to, port, tag] = *words else { return Err(bad()) };
        let way = match way {
            "tcp" => Way::Tcp,
            "udp" => Way::Udp,
            "udp-connected" => Way::UdpConnected,
            "icmp" => Way::Icmp,
            "sctp" => Way::Sctp,
            number => Way::Raw(number.parse().map_err(|_| bad())?),
        };
        let to: IpAddr = to.parse().map_err(|_| bad())?;
        let port = port.parse().map_err(|_| bad())?;
        Ok(Self { way, to: SocketAddr::new(to, port), tag: tag.parse().map_err(|_| bad())?, shows })
    }
}

/// Tries them all, and prints a line for each.
pub(crate) fn run(file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    for line in text.lines() {
        let flow: Flow = line.parse()?;
        let outcome = attempt(&flow).map_or_else(|error| sys::errno_name(&error), str::to_owned);
        println!("{}", json!({"outcome": outcome}));
    }
    Ok(())
}

fn attempt(flow: &Flow) -> io::Result<&'static str> {
    let mark = Mark { tag: flow.tag, kind: 0, destination: 0, sequence: 0 };
    match flow.way {
        Way::Tcp => tcp(flow),
        Way::Udp => {
            let fd = sys::socket(flow.to.ip(), libc::SOCK_DGRAM, 0)?;
            sys::send(&fd, &mark.encode(), Some(flow.to)).map(|_| "sent")
        }
        Way::UdpConnected => {
            let fd = sys::socket(flow.to.ip(), libc::SOCK_DGRAM, 0)?;
            sys::connect(&fd, flow.to)?;
            sys::send(&fd, &mark.encode(), None).map(|_| "sent")
        }
        Way::Icmp => {
            let v6 = flow.to.is_ipv6();
            let protocol = if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP };
            raw(flow.to.ip(), protocol, &echo_request(v6, mark))
        }
        Way::Sctp => raw(flow.to.ip(), libc::IPPROTO_SCTP, &sctp_init(flow)),
        Way::Raw(protocol) => raw(flow.to.ip(), protocol.into(), &mark.encode()),
    }
}

fn tcp(flow: &Flow) -> io::Result<&'static str> {
    let fd = sys::socket(flow.to.ip(), libc::SOCK_STREAM, 0)?;
    sys::reset_on_close(&fd);
    match sys::connect(&fd, flow.to) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    if sys::poll([(&fd, libc::POLLOUT)].into_iter(), CONNECT_LIMIT)[0] == 0 {
        return Ok("timeout");
    }
    match (sys::socket_error(&fd), &flow.shows) {
        (None, None) => Ok("connected"),
        (None, Some(name)) => Ok(show(TcpStream::from(fd), name)),
        (Some(error), _) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok("refused"),
        (Some(error), _) => Err(error),
    }
}

/// Shows a name by HTTP, or nothing that can be read: is it answered?
fn show(mut stream: TcpStream, name: &str) -> &'static str {
    let request = match name {
        "none" => "a greeting of no protocol\r\n\r\n".to_owned(),
        name => format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n"),
    };
    let answered = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(CONNECT_LIMIT)))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .and_then(|()| stream.read_exact(&mut vec![0; request.len()]));
    if answered.is_ok() { "answered" } else { "cut" }
}

fn raw(to: IpAddr, protocol: libc::c_int, packet: &[u8]) -> io::Result<&'static str> {
    let fd = sys::socket(to, libc::SOCK_RAW, protocol)?;
    sys::send(&fd, packet, Some(SocketAddr::new(to, 0))).map(|_| "sent")
}

/// An INIT chunk (RFC 9260, section 3.3.2) behind a common header. Its checksum is wrong, so that no stack answers.
fn sctp_init(flow: &Flow) -> [u8; 32] {
    let mut packet = [0; 32];
    // An ephemeral port that hardly two flows share.
    packet[..2].copy_from_slice(&(0x8000 | flow.tag as u16).to_be_bytes());
    packet[2..4].copy_from_slice(&flow.to.port().to_be_bytes());
    packet[12] = 1;
    packet[15] = 20;
    packet[16..24].copy_from_slice(&flow.tag.to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use super::{Flow, Way, attempt, sctp_init};

    #[test]
    fn lines_are_read() {
        let flow: Flow = "udp-connected ::1 53 7".parse().unwrap();
        assert_eq!(
            flow,
            Flow { way: Way::UdpConnected, to: "[::1]:53".parse().unwrap(), tag: 7, shows: None }
        );
        assert_eq!("tcp ::1 80 7 a.b".parse::<Flow>().unwrap().shows.as_deref(), Some("a.b"));
        assert_eq!("47 ::1 0 7".parse::<Flow>().unwrap().way, Way::Raw(47));
        for bad in ["", "udp ::1 53", "udp ::1 x 7", "300 ::1 0 7", "udp name 53 7", "udp ::1 53 7 a.b"] {
            assert!(bad.parse::<Flow>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn outcomes_over_loopback() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(
            attempt(&format!("tcp 127.0.0.1 {} 1", closed.port()).parse().unwrap()).unwrap(),
            "refused"
        );
        assert_eq!(attempt(&"udp 127.0.0.1 9 1".parse().unwrap()).unwrap(), "sent");
    }

    #[test]
    fn sctp_carries_its_ports() {
        let packet = sctp_init(&"sctp ::1 258 7".parse().unwrap());
        assert_eq!(packet[..4], [0x80, 7, 1, 2]);
    }
}
