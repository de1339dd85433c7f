//! Attempts that change where or when the attacker is: namespaces, cgroups, before its policy, after its death.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::raw::header_socket;
use super::{Attempt, Log, Plan, TCP_PORT, UDP_PORT, packet, prepared, sock};

/// How often what goes on sends.
const PERIOD: Duration = Duration::from_millis(10);

pub(super) fn find(name: &str) -> Option<Attempt> {
    Some(match name {
        "namespaces" => namespaces,
        "nested-cgroup" => nested_cgroup,
        "foreign-cgroup" => foreign_cgroup,
        "daemon" => daemon,
        "before-policy" => before_policy,
        "orphan" => orphan,
        "flood-to-death" => flood,
        _ => return None,
    })
}

/// All rights in namespaces of one's own; sockets of the old one stay.
fn namespaces(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let before = prepared("socket", sock::udp(v6))?;
    // SAFETY: takes no pointers; the process has one thread.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) };
    prepared("unshare", sock::check(result as isize))?;
    let inside = prepared("socket", sock::udp(v6))?;
    log.made("from the new namespace", sock::send_to(&inside, &plan.payload(), plan.forbidden_udp(v6)));
    log.made("from the old one", sock::send_to(&before, &plan.payload(), plan.forbidden_udp(v6)));
    let marked = sock::option(&before, libc::SOL_SOCKET, libc::SO_MARK, &7_u32);
    println!("SO_MARK: {marked:?}");
    log.made("marked", sock::send_to(&before, &plan.payload(), plan.forbidden_udp(v6)));
    Ok(())
}

/// Mounts the cgroup hierarchy as far as it is shown.
fn mount_cgroup() -> io::Result<&'static Path> {
    let at = Path::new("/tmp/cgroup");
    std::fs::create_dir_all(at)?;
    let (kind, target) = (c"cgroup2", CString::new("/tmp/cgroup").map_err(io::Error::other)?);
    // SAFETY: all strings are C strings; the file system takes no data.
    let result = unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    prepared("mount of cgroup2", sock::check(result as isize))?;
    Ok(at)
}

fn enter(cgroup: &Path) -> io::Result<()> {
    std::fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}

fn send_all(plan: &Plan, v6: bool, log: &mut Log, what: &str) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    log.made(what, sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    let fd = prepared("socket", sock::tcp(v6))?;
    log.made(what, sock::connect(&fd, plan.forbidden_tcp(v6)));
    Ok(())
}

fn nested_cgroup(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let mut cgroup = mount_cgroup()?.to_owned();
    for depth in 1..=3 {
        cgroup.push("nested");
        prepared("mkdir", std::fs::create_dir_all(&cgroup))?;
        prepared("enter", enter(&cgroup))?;
        send_all(plan, v6, log, &format!("{depth} below"))?;
    }
    Ok(())
}

/// Out of the pod's cgroup, if the mount shows anything beside it.
fn foreign_cgroup(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let root = mount_cgroup()?;
    let own = std::fs::read_to_string("/proc/self/cgroup")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    println!("own cgroup: {own}");
    if own == "/" {
        return Err(io::Error::other(
            "the container has a cgroup namespace of its own, and sees nothing above it",
        ));
    }
    let outside = root.join("outside");
    prepared("mkdir", std::fs::create_dir_all(&outside))?;
    let entered = enter(&outside);
    if log.made("enter", entered).is_some() {
        send_all(plan, v6, log, "from another cgroup")?;
        enter(&root.join(own.trim_start_matches('/')))?;
    }
    let _ = std::fs::remove_dir(outside);
    Ok(())
}

/// A process without parents, which sends while the container's first one ends.
fn daemon(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let fd = prepared("socket", sock::udp(v6))?;
    for _ in 0..2 {
        // SAFETY: the process has one thread.
        let child = unsafe { libc::fork() };
        prepared("fork", sock::check(child as isize))?;
        if child == 0 {
            // SAFETY: takes no pointers.
            unsafe { libc::setsid() };
            let end = Instant::now() + plan.lasting;
            while Instant::now() < end {
                let _ = sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6));
                sock::readable_or_writable(&fd, 0);
            }
            std::process::exit(0);
        }
    }
    log.made("first datagram", sock::send_to(&fd, &plan.payload(), plan.forbidden_udp(v6)));
    Ok(())
}

/// Sockets that are older than the policy send on.
fn before_policy(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let stream = prepared("socket", sock::tcp(v6))?;
    prepared("connect", sock::connect(&stream, plan.forbidden_tcp(v6)))?;
    let connected = prepared("socket", sock::udp(v6))?;
    prepared("connect", sock::connect(&connected, plan.forbidden_udp(v6)))?;
    let loose = prepared("socket", sock::udp(v6))?;
    let raw = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let made = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    let mut denied = 0;
    let mut last = [None, None, None, None];
    let end = Instant::now() + plan.lasting;
    println!("ready");
    while Instant::now() < end {
        last = [
            Some(sock::send(&stream, &plan.payload(), None, 0)),
            Some(sock::send(&connected, &plan.payload(), None, 0)),
            Some(sock::send_to(&loose, &plan.payload(), plan.forbidden_udp(v6))),
            Some(sock::send_to(&raw, &made, SocketAddr::new(plan.forbidden(v6), 0))),
        ];
        denied += last.iter().flatten().filter(|result| result.is_err()).count();
        crate::sys::poll([(&stream, 0)].into_iter(), PERIOD);
    }
    println!("{denied} calls failed");
    for (what, result) in ["TCP", "UDP, connected", "UDP", "raw"].into_iter().zip(last) {
        if let Some(result) = result {
            log.made(what, result);
        }
    }
    Ok(())
}

/// A connection that is closed with unsent bytes, and whose process ends: the kernel goes on alone.
fn orphan(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let stream = prepared("socket", sock::tcp(v6))?;
    let to = SocketAddr::new(plan.forbidden(v6), TCP_PORT);
    prepared("connect", sock::connect(&stream, to))?;
    println!("ready");
    // The rig answers by the policy: a second connection tells when it is there.
    let end = Instant::now() + plan.lasting;
    let mut refused = false;
    while Instant::now() < end && !refused {
        let second = sock::tcp(v6)?;
        refused = sock::connect(&second, to).is_err();
        crate::sys::poll([(&stream, 0)].into_iter(), PERIOD);
    }
    println!("{}", if refused { "denied from now on" } else { "never denied" });
    log.made("write", sock::send(&stream, &plan.payload().repeat(100), None, 0));
    drop(stream);
    Ok(())
}

/// Sends in every way until it is killed.
fn flood(plan: &Plan, v6: bool, log: &mut Log) -> io::Result<()> {
    let loose = prepared("socket", sock::udp(v6))?;
    let raw = header_socket(v6)?;
    let addresses = (plan.own(v6), plan.forbidden(v6));
    let made = packet::udp_packet(addresses, (UDP_PORT, UDP_PORT), &plan.payload());
    log.made("sendto", sock::send_to(&loose, &plan.payload(), plan.forbidden_udp(v6)));
    println!("ready");
    loop {
        for _ in 0..64 {
            let _ = sock::send_to(&loose, &plan.payload(), plan.forbidden_udp(v6));
            let _ = sock::send_to(&raw, &made, SocketAddr::new(plan.forbidden(v6), 0));
        }
        let stream = sock::tcp(v6)?;
        let _ = sock::connect_raw(&stream, &sock::Raw::new(plan.forbidden_tcp(v6)));
    }
}
