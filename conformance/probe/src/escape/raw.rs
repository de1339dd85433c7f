//! Packets made by hand on a raw socket that takes the IP header too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use super::packet::{self, protocol};
use super::{Attempt, Log, Plan, TCP_PORT, UDP_PORT, prepared, sock};

/// The source port of what is made by hand.
const SOURCE_PORT: u16 = 31_337;
/// Outside of the pods' prefixes and of the far end's.
pub(super) const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 64, 7, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x7777, 0, 0, 0, 0, 7)),
];

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "raw-own" => |plan, v6, log| from(plan, v6, log, plan.own(v6), plan.forbidden(v6)),
        "raw-neighbour" => |plan, v6, log| from(plan, v6, log, plan.neighbour(v6), plan.forbidden(v6)),
        "raw-outside" => |plan, v6, log| from(plan, v6, log, OUTSIDE[usize::from(v6)], plan.forbidden(v6)),
        "raw-spoof-allowed" => |plan, v6, log| from(plan, v6, log, plan.neighbour(v6), plan.allowed(v6)),
        "raw-tcp" => raw_tcp,
        "raw-header-differs" => header_differs,
        "raw-fragments" => fragments,
        "raw-source-route" => source_route,
        "raw-extensions" => extensions,
        "raw-encapsulated" => encapsulated,
        "raw-protocols" => protocols,
        "raw-own-by-neighbour" => own_by_neighbour,
        "raw-next-hop" => next_hop,
        "raw-loopback-outward" => loopback_outward,
        "raw-mapped" => mapped,
        "raw-neighbour-discovery" => neighbour_discovery,
        "raw-icmp-reply" => icmp_reply,
        _ => return None,
    })
}

/// A raw socket that takes whole packets of that family.
pub(super) fn header_socket(v6: bool) -> io::Result<OwnedFd> {
    let fd = prepared("raw socket", sock::open(sock::family(v6), libc::SOCK_RAW, libc::IPPROTO_RAW))?;
    // 4.15 and later need to be told, even with that protocol.
    if v6 {
        prepared("IPV6_HDRINCL", sock::enable(&fd, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL))?;
    }
    Ok(fd)
}

/// Sends a whole packet towards `via`, whatever its header says.
pub(super) fn send(log: &mut Log, what: &str, fd: &OwnedFd, packet: &[u8], via: IpAddr) {
    log.made(what, sock::send_to(fd, packet, SocketAddr::new(via, 0)));
}

/// A UDP packet from one address to another.
fn from(plan: &Plan, v6: bool, log: &mut Log, source: IpAddr, to: IpAddr) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let packet = packet::udp_packet((source, to), (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, &format!("UDP from {source}"), &fd, &packet, to);
    Ok(())
}

fn raw_tcp(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let ports = (SOURCE_PORT, TCP_PORT);
    send(log, "SYN", &fd, &packet::syn_packet(addresses, ports, 1), addresses.1);
    let segment = packet::tcp(addresses, ports, (2, 1), packet::flag::PSH_ACK, &plan.payload());
    send(log, "data", &fd, &packet::ip(addresses, protocol::TCP, &segment), addresses.1);
    Ok(())
}

/// The address that the socket is told is allowed, the one in the header is not.
fn header_differs(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let packet = packet::udp_packet(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, "header to the forbidden, call to the allowed", &fd, &packet, plan.allowed(v6));
    let packet = packet::udp_packet(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, "header to the forbidden, call to oneself", &fd, &packet, plan.own(v6));
    Ok(())
}

fn fragments(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let mut payload = plan.payload().to_vec();
    payload.extend(plan.payload());
    let datagram = packet::udp(addresses, (SOURCE_PORT, UDP_PORT), &payload);
    // The second begins with the second tag.
    let (first, later) = datagram.split_at(40);
    for (what, more, offset, part) in [("first fragment", 1_u16, 0, first), ("later fragment", 0, 5, later)] {
        let packet = if v6 {
            let header =
                [&[protocol::UDP, 0][..], &(offset << 3 | more).to_be_bytes(), &[0, 0, 0, 9]].concat();
            packet::ipv6(addresses, 44, &[&header, part].concat())
        } else {
            packet::ipv4(addresses, protocol::UDP, more << 13 | offset, &[], part)
        };
        send(log, what, &fd, &packet, addresses.1);
    }
    // A later fragment on its own, from which the ports of an allowed flow could be read.
    let fake = packet::udp(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    if !v6 {
        let packet = packet::ipv4(addresses, protocol::UDP, 100, &[], &fake);
        send(log, "later fragment alone", &fd, &packet, addresses.1);
    }
    Ok(())
}

/// The loose source route of RFC 791 by way of the allowed address.
pub(super) fn route_option(to: IpAddr) -> Vec<u8> {
    let IpAddr::V4(to) = to else { return Vec::new() };
    [&[1, 131, 7, 4][..], &to.octets()].concat()
}

fn source_route(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(false)?;
    let addresses = (plan.own(false), plan.allowed(false));
    let datagram = packet::udp(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    let options = route_option(plan.forbidden(false));
    let packet = packet::ipv4(addresses, protocol::UDP, 0, &options, &datagram);
    send(log, "source route by the allowed", &fd, &packet, addresses.1);
    Ok(())
}

fn extensions(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(true)?;
    let direct = (plan.own(true), plan.forbidden(true));
    let datagram = packet::udp(direct, (SOURCE_PORT, UDP_PORT), &plan.payload());
    // Next header, length 0, one padding option of six bytes.
    let padded = [&[protocol::UDP, 0, 1, 4, 0, 0, 0, 0][..], &datagram].concat();
    send(log, "hop-by-hop", &fd, &packet::ipv6(direct, 0, &padded), direct.1);
    send(log, "destination options", &fd, &packet::ipv6(direct, 60, &padded), direct.1);
    let by = (plan.own(true), plan.allowed(true));
    let IpAddr::V6(last) = direct.1 else { return Ok(()) };
    for (kind, what) in [(0, "routing header, type 0"), (4, "routing header, segments")] {
        let mut header = vec![protocol::UDP, 2, kind, 1, 0, 0, 0, 0];
        header.extend(last.octets());
        header.extend(&datagram);
        send(log, what, &fd, &packet::ipv6(by, 43, &header), by.1);
    }
    Ok(())
}

/// Tunnels: the outer destination is allowed, the inner one is not.
fn encapsulated(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let outer = (plan.own(v6), plan.allowed(v6));
    for inner6 in [false, true] {
        let inner = (plan.own(inner6), plan.forbidden(inner6));
        let whole = packet::udp_packet(inner, (SOURCE_PORT, UDP_PORT), &plan.payload());
        let number = if inner6 { 41 } else { 4 };
        send(log, &format!("protocol {number}"), &fd, &packet::ip(outer, number, &whole), outer.1);
        let ethertype = if inner6 { [0x86, 0xdd] } else { [0x08, 0] };
        let gre = [&[0, 0][..], &ethertype, &whole].concat();
        send(log, "GRE", &fd, &packet::ip(outer, 47, &gre), outer.1);
        let esp = [&[0, 0, 0, 1, 0, 0, 0, 1][..], &whole].concat();
        send(log, "ESP", &fd, &packet::ip(outer, 50, &esp), outer.1);
    }
    Ok(())
}

fn protocols(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    for (number, what) in [
        (33, "DCCP"),
        (59, "no next header"),
        (115, "L2TP"),
        (132, "SCTP"),
        (136, "UDP-Lite"),
        (253, "experiment"),
    ] {
        let datagram = packet::udp(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
        send(log, what, &fd, &packet::ip(addresses, number, &datagram), addresses.1);
    }
    Ok(())
}

/// The header names the pod itself, the frame goes to a neighbour, who may read every frame that it gets.
fn own_by_neighbour(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.own(v6));
    let packet = packet::udp_packet(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, "to oneself by way of a neighbour", &fd, &packet, plan.neighbour(v6));
    Ok(())
}

/// The header names an allowed address, the frame goes to a neighbour.
fn next_hop(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.allowed(v6));
    let packet = packet::udp_packet(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, "to the allowed by way of a neighbour", &fd, &packet, plan.neighbour(v6));
    Ok(())
}

/// Loopback destinations that leave by the pod's interface.
fn loopback_outward(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let inner: &[IpAddr] = if v6 {
        &[IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
    } else {
        &[IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), IpAddr::V4(Ipv4Addr::UNSPECIFIED)]
    };
    for to in inner {
        let packet = packet::udp_packet((plan.own(v6), *to), (SOURCE_PORT, UDP_PORT), &plan.payload());
        send(log, &format!("{to} outward"), &fd, &packet, plan.neighbour(v6));
    }
    Ok(())
}

/// An IPv6 packet to an IPv4-mapped address: on the wire it is not the IPv4 host that policy allows.
fn mapped(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(true)?;
    let IpAddr::V4(allowed) = plan.allowed(false) else { return Ok(()) };
    let addresses = (plan.own(true), IpAddr::V6(allowed.to_ipv6_mapped()));
    let packet = packet::udp_packet(addresses, (SOURCE_PORT, UDP_PORT), &plan.payload());
    send(log, "to the mapped form of the allowed", &fd, &packet, plan.neighbour(true));
    Ok(())
}

/// What the kernel sends of its own accord, and no policy may stop, with a payload of the pod's.
fn neighbour_discovery(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(true)?;
    for to in [plan.forbidden(true), IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1))] {
        for (kind, what) in [
            (133, "router solicitation"),
            (135, "neighbour solicitation"),
            (136, "advertisement"),
            (143, "MLD report"),
        ] {
            let addresses = (plan.own(true), to);
            let message = packet::icmp(addresses, kind, [0; 4], &plan.payload());
            let packet = packet::ip(addresses, protocol::ICMPV6, &message);
            let way = sock::Raw::new(scoped(to));
            log.made(&format!("{what} to {to}"), sock::send(&fd, &packet, Some(&way), 0));
        }
    }
    Ok(())
}

/// A link-local or multicast address needs the interface.
pub(super) fn scoped(to: IpAddr) -> SocketAddr {
    match to {
        IpAddr::V6(v6) if v6.is_multicast() || v6.is_unicast_link_local() => {
            std::net::SocketAddrV6::new(v6, 0, 0, super::frame::interface().unwrap_or(0)).into()
        }
        _ => SocketAddr::new(to, 0),
    }
}

fn icmp_reply(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let kinds: [u8; 3] = if v6 { [129, 1, 3] } else { [0, 3, 11] };
    for kind in kinds {
        let message = packet::icmp(addresses, kind, [0; 4], &plan.payload());
        let packet = packet::ip(addresses, packet::icmp_protocol(v6), &message);
        send(log, &format!("ICMP type {kind}"), &fd, &packet, addresses.1);
    }
    Ok(())
}
