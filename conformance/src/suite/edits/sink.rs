//! The far ends of long flows: each counts what it gets, and stops its flow when told to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{setsockopt, sockopt};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::rig::FarEnd;

/// What the probe tells of a flow that has ended.
#[derive(Clone, Debug, Deserialize)]
pub(in crate::suite) struct Ended {
    pub(in crate::suite) flow: String,
    pub(in crate::suite) sent: u64,
    pub(in crate::suite) errors: BTreeMap<String, u64>,
    pub(in crate::suite) end: String,
}

/// The datagram after which no more come.
const LAST: &[u8] = b"last";
/// Room for datagrams that arrive while nobody reads.
const RECEIVE_BUFFER: usize = 64 << 20;

/// One far end of one flow.
pub(in crate::suite) struct Sink {
    /// `tcp/203.0.113.10`, as the probe names it.
    pub(in crate::suite) flow: String,
    /// Where datagrams are waited for.
    datagrams: Option<SocketAddr>,
    received: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<()>>,
}

impl Sink {
    /// Waits for one connection to this address.
    pub(in crate::suite) async fn tcp(far: &FarEnd, address: IpAddr, port: u16) -> Result<Self> {
        let listener = far
            .call(move || {
                let listener = TcpListener::bind(SocketAddr::new(address, port))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .await?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        Ok(Self::spawn(format!("tcp/{address}"), None, |received, stopped| {
            count_bytes(listener, received, stopped)
        }))
    }

    /// Waits for datagrams to this address.
    pub(in crate::suite) async fn udp(far: &FarEnd, address: IpAddr, port: u16) -> Result<Self> {
        let socket = far
            .call(move || {
                let socket = UdpSocket::bind(SocketAddr::new(address, port))?;
                socket.set_nonblocking(true)?;
                setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
                Ok(socket)
            })
            .await?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        Ok(Self::spawn(
            format!("udp/{address}"),
            Some(SocketAddr::new(address, port)),
            |received, stopped| count_datagrams(socket, received, stopped),
        ))
    }

    fn spawn<F>(
        flow: String,
        datagrams: Option<SocketAddr>,
        count: impl FnOnce(Arc<AtomicU64>, watch::Receiver<bool>) -> F,
    ) -> Self
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (stop, stopped) = watch::channel(false);
        let received = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(count(Arc::clone(&received), stopped));
        Self { flow, datagrams, received, stop, task }
    }

    /// Bytes of the connection, or datagrams, so far.
    pub(in crate::suite) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits until everything has been read that is there, and gives [`Self::received`]. The sender must have ended, and what
    /// it sent must have arrived.
    pub(in crate::suite) async fn finish(&mut self, far: &FarEnd, limit: Duration) -> Result<u64> {
        if let Some(to) = self.datagrams {
            // Behind all the others in the socket's buffer.
            let last = move || Ok(UdpSocket::bind(SocketAddr::new(to.ip(), 0))?.send_to(LAST, to)?);
            far.call(last).await?;
        }
        let ended = tokio::time::timeout(limit, &mut self.task).await;
        ended.with_context(|| format!("the far end of {} does not end", self.flow))???;
        Ok(self.received())
    }

    /// Tells the sender to stop.
    pub(in crate::suite) fn stop(&self) {
        self.stop.send_replace(true);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn count_bytes(
    listener: tokio::net::TcpListener,
    received: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let (mut stream, _) = listener.accept().await?;
    let mut bytes = vec![0; 64 << 10];
    let mut stopping = false;
    loop {
        tokio::select! {
            read = stream.read(&mut bytes) => match read? {
                0 => return Ok(()),
                length => { received.fetch_add(length as u64, Ordering::Relaxed); }
            },
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                stream.shutdown().await?;
            }
        }
    }
}

async fn count_datagrams(
    socket: tokio::net::UdpSocket,
    received: Arc<AtomicU64>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let mut bytes = [0; 2048];
    let mut peer = None;
    let mut stopping = false;
    loop {
        tokio::select! {
            datagram = socket.recv_from(&mut bytes) => {
                let (length, from) = datagram?;
                if &bytes[..length] == LAST {
                    return Ok(());
                }
                peer = Some(from);
                received.fetch_add(1, Ordering::Relaxed);
            }
            _ = stopped.changed(), if !stopping => {
                stopping = true;
                if let Some(peer) = peer {
                    socket.send_to(b"stop", peer).await?;
                }
            }
        }
    }
}
