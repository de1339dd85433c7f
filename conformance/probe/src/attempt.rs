//! Single attempts, each reported with its outcome.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::sys;
use crate::wire::{Mark, echo_reply, echo_request};

/// What to attempt.
pub(crate) struct Attempt {
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) count: u32,
    pub(crate) timeout: Duration,
}

/// Runs the attempts one after the other and prints a line for each.
pub(crate) fn run(attempt: &Attempt) {
    for number in 0..attempt.count {
        let start = Instant::now();
        let outcome = match attempt.protocol.as_str() {
            "tcp" => tcp(attempt),
            "udp" => udp(attempt, number),
            "icmp" => icmp(attempt, number),
            _ => Err(io::Error::from_raw_os_error(libc::EPROTONOSUPPORT)),
        };
        println!(
            "{}",
            json!({
                "to": attempt.to.to_string(),
                "port": attempt.port,
                "protocol": attempt.protocol,
                "outcome": outcome.map_or_else(|error| sys::errno_name(&error), str::to_owned),
                "ms": start.elapsed().as_secs_f64() * 1e3,
            })
        );
    }
}

fn mark(number: u32) -> Mark {
    Mark { tag: u64::from(std::process::id()), kind: 0, destination: 0, sequence: number }
}

fn tcp(attempt: &Attempt) -> io::Result<&'static str> {
    let fd = sys::socket(attempt.to, libc::SOCK_STREAM, 0)?;
    match sys::connect(&fd, SocketAddr::new(attempt.to, attempt.port)) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
        _ => {}
    }
    if sys::poll([(&fd, libc::POLLOUT)].into_iter(), attempt.timeout)[0] == 0 {
        return Ok("timeout");
    }
    sys::socket_error(&fd).map_or(Ok("connected"), Err)
}

fn udp(attempt: &Attempt, number: u32) -> io::Result<&'static str> {
    let fd = sys::socket(attempt.to, libc::SOCK_DGRAM, 0)?;
    sys::send(&fd, &mark(number).encode(), Some(SocketAddr::new(attempt.to, attempt.port)))?;
    if sys::poll([(&fd, libc::POLLIN)].into_iter(), attempt.timeout)[0] == 0 {
        return Ok("no-reply");
    }
    sys::receive(&fd, &mut [0; 64]).map(|_| "reply")
}

fn icmp(attempt: &Attempt, number: u32) -> io::Result<&'static str> {
    let v6 = attempt.to.is_ipv6();
    let fd =
        sys::socket(attempt.to, libc::SOCK_RAW, if v6 { libc::IPPROTO_ICMPV6 } else { libc::IPPROTO_ICMP })?;
    sys::send(&fd, &echo_request(v6, mark(number)), Some(SocketAddr::new(attempt.to, 0)))?;
    let end = Instant::now() + attempt.timeout;
    let mut bytes = [0; 256];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok("no-reply");
        }
        if sys::poll([(&fd, libc::POLLIN)].into_iter(), left)[0] != 0 {
            let length = sys::receive(&fd, &mut bytes)?;
            if echo_reply(v6, &bytes[..length]) == Some(mark(number)) {
                return Ok("reply");
            }
        }
    }
}
