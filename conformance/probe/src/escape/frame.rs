//! Whole frames, past all that knows of sockets and addresses.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use super::packet;
use super::{Attempt, Log, Plan, UDP_PORT, prepared, ring, sock, xdp};

const BROADCAST: [u8; 6] = [0xff; 6];
const ETH_P_ALL: u16 = 0x0003;
/// Local experiments (IEEE 802).
const ETH_P_LOCAL: u16 = 0x88b5;
const ETH_P_ARP: u16 = 0x0806;

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "frame-raw" => |plan, v6, log| raw(plan, v6, log, &[]),
        "frame-datagram" => datagram,
        "frame-bypass" => |plan, v6, log| raw(plan, v6, log, &[20]), // PACKET_QDISC_BYPASS
        "frame-ring" => ring,
        "frame-spoof-allowed" => spoof_allowed,
        "frame-mac" => foreign_mac,
        "frame-vlan" => vlan,
        "frame-arp" => arp,
        "frame-ethertype" => |plan, _, log| other(plan, log, ETH_P_LOCAL),
        "frame-pppoe" => |plan, _, log| other(plan, log, 0x8864),
        "frame-mpls" => |plan, _, log| other(plan, log, 0x8847),
        "frame-short" => short,
        "xdp" => xdp_frame,
        "xdp-fragment" => xdp_fragment,
        "xdp-icmp" => xdp_icmp,
        "tun" => tun,
        _ => return None,
    })
}

/// The ethertype of a family.
pub(super) fn ethertype(v6: bool) -> u16 {
    if v6 { 0x86dd } else { 0x0800 }
}

/// The index of the pod's interface.
pub(super) fn interface() -> io::Result<u32> {
    let text = std::fs::read_to_string("/sys/class/net/eth0/ifindex")?;
    text.trim().parse().map_err(io::Error::other)
}

fn mac_of(text: &str) -> io::Result<[u8; 6]> {
    let bytes: Result<Vec<u8>, _> = text.trim().split(':').map(|hex| u8::from_str_radix(hex, 16)).collect();
    bytes.map_err(io::Error::other)?.try_into().map_err(|_| io::Error::other("not a MAC address"))
}

fn own_mac() -> io::Result<[u8; 6]> {
    mac_of(&std::fs::read_to_string("/sys/class/net/eth0/address")?)
}

/// The node's MAC address, which is known once something was sent that policy allows.
fn gateway(plan: &Plan) -> io::Result<[u8; 6]> {
    let fd = sock::udp(false)?;
    prepared("datagram to the allowed", sock::send_to(&fd, b"hello", plan.allowed_udp(false)))?;
    prepared(
        "answer",
        sock::readable_or_writable(&fd, libc::POLLIN)
            .then_some(())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ETIMEDOUT)),
    )?;
    let table = |path: &str| -> io::Result<Vec<Vec<String>>> {
        let text = std::fs::read_to_string(path)?;
        Ok(text.lines().map(|line| line.split_whitespace().map(str::to_owned).collect()).collect())
    };
    let routes = table("/proc/net/route")?;
    let default = routes.iter().find(|fields| fields.get(1).is_some_and(|to| to == "00000000"));
    let hex = default.and_then(|fields| fields.get(2)).map_or("", String::as_str);
    let gateway = u32::from_str_radix(hex, 16).map_err(io::Error::other)?;
    let gateway = std::net::Ipv4Addr::from(gateway.to_ne_bytes()).to_string();
    let neighbours = table("/proc/net/arp")?;
    let known = neighbours.iter().find(|fields| fields.first() == Some(&gateway));
    mac_of(known.and_then(|fields| fields.get(3)).map_or("", String::as_str))
}

/// The address of a frame.
pub(super) fn link(index: u32, protocol: u16, to: [u8; 6]) -> sock::Raw {
    let mut address = [0; 8];
    address[..6].copy_from_slice(&to);
    sock::Raw::from_struct(libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: address,
    })
}

fn header(to: [u8; 6], from: [u8; 6], protocol: u16) -> Vec<u8> {
    [&to[..], &from, &protocol.to_be_bytes()].concat()
}

/// A frame with a UDP packet to the forbidden.
pub(super) fn forbidden_frame(plan: &Plan, v6: bool) -> io::Result<Vec<u8>> {
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let packet = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    Ok([header(gateway(plan)?, own_mac()?, ethertype(v6)), packet].concat())
}

fn open(kind: libc::c_int) -> io::Result<OwnedFd> {
    prepared("packet socket", sock::open(libc::AF_PACKET, kind, 0))
}

fn send(log: &mut Log, what: &str, frame: &[u8], protocol: u16, options: &[libc::c_int]) -> io::Result<()> {
    let fd = open(libc::SOCK_RAW)?;
    for name in options {
        prepared("packet option", sock::enable(&fd, libc::SOL_PACKET, *name))?;
    }
    log.made(what, sock::send(&fd, frame, Some(&link(interface()?, protocol, BROADCAST)), 0));
    Ok(())
}

fn raw(plan: &Plan, v6: bool, log: &mut Log, options: &[libc::c_int]) -> io::Result<()> {
    send(log, "frame", &forbidden_frame(plan, v6)?, ethertype(v6), options)
}

fn datagram(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = open(libc::SOCK_DGRAM)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let packet = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    let to = link(interface()?, ethertype(v6), gateway(plan)?);
    log.made("packet", sock::send(&fd, &packet, Some(&to), 0));
    Ok(())
}

fn ring(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = open(libc::SOCK_RAW)?;
    let frame = forbidden_frame(plan, v6)?;
    let to = link(interface()?, ethertype(v6), BROADCAST);
    let ring = prepared("PACKET_TX_RING", ring::Transmit::new(&fd, &to))?;
    log.made("frame by the ring", ring.send(&fd, &frame));
    Ok(())
}

fn spoof_allowed(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let addresses = (plan.neighbour(v6), plan.allowed(v6));
    let packet = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    let frame = [header(gateway(plan)?, own_mac()?, ethertype(v6)), packet].concat();
    send(log, "frame", &frame, ethertype(v6), &[])
}

fn foreign_mac(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let mut frame = forbidden_frame(plan, v6)?;
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 0x66, 0x66]);
    send(log, "frame", &frame, ethertype(v6), &[])
}

/// The packet hides behind a VLAN tag with the priority only.
fn vlan(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let mut frame = forbidden_frame(plan, v6)?;
    frame.splice(12..12, [0x81, 0, 0, 0]);
    send(log, "tagged frame", &frame, 0x8100, &[])
}

/// A gratuitous answer that claims a neighbour's address, with a payload behind it.
fn arp(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let IpAddr::V4(claimed) = plan.neighbour(false) else { return Ok(()) };
    let own = own_mac()?;
    let mut frame = header(BROADCAST, own, ETH_P_ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    for mac in [own, BROADCAST] {
        frame.extend(mac);
        frame.extend(claimed.octets());
    }
    frame.extend(plan.payload());
    send(log, "ARP", &frame, ETH_P_ARP, &[])
}

/// No IP at all.
fn other(plan: &Plan, log: &mut Log, protocol: u16) -> io::Result<()> {
    let mut frame = header(BROADCAST, own_mac()?, protocol);
    frame.extend(plan.payload());
    frame.extend([0; 32]);
    send(log, "frame", &frame, protocol, &[])
}

/// Says that it is IP, and is not.
fn short(plan: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    for protocol in [ethertype(false), ethertype(true)] {
        let mut frame = header(gateway(plan)?, own_mac()?, protocol);
        frame.extend(plan.payload());
        send(log, "frame that is no packet", &frame[..34], protocol, &[])?;
    }
    Ok(())
}

fn by_xdp(plan: &Plan, v6: bool, log: &mut Log, packet: &[u8]) -> io::Result<()> {
    let frame = [&header(gateway(plan)?, own_mac()?, ethertype(v6))[..], packet].concat();
    let socket = xdp::Socket::new(interface()?)?;
    log.made("frame by AF_XDP", socket.send(&frame));
    Ok(())
}

fn xdp_frame(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let addresses = (plan.own(v6), plan.forbidden(v6));
    by_xdp(plan, v6, log, &packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload()))
}

fn xdp_fragment(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    by_xdp(plan, v6, log, &packet::fragment((plan.own(v6), plan.forbidden(v6)), &plan.payload()))
}

fn xdp_icmp(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    by_xdp(plan, v6, log, &packet::stack_message((plan.own(v6), plan.forbidden(v6)), &plan.payload()))
}

/// The device of tunnels; a container may make its node, if not open it.
fn tun(_: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let path = CString::new("/tmp/tun").map_err(io::Error::other)?;
    // SAFETY: the path is a C string; makedev only computes.
    let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(10, 200)) };
    prepared("mknod", sock::check(made as isize))?;
    let file = std::fs::OpenOptions::new().read(true).write(true).open("/tmp/tun");
    let Some(file) = log.made("open", file) else { return Ok(()) };
    let mut request = [0_u8; 40];
    // IFF_TUN | IFF_NO_PI.
    request[16..18].copy_from_slice(&0x1001_u16.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes an ifreq of 40 bytes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) };
    log.made("TUNSETIFF", sock::check(result as isize));
    Ok(())
}

/// A socket that sees every packet on the pod's interface, without link headers.
pub(super) fn tap() -> io::Result<OwnedFd> {
    let fd = open(libc::SOCK_DGRAM)?;
    prepared("bind of the packet socket", sock::bind(&fd, &link(interface()?, ETH_P_ALL, [0; 6])))?;
    Ok(fd)
}

/// Waits for a packet that `wanted` makes something of.
pub(super) fn watch<T>(tap: &OwnedFd, wanted: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let end = Instant::now() + sock::LIMIT;
    let mut bytes = [0; 2048];
    while Instant::now() < end && sock::readable_or_writable(tap, libc::POLLIN) {
        let Ok(length) = crate::sys::receive(tap, &mut bytes) else { continue };
        if let Some(found) = wanted(&bytes[..length]) {
            return Some(found);
        }
    }
    None
}
