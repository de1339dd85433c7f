//! The far end of the wire: it counts what arrives, answers, and talks to pods.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
    SockaddrStorage, recvfrom, recvmsg, sendmsg, sendto, setsockopt, socket, sockopt,
};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::capture::Capture;
pub use super::capture::{Count, Key};
use super::net::{FAR_ADDRESS, in_far};

/// How long a marker may be under way.
const MARKER_LIMIT: Duration = Duration::from_secs(10);

/// The far end. Its threads end when it is dropped.
pub struct FarEnd {
    capture: Arc<Capture>,
    servers: Vec<oneshot::Sender<()>>,
    backlog_drops: u64,
}

impl FarEnd {
    /// Starts the counter, and servers that echo on these ports of every far address of both families.
    pub(super) fn start(tcp: &[u16], udp: &[u16]) -> Result<Self> {
        let capture = Arc::new(Capture::start()?);
        let mut servers = Vec::new();
        for port in tcp.iter().copied() {
            servers.push(serve(move |stop| serve_tcp(port, stop))?);
        }
        for port in udp.iter().copied() {
            servers.push(serve(move |stop| serve_udp(port, stop))?);
        }
        Ok(Self { capture, servers, backlog_drops: backlog_drops()? })
    }

    /// Everything that has been counted so far. Call [`settle`](Self::settle) first to have all that was sent.
    pub fn counts(&self) -> HashMap<Key, Count> {
        self.capture.counts()
    }

    /// Frames and different connection attempts of all that match, without a copy of the counts.
    pub fn sum(&self, wanted: impl Fn(&Key) -> bool) -> (u64, u64) {
        self.capture.sum(wanted)
    }

    /// Frames that the kernel could not keep for the counter: anything but 0 makes the counts worthless.
    pub fn capture_drops(&self) -> Result<u64> {
        self.capture.drops()
    }

    /// Packets that the kernel threw away since the start because a CPU's queue was full, on the whole machine: while this
    /// is 0, whatever was sent and did not arrive was refused by somebody.
    pub fn backlog_drops(&self) -> Result<u64> {
        Ok(backlog_drops()? - self.backlog_drops)
    }

    /// Returns once all packets that pods sent before the call have been counted.
    ///
    /// A packet waits in the queue of the CPU that sent it, once for each link that it crosses. A marker that is sent from
    /// the node on the same CPU queues up behind it; the second marker, sent after the first has arrived, is behind the
    /// packet on its second link too.
    pub async fn settle(&self) -> Result<()> {
        let capture = Arc::clone(&self.capture);
        tokio::task::spawn_blocking(move || {
            // A thread of its own, for its CPU affinity ends with it.
            std::thread::spawn(move || markers(&capture)).join().expect("no panic")
        })
        .await?
    }

    /// Connects into a pod, sends `request` and returns what comes back first.
    pub async fn tcp_request(&self, to: SocketAddr, request: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let request = request.to_owned();
        self.call(move || {
            let mut stream = TcpStream::connect_timeout(&to, limit)?;
            stream.set_read_timeout(Some(limit))?;
            stream.write_all(&request)?;
            let mut bytes = vec![0; 2048];
            let length = stream.read(&mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        })
        .await
    }

    /// Sends a datagram into a pod and returns the answer.
    pub async fn udp_request(&self, to: SocketAddr, request: &[u8], limit: Duration) -> Result<Vec<u8>> {
        let request = request.to_owned();
        self.call(move || {
            let local: SocketAddr =
                if to.is_ipv6() { (Ipv6Addr::UNSPECIFIED, 0).into() } else { ([0, 0, 0, 0], 0).into() };
            let socket = UdpSocket::bind(local)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(limit))?;
            socket.send(&request)?;
            let mut bytes = vec![0; 2048];
            let length = socket.recv(&mut bytes)?;
            bytes.truncate(length);
            Ok(bytes)
        })
        .await
    }

    /// Sends an echo request into a pod; whether it was answered in time.
    pub async fn ping(&self, to: IpAddr, limit: Duration) -> Result<bool> {
        self.call(move || ping(to, limit)).await
    }

    /// Runs a function at the far end, in a thread: the sockets that it makes belong there.
    pub async fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        in_far(move || {
            let _ = sender.send(run());
        })?;
        receiver.await.context("the call panicked")?
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        for stop in self.servers.drain(..) {
            let _ = stop.send(());
        }
    }
}

/// Starts a server and returns what stops it; by then its socket is open.
fn serve<F>(server: impl FnOnce(Server) -> F + Send + 'static) -> Result<oneshot::Sender<()>>
where
    F: Future<Output = Result<()>>,
{
    let (stop, stopped) = oneshot::channel();
    let (opened, open) = std::sync::mpsc::channel();
    in_far(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let failed = opened.clone();
        let result = runtime.block_on(server(Server { opened, stopped }));
        if let Err(error) = &result {
            let _ = failed.send(Err(anyhow::anyhow!("{error:#}")));
        }
        result
    })?;
    open.recv().context("a server ended before it began")??;
    Ok(stop)
}

/// A server's side of its thread's life.
struct Server {
    opened: std::sync::mpsc::Sender<Result<()>>,
    stopped: oneshot::Receiver<()>,
}

async fn serve_tcp(port: u16, mut server: Server) -> Result<()> {
    let socket = tokio::net::TcpSocket::new_v6()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, port).into())?;
    let listener = socket.listen(65535)?;
    server.opened.send(Ok(()))?;
    loop {
        let mut stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // The peer gave up before it was accepted.
                Err(_) => continue,
            },
            _ = &mut server.stopped => return Ok(()),
        };
        tokio::spawn(async move {
            let mut bytes = [0; 2048];
            while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                if stream.write_all(&bytes[..length]).await.is_err() {
                    return;
                }
            }
        });
    }
}

async fn serve_udp(port: u16, mut server: Server) -> Result<()> {
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
    let socket = tokio::net::UdpSocket::from_std(socket)?;
    server.opened.send(Ok(()))?;
    loop {
        tokio::select! {
            ready = socket.readable() => ready?,
            _ = &mut server.stopped => return Ok(()),
        }
        while let Ok(()) = socket.try_io(tokio::io::Interest::READABLE, || Ok(echo(&socket)?)) {}
    }
}

/// Answers one datagram from the address that it was sent to.
fn echo(socket: &tokio::net::UdpSocket) -> nix::Result<()> {
    let mut bytes = [0; 2048];
    let mut space = nix::cmsg_space!(libc::in6_pktinfo);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let (length, peer) = (message.bytes, message.address);
    let local = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(info),
        _ => None,
    });
    let (Some(mut local), Some(peer)) = (local, peer) else { return Ok(()) };
    // Any interface: the answer leaves by the route, not by `lo`, where the address is.
    local.ipi6_ifindex = 0;
    // A pod that is gone by now gets no answer.
    let _ = sendmsg(
        socket.as_raw_fd(),
        &[IoSlice::new(&bytes[..length])],
        &[ControlMessage::Ipv6PacketInfo(&local)],
        MsgFlags::MSG_DONTWAIT,
        Some(&peer),
    );
    Ok(())
}

/// Sends two markers from each CPU, one after the other.
fn markers(capture: &Capture) -> Result<()> {
    let this_thread = Pid::from_raw(0);
    let allowed = sched_getaffinity(this_thread)?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for cpu in (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false)) {
        let mut only = CpuSet::new();
        only.set(cpu)?;
        sched_setaffinity(this_thread, &only)?;
        for _ in 0..2 {
            let tag: u64 = rand::random();
            socket.send_to(&[tag.to_be_bytes(), [0; 8]].concat(), (FAR_ADDRESS, 9))?;
            capture.wait_for_tag(tag, MARKER_LIMIT)?;
            capture.forget_tag(tag);
        }
    }
    Ok(())
}

fn ping(to: IpAddr, limit: Duration) -> Result<bool> {
    let v6 = to.is_ipv6();
    let (family, protocol) = if v6 {
        (AddressFamily::Inet6, SockProtocol::IcmpV6)
    } else {
        (AddressFamily::Inet, SockProtocol::Icmp)
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    let tag: u64 = rand::random();
    let mut packet = [&[if v6 { 128 } else { 8 }, 0, 0, 0, 0, 0, 0, 1], &tag.to_be_bytes()[..]].concat();
    if !v6 {
        let mut sum: u32 = packet.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], b[1]]))).sum();
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }
    sendto(socket.as_raw_fd(), &packet, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty())?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut entries = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        if left.is_zero() || poll(&mut entries, PollTimeout::try_from(left)?)? == 0 {
            return Ok(false);
        }
        let mut bytes = [0; 256];
        let (length, _) = recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut bytes)?;
        let header = if v6 { 0 } else { usize::from(bytes[0] & 0xf) * 4 };
        let Some(icmp) = bytes[..length].get(header..) else { bail!("a reply without an ICMP header") };
        if icmp.first() == Some(if v6 { &129 } else { &0 }) && icmp.get(8..16) == Some(&tag.to_be_bytes()[..])
        {
            return Ok(true);
        }
    }
}

/// The machine's count of packets dropped because a CPU's input queue was full.
fn backlog_drops() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/net/softnet_stat")?;
    let mut sum = 0;
    for line in text.lines() {
        let field = line.split_whitespace().nth(1).context("softnet_stat has no second column")?;
        sum += u64::from_str_radix(field, 16)?;
    }
    ensure!(!text.is_empty(), "softnet_stat is empty");
    Ok(sum)
}
