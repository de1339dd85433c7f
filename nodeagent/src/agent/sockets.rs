//! The sockets of a pod, by `sock_diag(7)` in its network namespace.
//!
//! Two things are asked for. After an edit, the pod's own connections that are now denied are ended, so that nobody
//! waits on a flow that cannot go on; which connections are its own is read from the verdicts that the kernel keeps with
//! them. And of a pod that is older than Sluice, connections that its listeners accepted are counted as replies.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::libc;
use nix::sched::{CloneFlags, setns};
use sluice_abi::{FlowValue, direction};

// Message types and attributes: include/uapi/linux/{sock_diag,inet_diag}.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;
const NLA_F_NESTED: u16 = 1 << 15;
/// What of an attribute's type is the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

const NLMSG_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// `struct inet_diag_req_v2`.
const REQUEST: usize = 56;
/// `struct inet_diag_msg`.
const MESSAGE: usize = 72;
/// Where the socket's identity starts in both: family, protocol, extensions and states come before it, or family,
/// state, timer and retransmits.
const REQUEST_ID: usize = 8;
const MESSAGE_ID: usize = 4;
/// `struct inet_diag_sockid`.
const ID: usize = 48;

/// TCP states (`include/net/tcp_states.h`).
const TCP_LISTEN: u8 = 10;
const TCP_TIME_WAIT: u8 = 6;

/// A TCP socket.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    family: u8,
    id: [u8; ID],
    state: u8,
    /// The pod's side.
    pub(super) local: SocketAddr,
    /// The other side.
    pub(super) remote: SocketAddr,
    /// Whether the kernel judged it as the pod's own flow or as a reply; none if it judged nothing on it.
    pub(super) is_own: Option<bool>,
}

impl Socket {
    /// Does it wait for connections?
    pub(super) fn is_listener(&self) -> bool {
        self.state == TCP_LISTEN
    }
}

/// Ends the connections of a namespace for which `is_denied` says so. Says how many.
pub(super) fn destroy(
    netns: &Path,
    flows: RawFd,
    is_denied: impl Fn(&Socket) -> bool + Sync,
) -> io::Result<usize> {
    in_namespace(netns, || {
        let diag = Diag::open()?;
        let mut ended = 0;
        for socket in diag.dump(flows)?.iter().filter(|socket| is_denied(socket)) {
            match diag.destroy(socket) {
                Ok(()) => ended += 1,
                // It ended by itself meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    })
}

/// The connections of a namespace that its listeners accepted.
pub(super) fn accepted(netns: &Path, flows: RawFd) -> io::Result<Vec<Socket>> {
    in_namespace(netns, || {
        let sockets = Diag::open()?.dump(flows)?;
        let ports: Vec<u16> =
            sockets.iter().filter(|socket| socket.is_listener()).map(|socket| socket.local.port()).collect();
        let is_accepted = |socket: &Socket| !socket.is_listener() && ports.contains(&socket.local.port());
        Ok(sockets.into_iter().filter(is_accepted).collect())
    })
}

/// Runs in a thread of its own, which does not come back from the namespace.
fn in_namespace<T: Send>(netns: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let netns = File::open(netns)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// A socket of `sock_diag(7)`.
struct Diag(OwnedFd);

impl Diag {
    fn open() -> io::Result<Self> {
        // SAFETY: takes numbers only; the descriptor is ours alone.
        let fd = unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_SOCK_DIAG)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Every TCP socket of the namespace.
    fn dump(&self, flows: RawFd) -> io::Result<Vec<Socket>> {
        let mut sockets = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let mut request = [0; REQUEST];
            request[0] = family;
            request[1] = libc::IPPROTO_TCP as u8;
            request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
            let map = attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &flows.to_ne_bytes());
            let storages = attribute(INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED, &map);
            let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
            self.send(SOCK_DIAG_BY_FAMILY, flags, &[&request[..], &storages].concat())?;
            self.receive(|message| sockets.extend(read_socket(message)))?;
        }
        Ok(sockets)
    }

    fn destroy(&self, socket: &Socket) -> io::Result<()> {
        let mut request = [0; REQUEST];
        request[0] = socket.family;
        request[1] = libc::IPPROTO_TCP as u8;
        request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        request[REQUEST_ID..].copy_from_slice(&socket.id);
        self.send(SOCK_DESTROY, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, &request)?;
        self.receive(|_| {})
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(NLMSG_HEADER + body.len());
        message.extend(((NLMSG_HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend(body);
        // SAFETY: the buffer lives through the call and is as long as said.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Gives each message of the answer to `each`, up to its end.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            // SAFETY: the buffer lives through the call and is as long as said.
            let length =
                unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
            let mut rest = &buffer[..length];
            while let Some((kind, body, after)) = next_message(rest) {
                match i32::from(kind) {
                    libc::NLMSG_DONE => return Ok(()),
                    libc::NLMSG_ERROR => {
                        let code =
                            body.first_chunk().map_or(-libc::EBADMSG, |bytes| i32::from_ne_bytes(*bytes));
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(body),
                }
                rest = after;
            }
        }
    }
}

/// Kind and body of the first message, and what follows it.
fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(NLMSG_HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
fn find(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let found = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        if found == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn read_socket(message: &[u8]) -> Option<Socket> {
    let (family, state) = (*message.first()?, *message.get(1)?);
    let id: [u8; ID] = *message.get(MESSAGE_ID..)?.first_chunk()?;
    let address = |at: usize| -> IpAddr {
        if i32::from(family) == libc::AF_INET {
            Ipv4Addr::new(id[at], id[at + 1], id[at + 2], id[at + 3]).into()
        } else {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&id[at..at + 16]);
            IpAddr::from(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let storages = message.get(MESSAGE..).and_then(|attributes| find(attributes, INET_DIAG_SK_BPF_STORAGES));
    // The list holds one storage, which holds its value.
    let value = storages
        .and_then(|list| find(list, 1))
        .and_then(|storage| find(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE));
    let direction = value.and_then(|value| value.get(std::mem::offset_of!(FlowValue, direction)).copied());
    if state == TCP_TIME_WAIT {
        return None;
    }
    Some(Socket {
        family,
        id,
        state,
        local: SocketAddr::new(address(4), port(0)),
        remote: SocketAddr::new(address(20), port(2)),
        is_own: direction.map(|direction| direction == direction::OWN),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let bytes =
            [attribute(1, &[1, 2, 3]), attribute(INET_DIAG_SK_BPF_STORAGES | NLA_F_NESTED, &[9])].concat();
        assert_eq!(find(&bytes, 20), Some(&[9][..]));
        assert_eq!(find(&bytes, 7), None);
    }

    #[test]
    fn damaged_messages_end_the_reading() {
        let whole = [&24_u32.to_ne_bytes()[..], &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[7; 8]].concat();
        assert_eq!(next_message(&whole), Some((20, &[7; 8][..], &[][..])));
        for end in 0..whole.len() {
            assert_eq!(next_message(&whole[..end]), None);
        }
        assert!(next_message(&[4, 0, 0, 0, 0, 0]).is_none(), "shorter than its own header");
        assert!(find(&[2, 0, 1, 0], 1).is_none(), "shorter than its own header");
    }
}
