//! The agent's sockets: for root only, and not for root in a pod.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_api::frame::{self, FrameError};
use sluice_api::{Call, Outcome, PROTOCOL_VERSION, Refusal, RefusalKind, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::drain::Stop;
use super::{Shared, store};

/// How long a peer may take to send its request, and to read the reply.
const PATIENCE: Duration = Duration::from_secs(2);
/// Connections that are served at once; the others wait in the backlog.
const AT_ONCE: usize = 128;
/// How long those who connected before the agent was told to stop are looked for.
const LAST_CALL: Duration = Duration::from_millis(20);

/// A socket that only root can open.
pub(super) struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

/// Listens.
pub(super) fn listen(path: PathBuf) -> anyhow::Result<Socket> {
    store::remove(&path)?;
    let listener =
        UnixListener::bind(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot close {} to others", path.display()))?;
    Ok(Socket { listener, path })
}

/// Serves a socket until told to stop: then nobody new finds it, and who has connected before is still answered.
pub(super) async fn serve<C, F>(
    socket: Socket,
    shared: Arc<Shared>,
    mut stop: Stop,
    converse: C,
) -> anyhow::Result<()>
where
    C: Fn(UnixStream, Arc<Shared>) -> F,
    F: Future<Output = Result<(), FrameError>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut open = JoinSet::new();
    let start = |stream, place| {
        let conversation = converse(stream, Arc::clone(&shared));
        async move {
            if let Err(error) = conversation.await {
                tracing::warn!(%error, "a connection was dropped");
            }
            drop(place);
        }
    };
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place?,
            () = stop.told() => break,
        };
        let accepted = tokio::select! {
            accepted = socket.listener.accept() => accepted,
            () = stop.told() => break,
        };
        match accepted {
            Ok((stream, _)) => drop(open.spawn(start(stream, Some(place)))),
            Err(error) => {
                // Out of descriptors, for one: wait for some to come back.
                tracing::error!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        while open.try_join_next().is_some() {}
    }
    store::remove(&socket.path)?;
    while let Ok(Ok((stream, _))) = timeout(LAST_CALL, socket.listener.accept()).await {
        open.spawn(start(stream, None));
    }
    drop(socket);
    while open.join_next().await.is_some() {}
    Ok(())
}

/// A request of somebody who may ask, or what is wrong with it; fails if the peer went away.
pub(super) async fn receive<Q: DeserializeOwned>(
    stream: &mut UnixStream,
    shared: &Shared,
) -> Result<Result<Q, Refusal>, FrameError> {
    if let Err(refusal) = check_peer(stream, shared) {
        tracing::warn!(message = refusal.message, "a peer was refused");
        return Ok(Err(refusal));
    }
    match timeout(PATIENCE, read(stream)).await {
        Ok(Ok(body)) => Ok(frame::decode(&body).map_err(|error| match frame::stated_version(&body) {
            // Another version may have other calls and fields: that they are unknown would be no help.
            Some(version) if version != PROTOCOL_VERSION => other_version(version),
            _ => Refusal { kind: RefusalKind::Invalid, message: error.to_string() },
        })),
        Ok(Err(error @ FrameError::Io(_))) => Err(error),
        Ok(Err(error)) => Ok(Err(Refusal { kind: RefusalKind::Invalid, message: error.to_string() })),
        Err(_) => Err(FrameError::Io(io::ErrorKind::TimedOut.into())),
    }
}

async fn read(stream: &mut UnixStream) -> Result<Vec<u8>, FrameError> {
    let mut header = [0; 4];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; frame::body_length(header)?];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

fn other_version(version: u32) -> Refusal {
    let message = format!(
        "the plugin speaks version {version} of the protocol, this agent {PROTOCOL_VERSION}; install both from one release"
    );
    Refusal { kind: RefusalKind::Invalid, message }
}

/// Sends an answer.
pub(super) async fn send<A: Serialize>(stream: &mut UnixStream, reply: &A) -> Result<(), FrameError> {
    let bytes = frame::encode(reply)?;
    let write = stream.write_all(&bytes);
    Ok(timeout(PATIENCE, write).await.map_err(|_| FrameError::Io(io::ErrorKind::TimedOut.into()))??)
}

/// Root, and not in a pod: a container that was given the socket by mistake cannot rule the node with it.
fn check_peer(stream: &UnixStream, shared: &Shared) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal { kind: RefusalKind::Invalid, message });
    let peer = match stream.peer_cred() {
        Ok(peer) => peer,
        Err(error) => return refuse(format!("the peer cannot be known: {error}")),
    };
    if peer.uid() != 0 {
        return refuse(format!("the peer's uid is {}; only root may ask", peer.uid()));
    }
    let Some(pid) = peer.pid().and_then(|pid| u32::try_from(pid).ok()) else {
        return refuse("the peer's process is not visible from here".to_owned());
    };
    let node = shared.node();
    match node.cgroup_of(pid) {
        Some(path) if node.is_inside_pod(&path) => {
            refuse(format!("process {pid} is in a pod ({})", path.display()))
        }
        // A process that is gone already gets no answer anyway.
        _ => Ok(()),
    }
}

/// One request of the plugin, and its reply.
pub(super) async fn converse_cni(mut stream: UnixStream, shared: Arc<Shared>) -> Result<(), FrameError> {
    let request = receive::<Request>(&mut stream, &shared).await?;
    let start = Instant::now();
    let reply = match &request {
        Ok(request) => answer_cni(&shared, request),
        Err(refusal) => refusal.clone().into(),
    };
    let call = request.as_ref().ok().map(|request| &request.call);
    shared.metrics.request(call, &reply.outcome, start.elapsed());
    send(&mut stream, &reply).await
}

fn answer_cni(shared: &Shared, request: &Request) -> Reply {
    if request.version != PROTOCOL_VERSION {
        return other_version(request.version).into();
    }
    let mut node = shared.node();
    let done = match &request.call {
        Call::Add(add) => node.add(add),
        Call::Del(attachment) => node.del(attachment),
        Call::Check(attachment) => node.check_attachment(attachment),
        Call::Gc { network, valid } => node.gc(network, &valid.iter().cloned().collect::<BTreeSet<_>>()),
        Call::Status => Ok(()),
    };
    drop(node);
    match done {
        Ok(()) => {
            tracing::debug!(call = ?request.call, "done");
            Reply { version: PROTOCOL_VERSION, outcome: Outcome::Done }
        }
        Err(error) => {
            tracing::error!(%error, call = ?request.call, "refused");
            Refusal::from(&error).into()
        }
    }
}
