//! Packets that the pod sends to itself, in another's name: what the kernel answers goes to that other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use super::packet::{self, flag, protocol};
use super::raw::{header_socket, send};
use super::{Attempt, Log, Plan, TCP_PORT, UDP_PORT, frame, prepared, sock};

/// A port at which the pod does not listen.
const CLOSED: u16 = 9;
/// The sequence number of forged segments.
const SEQUENCE: u32 = 1000;

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "lo-datagram" => datagram,
        "lo-echo" => echo,
        "lo-unreachable" => unreachable,
        "lo-reset" => reset,
        "lo-syn" => |plan, v6, log| syn(plan, v6, log, 16),
        // No room for a half-open connection: the kernel answers with a cookie.
        "lo-syn-cookie" => |plan, v6, log| syn(plan, v6, log, 0),
        "lo-handshake" => handshake,
        "lo-bound" => bound,
        "lo-forward" => |plan, v6, log| forward(plan, v6, log, false),
        "lo-forward-icmp" => |plan, v6, log| forward(plan, v6, log, true),
        "lo-frame-echo" => frame_echo,
        _ => return None,
    })
}

/// Forged from the forbidden, to the pod itself: it goes over the loopback device.
fn forged(plan: &Plan, v6: bool) -> (IpAddr, IpAddr) {
    (plan.forbidden(v6), plan.own(v6))
}

/// A datagram of the forbidden, and then an answer to it.
fn datagram(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, 0)))?;
    let port = sock::local_port(&fd)?;
    let packet = packet::udp_packet(forged(plan, v6), (UDP_PORT, port), b"evidence");
    prepared("forged datagram", sock::send_to(&raw, &packet, SocketAddr::new(plan.own(v6), 0)))?;
    if !sock::readable_or_writable(&fd, libc::POLLIN) {
        return Err(io::Error::other("the forged datagram did not come"));
    }
    log.made("answer", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    prepared("connect", sock::connect(&fd, plan.forbidden_udp(v6)))?;
    log.made("answer, connected", sock::send(&fd, &plan.payload(), None, 0));
    // The kernel checks no address of what an own datagram says to its own socket.
    let own = SocketAddr::new(plan.own(v6), port);
    prepared("datagram to oneself", sock::send_to(&prepared("socket", sock::udp(v6))?, b"evidence", own))?;
    log.made("again", sock::send(&fd, &plan.payload(), None, 0));
    Ok(())
}

fn echo(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let addresses = forged(plan, v6);
    let message = packet::icmp(addresses, if v6 { 128 } else { 8 }, [0, 1, 0, 1], &plan.payload());
    let packet = packet::ip(addresses, packet::icmp_protocol(v6), &message);
    send(log, "echo request of the forbidden", &raw, &packet, addresses.1);
    Ok(())
}

fn unreachable(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let addresses = forged(plan, v6);
    let packet = packet::udp_packet(addresses, (UDP_PORT, CLOSED), &plan.payload());
    send(log, "datagram of the forbidden to a closed port", &raw, &packet, addresses.1);
    Ok(())
}

fn reset(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let addresses = forged(plan, v6);
    let packet = packet::syn_packet(addresses, (TCP_PORT, CLOSED), SEQUENCE);
    send(log, "SYN of the forbidden to a closed port", &raw, &packet, addresses.1);
    Ok(())
}

fn listener(v6: bool, backlog: libc::c_int) -> io::Result<(OwnedFd, u16)> {
    let fd = prepared("socket", sock::tcp(v6))?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, 0)))?;
    prepared("listen", sock::listen(&fd, backlog))?;
    let port = sock::local_port(&fd)?;
    Ok((fd, port))
}

fn syn(plan: &Plan, v6: bool, log: &mut Log, backlog: libc::c_int) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let (_listener, port) = listener(v6, backlog)?;
    let addresses = forged(plan, v6);
    for number in 0..3 {
        let packet = packet::syn_packet(addresses, (TCP_PORT + number, port), SEQUENCE);
        send(log, "SYN of the forbidden to a listener", &raw, &packet, addresses.1);
    }
    Ok(())
}

/// The answer is read off the pod's interface, and acknowledged.
fn handshake(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let (listener, port) = listener(v6, 16)?;
    let tap = frame::tap()?;
    let addresses = forged(plan, v6);
    let ports = (TCP_PORT, port);
    send(log, "SYN of the forbidden", &raw, &packet::syn_packet(addresses, ports, SEQUENCE), addresses.1);
    let Some(theirs) = frame::watch(&tap, |frame| syn_ack_sequence(frame, v6, port)) else { return Ok(()) };
    let numbers = (SEQUENCE + 1, theirs.wrapping_add(1));
    let ack = packet::tcp(addresses, ports, numbers, flag::ACK, &[]);
    send(log, "ACK of the forbidden", &raw, &packet::ip(addresses, protocol::TCP, &ack), addresses.1);
    if let Some(child) = log.made("accept", sock::accept(&listener, sock::LIMIT)) {
        log.made("write", sock::send(&child, &plan.payload(), None, 0));
    }
    Ok(())
}

/// The sequence number of a SYN-ACK from that port, in a frame without its link header.
fn syn_ack_sequence(packet: &[u8], v6: bool, port: u16) -> Option<u32> {
    let segment = packet.get(if v6 { 40 } else { 20 }..)?;
    let is_it = segment.get(..2)? == port.to_be_bytes() && segment.get(13)? & 0x12 == 0x12;
    is_it.then(|| segment.get(4..8)?.try_into().ok().map(u32::from_be_bytes)).flatten()
}

/// A socket bound to the loopback device sends to the forbidden.
fn bound(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("SO_BINDTODEVICE", sock::option_bytes(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0"))?;
    log.made("sendto", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    let raw = header_socket(v6)?;
    prepared("SO_BINDTODEVICE", sock::option_bytes(&raw, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"lo\0"))?;
    let addresses = (super::raw::OUTSIDE[usize::from(v6)], plan.forbidden(v6));
    let packet = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    send(log, "raw", &raw, &packet, addresses.1);
    Ok(())
}

/// A frame put on the loopback device comes in there, and a namespace that forwards sends it on as a stranger's.
fn forward(plan: &Plan, v6: bool, log: &mut Log, icmp: bool) -> io::Result<()> {
    let file = if v6 { "ipv6/conf/all/forwarding" } else { "ipv4/ip_forward" };
    if std::fs::read_to_string(format!("/proc/sys/net/{file}"))?.trim() != "1" {
        return Err(io::Error::other("the pod's namespace does not forward"));
    }
    let addresses = (super::raw::OUTSIDE[usize::from(v6)], plan.forbidden(v6));
    let packet = if icmp {
        packet::stack_message(addresses, &plan.payload())
    } else {
        packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload())
    };
    on_loopback(log, v6, &packet)
}

/// An echo request of the forbidden, which no cgroup hook sees on its way in.
fn frame_echo(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let addresses = forged(plan, v6);
    let message = packet::icmp(addresses, if v6 { 128 } else { 8 }, [0, 1, 0, 1], &plan.payload());
    on_loopback(log, v6, &packet::ip(addresses, packet::icmp_protocol(v6), &message))
}

fn on_loopback(log: &mut Log, v6: bool, packet: &[u8]) -> io::Result<()> {
    let fd = prepared("packet socket", sock::open(libc::AF_PACKET, libc::SOCK_DGRAM, 0))?;
    let to = frame::link(1, frame::ethertype(v6), [0; 6]);
    log.made("frame on the loopback device", sock::send(&fd, packet, Some(&to), 0));
    Ok(())
}
