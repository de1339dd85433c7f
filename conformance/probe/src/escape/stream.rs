//! Connections, by every call that opens one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use super::ring::Map;
use super::{Attempt, Log, Plan, TCP_PORT, prepared, sock};

const IPPROTO_MPTCP: libc::c_int = 262;
const IP_TRANSPARENT: libc::c_int = 19;
const TCP_REPAIR: libc::c_int = 19;
const TCP_FASTOPEN_CONNECT: libc::c_int = 30;

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "tcp" => plain,
        "tcp-port-zero" => |plan, v6, log| open(plan, log, SocketAddr::new(plan.forbidden(v6), 0), 0),
        "tcp-mapped" => {
            |plan, _, log| open(plan, log, super::datagram::mapped_form(plan.forbidden_tcp(false)), 0)
        }
        "tcp-fast-open" => fast_open,
        "tcp-fast-open-connect" => fast_open_connect,
        "tcp-listen-connect" => listen_connect,
        "tcp-reconnected" => reconnected,
        "tcp-repair" => repair,
        "tcp-foreign-source" => foreign_source,
        "tcp-storage" => storage,
        "tcp-ring" => io_uring,
        "mptcp" => |plan, v6, log| open(plan, log, plan.forbidden_tcp(v6), IPPROTO_MPTCP),
        "sctp" => |plan, v6, log| other(plan, v6, log, libc::SOCK_STREAM, 132),
        "sctp-many" => |plan, v6, log| other(plan, v6, log, libc::SOCK_SEQPACKET, 132),
        "dccp" => |plan, v6, log| other(plan, v6, log, 6, 33),
        _ => return None,
    })
}

/// Connects, and writes if that went well.
fn connect_and_write(plan: &Plan, log: &mut Log, fd: &OwnedFd, to: SocketAddr) {
    if log.made(&format!("connect {to}"), sock::connect(fd, to)).is_some() {
        log.made("write", sock::send(fd, &plan.payload(), None, 0));
    }
}

fn open(plan: &Plan, log: &mut Log, to: SocketAddr, protocol: libc::c_int) -> io::Result<()> {
    let fd = prepared("socket", sock::open(sock::family(to.is_ipv6()), libc::SOCK_STREAM, protocol))?;
    connect_and_write(plan, log, &fd, to);
    Ok(())
}

fn plain(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    open(plan, log, plan.forbidden_tcp(v6), 0)?;
    // The allowed address, at a port that is not allowed, is no better.
    open(plan, log, SocketAddr::new(plan.allowed(v6), TCP_PORT + 1), 0)
}

/// Data in the SYN.
fn fast_open(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    let to = sock::Raw::new(plan.forbidden_tcp(v6));
    let sent = sock::send(&fd, &plan.payload(), Some(&to), libc::MSG_FASTOPEN);
    if log.made("MSG_FASTOPEN", begun(sent)).is_some() {
        sock::readable_or_writable(&fd, libc::POLLOUT);
        log.made("write", sock::send(&fd, &plan.payload(), None, 0));
    }
    Ok(())
}

/// A call that goes on in the background was made.
fn begun(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(0),
        result => result,
    }
}

fn fast_open_connect(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    prepared("TCP_FASTOPEN_CONNECT", sock::enable(&fd, libc::SOL_TCP, TCP_FASTOPEN_CONNECT))?;
    let to = sock::Raw::new(plan.forbidden_tcp(v6));
    let connected = begun(sock::connect_raw(&fd, &to).map(|()| 0));
    if log.made("connect", connected).is_some() {
        log.made("write", begun(sock::send(&fd, &plan.payload(), None, 0)));
        sock::readable_or_writable(&fd, libc::POLLOUT);
        log.made("write again", sock::send(&fd, &plan.payload(), None, 0));
    }
    Ok(())
}

/// From the port at which the pod listens, as if it answered.
fn listen_connect(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let reuse =
        |fd: &OwnedFd| prepared("SO_REUSEPORT", sock::enable(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT));
    let listener = prepared("socket", sock::tcp(v6))?;
    reuse(&listener)?;
    prepared("bind", sock::bind(&listener, &sock::any(v6, TCP_PORT)))?;
    prepared("listen", sock::listen(&listener, 16))?;
    let fd = prepared("socket", sock::tcp(v6))?;
    reuse(&fd)?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, TCP_PORT)))?;
    connect_and_write(plan, log, &fd, plan.forbidden_tcp(v6));
    // The listener itself turns into a client.
    drop(fd);
    prepared("disconnect", sock::disconnect(&listener))?;
    connect_and_write(plan, log, &listener, plan.forbidden_tcp(v6));
    Ok(())
}

/// Connected to the allowed first.
fn reconnected(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    prepared("connect", sock::connect(&fd, SocketAddr::new(plan.allowed(v6), TCP_PORT)))?;
    prepared("write", sock::send(&fd, b"to the allowed", None, 0))?;
    prepared("disconnect", sock::disconnect(&fd))?;
    connect_and_write(plan, log, &fd, plan.forbidden_tcp(v6));
    Ok(())
}

/// A connection that comes into being without a handshake.
fn repair(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    if log.made("TCP_REPAIR", sock::enable(&fd, libc::SOL_TCP, TCP_REPAIR)).is_some() {
        log.made("connect", sock::connect(&fd, plan.forbidden_tcp(v6)));
        log.made("end of repair", sock::option(&fd, libc::SOL_TCP, TCP_REPAIR, &0_i32));
        log.made("write", sock::send(&fd, &plan.payload(), None, 0));
    }
    Ok(())
}

/// In a neighbour's name, to the allowed.
fn foreign_source(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    let (level, name) = if v6 { (libc::IPPROTO_IPV6, 75) } else { (libc::IPPROTO_IP, IP_TRANSPARENT) };
    prepared("transparent", sock::enable(&fd, level, name))?;
    let foreign = sock::Raw::new(SocketAddr::new(plan.neighbour(v6), 0));
    prepared("bind to a foreign address", sock::bind(&fd, &foreign))?;
    log.made("connect", sock::connect(&fd, SocketAddr::new(plan.allowed(v6), TCP_PORT)));
    Ok(())
}

/// Nothing can be remembered with the socket.
fn storage(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(true))?;
    fill(&fd)?;
    connect_and_write(plan, log, &fd, super::datagram::mapped_form(plan.forbidden_tcp(v6)));
    Ok(())
}

/// `struct tcp_md5sig`, with an IPv6 address.
#[repr(C)]
#[derive(Clone, Copy)]
struct Signature {
    address: libc::sockaddr_in6,
    rest: [u8; 100],
    flags: u8,
    prefix: u8,
    length: u16,
    index: i32,
    key: [u8; 80],
}

/// Takes the option memory of an IPv6 socket by keys for peers that it never has.
fn fill(fd: &OwnedFd) -> io::Result<()> {
    for number in 0..1_u32 << 16 {
        // SAFETY: plain old data, for which all zeroes is a valid value.
        let mut signature: Signature = unsafe { std::mem::zeroed() };
        signature.address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        signature.address.sin6_addr.s6_addr[..2].copy_from_slice(&[0xfd, 0x66]);
        signature.address.sin6_addr.s6_addr[12..].copy_from_slice(&number.to_be_bytes());
        signature.length = 1;
        match sock::option(fd, libc::SOL_TCP, libc::TCP_MD5SIG, &signature)
            .map_err(|error| error.raw_os_error())
        {
            Ok(()) => {}
            Err(Some(libc::ENOMEM | libc::ENOBUFS)) => {
                println!("the option memory is full after {number} keys");
                return Ok(());
            }
            Err(code) => return Err(io::Error::other(format!("TCP_MD5SIG: {code:?}"))),
        }
    }
    Err(io::Error::other("the option memory does not get full"))
}

/// A transport that the kernel may not have.
fn other(plan: &Plan, v6: bool, log: &mut Log, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    let fd = prepared("socket", sock::open(sock::family(v6), kind, protocol))?;
    connect_and_write(plan, log, &fd, plan.forbidden_tcp(v6));
    log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_tcp(v6)));
    Ok(())
}

fn io_uring(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    let queue = Queue::new()?;
    if log.made("connect", queue.connect(&fd, plan.forbidden_tcp(v6))).is_some() {
        log.made("send", queue.send(&fd, &plan.payload()));
    }
    Ok(())
}

const ENTRIES: usize = 4;
const IORING_OP_CONNECT: u8 = 16;
const IORING_OP_SEND: u8 = 26;
const IORING_ENTER_GETEVENTS: libc::c_uint = 1;

/// `struct io_uring_params`: sizes and flags in the first ten words, then where the fields of the two rings are.
type Parameters = [u32; 30];

/// `struct io_uring_sqe` as far as it is used.
#[repr(C)]
struct Entry {
    opcode: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    rest: [u32; 9],
}

/// An `io_uring(7)` for one call at a time.
pub(super) struct Queue {
    fd: OwnedFd,
    parameters: Parameters,
    submissions: Map,
    completions: Map,
    entries: Map,
}

impl Queue {
    pub(super) fn new() -> io::Result<Self> {
        let mut parameters: Parameters = [0; 30];
        // SAFETY: the pointer is to an io_uring_params, which the kernel fills in.
        let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, ENTRIES, parameters.as_mut_ptr()) };
        let fd = prepared("io_uring_setup", sock::owned(fd))?;
        // sq_off begins at word 10: head, tail, mask, entries, flags, dropped, array; cq_off at 20, its entries sixth.
        let submissions = Map::new(Some(&fd), parameters[16] as usize + 4 * parameters[0] as usize, 0)?;
        let completions =
            Map::new(Some(&fd), parameters[25] as usize + 16 * parameters[1] as usize, 0x0800_0000)?;
        let entries = Map::new(Some(&fd), size_of::<Entry>() * parameters[0] as usize, 0x1000_0000)?;
        Ok(Self { fd, parameters, submissions, completions, entries })
    }

    pub(super) fn send(&self, fd: &OwnedFd, bytes: &[u8]) -> io::Result<usize> {
        self.call(IORING_OP_SEND, fd, bytes.as_ptr() as u64, bytes.len() as u32, 0)
    }

    fn connect(&self, fd: &OwnedFd, to: SocketAddr) -> io::Result<usize> {
        let raw = sock::Raw::new(to);
        let (address, length) = raw.parts();
        self.call(IORING_OP_CONNECT, fd, address as u64, 0, length.into())
    }

    /// Makes a call and waits for its end; what it points at is the caller's.
    fn call(&self, opcode: u8, fd: &OwnedFd, address: u64, length: u32, offset: u64) -> io::Result<usize> {
        let word = |map: &Map, at: u32| map.at::<AtomicU32>(at as usize);
        let [tail, mask, array] = [11, 12, 16].map(|index| self.parameters[index]);
        let tail = word(&self.submissions, tail);
        // SAFETY: the kernel's words lie in the mapping, aligned, for as long as it lives.
        let (number, mask) = unsafe {
            ((*tail).load(Ordering::Relaxed), (*word(&self.submissions, mask)).load(Ordering::Relaxed))
        };
        let slot = number & mask;
        let fd = fd.as_raw_fd();
        let entry = Entry { opcode, flags: 0, priority: 0, fd, offset, address, length, rest: [0; 9] };
        // SAFETY: the entry is free, for one call is made at a time.
        unsafe {
            self.entries.at::<Entry>(slot as usize * size_of::<Entry>()).write(entry);
            (*word(&self.submissions, array + 4 * slot)).store(slot, Ordering::Relaxed);
            (*tail).store(number.wrapping_add(1), Ordering::Release);
        }
        // SAFETY: no pointers are passed; what the entry points at outlives the call, which waits for its end.
        let entered = unsafe {
            libc::syscall(libc::SYS_io_uring_enter, self.fd.as_raw_fd(), 1, 1, IORING_ENTER_GETEVENTS, 0, 0)
        };
        sock::check(entered as isize)?;
        let [head, mask, completed] = [20, 22, 25].map(|index| self.parameters[index]);
        let head = word(&self.completions, head);
        // SAFETY: as above; a completion is 16 bytes, the result its third word.
        let result = unsafe {
            let number = (*head).load(Ordering::Acquire);
            let slot = number & (*word(&self.completions, mask)).load(Ordering::Relaxed);
            let result = (*word(&self.completions, completed + 16 * slot + 8)).load(Ordering::Acquire);
            (*head).store(number.wrapping_add(1), Ordering::Release);
            result.cast_signed()
        };
        usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
    }
}
