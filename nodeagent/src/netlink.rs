//! `netlink(7)`: requests, answers, notices and attributes, in the host's network namespace or in a pod's.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;
use nix::sched::{CloneFlags, setns};

/// The attribute holds attributes (include/uapi/linux/netlink.h).
pub(crate) const NLA_F_NESTED: u16 = 1 << 15;
/// What of an attribute's type is the type.
const NLA_TYPE_MASK: u16 = 0x3fff;

const NLMSG_HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
/// The kernel fills no more in one go.
const BUFFER: usize = 1 << 16;

/// Runs in a thread of its own, which does not come back from the namespace.
pub(crate) fn in_namespace<T: Send>(
    netns: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let netns = File::open(netns)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&netns, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

/// A socket of one netlink family.
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    /// Opens one in the namespace of this thread. `family` is one of `NETLINK_*`.
    pub(crate) fn open(family: libc::c_int) -> io::Result<Self> {
        // SAFETY: takes numbers only; the descriptor is ours alone.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Hears of what happens, from now on. `groups` are bits of `RTMGRP_*`.
    pub(crate) fn listen(family: libc::c_int, groups: u32) -> io::Result<Self> {
        let socket = Self::open(family)?;
        // SAFETY: all zeros is a value of this struct of integers.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups;
        let length = size_of::<libc::sockaddr_nl>() as u32;
        // SAFETY: the address lives through the call and is as long as said.
        let bound = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(socket) }
    }

    /// Waits for notices, and gives kind and body of each to `each`. `ENOBUFS` says that some were lost.
    pub(crate) fn hear(&self, mut each: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        let length = self.receive_some(&mut buffer)?;
        let mut rest = &buffer[..length];
        while let Some((kind, body, after)) = next_message(rest) {
            each(kind, body);
            rest = after;
        }
        Ok(())
    }

    /// Asks for all there is, and gives the body of each message of the answer to `each`.
    pub(crate) fn dump(&self, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> io::Result<()> {
        self.send(kind, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, body)?;
        self.receive(each)
    }

    /// Asks for something to be done.
    pub(crate) fn ask(&self, kind: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, body)?;
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

    fn receive_some(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the buffer lives through the call and is as long as said.
        let length = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(length).map_err(|_| io::Error::last_os_error())
    }

    /// Gives each message of the answer to `each`, up to its end.
    fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = self.receive_some(&mut buffer)?;
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

/// An attribute, padded.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = ATTRIBUTE_HEADER + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// Kinds and values of attributes, up to the first that is damaged.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes([*bytes.get(2)?, *bytes.get(3)?]) & NLA_TYPE_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others() {
        let bytes = [attribute(1, &[1, 2, 3]), attribute(0x14 | NLA_F_NESTED, &[9])].concat();
        assert_eq!(find(&bytes, 0x14), Some(&[9][..]));
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
