//! Evidence of a peer that never spoke: a packet in its name, to the pod itself, sent out to the node, which routes it
//! back in by the pod's interface.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::packet::{self, flag, protocol};
use super::raw::{header_socket, send};
use super::{Attempt, Log, Plan, TCP_PORT, UDP_PORT, prepared, sock};

/// Where the far end is to connect to.
const SERVED: u16 = 7000;
/// How long the far end may take to come.
const VISIT_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "bounce-udp" => bounce_udp,
        "bounce-tcp" => bounce_tcp,
        "accept-reconnect" => accept_reconnect,
        "reply-syn" => reply_syn,
        "reply-after-close" => reply_after_close,
        "simultaneous-open" => simultaneous_open,
        _ => return None,
    })
}

fn bounce_udp(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let fd = prepared("socket", sock::udp(v6))?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, 0)))?;
    let ports = (UDP_PORT, sock::local_port(&fd)?);
    let evidence = packet::udp_packet((plan.forbidden(v6), plan.own(v6)), ports, b"evidence");
    send(log, "evidence by way of the node", &raw, &evidence, plan.allowed(v6));
    let came = sock::readable_or_writable(&fd, libc::POLLIN);
    log.made(
        if came { "answer, after the evidence came" } else { "answer, no evidence came" },
        sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)),
    );
    Ok(())
}

fn bounce_tcp(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let listener = listener(v6)?;
    let inward = (plan.forbidden(v6), plan.own(v6));
    let syn = packet::syn_packet(inward, (TCP_PORT, SERVED), 1);
    send(log, "SYN by way of the node", &raw, &syn, plan.allowed(v6));
    // There is nothing to wait for that the attacker could see: the answer goes to the forbidden.
    sock::readable_or_writable(&listener, libc::POLLIN);
    let outward = (plan.own(v6), plan.forbidden(v6));
    let segment = packet::tcp(outward, (SERVED, TCP_PORT), (7, 7), flag::PSH_ACK, &plan.payload());
    send(log, "segment of one's own", &raw, &packet::ip(outward, protocol::TCP, &segment), outward.1);
    Ok(())
}

fn listener(v6: bool) -> io::Result<OwnedFd> {
    let fd = prepared("socket", sock::tcp(v6))?;
    prepared("SO_REUSEADDR", sock::enable(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR))?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, SERVED)))?;
    prepared("listen", sock::listen(&fd, 16))?;
    Ok(fd)
}

/// Waits for the far end, which the rig sends when it reads the line.
fn visited(listener: &OwnedFd) -> io::Result<(OwnedFd, SocketAddr)> {
    println!("ready");
    let child = prepared("accept", sock::accept(listener, VISIT_LIMIT))?;
    let stream = std::net::TcpStream::from(child);
    let peer = stream.peer_addr()?;
    Ok((OwnedFd::from(stream), peer))
}

/// An accepted socket is disconnected, and connects of its own accord.
fn accept_reconnect(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let listener = listener(v6)?;
    let (child, peer) = visited(&listener)?;
    prepared("disconnect", sock::disconnect(&child))?;
    log.made("connect to the same peer", sock::connect(&child, peer));
    let _ = sock::disconnect(&child);
    if log.made("connect elsewhere", sock::connect(&child, plan.forbidden_tcp(v6))).is_some() {
        log.made("write", sock::send(&child, &plan.payload(), None, 0));
    }
    drop(listener);
    let _ = sock::disconnect(&child);
    log.made("connect to the same peer from the same port", sock::connect(&child, peer));
    Ok(())
}

/// The peer that connected is sent a SYN of the pod's own, from the port that it connected to.
fn reply_syn(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let listener = listener(v6)?;
    let (_child, peer) = visited(&listener)?;
    let addresses = (plan.own(v6), peer.ip());
    let segment = packet::tcp(addresses, (SERVED, peer.port()), (1, 0), flag::SYN, &plan.payload());
    send(log, "SYN of one's own", &raw, &packet::ip(addresses, protocol::TCP, &segment), peer.ip());
    Ok(())
}

/// The connection is over; its four numbers are used by hand.
fn reply_after_close(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let raw = header_socket(v6)?;
    let listener = listener(v6)?;
    let (child, peer) = visited(&listener)?;
    crate::sys::reset_on_close(&child);
    drop((child, listener));
    let addresses = (plan.own(v6), peer.ip());
    let segment = packet::tcp(addresses, (SERVED, peer.port()), (7, 7), flag::PSH_ACK, &plan.payload());
    send(log, "segment after the end", &raw, &packet::ip(addresses, protocol::TCP, &segment), peer.ip());
    Ok(())
}

/// Both ends connect at once, from the ports that the other connects to.
fn simultaneous_open(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::tcp(v6))?;
    prepared("SO_REUSEADDR", sock::enable(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR))?;
    prepared("bind", sock::bind(&fd, &sock::any(v6, SERVED)))?;
    println!("ready");
    // The far end is connecting meanwhile, from the same port, for as long as this takes.
    let to: IpAddr = plan.forbidden(v6);
    let end = std::time::Instant::now() + Duration::from_secs(2);
    let mut connected = log.made("connect", sock::connect(&fd, SocketAddr::new(to, SERVED)));
    while connected.is_none() && std::time::Instant::now() < end {
        sock::readable_or_writable(&fd, libc::POLLIN);
        let result = sock::connect(&fd, SocketAddr::new(to, SERVED));
        let refused = matches!(&result, Err(error) if error.raw_os_error() == Some(libc::EPERM));
        connected = log.made("connect again", result);
        if refused {
            break;
        }
    }
    log.made("write", sock::send(&fd, &plan.payload(), None, 0));
    Ok(())
}
