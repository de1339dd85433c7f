//! Datagrams from plain sockets: who they go to is changed in every way that there is.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use super::{Attempt, Log, Plan, UDP_PORT, packet, prepared, raw, sock};

/// How often an alternating socket alternates.
const ROUNDS: u32 = 50;

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "udp" => plain,
        "udp-connected" => connected,
        "udp-alternating" => alternating,
        "udp-connected-sendto" => connected_sendto,
        "udp-reconnected" => reconnected,
        "udp-mapped" => mapped,
        "udp-many" => many,
        "udp-more" => more,
        "udp-port-zero" => |plan, v6, log| to(log, plan, SocketAddr::new(plan.forbidden(v6), 0)),
        "udp-broadcast" => broadcast,
        "udp-multicast" => multicast,
        "udp-link-local" => link_local,
        "udp-fork" => fork,
        "group-join" => group_join,
        "ping" => ping,
        "ping-raw" => ping_raw,
        _ => return None,
    })
}

fn to(log: &mut Log, plan: &Plan, to: SocketAddr) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(to.is_ipv6()))?;
    log.made(&format!("sendto {to}"), sock::send_to(&fd, &plan.payload(), to));
    Ok(())
}

fn plain(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    to(log, plan, plan.forbidden_udp(v6))?;
    // The allowed address, at a port that is not allowed, is no better.
    to(log, plan, SocketAddr::new(plan.allowed(v6), UDP_PORT + 1))
}

fn connected(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("connect", sock::connect(&fd, plan.forbidden_udp(v6)))?;
    log.made("send", sock::send(&fd, &plan.payload(), None, 0));
    Ok(())
}

fn alternating(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    for _ in 0..ROUNDS {
        let _ = sock::send_to(&fd, b"to the allowed", plan.allowed_udp(v6));
        log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    }
    Ok(())
}

fn connected_sendto(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("connect", sock::connect(&fd, plan.allowed_udp(v6)))?;
    prepared("send to the allowed", sock::send(&fd, b"to the allowed", None, 0))?;
    log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    Ok(())
}

fn reconnected(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("connect", sock::connect(&fd, plan.allowed_udp(v6)))?;
    prepared("send to the allowed", sock::send(&fd, b"to the allowed", None, 0))?;
    prepared("connect", sock::connect(&fd, plan.forbidden_udp(v6)))?;
    log.made("after a second connect", sock::send(&fd, &plan.payload(), None, 0));
    prepared("disconnect", sock::disconnect(&fd))?;
    prepared("connect", sock::connect(&fd, plan.forbidden_udp(v6)))?;
    log.made("after a disconnect", sock::send(&fd, &plan.payload(), None, 0));
    Ok(())
}

/// The IPv4-mapped form, on an IPv6 socket.
pub(super) fn mapped_form(to: SocketAddr) -> SocketAddr {
    match to.ip() {
        IpAddr::V4(v4) => SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), to.port()),
        IpAddr::V6(_) => to,
    }
}

fn mapped(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(true))?;
    let to = mapped_form(plan.forbidden_udp(false));
    log.made("sendto", sock::send_to(&fd, &plan.payload(), to));
    prepared("connect", sock::connect(&fd, to))?;
    log.made("send", sock::send(&fd, &plan.payload(), None, 0));
    // A socket that talks IPv6 to the allowed, and IPv4 to the forbidden.
    let fd = prepared("socket", sock::udp(true))?;
    let _ = sock::send_to(&fd, b"to the allowed", plan.allowed_udp(true));
    log.made("sendto, other family", sock::send_to(&fd, &plan.payload(), to));
    Ok(())
}

/// One call, four datagrams, every second one to the allowed.
fn many(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    let addresses = [plan.allowed_udp(v6), plan.forbidden_udp(v6)].map(sock::Raw::new);
    let payloads = [*b"to the allowed..................", plan.payload()];
    for first in [0, 1] {
        let mut vectors: Vec<libc::iovec> = (0..4)
            .map(|at| {
                let payload = &payloads[(first + at) % 2];
                libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() }
            })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = vectors
            .iter_mut()
            .enumerate()
            .map(|(at, vector)| {
                // SAFETY: mmsghdr is plain old data, for which all zeroes is a valid value.
                let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
                let (name, length) = addresses[(first + at) % 2].parts();
                message.msg_hdr.msg_name = name.cast_mut().cast();
                message.msg_hdr.msg_namelen = length;
                message.msg_hdr.msg_iov = vector;
                message.msg_hdr.msg_iovlen = 1;
                message
            })
            .collect();
        // SAFETY: the pointer and the count describe `messages`, whose pointers are to locals that live on.
        let sent = unsafe { libc::sendmmsg(fd.as_raw_fd(), messages.as_mut_ptr(), 4, 0) };
        log.made("sendmmsg", sock::check(sent as isize));
    }
    Ok(())
}

/// A datagram is begun for the allowed, and ended for the forbidden.
fn more(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let [allowed, forbidden] = [plan.allowed_udp(v6), plan.forbidden_udp(v6)].map(sock::Raw::new);
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("MSG_MORE", sock::send(&fd, b"begun...", Some(&allowed), libc::MSG_MORE))?;
    // The kernel appends, and goes by the first address: it may arrive there, and nowhere else.
    let _ = sock::send(&fd, b"ended", Some(&forbidden), 0);
    let fd = prepared("socket", sock::udp(v6))?;
    log.made("begun for the forbidden", sock::send(&fd, &plan.payload(), Some(&forbidden), libc::MSG_MORE));
    log.made("ended for the allowed", sock::send(&fd, b"ended", Some(&allowed), 0));
    // On IPv4 a second connect changes where the corked bytes go.
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("UDP_CORK", sock::enable(&fd, libc::SOL_UDP, libc::UDP_CORK))?;
    prepared("connect", sock::connect(&fd, plan.allowed_udp(v6)))?;
    prepared("corked for the allowed", sock::send(&fd, b"corked", None, 0))?;
    log.made("connect to the forbidden", sock::connect(&fd, plan.forbidden_udp(v6)));
    log.made("uncorked", sock::option(&fd, libc::SOL_UDP, libc::UDP_CORK, &0_i32));
    Ok(())
}

fn broadcast(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    for address in [Ipv4Addr::BROADCAST, Ipv4Addr::new(10, 88, 255, 255)] {
        let fd = prepared("socket", sock::udp(false))?;
        prepared("SO_BROADCAST", sock::enable(&fd, libc::SOL_SOCKET, libc::SO_BROADCAST))?;
        let to = SocketAddr::new(address.into(), UDP_PORT);
        log.made(&format!("sendto {to}"), sock::send_to(&fd, &plan.payload(), to));
    }
    Ok(())
}

fn multicast(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let groups: [IpAddr; 2] = if v6 {
        [
            Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb).into(),
            Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x77).into(),
        ]
    } else {
        [Ipv4Addr::new(224, 0, 0, 251).into(), Ipv4Addr::new(239, 1, 2, 3).into()]
    };
    for group in groups {
        let mut address = raw::scoped(group);
        address.set_port(UDP_PORT);
        to(log, plan, address)?;
    }
    Ok(())
}

fn link_local(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let mut address = raw::scoped(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x66).into());
    address.set_port(UDP_PORT);
    let fd = header(plan)?;
    // To a neighbour that exists, under an address that any pod may take.
    let packet = packet::udp_packet((plan.own(true), address.ip()), (UDP_PORT, UDP_PORT), &plan.payload());
    raw::send(log, "raw, by way of a neighbour", &fd, &packet, plan.neighbour(true));
    to(log, plan, address)
}

fn header(_: &Plan) -> io::Result<std::os::fd::OwnedFd> {
    raw::header_socket(true)
}

/// Sent by a grandchild, whose parents are gone.
fn fork(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let program = std::env::current_exe()?;
    let forbidden = plan.forbidden(v6).to_string();
    let port = UDP_PORT.to_string();
    let arguments = ["connect", "--to", &forbidden, "--port", &port, "--proto", "udp", "--timeout-ms", "200"];
    let mut child = prepared("fork and exec", std::process::Command::new(program).args(arguments).spawn())?;
    log.made("exec", child.wait());
    Ok(())
}

/// The group's address is a payload of its own.
fn group_join(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let tag = plan.tag.to_be_bytes();
    let fd = prepared("socket", sock::udp(v6))?;
    let index = super::frame::interface()?;
    if v6 {
        let mut group = [0; 16];
        group[..2].copy_from_slice(&[0xff, 0x05]);
        group[8..].copy_from_slice(&tag);
        let request = [&group[..], &index.to_ne_bytes()].concat();
        log.made("join", sock::option_bytes(&fd, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request));
    } else {
        for half in tag.chunks(3) {
            let mut group = [239, 1, 1, 1];
            group[1..=half.len()].copy_from_slice(half);
            let request = [group, [0; 4], index.to_ne_bytes()].concat();
            log.made("join", sock::option_bytes(&fd, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request));
        }
    }
    Ok(())
}

fn echo(plan: &Plan, v6: bool) -> Vec<u8> {
    packet::icmp((plan.own(v6), plan.forbidden(v6)), if v6 { 128 } else { 8 }, [0, 1, 0, 1], &plan.payload())
}

/// Needs no right where `ping_group_range` has the group.
fn ping(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let protocol = packet::icmp_protocol(v6).into();
    let fd = prepared("ping socket", sock::open(sock::family(v6), libc::SOCK_DGRAM, protocol))?;
    log.made("sendto", sock::send_to(&fd, &echo(plan, v6), SocketAddr::new(plan.forbidden(v6), 0)));
    prepared("connect", sock::connect(&fd, SocketAddr::new(plan.forbidden(v6), 0)))?;
    log.made("send", sock::send(&fd, &echo(plan, v6), None, 0));
    Ok(())
}

fn ping_raw(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let protocol = packet::icmp_protocol(v6).into();
    let fd = prepared("raw socket", sock::open(sock::family(v6), libc::SOCK_RAW, protocol))?;
    log.made("sendto", sock::send_to(&fd, &echo(plan, v6), SocketAddr::new(plan.forbidden(v6), 0)));
    Ok(())
}
