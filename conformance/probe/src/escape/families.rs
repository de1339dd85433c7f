//! Families of sockets that are not the Internet's, and still reach the wire or the machine.

use std::io;

use super::{Attempt, Log, Plan, prepared, sock};

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "smc" => smc,
        "rds" => |_, _, log| exists(log, 21, libc::SOCK_SEQPACKET, 0),
        "rxrpc" => |_, _, log| exists(log, 33, libc::SOCK_DGRAM, libc::AF_INET),
        "pppoe" => |_, _, log| exists(log, 24, libc::SOCK_STREAM, 0),
        "llc" => |_, _, log| exists(log, 26, libc::SOCK_DGRAM, 0),
        "tipc" => |_, _, log| exists(log, 30, libc::SOCK_RDM, 0),
        "vsock" => vsock,
        _ => return None,
    })
}

/// Falls back to TCP, by a socket that the kernel makes.
fn smc(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("AF_SMC socket", sock::open(43, libc::SOCK_STREAM, i32::from(v6)))?;
    if log.made("connect", sock::connect(&fd, plan.forbidden_tcp(v6))).is_some() {
        log.made("write", sock::send(&fd, &plan.payload(), None, 0));
    }
    Ok(())
}

/// A family that no default kernel of ours has. Where it can be opened, this attempt must be written.
fn exists(log: &mut Log, family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<()> {
    let fd = prepared("socket", sock::open(family, kind, protocol))?;
    log.made("the family is there, and nobody has tried it", Ok(fd));
    Ok(())
}

/// `struct sockaddr_vm`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Machine {
    family: u16,
    reserved: u16,
    port: u32,
    context: u32,
    zero: [u8; 4],
}

/// To the machine that runs this one.
fn vsock(_: &Plan, _: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("AF_VSOCK socket", sock::open(libc::AF_VSOCK, libc::SOCK_STREAM, 0))?;
    // Nothing is sent to the host: an address that no machine has shows as well whether a socket may connect.
    let nobody =
        Machine { family: libc::AF_VSOCK as u16, reserved: 0, port: 9, context: 0x7fff_fff0, zero: [0; 4] };
    log.made("connect", sock::connect_raw(&fd, &sock::Raw::from_struct(nobody)));
    Ok(())
}
