//! Keeps every frame that arrives at the far end and on the pods' bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use crate::rig::FarEnd;
use crate::rig::net::BRIDGE;

/// Room for what arrives between two looks.
const RECEIVE_BUFFER: usize = 256 << 20;
/// The far end's side of the wire.
const FAR_SIDE: &str = "rig-node";

/// Where a frame was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// At the far end of the wire.
    Far,
    /// On the bridge, past all that is attached to the pod's link.
    Bridge,
}

/// A frame.
pub(super) struct Frame {
    /// Where.
    pub(super) seen: Seen,
    /// What.
    pub(super) bytes: Vec<u8>,
}

/// The packet sockets and what they have got so far.
pub(super) struct Recorder {
    sockets: Vec<(Seen, OwnedFd)>,
    frames: Vec<Frame>,
}

impl Recorder {
    /// Starts to record. The bridge must be there: it comes with the first pod.
    pub(super) async fn start(far: &FarEnd) -> Result<Self> {
        let wire = far.call(|| packet_socket(FAR_SIDE)).await?;
        let bridge = packet_socket(BRIDGE)?;
        Ok(Self { sockets: vec![(Seen::Far, wire), (Seen::Bridge, bridge)], frames: Vec::new() })
    }

    /// Everything that pods sent before the call.
    pub(super) async fn look(&mut self, far: &FarEnd) -> Result<&[Frame]> {
        far.settle().await?;
        for (seen, socket) in &self.sockets {
            let mut bytes = [0; 2048];
            loop {
                match recv(socket.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => self.frames.push(Frame { seen: *seen, bytes: bytes[..length].to_vec() }),
                    Err(nix::errno::Errno::EAGAIN) => break,
                    Err(error) => return Err(error).context("reading frames"),
                }
            }
        }
        Ok(&self.frames)
    }

    /// Everything up to the last look.
    pub(super) fn frames(&self) -> &[Frame] {
        &self.frames
    }
}

impl Frame {
    /// The packet, if it is one.
    fn packet(&self) -> Option<&[u8]> {
        matches!(self.bytes.get(12..14)?, [0x08, 0x00] | [0x86, 0xdd]).then(|| &self.bytes[14..])
    }

    /// Where its IP header says that it goes.
    pub(super) fn destination(&self) -> Option<IpAddr> {
        self.address(16, 24)
    }

    /// Where its IP header says that it comes from.
    pub(super) fn source(&self) -> Option<IpAddr> {
        self.address(12, 8)
    }

    /// The address at that byte of an IPv4 header or of an IPv6 one.
    fn address(&self, v4: usize, v6: usize) -> Option<IpAddr> {
        let packet = self.packet()?;
        match packet.first()? >> 4 {
            4 => Some(Ipv4Addr::from(*packet.get(v4..)?.first_chunk::<4>()?).into()),
            6 => Some(Ipv6Addr::from(*packet.get(v6..)?.first_chunk::<16>()?).into()),
            _ => None,
        }
    }

    /// The flags of a TCP segment without options before it.
    pub(super) fn tcp_flags(&self) -> Option<u8> {
        let packet = self.packet()?;
        let (protocol, header) = if packet.first()? >> 4 == 4 { (9, 20) } else { (6, 40) };
        (*packet.get(protocol)? == 6).then(|| packet.get(header + 13).copied()).flatten()
    }

    /// Whether it is a membership report or the like of IPv4.
    pub(super) fn is_igmp(&self) -> bool {
        self.packet().is_some_and(|packet| packet[0] >> 4 == 4 && packet.get(9) == Some(&2))
    }

    /// Whether these bytes are anywhere in it.
    pub(super) fn contains(&self, needle: &[u8]) -> bool {
        self.bytes.windows(needle.len()).any(|window| window == needle)
    }
}

fn last_error() -> anyhow::Error {
    std::io::Error::last_os_error().into()
}

/// A socket that gets every frame that comes in by an interface, whoever it is for.
fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: socket takes no pointers. Protocol 0 receives nothing until bind.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, last_error().context("packet socket"));
    // SAFETY: the call succeeded, so fd is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    let index = nix::net::if_::if_nametoindex(interface)?.cast_signed();
    let promiscuous = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(&socket, libc::PACKET_ADD_MEMBERSHIP, &promiscuous)?;
    set(&socket, libc::PACKET_IGNORE_OUTGOING, &1_i32)?;
    // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every;
    address.sll_ifindex = index;
    // SAFETY: the pointer and length describe `address`.
    let result = unsafe {
        libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    ensure!(result == 0, last_error().context("bind of the packet socket"));
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, name: libc::c_int, value: &T) -> Result<()> {
    // SAFETY: the value's pointer and length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    ensure!(result == 0, last_error().context("option of the packet socket"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Frame, Seen};

    #[test]
    fn a_frame_says_where_it_goes() {
        let mut bytes = vec![0; 54];
        bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        bytes[23] = 6;
        bytes[30..34].copy_from_slice(&[198, 51, 100, 7]);
        bytes[47] = 0x02;
        let frame = Frame { seen: Seen::Far, bytes };
        assert_eq!(frame.destination().map(|to| to.to_string()).as_deref(), Some("198.51.100.7"));
        assert_eq!(frame.tcp_flags(), Some(2));
        assert!(frame.contains(&[51, 100]) && !frame.contains(&[100, 51]));
        let other = Frame { seen: Seen::Bridge, bytes: vec![0x88; 20] };
        assert_eq!((other.destination(), other.tcp_flags()), (None, None));
    }
}
