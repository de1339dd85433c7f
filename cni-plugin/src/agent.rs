//! Asks the agent one question, within a deadline that nothing the other side does can move.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use sluice_api::frame::{self, FrameError};
use sluice_api::{Call, Outcome, PROTOCOL_VERSION, Refusal, RefusalKind, Reply, Request};

/// How long to wait before knocking again on a socket whose queue is full.
const KNOCK_AGAIN: Duration = Duration::from_millis(5);

/// Why the agent did not confirm.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The path cannot be a socket's.
    #[error("socket {path} cannot be the agent's: {source}; accepted: an absolute path of at most 107 bytes")]
    Path {
        /// The configured socket.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// Nobody listens.
    #[error("no agent listens on {path} ({source}); is the Sluice agent of this node running?")]
    Connect {
        /// The configured socket.
        path: PathBuf,
        /// What the system said.
        source: Errno,
    },
    /// The time is up.
    #[error("the agent did not answer within {0:?}; its log says what keeps it")]
    Deadline(Duration),
    /// The agent went away in between.
    #[error("the agent closed the connection before its whole answer ({0}); did it restart?")]
    Lost(#[source] io::Error),
    /// The request is longer than a message may be, or cannot be written as JSON.
    #[error("the request cannot be sent: {0}")]
    Request(#[source] FrameError),
    /// The answer breaks the protocol.
    #[error("the agent's answer cannot be read: {0}; do plugin and agent come from one release?")]
    Answer(#[source] FrameError),
    /// The agent speaks another version.
    #[error(
        "the agent speaks version {0} of the protocol, this plugin {PROTOCOL_VERSION}; install both from one release"
    )]
    Version(u32),
    /// The agent understood and did not do it.
    #[error("the agent refused: {}", .0.message)]
    Refused(Refusal),
}

impl AgentError {
    /// Is it that the agent is away or not ready, so that the same request may be granted later?
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Path { .. } | Self::Request(_) => false,
            Self::Refused(refusal) => refusal.kind == RefusalKind::NotReady,
            Self::Connect { .. } | Self::Deadline(_) | Self::Lost(_) | Self::Answer(_) | Self::Version(_) => {
                true
            }
        }
    }

    /// Does the agent say that it has no such attachment?
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused(Refusal { kind: RefusalKind::Unknown, .. }))
    }
}

/// Sends a call and waits until the agent has done it, at most until `allowed` after `started`.
pub fn ask(socket: &Path, call: Call, started: Instant, allowed: Duration) -> Result<(), AgentError> {
    let request = Request { version: PROTOCOL_VERSION, call };
    let bytes = frame::encode(&request).map_err(AgentError::Request)?;
    let mut line = Line { stream: open(socket, started, allowed)?, until: started + allowed };
    let lost = |error: io::Error| match error.kind() {
        io::ErrorKind::TimedOut => AgentError::Deadline(allowed),
        _ => AgentError::Lost(error),
    };

    match line.write_all(&bytes) {
        // An agent may answer before it has read all: its answer says more than this.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(lost)?,
    }
    let mut header = [0; 4];
    line.read_exact(&mut header).map_err(lost)?;
    let mut body = vec![0; frame::body_length(header).map_err(AgentError::Answer)?];
    line.read_exact(&mut body).map_err(lost)?;

    if let Some(other) = frame::stated_version(&body).filter(|&version| version != PROTOCOL_VERSION) {
        return Err(AgentError::Version(other));
    }
    match frame::decode::<Reply>(&body).map_err(AgentError::Answer)?.outcome {
        Outcome::Done => Ok(()),
        Outcome::Refused(refusal) => Err(AgentError::Refused(refusal)),
    }
}

/// Connects without ever blocking: a blocking `connect` waits for room in the listener's queue, without end.
fn open(path: &Path, started: Instant, allowed: Duration) -> Result<UnixStream, AgentError> {
    let bad_path = |source| AgentError::Path { path: path.to_owned(), source };
    let failed = |source| AgentError::Connect { path: path.to_owned(), source };
    let address = UnixAddr::new(path).map_err(bad_path)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let end = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
    loop {
        match connect(std::os::fd::AsRawFd::as_raw_fd(&end), &address) {
            Ok(()) => return Ok(UnixStream::from(end)),
            Err(Errno::EAGAIN | Errno::EINTR) if started.elapsed() < allowed => thread::sleep(KNOCK_AGAIN),
            Err(Errno::EAGAIN | Errno::EINTR) => return Err(AgentError::Deadline(allowed)),
            Err(source) => return Err(failed(source)),
        }
    }
}

/// A connection that does not block, and waits for its other end no longer than `until`, however little arrives at a
/// time.
struct Line {
    stream: UnixStream,
    until: Instant,
}

impl Line {
    fn wait(&self, flags: PollFlags) -> io::Result<()> {
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Rounded up, so as not to spin through the last millisecond.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.stream.as_fd(), flags)], timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for Line {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::POLLIN)?;
            match self.stream.read(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Write for Line {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::POLLOUT)?;
            match self.stream.write(from) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
