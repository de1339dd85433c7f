//! What the probes in TLS libraries tell: the plain text that an application hands over to be encrypted.
//!
//! ```text
//! CONNECTIONS  (process, connection) ──► what was written so far
//! PLAINTEXT    ring buffer of records: a header, and up to SHORT or CHUNK bytes
//! LEAVES       cgroup id ──► endpoint, for kernels whose probes cannot ask for an ancestor (before Linux 5.15)
//! ```
//!
//! None of them is pinned: they end with the agent that reads them.

/// Bytes that a large record holds.
pub const CHUNK: usize = 4096;
/// Bytes that a small record holds: with headers 512.
pub const SHORT: usize = 424;
/// Large records that one write is copied into at most: as much as one TLS record holds.
pub const CHUNKS: u32 = 4;
/// Bytes that are copied of a large write in the middle of a body.
pub const GLIMPSE: u32 = 256;
/// Writes in a row that show no request before a connection is no longer copied.
pub const PATIENCE: u32 = 16;

/// What a probe belongs to: [`PlaintextHeader::library`].
pub mod library {
    /// OpenSSL and what was made from it: `BoringSSL`, `LibreSSL`, AWS-LC.
    pub const OPENSSL: u8 = 1;
    /// `GnuTLS`.
    pub const GNUTLS: u8 = 2;
    /// Go's `crypto/tls`.
    pub const GO: u8 = 3;
    /// rustls.
    pub const RUSTLS: u8 = 4;
}

/// Bits of [`PlaintextHeader::flags`].
pub mod written {
    /// The write begins as a request does.
    pub const START: u8 = 1;
    /// The write before it on this connection had the same buffer and length. A library that could not write yet is
    /// called so again, and so is one that is given the next request out of the same buffer.
    pub const SAME_BUFFER: u8 = 2;
    /// The connection's handshake was not over when this was written. A library that does not wait has to refuse it then,
    /// and is called again with the same.
    pub const HANDSHAKE: u8 = 4;
}

/// A probe's cookie: its number below, and above it where its library's connections say whether their handshake goes on.
pub mod cookie {
    /// Bits of the number.
    pub const SHIFT: u32 = 32;
    /// Above: this, and the offset in the structure.
    pub const HANDSHAKE: u64 = 1 << 31;
}

/// What comes before the bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaintextHeader {
    /// Boot clock, nanoseconds.
    pub time_ns: u64,
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// What tells connections of a process apart: the address of the library's structure.
    pub connection: u64,
    /// Bytes written on the connection before this write.
    pub position: u64,
    /// Process id (the thread group), in the initial pid namespace.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// The number of this write on its connection, from 1.
    pub write: u32,
    /// Length of the whole write.
    pub total: u32,
    /// How many bytes of it were to be copied, into one record or several.
    pub copied: u32,
    /// Where in the write the bytes of this record begin.
    pub offset: u32,
    /// How many there are.
    pub length: u32,
    /// One of [`library`].
    pub library: u8,
    /// Bits of [`plaintext`].
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Command name of the process, padded with zeros.
    pub comm: [u8; 16],
}

/// A small record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortPlaintext {
    /// What it is about.
    pub header: PlaintextHeader,
    /// The first [`PlaintextHeader::length`] of them count.
    pub bytes: [u8; SHORT],
}

/// A large record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plaintext {
    /// What it is about.
    pub header: PlaintextHeader,
    /// The first [`PlaintextHeader::length`] of them count.
    pub bytes: [u8; CHUNK],
}

/// Key of `CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey {
    /// [`PlaintextHeader::connection`].
    pub connection: u64,
    /// Process id.
    pub pid: u32,
    /// Zero.
    pub pad: u32,
}

/// What is known of a connection: [`ConnectionValue::state`].
pub mod connection {
    /// No request was seen yet.
    pub const NEW: u32 = 0;
    /// HTTP/1 requests.
    pub const HTTP1: u32 = 1;
    /// HTTP/2.
    pub const HTTP2: u32 = 2;
    /// No requests: nothing is copied until a write begins as a request does.
    pub const OVER: u32 = 3;
}

/// Value of `CONNECTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionValue {
    /// Bytes written so far.
    pub position: u64,
    /// Where the last write was.
    pub buffer: u64,
    /// When, on the boot clock.
    pub time_ns: u64,
    /// The stack pointer there.
    pub stack: u64,
    /// The probe that saw it.
    pub probe: u64,
    /// How long it was.
    pub length: u32,
    /// How many writes there were.
    pub writes: u32,
    /// One of [`connection`].
    pub state: u32,
    /// Writes in a row that showed nothing.
    pub misses: u32,
}

/// What an endpoint may still have copied in this second: value of `COPIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyBudgetValue {
    /// Start of the second, on the boot clock.
    pub since_ns: u64,
    /// Bytes of the ring buffer taken since.
    pub taken: u64,
}

/// Indices of `PLAINTEXT_COUNTERS`, per CPU.
pub mod plaintext_counter {
    /// Writes of governed pods that met a probe.
    pub const WRITES: u32 = 0;
    /// Records given.
    pub const RECORDS: u32 = 1;
    /// Writes of which a record found the ring buffer full.
    pub const LOST: u32 = 2;
    /// Writes of which a record was held back: their pod had used up its share of the ring buffer.
    pub const OVER_BUDGET: u32 = 3;
    /// Writes whose bytes were not in memory.
    pub const UNREADABLE: u32 = 4;
    /// Writes that were not copied: their connection shows no requests.
    pub const PASSED_OVER: u32 = 5;
    /// Writes seen twice, by two probes in one file.
    pub const TWICE: u32 = 6;
    /// How many there are.
    pub const COUNT: u32 = 7;
}

const _: () = {
    assert!(size_of::<PlaintextHeader>() == 80);
    assert!(size_of::<ShortPlaintext>() == 504);
    assert!(size_of::<Plaintext>() == 80 + CHUNK);
    assert!(size_of::<ConnectionKey>() == 16);
    assert!(size_of::<ConnectionValue>() == 56);
    assert!(size_of::<CopyBudgetValue>() == 16);
};

#[cfg(feature = "user")]
mod pod {
    use super::{ConnectionKey, ConnectionValue, PlaintextHeader};

    // SAFETY: `repr(C)`, `Copy` and `'static`, made of integers only, and the size assertions above leave no room for
    // padding: every byte is initialised and any byte pattern is a value.
    unsafe impl aya::Pod for PlaintextHeader {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ConnectionValue {}
}
