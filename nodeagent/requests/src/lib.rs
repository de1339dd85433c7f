//! Requests, read from what an application writes into a connection: HTTP/1.0, 1.1 and HTTP/2.
//!
//! ```text
//! write ──► Connection ──┬─ HTTP/1: heads; bodies are passed over by their length ──┐
//!                        ├─ HTTP/2: frames, header blocks, HPACK ──────────────────┼─► Seen::Request, Seen::Unread
//!                        └─ anything else: over, and free of cost from then on ────┘
//! ```
//!
//! Only one side is read, the client's, in the pieces in which it was written and as far as they were copied. What is not
//! surely a request is never given as one: where the reader loses its place it says so, and how many requests that
//! costs, as far as this can be known.
//!
//! The crate does no I/O and reads no clock. What a connection holds is bounded by its [`Limits`].

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

/// What bounds a connection's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a head, or of an HTTP/2 header block.
    pub head: usize,
    /// The most header lines of a head.
    pub lines: usize,
    /// The most bytes of HPACK's dynamic table, as RFC 7541 counts them.
    pub table: usize,
    /// The most bytes of a header's value that are kept.
    pub value: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 16 << 10, lines: 128, table: 64 << 10, value: 512 }
    }
}

/// What is asked of the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Their query strings, without the secrets.
    pub query: bool,
    /// These headers, in lower case; the values of those that carry secrets are left out.
    pub headers: Vec<String>,
    /// What a connection may hold.
    pub limits: Limits,
}

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Protocol {
    /// As ALPN and events name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request. All texts are printable ASCII: what is not is percent-encoded in `path` and `query`, and `?` elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// How it was sent.
    pub protocol: Protocol,
    /// The method, as it was sent.
    pub method: String,
    /// The host of an absolute target, of `:authority` or of `Host`, in lower case, without user and without port.
    pub host: Option<String>,
    /// The port beside it.
    pub port: Option<u16>,
    /// The path, as it was sent, without the query; `*` for the server itself; empty for CONNECT.
    pub path: String,
    /// The query without the `?`, if it was asked for; values that look secret are `REDACTED`.
    pub query: Option<String>,
    /// The headers that were asked for, in their order; values that are secret are `REDACTED`.
    pub headers: Vec<(String, String)>,
    /// The protocol that the request asks to go on with: `websocket`, `h2c`.
    pub upgrade: Option<String>,
}

/// What was found in a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A request.
    Request(Request),
    /// Requests that could not be read.
    Unread {
        /// Why.
        reason: Reason,
        /// How many there were, as far as it is known: 0 if it is not.
        requests: u64,
    },
}

/// Why requests are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// What was written was not copied whole.
    Cut,
    /// Records were lost.
    Lost,
    /// A head is larger than [`Limits`] allow.
    TooLarge,
    /// It began as HTTP, and does not go on as HTTP.
    Malformed,
    /// Servers would not agree where the request ends, or to whom it goes.
    Ambiguous,
    /// The connection went on with another protocol, as a request of it asked for.
    Switched,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Cut, Self::Lost, Self::TooLarge, Self::Malformed, Self::Ambiguous, Self::Switched];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Lost => "lost",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Ambiguous => "ambiguous",
            Self::Switched => "switched",
        }
    }
}

/// One connection's sending side.
#[derive(Debug)]
pub struct Connection {
    asked: Arc<Asked>,
}

impl Connection {
    /// A connection into which nothing was written yet.
    pub fn new(asked: Arc<Asked>) -> Self {
        Self { asked }
    }

    /// A connection of which the beginning was not seen: the first requests are found where a write begins with one.
    pub fn met(asked: Arc<Asked>) -> Self {
        let mut connection = Self::new(asked);
        connection.lost();
        connection
    }

    /// Adds what was written next. `missing`: how many bytes after `bytes` were written and not copied.
    pub fn write(&mut self, _bytes: &[u8], _missing: u64) -> Vec<Seen> {
        Vec::new()
    }

    /// Writes were lost here, and nobody knows how long they were.
    pub fn lost(&mut self) {}

    /// Whether nothing will ever be read of it: no HTTP, or not any more. Its owner may forget it.
    pub fn is_over(&self) -> bool {
        false
    }

    /// The bytes that it holds beside itself.
    pub fn held(&self) -> usize {
        self.asked.limits.head.min(0)
    }
}
