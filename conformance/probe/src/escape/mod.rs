//! Attempts to get a packet past a policy, one by name. Each does what an attacker with the runtime's default rights can,
//! and tells how every decisive call went: the rig compares that with what arrived.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde_json::json;

use crate::sys::errno_name;

mod bounce;
mod datagram;
mod families;
mod frame;
mod loopback;
mod packet;
mod place;
mod raw;
mod ring;
mod share;
mod sock;
mod stream;
mod ways;
mod xdp;

/// The port of the far end's TCP server.
const TCP_PORT: u16 = 8080;
/// The port of the far end's UDP server.
const UDP_PORT: u16 = 5353;

/// What an attempt is made with.
pub(crate) struct Plan {
    /// Travels in every payload.
    pub(crate) tag: u64,
    /// The pod's own addresses: IPv4, IPv6. So are the others.
    pub(crate) own: [IpAddr; 2],
    /// Another pod's.
    pub(crate) neighbour: [IpAddr; 2],
    /// Where TCP 8080 and UDP 5353 are allowed.
    pub(crate) allowed: [IpAddr; 2],
    /// Where nothing is.
    pub(crate) forbidden: [IpAddr; 2],
    /// A directory shared with another pod.
    pub(crate) directory: Option<String>,
    /// How long an attempt goes on that has no end of its own.
    pub(crate) lasting: Duration,
}

impl Plan {
    fn own(&self, v6: bool) -> IpAddr {
        self.own[usize::from(v6)]
    }

    fn neighbour(&self, v6: bool) -> IpAddr {
        self.neighbour[usize::from(v6)]
    }

    fn allowed(&self, v6: bool) -> IpAddr {
        self.allowed[usize::from(v6)]
    }

    fn forbidden(&self, v6: bool) -> IpAddr {
        self.forbidden[usize::from(v6)]
    }

    /// The forbidden UDP server.
    fn forbidden_udp(&self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.forbidden(v6), UDP_PORT)
    }

    /// The forbidden TCP server.
    fn forbidden_tcp(&self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.forbidden(v6), TCP_PORT)
    }

    /// The allowed UDP server.
    fn allowed_udp(&self, v6: bool) -> SocketAddr {
        SocketAddr::new(self.allowed(v6), UDP_PORT)
    }

    /// Begins with the tag.
    fn payload(&self) -> [u8; 32] {
        let mut bytes = [0x2e; 32];
        bytes[..8].copy_from_slice(&self.tag.to_be_bytes());
        bytes
    }
}

/// Tells the rig how the calls went.
#[derive(Default)]
pub(crate) struct Log {
    made: u32,
}

impl Log {
    /// The call that would let a packet out, had it been allowed.
    fn made<T>(&mut self, what: &str, result: io::Result<T>) -> Option<T> {
        self.made += 1;
        let outcome = result.as_ref().map_or_else(errno_name, |_| "ok".to_owned());
        println!("{}", json!({"made": what, "outcome": outcome}));
        result.ok()
    }
}

/// A preparation that failed: names the call.
fn prepared<T>(what: &str, result: io::Result<T>) -> io::Result<T> {
    result.map_err(|error| io::Error::other(format!("{what}: {}", errno_name(&error))))
}

type Attempt = fn(&Plan, bool, &mut Log) -> io::Result<()>;

fn find(name: &str) -> Option<Attempt> {
    [raw::find, loopback::find, bounce::find, frame::find, datagram::find, ways::find, stream::find]
        .into_iter()
        .chain([families::find, place::find, share::find])
        .find_map(|find: fn(&str) -> Option<Attempt>| find(name))
}

/// Makes the attempt `name`, whose last letter is 6 where it uses IPv6.
pub(crate) fn run(name: &str, plan: &Plan) -> Result<(), String> {
    let base = name.trim_end_matches(['4', '6']);
    let attempt = find(base).ok_or_else(|| format!("unknown attempt {name:?}"))?;
    let mut log = Log::default();
    let result = attempt(plan, name.ends_with('6'), &mut log);
    let why = match result {
        Err(error) => error.to_string(),
        Ok(()) if log.made == 0 => "nothing was attempted".to_owned(),
        Ok(()) => String::new(),
    };
    println!("{}", json!({"attempted": log.made, "stopped": why}));
    Ok(())
}
