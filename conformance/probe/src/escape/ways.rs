//! Datagrams with options, and by calls that are not `send`.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use super::raw::route_option;
use super::{Attempt, Log, Plan, prepared, sock};

const IP_FREEBIND: libc::c_int = 15;
const IP_TRANSPARENT: libc::c_int = 19;
const IPV6_TRANSPARENT: libc::c_int = 75;
const IPV6_FREEBIND: libc::c_int = 78;
const UDP_SEGMENT: libc::c_int = 103;
const IPPROTO_UDPLITE: libc::c_int = 136;
/// Groups to join until the kernel says that the option memory is full.
const MOST_GROUPS: u32 = 1 << 16;

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "udp-options" => options,
        "udp-extensions" => extensions,
        "udp-source" => source,
        "udp-foreign-source" => foreign_source,
        "udp-device" => device,
        "udp-mark" => mark,
        "udp-segments" => segments,
        "udp-splice" => splice,
        "udp-lite" => lite,
        "udp-storage" => storage,
        "udp-ring" => io_uring,
        _ => return None,
    })
}

fn connected(plan: &Plan, v6: bool) -> io::Result<OwnedFd> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("connect", sock::connect(&fd, plan.forbidden_udp(v6)))?;
    Ok(fd)
}

/// A source route, set as an option of a socket that sends to the allowed and to the forbidden.
fn options(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    for (to, by) in
        [(plan.allowed_udp(false), plan.forbidden(false)), (plan.forbidden_udp(false), plan.allowed(false))]
    {
        let fd = prepared("socket", sock::udp(false))?;
        prepared(
            "IP_OPTIONS",
            sock::option_bytes(&fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &route_option(by)),
        )?;
        log.made(&format!("source route, sendto {to}"), sock::send_to(&fd, &plan.payload(), to));
    }
    let fd = prepared("socket", sock::udp(false))?;
    // Record route, room for one address.
    prepared(
        "IP_OPTIONS",
        sock::option_bytes(&fd, libc::IPPROTO_IP, libc::IP_OPTIONS, &[1, 7, 7, 4, 0, 0, 0, 0]),
    )?;
    log.made("record route", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(false)));
    Ok(())
}

fn extensions(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let padding = [0, 0, 1, 4, 0, 0, 0, 0];
    for (what, name) in [("hop-by-hop", libc::IPV6_HOPOPTS), ("destination options", libc::IPV6_DSTOPTS)] {
        let fd = prepared("socket", sock::udp(true))?;
        prepared(what, sock::option_bytes(&fd, libc::IPPROTO_IPV6, name, &padding))?;
        log.made(what, sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(true)));
    }
    // Segments: the allowed first, then the forbidden.
    let [IpAddr::V6(first), IpAddr::V6(last)] = [plan.allowed(true), plan.forbidden(true)] else {
        return Ok(());
    };
    let fd = prepared("socket", sock::udp(true))?;
    let header = [&[0, 4, 4, 1, 1, 0, 0, 0][..], &last.octets(), &first.octets()].concat();
    let set = sock::option_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header);
    if log.made("IPV6_RTHDR", set).is_some() {
        log.made("routing header", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(true)));
    }
    Ok(())
}

/// The own source, named in each message.
fn source(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    log.made("sendmsg", send_from(&fd, plan, plan.own(v6), plan.forbidden_udp(v6)));
    Ok(())
}

fn send_from(fd: &OwnedFd, plan: &Plan, source: IpAddr, to: SocketAddr) -> io::Result<usize> {
    let raw = sock::Raw::new(to);
    match source {
        IpAddr::V4(v4) => {
            let address = libc::in_addr { s_addr: u32::from_ne_bytes(v4.octets()) };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
            sock::send_control(fd, &plan.payload(), Some(&raw), (libc::IPPROTO_IP, libc::IP_PKTINFO), info)
        }
        IpAddr::V6(v6) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: 0 };
            sock::send_control(
                fd,
                &plan.payload(),
                Some(&raw),
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
                info,
            )
        }
    }
}

/// Another pod's source on a plain socket: to the forbidden, and to the allowed in another's name.
fn foreign_source(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let (level, transparent, free) = if v6 {
        (libc::IPPROTO_IPV6, IPV6_TRANSPARENT, IPV6_FREEBIND)
    } else {
        (libc::IPPROTO_IP, IP_TRANSPARENT, IP_FREEBIND)
    };
    for to in [plan.forbidden_udp(v6), plan.allowed_udp(v6)] {
        for (what, name) in [("transparent", transparent), ("freebind", free)] {
            let fd = prepared("socket", sock::udp(v6))?;
            prepared(what, sock::enable(&fd, level, name))?;
            let bound = sock::bind(&fd, &sock::Raw::new(SocketAddr::new(plan.neighbour(v6), 0)));
            prepared("bind to a foreign address", bound)?;
            log.made(&format!("{what}, sendto {to}"), sock::send_to(&fd, &plan.payload(), to));
            let fd = prepared("socket", sock::udp(v6))?;
            prepared(what, sock::enable(&fd, level, name))?;
            log.made(&format!("{what}, per message to {to}"), send_from(&fd, plan, plan.neighbour(v6), to));
        }
    }
    Ok(())
}

fn device(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("SO_BINDTODEVICE", sock::option_bytes(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"eth0\0"))?;
    log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    Ok(())
}

/// Marks that others' programs pass, if the kernel lets the pod set them.
fn mark(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    for value in [1_u32, 0x0400, 0xffff_ffff] {
        let fd = prepared("socket", sock::udp(v6))?;
        if log.made("SO_MARK", sock::option(&fd, libc::SOL_SOCKET, libc::SO_MARK, &value)).is_some() {
            log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
        }
    }
    Ok(())
}

/// One buffer, many datagrams; corked as well.
fn segments(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let bytes = plan.payload().repeat(16);
    for cork in [false, true] {
        let fd = connected(plan, v6)?;
        prepared("UDP_SEGMENT", sock::option(&fd, libc::SOL_UDP, UDP_SEGMENT, &32_i32))?;
        prepared("UDP_CORK", sock::option(&fd, libc::SOL_UDP, libc::UDP_CORK, &i32::from(cork)))?;
        log.made("segments", sock::send(&fd, &bytes, None, 0));
        if cork {
            log.made("uncorked", sock::option(&fd, libc::SOL_UDP, libc::UDP_CORK, &0_i32));
        }
    }
    Ok(())
}

/// From a file and from a pipe.
fn splice(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = connected(plan, v6)?;
    let path = "/tmp/payload";
    prepared("file", std::fs::write(path, plan.payload()))?;
    let file = std::fs::File::open(path)?;
    // SAFETY: sendfile may be told to keep no offset.
    let sent = unsafe { libc::sendfile(fd.as_raw_fd(), file.as_raw_fd(), std::ptr::null_mut(), 32) };
    log.made("sendfile", sock::check(sent));
    let (reader, mut writer) = prepared("pipe", io::pipe())?;
    prepared("write", writer.write_all(&plan.payload()))?;
    // SAFETY: splice may be told to keep no offsets.
    let sent = unsafe {
        libc::splice(reader.as_raw_fd(), std::ptr::null_mut(), fd.as_raw_fd(), std::ptr::null_mut(), 32, 0)
    };
    log.made("splice", sock::check(sent));
    Ok(())
}

fn lite(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("UDP-Lite socket", sock::open(sock::family(v6), libc::SOCK_DGRAM, IPPROTO_UDPLITE))?;
    log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    Ok(())
}

/// Fills the socket's option memory, so that nothing can be remembered with it, and then sends.
fn storage(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let to = super::datagram::mapped_form(plan.forbidden_udp(v6));
    for connect in [false, true] {
        let fd = prepared("socket", sock::udp(true))?;
        fill(&fd)?;
        if connect {
            prepared("connect", sock::connect(&fd, to))?;
            log.made("send", sock::send(&fd, &plan.payload(), None, 0));
        } else {
            log.made("sendto", sock::send_to(&fd, &plan.payload(), to));
        }
    }
    Ok(())
}

/// Takes the option memory of an IPv6 socket by joining groups on the loopback device until there is none.
fn fill(fd: &OwnedFd) -> io::Result<()> {
    for number in 0..MOST_GROUPS {
        let mut request = [0; 20];
        request[..2].copy_from_slice(&[0xff, 0x05]);
        request[12..16].copy_from_slice(&number.to_be_bytes());
        request[16..].copy_from_slice(&1_u32.to_ne_bytes());
        let joined = sock::option_bytes(fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request);
        if joined.is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS))) {
            println!("the option memory is full after {number} groups");
            return Ok(());
        }
    }
    Err(io::Error::other("the option memory does not get full"))
}

/// The calls are made by the kernel, for the process.
fn io_uring(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = connected(plan, v6)?;
    let queue = super::stream::Queue::new()?;
    log.made("send", queue.send(&fd, &plan.payload()));
    Ok(())
}
