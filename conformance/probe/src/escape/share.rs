//! Sockets that change hands: a Unix socket in a directory that two pods share.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use super::{Attempt, Log, Plan, TCP_PORT, prepared, sock};

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "give" => give,
        "take" => take,
        _ => return None,
    })
}

/// The kinds of socket that are handed over, in this order.
const KINDS: [&str; 4] = ["TCP", "UDP", "TCP, connected", "UDP, connected"];

fn path(plan: &Plan) -> io::Result<String> {
    let directory = plan.directory.as_ref().ok_or_else(|| io::Error::other("no directory was given"))?;
    Ok(format!("{directory}/sockets"))
}

/// Opens sockets and gives them away: some as they are, some connected to what this pod may reach.
fn give(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let listener = prepared("listen", UnixListener::bind(path(plan)?))?;
    println!("ready");
    let (stream, _) = prepared("accept", listener.accept())?;
    let made = [sock::tcp(v6), sock::udp(v6), sock::tcp(v6), sock::udp(v6)];
    for (number, fd) in made.into_iter().enumerate() {
        let fd = prepared("socket", fd)?;
        if number >= 2 {
            let to = if number == 2 { plan.forbidden_tcp(v6) } else { plan.forbidden_udp(v6) };
            println!("{}: {:?}", KINDS[number], sock::connect(&fd, to).map_err(|error| error.to_string()));
        }
        let stream = OwnedFd::from(stream.try_clone()?);
        let given =
            sock::send_control(&stream, b"x", None, (libc::SOL_SOCKET, libc::SCM_RIGHTS), fd.as_raw_fd());
        log.made(&format!("give {}", KINDS[number]), given);
    }
    // Until the other is done.
    let mut done = [0];
    let _ = io::Read::read(&mut &stream, &mut done);
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8];
    let mut vector = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0_u64; 8];
    // SAFETY: msghdr is plain old data. Every pointer is to a local that outlives the call; the control buffer is aligned.
    unsafe {
        let mut message: libc::msghdr = std::mem::zeroed();
        message.msg_iov = &raw mut vector;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        sock::check(libc::recvmsg(stream.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC))?;
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() || (*header).cmsg_type != libc::SCM_RIGHTS {
            return Err(io::Error::other("no socket came"));
        }
        Ok(OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()))
    }
}

/// Takes the sockets, and uses them.
fn take(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let stream = prepared("connect to the other pod", UnixStream::connect(path(plan)?))?;
    for (number, kind) in KINDS.into_iter().enumerate() {
        let fd = prepared("receive", receive(&stream))?;
        match number {
            0 => {
                log.made(kind, sock::connect(&fd, SocketAddr::new(plan.forbidden(v6), TCP_PORT)));
                log.made(kind, sock::send(&fd, &plan.payload(), None, 0));
            }
            1 => {
                log.made(kind, sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
            }
            _ => {
                log.made(kind, sock::send(&fd, &plan.payload(), None, 0));
            }
        }
    }
    Ok(())
}
