//! Thin, checked wrappers of the socket calls that attackers need.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::sys::poll;

/// How long a reply or a handshake may take.
pub(super) const LIMIT: Duration = Duration::from_millis(500);

/// A socket address in the kernel's form.
pub(super) struct Raw {
    bytes: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl Raw {
    /// From any plain socket address type of the C library.
    pub(super) fn from_struct<T: Copy>(value: T) -> Self {
        assert!(size_of::<T>() <= size_of::<libc::sockaddr_storage>());
        // SAFETY: sockaddr_storage is plain old data, for which all zeroes is a valid value.
        let mut bytes: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        // SAFETY: large enough, as asserted; the write asks for no alignment.
        unsafe { std::ptr::from_mut(&mut bytes).cast::<T>().write_unaligned(value) };
        Self { bytes, length: size_of::<T>() as libc::socklen_t }
    }

    pub(super) fn new(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => Self::from_struct(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(v6) => Self::from_struct(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: 0,
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            }),
        }
    }

    /// The pointer and the length that a call takes.
    pub(super) fn parts(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        (std::ptr::from_ref(&self.bytes).cast(), self.length)
    }
}

/// A system call's result.
pub(super) fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes a descriptor over that a call returned.
pub(super) fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    check(result as isize)?;
    // SAFETY: the call succeeded, so it is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

/// The family of an address.
pub(super) fn family(v6: bool) -> libc::c_int {
    if v6 { libc::AF_INET6 } else { libc::AF_INET }
}

/// A socket that does not block.
pub(super) fn open(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    owned(fd.into())
}

/// A datagram socket.
pub(super) fn udp(v6: bool) -> io::Result<OwnedFd> {
    open(family(v6), libc::SOCK_DGRAM, 0)
}

/// A stream socket.
pub(super) fn tcp(v6: bool) -> io::Result<OwnedFd> {
    open(family(v6), libc::SOCK_STREAM, 0)
}

/// `setsockopt(2)` with a plain value.
pub(super) fn option<T: Copy>(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    check(result as isize).map(drop)
}

/// `setsockopt(2)` with bytes.
pub(super) fn option_bytes(
    fd: &OwnedFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), value.len() as libc::socklen_t)
    };
    check(result as isize).map(drop)
}

/// Sets an option to 1.
pub(super) fn enable(fd: &OwnedFd, level: libc::c_int, name: libc::c_int) -> io::Result<()> {
    option(fd, level, name, &1_i32)
}

/// `bind(2)`.
pub(super) fn bind(fd: &OwnedFd, to: &Raw) -> io::Result<()> {
    let (address, length) = to.parts();
    // SAFETY: the pointer and the length describe the address.
    check(unsafe { libc::bind(fd.as_raw_fd(), address, length) } as isize).map(drop)
}

/// `connect(2)`.
pub(super) fn connect_raw(fd: &OwnedFd, to: &Raw) -> io::Result<()> {
    let (address, length) = to.parts();
    // SAFETY: the pointer and the length describe the address.
    check(unsafe { libc::connect(fd.as_raw_fd(), address, length) } as isize).map(drop)
}

/// Starts a connection, and waits a little for it: a handshake that hangs counts as made.
pub(super) fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    match connect_raw(fd, &Raw::new(to)) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {
            readable_or_writable(fd, libc::POLLOUT);
            crate::sys::socket_error(fd).map_or(Ok(()), Err)
        }
        result => result,
    }
}

/// Dissolves the socket's association.
pub(super) fn disconnect(fd: &OwnedFd) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    connect_raw(fd, &Raw::from_struct(nobody))
}

/// `listen(2)`.
pub(super) fn listen(fd: &OwnedFd, backlog: libc::c_int) -> io::Result<()> {
    // SAFETY: takes no pointers.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) } as isize).map(drop)
}

/// Waits for a connection.
pub(super) fn accept(fd: &OwnedFd, limit: Duration) -> io::Result<OwnedFd> {
    poll([(fd, libc::POLLIN)].into_iter(), limit);
    // SAFETY: accept may be told to store no address.
    owned(
        unsafe {
            libc::accept4(fd.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), libc::SOCK_NONBLOCK)
        }
        .into(),
    )
}

/// Waits for an event, for [`LIMIT`] at most.
pub(super) fn readable_or_writable(fd: &OwnedFd, events: libc::c_short) -> bool {
    poll([(fd, events)].into_iter(), LIMIT)[0] != 0
}

/// `sendto(2)`, or `send(2)` without an address.
pub(super) fn send(fd: &OwnedFd, bytes: &[u8], to: Option<&Raw>, flags: libc::c_int) -> io::Result<usize> {
    let (address, length) = to.map_or((std::ptr::null(), 0), Raw::parts);
    // SAFETY: the pointers and lengths describe `bytes` and the address, which is null with length 0 if there is none.
    check(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            flags | libc::MSG_NOSIGNAL,
            address,
            length,
        )
    })
}

/// `sendto(2)` to an Internet address.
pub(super) fn send_to(fd: &OwnedFd, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
    send(fd, bytes, Some(&Raw::new(to)), 0)
}

/// `sendmsg(2)` with one control message.
pub(super) fn send_control<T: Copy>(
    fd: &OwnedFd,
    bytes: &[u8],
    to: Option<&Raw>,
    (level, kind): (libc::c_int, libc::c_int),
    value: T,
) -> io::Result<usize> {
    let (address, length) = to.map_or((std::ptr::null(), 0), Raw::parts);
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = [0_u64; 32];
    // SAFETY: msghdr is plain old data. Every pointer is to a local that outlives the call; the control buffer is aligned
    // and larger than any value that is sent here.
    check(unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_name = address.cast_mut().cast();
        message.msg_namelen = length;
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as libc::c_uint) as _;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as libc::c_uint) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL)
    })
}

/// The address that any socket of that family may be bound to.
pub(super) fn any(v6: bool, port: u16) -> Raw {
    let address: IpAddr =
        if v6 { std::net::Ipv6Addr::UNSPECIFIED.into() } else { std::net::Ipv4Addr::UNSPECIFIED.into() };
    Raw::new(SocketAddr::new(address, port))
}

/// The port that a socket is bound to.
pub(super) fn local_port(fd: &OwnedFd) -> io::Result<u16> {
    let mut bytes = [0_u16; 64];
    let mut length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `bytes`.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), bytes.as_mut_ptr().cast(), &raw mut length) } as isize)?;
    // Both Internet families have the port after the family.
    Ok(u16::from_be(bytes[1]))
}
