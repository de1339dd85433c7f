//! A datagram socket of a pod, by which an edit is seen to be in force; and the least that a notice of a file can take.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::rig::isolate::CGROUP_MOUNT;
use crate::rig::net::DESTINATIONS;

/// The port that policies allow or do not.
pub(super) const PORT: u16 = 9;
/// How long is waited between two tries: the error of what is measured.
const TICK: Duration = Duration::from_micros(100);
/// How long an edit may take.
const LIMIT: Duration = Duration::from_secs(30);

/// A socket that belongs to a pod although no process of it does: the kernel goes by the cgroup of the socket's maker.
pub(super) struct Probe {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Probe {
    /// Made by this process, which is in the pod's cgroup for this moment.
    pub(super) fn new(cgroup: &Path, from: IpAddr) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
        let enter = |directory: &Path| {
            fs::write(directory.join("cgroup.procs"), "0").with_context(|| format!("{}", directory.display()))
        };
        enter(cgroup)?;
        let socket = UdpSocket::bind((from, 0));
        enter(&Path::new(CGROUP_MOUNT).join(own))?;
        Ok(Self { socket: socket?, to: SocketAddr::new(DESTINATIONS.allowed[0], PORT) })
    }

    /// Sends until a datagram passes, or until none does. Gives when that was.
    pub(super) fn wait(&self, passes: bool) -> Result<Instant> {
        let begun = Instant::now();
        loop {
            let sent = match self.socket.send_to(b"bench", self.to) {
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => false,
                Err(error) => return Err(error).context("the pod's datagram"),
            };
            let now = Instant::now();
            if sent == passes {
                return Ok(now);
            }
            if now - begun > LIMIT {
                bail!("the edit is not in force after {LIMIT:?}");
            }
            thread::sleep(TICK);
        }
    }
}

/// How long it takes until a process that waits for a file has seen it renamed into its place, and has written another: what
/// no agent could do faster. So many times.
pub(super) fn bare_notices(directory: &Path, count: usize) -> Result<Vec<Duration>> {
    let (asked, answers) = (directory.join("asked"), directory.join("answers"));
    for path in [&asked, &answers] {
        fs::create_dir_all(path)?;
    }
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(&asked, AddWatchFlags::IN_MOVED_TO)?;
    let answer = answers.join("answer");
    let to = answer.clone();
    let source = asked.join("policy.yaml");
    let read = source.clone();
    let watcher = thread::spawn(move || -> Result<()> {
        for _ in 0..count {
            inotify.read_events()?;
            fs::write(&to, fs::read(&read)?)?;
        }
        Ok(())
    });
    let mut took = Vec::with_capacity(count);
    for number in 0..count {
        let text = format!("{number:08}");
        let beside = asked.join(".policy");
        fs::write(&beside, &text)?;
        let begun = Instant::now();
        fs::rename(&beside, &source)?;
        while fs::read(&answer).ok().as_deref() != Some(text.as_bytes()) {
            if begun.elapsed() > LIMIT {
                bail!("no notice of a renamed file after {LIMIT:?}");
            }
            thread::sleep(TICK);
        }
        took.push(begun.elapsed());
    }
    watcher.join().expect("no panic")?;
    Ok(took)
}
