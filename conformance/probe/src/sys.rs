//! Thin, checked wrappers of the socket calls that std does not offer.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A socket address in the kernel's form.
struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    fn new(address: SocketAddr) -> Self {
        // SAFETY: sockaddr_storage is plain old data, for which all zeroes is a valid value.
        let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
        let length = match address {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than and aligned for every other socket address.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { std::ptr::from_mut(&mut storage).cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage, length: length as libc::socklen_t }
    }

    fn pointer(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.storage).cast()
    }
}

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A non-blocking socket of the address's family.
pub(crate) fn socket(to: IpAddr, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    let family = if to.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: socket takes no pointers.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    check(fd as isize)?;
    // SAFETY: the call succeeded, so fd is open and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `connect(2)`.
pub(crate) fn connect(fd: &OwnedFd, to: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::new(to);
    // SAFETY: the pointer and the length describe `raw`, which lives until the call returns.
    check(unsafe { libc::connect(fd.as_raw_fd(), raw.pointer(), raw.length) } as isize)?;
    Ok(())
}

/// `sendto(2)`, or `send(2)` without an address.
pub(crate) fn send(fd: &OwnedFd, bytes: &[u8], to: Option<SocketAddr>) -> io::Result<usize> {
    let raw = to.map(RawAddress::new);
    let (address, length) = raw.as_ref().map_or((std::ptr::null(), 0), |raw| (raw.pointer(), raw.length));
    // SAFETY: the buffer's pointer and length describe `bytes`; the address is null with length 0, or `raw`'s.
    check(unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
            address,
            length,
        )
    })
}

/// `recv(2)` without waiting.
pub(crate) fn receive(fd: &OwnedFd, into: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length describe `into`, which the kernel may write.
    check(unsafe { libc::recv(fd.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
}

/// The result of a non-blocking connect: `SO_ERROR`.
pub(crate) fn socket_error(fd: &OwnedFd) -> Option<io::Error> {
    let mut error: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value's pointer and length describe `error`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            std::ptr::from_mut(&mut error).cast(),
            &raw mut length,
        )
    };
    match (result, error) {
        (0, 0) => None,
        (0, error) => Some(io::Error::from_raw_os_error(error)),
        _ => Some(io::Error::last_os_error()),
    }
}

/// Makes closing send a reset, so that no connection is left in TIME-WAIT.
pub(crate) fn reset_on_close(fd: &OwnedFd) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the value's pointer and length describe `linger`.
    unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Waits until one of the sockets has one of the events, and returns the events of each.
pub(crate) fn poll<'a>(
    sockets: impl Iterator<Item = (&'a OwnedFd, libc::c_short)>,
    timeout: Duration,
) -> Vec<libc::c_short> {
    let mut entries: Vec<libc::pollfd> =
        sockets.map(|(fd, events)| libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }).collect();
    // Round up: a wait that is too short would spin.
    let timeout = timeout.as_micros().div_ceil(1000).min(1 << 30) as libc::c_int;
    // SAFETY: the pointer and count describe `entries`.
    unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout) };
    entries.iter().map(|entry| entry.revents).collect()
}

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn terminated(_: libc::c_int) {
    TERMINATED.store(true, Ordering::Relaxed);
}

/// From now on SIGTERM is noted, and does nothing else.
pub(crate) fn note_termination() {
    // SAFETY: the handler stores to an atomic and does nothing else, which a handler may.
    unsafe { libc::signal(libc::SIGTERM, terminated as *const () as libc::sighandler_t) };
}

/// Whether SIGTERM came.
pub(crate) fn is_terminated() -> bool {
    TERMINATED.load(Ordering::Relaxed)
}

/// Lifts the limit of open files to what is permitted.
pub(crate) fn lift_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a valid rlimit.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// The symbolic name of an error, as the suites compare it.
pub(crate) fn errno_name(error: &io::Error) -> String {
    const NAMES: [(i32, &str); 17] = [
        (libc::EPERM, "EPERM"),
        (libc::EACCES, "EACCES"),
        (libc::EAGAIN, "EAGAIN"),
        (libc::EINVAL, "EINVAL"),
        (libc::EMFILE, "EMFILE"),
        (libc::ENOBUFS, "ENOBUFS"),
        (libc::EINPROGRESS, "EINPROGRESS"),
        (libc::ETIMEDOUT, "ETIMEDOUT"),
        (libc::ECONNREFUSED, "ECONNREFUSED"),
        (libc::ECONNRESET, "ECONNRESET"),
        (libc::ECONNABORTED, "ECONNABORTED"),
        (libc::ENETUNREACH, "ENETUNREACH"),
        (libc::EHOSTUNREACH, "EHOSTUNREACH"),
        (libc::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (libc::EPIPE, "EPIPE"),
        (libc::EMSGSIZE, "EMSGSIZE"),
        (libc::EPROTONOSUPPORT, "EPROTONOSUPPORT"),
    ];
    match error.raw_os_error() {
        Some(code) => NAMES
            .iter()
            .find(|(known, _)| *known == code)
            .map_or_else(|| format!("E{code}"), |(_, name)| (*name).to_owned()),
        None => format!("{:?}", error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::UdpSocket;

    use super::{errno_name, receive, send, socket};

    #[test]
    fn errors_have_names() {
        assert_eq!(errno_name(&io::Error::from_raw_os_error(libc::EPERM)), "EPERM");
        assert_eq!(errno_name(&io::Error::from_raw_os_error(9999)), "E9999");
    }

    #[test]
    fn datagrams_reach_both_families() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let peer = UdpSocket::bind(local).unwrap();
            let to = peer.local_addr().unwrap();
            let fd = socket(to.ip(), libc::SOCK_DGRAM, 0).unwrap();
            assert_eq!(receive(&fd, &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            assert_eq!(send(&fd, b"hello", Some(to)).unwrap(), 5);
            let mut bytes = [0; 8];
            assert_eq!(peer.recv(&mut bytes).unwrap(), 5);
        }
    }
}
