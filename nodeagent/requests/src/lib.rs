//! Requests, read from what an application writes into a connection: HTTP/1.0, 1.1 and HTTP/2.
//!
//! ```text
//! write ──► Connection ──┬─ HTTP/1: heads; bodies are passed over by their length ──┐
//!                        ├─ HTTP/2: frames, header blocks, HPACK ───────────────────┼─► Seen::Request, Seen::Unread
//!                        └─ anything else: over, and free of cost from then on ─────┘
//! ```
//!
//! Only one side is read, the client's, in the pieces in which it was written and as far as they were copied. What is not
//! surely a request is never given as one: where the reader loses its place it says so, and how many requests that
//! costs, as far as this can be known. After a loss it finds a request of HTTP/1 where a write begins with one, and a
//! frame of HTTP/2 where a write begins with frames; what HTTP/2 compresses cannot be read any more then, but counted.
//!
//! The crate does no I/O and reads no clock. What a connection holds is bounded by its [`Limits`].

#![forbid(unsafe_code)]

mod chunked;
mod head;
mod hpack;
mod http1;
mod http2;
mod secrets;
mod target;
mod text;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use http1::{Http1, Outcome};
use http2::Http2;

/// What bounds a connection's memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most bytes of a head, or of an HTTP/2 header block.
    pub head: usize,
    /// The most bytes of HPACK's dynamic table, as RFC 7541 counts them.
    pub table: usize,
    /// The most bytes of a header's value that are kept.
    pub value: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head: 16 << 10, table: 64 << 10, value: 512 }
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
    /// The reader lost its place, or does not read on.
    Unread {
        /// Why.
        reason: Reason,
        /// How many requests that cost, as far as it is known: 0 if it is not.
        requests: u64,
    },
}

/// Why requests are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// What was written was not copied whole.
    Cut,
    /// Writes were lost.
    Lost,
    /// A head is larger than [`Limits`] allow.
    TooLarge,
    /// It began as HTTP, and does not go on as HTTP.
    Malformed,
    /// Servers would not agree where the request ends, or to whom it goes.
    Ambiguous,
    /// The connection went on with another protocol, as a request on it asked for.
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
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    Http1(Http1),
    Http2(Box<Http2>),
    Over,
}

impl Connection {
    /// A connection into which nothing was written yet.
    pub fn new(asked: Arc<Asked>) -> Self {
        Self { asked, reader: Reader::Http1(Http1::new()) }
    }

    /// A connection of which the beginning was not seen: its first request is found where a write begins with one.
    pub fn met(asked: Arc<Asked>) -> Self {
        Self { asked, reader: Reader::Http1(Http1::met()) }
    }

    /// Adds what was written next. `missing`: how many bytes after `bytes` were written and not copied.
    pub fn write(&mut self, bytes: &[u8], missing: u64) -> Vec<Seen> {
        let mut seen = Vec::new();
        let asked = &*self.asked;
        let mut rest = bytes;
        if let Reader::Http1(http1) = &mut self.reader {
            match http1.write(asked, rest, missing, &mut seen) {
                Outcome::Done => return seen,
                Outcome::Over => {
                    self.reader = Reader::Over;
                    return seen;
                }
                Outcome::Http2(http2, after) => {
                    self.reader = Reader::Http2(http2);
                    rest = after;
                }
            }
        }
        if let Reader::Http2(http2) = &mut self.reader
            && !http2.write(asked, rest, missing, &mut seen)
        {
            self.reader = Reader::Over;
        }
        seen
    }

    /// Writes were lost here, and nobody knows how long they were.
    pub fn lost(&mut self) -> Vec<Seen> {
        let mut seen = Vec::new();
        match &mut self.reader {
            Reader::Http1(http1) => {
                if !http1.lost(&self.asked, &mut seen) {
                    self.reader = Reader::Over;
                }
            }
            Reader::Http2(http2) => http2.lost(&mut seen),
            Reader::Over => {}
        }
        seen
    }

    /// Whether nothing will ever be read of it: no HTTP, or not any more. Its owner may forget it.
    pub fn is_over(&self) -> bool {
        matches!(self.reader, Reader::Over)
    }

    /// The bytes that it holds beside itself.
    pub fn held(&self) -> usize {
        match &self.reader {
            Reader::Http1(http1) => http1.held(),
            Reader::Http2(http2) => size_of::<Http2>() + http2.held(),
            Reader::Over => 0,
        }
    }
}
