//! The sockets of a pod, by `sock_diag(7)` in its network namespace.
//!
//! Two things are asked for. After an edit, the pod's own connections that are now denied are ended, so that nobody
//! waits on a flow that cannot go on; which connections are its own is read from the verdicts that the kernel keeps with
//! them, and so are the names that they go by. And of a pod that is older than Sluice, connections that its listeners
//! accepted are counted as replies.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::libc;
use sluice_abi::{BoundValue, FlowValue, ShownValue, direction, shown, state as flow_state};

use crate::datapath::{FlowMaps, Storage, name_text};
use crate::netlink::{NLA_F_NESTED, Netlink, attribute, attributes, find, in_namespace};

// Message types and attributes: include/uapi/linux/{sock_diag,inet_diag}.h.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const INET_DIAG_REQ_SK_BPF_STORAGES: u16 = 2;
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD: u16 = 1;
const INET_DIAG_SK_BPF_STORAGES: u16 = 20;
const SK_DIAG_BPF_STORAGE_MAP_ID: u16 = 2;
const SK_DIAG_BPF_STORAGE_MAP_VALUE: u16 = 3;

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
    /// The slot of the endpoint whose own flow the kernel judged it to be; none for a reply, and if it judged nothing.
    pub(super) own_of: Option<u32>,
    /// The slot word under which the kernel denied its flow, if it did the last time that it sent something.
    pub(super) denied_under: Option<u64>,
    /// The name by which the kernel allowed its flow.
    pub(super) bound: Option<String>,
    /// What its flow showed: a name, or that there is none.
    pub(super) shown: Option<Option<String>>,
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
    maps: &FlowMaps,
    is_denied: impl Fn(&Socket) -> bool + Sync,
) -> io::Result<usize> {
    in_namespace(netns, || {
        let diag = Netlink::open(libc::NETLINK_SOCK_DIAG)?;
        let mut ended = 0;
        for socket in dump(&diag, maps)?.iter().filter(|socket| is_denied(socket)) {
            match end(&diag, socket) {
                Ok(()) => ended += 1,
                // It ended by itself meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ended)
    })
}

/// Can this kernel end connections? Asks for the end of one that cannot be.
pub(super) fn can_end() -> bool {
    let nobody = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let family = libc::AF_INET as u8;
    let socket = Socket {
        family,
        id: [0; ID],
        state: 0,
        local: nobody,
        remote: nobody,
        own_of: None,
        denied_under: None,
        bound: None,
        shown: None,
    };
    let asked = Netlink::open(libc::NETLINK_SOCK_DIAG).and_then(|diag| end(&diag, &socket));
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::ENOENT))
}

/// The connections of a namespace that its listeners accepted.
pub(super) fn accepted(netns: &Path, maps: &FlowMaps) -> io::Result<Vec<Socket>> {
    in_namespace(netns, || {
        let sockets = dump(&Netlink::open(libc::NETLINK_SOCK_DIAG)?, maps)?;
        let ports: Vec<u16> =
            sockets.iter().filter(|socket| socket.is_listener()).map(|socket| socket.local.port()).collect();
        let is_accepted = |socket: &Socket| !socket.is_listener() && ports.contains(&socket.local.port());
        Ok(sockets.into_iter().filter(is_accepted).collect())
    })
}

/// Every TCP socket of the namespace.
fn dump(diag: &Netlink, maps: &FlowMaps) -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        let mut request = [0; REQUEST];
        request[0] = family;
        request[1] = libc::IPPROTO_TCP as u8;
        request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        let map = |map: &Storage| attribute(SK_DIAG_BPF_STORAGE_REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
        let wanted = [map(&maps.flows), map(&maps.bound), map(&maps.shown)].concat();
        let storages = attribute(INET_DIAG_REQ_SK_BPF_STORAGES | NLA_F_NESTED, &wanted);
        let body = [&request[..], &storages].concat();
        diag.dump(SOCK_DIAG_BY_FAMILY, &body, |message| sockets.extend(read_socket(message, maps)))?;
    }
    Ok(sockets)
}

fn end(diag: &Netlink, socket: &Socket) -> io::Result<()> {
    let mut request = [0; REQUEST];
    request[0] = socket.family;
    request[1] = libc::IPPROTO_TCP as u8;
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[REQUEST_ID..].copy_from_slice(&socket.id);
    diag.ask(SOCK_DESTROY, &request)
}

fn read_socket(message: &[u8], maps: &FlowMaps) -> Option<Socket> {
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
    let storages = message.get(MESSAGE..).and_then(|all| find(all, INET_DIAG_SK_BPF_STORAGES)).unwrap_or(&[]);
    let value = |map: &Storage| {
        let is_of =
            |storage: &&[u8]| find(storage, SK_DIAG_BPF_STORAGE_MAP_ID) == Some(&map.id.to_ne_bytes());
        let mut storages = attributes(storages).map(|(_, storage)| storage);
        storages.find(is_of).and_then(|storage| find(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE))
    };
    let flow = value(&maps.flows);
    let own_of = flow.and_then(|flow| {
        let is_own = *flow.get(std::mem::offset_of!(FlowValue, direction))? == direction::OWN;
        let slot = flow.get(std::mem::offset_of!(FlowValue, slot)..)?.first_chunk()?;
        is_own.then_some(u32::from_ne_bytes(*slot))
    });
    let denied_under = flow.and_then(|flow| {
        let is_denied = *flow.get(std::mem::offset_of!(FlowValue, state))? == flow_state::DENIED;
        let word = flow.get(std::mem::offset_of!(FlowValue, word)..)?.first_chunk()?;
        is_denied.then_some(u64::from_ne_bytes(*word))
    });
    if state == TCP_TIME_WAIT {
        return None;
    }
    Some(Socket {
        family,
        id,
        state,
        local: SocketAddr::new(address(4), port(0)),
        remote: SocketAddr::new(address(20), port(2)),
        own_of,
        denied_under,
        bound: value(&maps.bound).and_then(bound_name),
        shown: value(&maps.shown).and_then(shown_name),
    })
}

/// The name in a [`BoundValue`].
fn bound_name(value: &[u8]) -> Option<String> {
    let name = value.get(std::mem::offset_of!(BoundValue, name)..)?;
    let length = name.iter().position(|byte| *byte == 0)?;
    Some(name_text(name, length as u8))
}

/// What a [`ShownValue`] says; none if it says nothing yet.
fn shown_name(value: &[u8]) -> Option<Option<String>> {
    let length = *value.get(std::mem::offset_of!(ShownValue, name_length))?;
    match *value.get(std::mem::offset_of!(ShownValue, state))? {
        shown::MORE => None,
        state if shown::is_name(state) => {
            Some(Some(name_text(value.get(std::mem::offset_of!(ShownValue, name)..)?, length)))
        }
        _ => Some(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel has it: a head of so many bytes, then the name, reversed and padded.
    fn value(head: &[u8], name: &str) -> Vec<u8> {
        let (reversed, _) = sluice_abi::reversed(name.as_bytes()).expect("a name");
        [head, &reversed].concat()
    }

    #[test]
    fn names_are_read_as_the_kernel_keeps_them() {
        assert_eq!(bound_name(&value(&[0; 8], "a.example")).as_deref(), Some("a.example"));
        assert_eq!(bound_name(&[0; 7]), None, "cut");
        let shown = |state| shown_name(&value(&[state, 0, 10, 0], "a.example"));
        assert_eq!(shown(shown::MORE), None);
        for state in [shown::NAME, shown::SO_FAR, shown::OUTER] {
            assert_eq!(shown(state), Some(Some("a.example".to_owned())), "{state}");
        }
        for state in [shown::NONE, shown::ENCRYPTED, shown::UNREADABLE] {
            assert_eq!(shown(state), Some(None), "{state}");
        }
    }
}
