//! Counts every frame that arrives at the far end.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};

use super::decode::{Packet, decode};
use super::net::{FAR_SIDE, in_far};

/// Room for frames that arrive while the counter is not running.
const RECEIVE_BUFFER: usize = 256 << 20;

/// What frames are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number.
    pub protocol: u8,
    /// Destination port or ICMP type.
    pub port: u16,
    /// The sender's tag, for UDP and echo requests of the probe.
    pub tag: u64,
    /// The probe's way of sending, next to the tag.
    pub kind: u8,
}

/// How often and when.
#[derive(Clone, Debug)]
pub struct Count {
    /// Frames.
    pub frames: u64,
    /// Different connection attempts by TCP: a repeated SYN counts once.
    pub attempts: HashSet<(u16, u32)>,
    /// When the first was read.
    pub first: Instant,
    /// When the last was read.
    pub last: Instant,
}

#[derive(Default)]
struct State {
    counts: HashMap<Key, Count>,
    drops: u64,
    error: Option<String>,
}

impl State {
    fn add(&mut self, packet: &Packet) {
        let key = Key {
            source: packet.source,
            destination: packet.destination,
            protocol: packet.protocol,
            port: packet.port,
            tag: packet.tag,
            kind: packet.kind,
        };
        let now = Instant::now();
        let count = self.counts.entry(key).or_insert_with(|| Count {
            frames: 0,
            attempts: HashSet::new(),
            first: now,
            last: now,
        });
        count.frames += 1;
        count.last = now;
        count.attempts.extend(packet.syn.map(|sequence| (packet.source_port, sequence)));
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the counter does not panic")
    }
}

/// The counter: a thread with a packet socket in the far network namespace.
pub(super) struct Capture {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(super) fn start() -> Result<Self> {
        let socket = in_far(packet_socket)?.join().expect("no panic")?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("capture".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || {
                if let Err(error) = count(&socket, &shared) {
                    shared.state().error = Some(format!("{error:#}"));
                    shared.changed.notify_all();
                }
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until a frame with such a tag was counted.
    pub(super) fn wait_for_tag(&self, tag: u64, limit: Duration) -> Result<()> {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.state(), limit, |state| {
                state.error.is_none() && !state.counts.keys().any(|key| key.tag == tag)
            })
            .expect("the counter does not panic");
        ensure!(state.counts.keys().any(|key| key.tag == tag), "a marker did not arrive: {:?}", state.error);
        Ok(())
    }

    pub(super) fn forget_tag(&self, tag: u64) {
        self.shared.state().counts.retain(|key, _| key.tag != tag);
    }

    pub(super) fn counts(&self) -> HashMap<Key, Count> {
        self.shared.state().counts.clone()
    }

    /// Frames and attempts of all that match.
    pub(super) fn sum(&self, wanted: impl Fn(&Key) -> bool) -> (u64, u64) {
        let state = self.shared.state();
        let matching = state.counts.iter().filter(|(key, _)| wanted(key));
        matching.fold((0, 0), |(frames, attempts), (_, count)| {
            (frames + count.frames, attempts + count.attempts.len() as u64)
        })
    }

    /// Frames that the kernel could not keep for the counter.
    pub(super) fn drops(&self) -> Result<u64> {
        let state = self.shared.state();
        ensure!(state.error.is_none(), "the counter stopped: {:?}", state.error);
        Ok(state.drops)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads frames until told to stop.
fn count(socket: &OwnedFd, shared: &Shared) -> Result<()> {
    // Long enough for headers, some extension headers and a tag.
    let mut frame = [0; 256];
    while !shared.stop.load(Ordering::Relaxed) {
        let mut entries = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut entries, PollTimeout::from(50_u8))?;
        {
            let mut state = shared.state();
            // Give the lock away now and then, under whatever load.
            for _ in 0..4096 {
                match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                    Ok(length) => {
                        if let Some(packet) = decode(&frame[..length]) {
                            state.add(&packet);
                        }
                    }
                    Err(nix::errno::Errno::EAGAIN) => break,
                    Err(error) => return Err(error).context("reading frames"),
                }
            }
            state.drops += dropped(socket)?;
        }
        shared.changed.notify_all();
    }
    Ok(())
}

fn last_error() -> anyhow::Error {
    std::io::Error::last_os_error().into()
}

/// A socket that gets every frame arriving at the far side of the wire; none that leaves.
fn packet_socket() -> Result<OwnedFd> {
    let every = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: socket takes no pointers. Protocol 0 receives nothing until bind.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, last_error().context("packet socket"));
    // SAFETY: the call succeeded, so fd is open and nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    let yes: libc::c_int = 1;
    // SAFETY: the value's pointer and length describe `yes`.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            std::ptr::from_ref(&yes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    ensure!(result == 0, last_error().context("PACKET_IGNORE_OUTGOING"));
    let index = nix::net::if_::if_nametoindex(FAR_SIDE)?;
    // SAFETY: sockaddr_ll is plain old data, for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = every;
    address.sll_ifindex = index.cast_signed();
    // SAFETY: the pointer and length describe `address`.
    let result = unsafe {
        libc::bind(fd, std::ptr::from_ref(&address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t)
    };
    ensure!(result == 0, last_error().context("bind of the packet socket"));
    Ok(socket)
}

/// Frames dropped since the last call: the kernel resets the number when it is read.
fn dropped(socket: &OwnedFd) -> Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the value's pointer and length describe `statistics`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            std::ptr::from_mut(&mut statistics).cast(),
            &raw mut length,
        )
    };
    ensure!(result == 0, last_error().context("PACKET_STATISTICS"));
    Ok(u64::from(statistics.tp_drops))
}
