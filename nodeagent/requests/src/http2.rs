//! HTTP/2 (RFC 9113): frames, and the requests in their header blocks.
//!
//! Streams need no state of their own: a client's stream identifiers only grow, so a header block on a stream beyond the
//! highest is a request, and any other is a trailer. Where blocks cannot be read any more they are counted like that.

use crate::hpack::{Decoder, Fault};
use crate::target::{Authority, split_query};
use crate::{Asked, Protocol, Reason, Request, Seen, head, text};

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The length of a frame's header.
const HEADER: usize = 9;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
    pub(super) const PRIORITY_UPDATE: u8 = 16;
}

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const HAS_PRIORITY: u8 = 0x20;

/// A connection that speaks HTTP/2.
#[derive(Debug)]
pub(crate) struct Http2 {
    place: Place,
    /// None once a header block was missed: what the later ones refer to is not known.
    decoder: Option<Decoder>,
    /// Why there is no decoder.
    blind: Reason,
    /// The highest stream that had a request; none if it is not known.
    highest: Option<u32>,
    /// Writes were lost: requests below a new stream's may have been, and what is taken for a request may be a trailer.
    has_gap: bool,
    /// The header block that is being gathered.
    block: Option<Block>,
}

#[derive(Debug)]
enum Place {
    /// In a frame's header.
    Header { bytes: [u8; HEADER], length: usize },
    /// In a frame that is passed over.
    Passed { left: u64 },
    /// In a frame with a part of a header block.
    Gathered { frame: Frame, left: u64, from: usize },
    /// Nobody knows where. A write that begins with frames tells.
    Sought,
}

impl Place {
    const START: Self = Self::Header { bytes: [0; HEADER], length: 0 };
}

#[derive(Debug)]
struct Block {
    stream: u32,
    bytes: Vec<u8>,
    /// Why not all of it is here.
    fault: Option<Reason>,
    /// Frames that it came in.
    frames: u16,
}

/// The most frames that a header block may come in: a client that sends more is up to no good.
const MAX_FRAMES: u16 = 64;

#[derive(Clone, Copy, Debug)]
struct Frame {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Frame {
    fn read(bytes: &[u8; HEADER]) -> Self {
        let number = |from: &[u8]| from.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
        let stream = number(&bytes[5..]) & 0x7fff_ffff;
        Self { length: number(&bytes[..3]), kind: bytes[3], flags: bytes[4], stream }
    }

    /// Whether a client would send such a frame.
    fn is_plausible(&self) -> bool {
        let of_stream = !self.stream.is_multiple_of(2);
        match self.kind {
            kind::DATA => of_stream && self.flags & !(PADDED | 1) == 0,
            kind::HEADERS => of_stream && self.length > 0 && self.flags & !0x2d == 0,
            kind::PRIORITY => self.stream != 0 && self.length == 5,
            kind::RST_STREAM => of_stream && self.length == 4 && self.flags == 0,
            kind::SETTINGS => {
                self.stream == 0 && self.length.is_multiple_of(6) && self.length < 600 && self.flags <= 1
            }
            kind::PING => self.stream == 0 && self.length == 8 && self.flags <= 1,
            kind::GOAWAY => self.stream == 0 && (8..600).contains(&self.length) && self.flags == 0,
            kind::WINDOW_UPDATE => self.length == 4 && self.flags == 0,
            kind::CONTINUATION => of_stream && self.flags & !END_HEADERS == 0,
            kind::PRIORITY_UPDATE => self.stream == 0 && (5..600).contains(&self.length),
            _ => false,
        }
    }
}

/// Whether bytes are frames, one after the other, as far as they go.
fn are_frames(mut bytes: &[u8]) -> bool {
    if bytes.len() < HEADER {
        return false;
    }
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() {
        let frame = Frame::read(header);
        if header[5] & 0x80 != 0 || !frame.is_plausible() {
            return false;
        }
        bytes = rest.get(frame.length as usize..).unwrap_or_default();
    }
    true
}

impl Http2 {
    /// Behind the preface.
    pub(crate) fn new() -> Self {
        Self {
            place: Place::START,
            decoder: Some(Decoder::new()),
            blind: Reason::Lost,
            highest: Some(0),
            has_gap: false,
            block: None,
        }
    }

    /// Behind the preface that follows an upgrade: the request that asked for it is the first stream's.
    pub(crate) fn upgraded() -> Self {
        Self { highest: Some(1), ..Self::new() }
    }

    /// In the middle of a connection, if a write looks like it.
    pub(crate) fn met(bytes: &[u8]) -> Option<Self> {
        let is_request = |header: &[u8; HEADER]| Frame::read(header).kind == kind::HEADERS;
        let found = bytes.first_chunk::<HEADER>().is_some_and(is_request) && are_frames(bytes);
        found.then(|| Self { decoder: None, highest: None, has_gap: true, ..Self::new() })
    }

    pub(crate) fn held(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.bytes.capacity())
            + self.decoder.as_ref().map_or(0, Decoder::held)
    }

    /// Writes were lost: what they held may have changed what is referred to, and is not known.
    pub(crate) fn lost(&mut self, seen: &mut Vec<Seen>) {
        if !matches!(self.place, Place::Sought) {
            seen.push(Seen::Unread { reason: Reason::Lost, requests: 0 });
        }
        self.lose(Reason::Lost);
    }

    fn lose(&mut self, reason: Reason) {
        if self.decoder.take().is_some() {
            self.blind = reason;
        }
        self.place = Place::Sought;
        self.block = None;
        self.has_gap = true;
    }

    /// Takes what was written next. False if nothing can be read after it.
    pub(crate) fn write(&mut self, asked: &Asked, bytes: &[u8], missing: u64, seen: &mut Vec<Seen>) -> bool {
        if matches!(self.place, Place::Sought) {
            if !are_frames(bytes) {
                return true;
            }
            self.place = Place::START;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(asked, rest, seen) {
                Some(after) => rest = after,
                None => return false,
            }
        }
        missing == 0 || self.skip(asked, missing, seen)
    }

    fn step<'a>(&mut self, asked: &Asked, rest: &'a [u8], seen: &mut Vec<Seen>) -> Option<&'a [u8]> {
        match &mut self.place {
            Place::Header { bytes, length } => {
                let step = rest.len().min(HEADER - *length);
                bytes[*length..*length + step].copy_from_slice(&rest[..step]);
                *length += step;
                if *length == HEADER {
                    let frame = Frame::read(bytes);
                    self.begin(asked, frame, seen)?;
                }
                Some(&rest[step..])
            }
            Place::Passed { left } => {
                let step = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= step as u64;
                if *left == 0 {
                    self.place = Place::START;
                }
                Some(&rest[step..])
            }
            Place::Gathered { left, .. } => {
                let step = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= step as u64;
                let is_whole = *left == 0;
                if let Some(block) = self.block.as_mut().filter(|block| block.fault.is_none()) {
                    block.bytes.extend_from_slice(&rest[..step]);
                }
                if is_whole {
                    self.end_gathered(asked, seen)?;
                }
                Some(&rest[step..])
            }
            Place::Sought => Some(&[]),
        }
    }

    /// A frame begins. None if no client would send it.
    fn begin(&mut self, asked: &Asked, frame: Frame, seen: &mut Vec<Seen>) -> Option<()> {
        let is_malformed = match (&self.block, frame.kind) {
            (Some(block), kind::CONTINUATION) => block.stream != frame.stream || block.frames >= MAX_FRAMES,
            // Nothing may come between the parts of a header block.
            (Some(_), _) | (None, kind::PUSH_PROMISE) => true,
            (None, kind::CONTINUATION) => !self.has_gap,
            (None, kind::HEADERS) => frame.stream.is_multiple_of(2),
            (None, _) => false,
        };
        if is_malformed {
            seen.push(Seen::Unread { reason: Reason::Malformed, requests: u64::from(self.block.is_some()) });
            return None;
        }
        let left = u64::from(frame.length);
        let is_block =
            frame.kind == kind::HEADERS || (frame.kind == kind::CONTINUATION && self.block.is_some());
        if !is_block {
            self.place = if left == 0 { Place::START } else { Place::Passed { left } };
            return Some(());
        }
        let blind = if self.decoder.is_none() { Some(self.blind) } else { None };
        let block = self.block.get_or_insert_with(|| Block {
            stream: frame.stream,
            bytes: Vec::new(),
            fault: blind,
            frames: 0,
        });
        block.frames += 1;
        if block.bytes.len() + frame.length as usize > asked.limits.head {
            block.fault.get_or_insert(Reason::TooLarge);
            block.bytes = Vec::new();
        }
        self.place = Place::Gathered { frame, left, from: block.bytes.len() };
        if left == 0 { self.end_gathered(asked, seen) } else { Some(()) }
    }

    /// A frame with a part of a header block is whole.
    fn end_gathered(&mut self, asked: &Asked, seen: &mut Vec<Seen>) -> Option<()> {
        let place = std::mem::replace(&mut self.place, Place::START);
        let (Place::Gathered { frame, from, .. }, Some(block)) = (place, &mut self.block) else {
            return Some(());
        };
        if frame.kind == kind::HEADERS && block.fault.is_none() && !strip(&mut block.bytes, from, frame.flags)
        {
            block.fault = Some(Reason::Malformed);
        }
        if frame.flags & END_HEADERS == 0 {
            return Some(());
        }
        let block = self.block.take()?;
        let is_request = self.highest.is_none_or(|highest| block.stream > highest);
        let missed = match self.highest {
            Some(highest) if self.has_gap && is_request => {
                u64::from((block.stream - highest).div_ceil(2)) - 1
            }
            _ => 0,
        };
        if missed > 0 {
            seen.push(Seen::Unread { reason: self.blind, requests: missed });
        }
        if is_request {
            self.highest = Some(block.stream);
        }
        let read = match (&mut self.decoder, block.fault) {
            (Some(decoder), None) => Fields::read(decoder, &block.bytes, asked),
            (_, fault) => Err(fault.unwrap_or(self.blind)),
        };
        match read {
            Ok(fields) if is_request => seen.push(
                fields
                    .request(asked)
                    .map_or_else(|reason| Seen::Unread { reason, requests: 1 }, Seen::Request),
            ),
            Ok(_) => {}
            Err(reason) => {
                if self.decoder.take().is_some() {
                    self.blind = reason;
                }
                if is_request {
                    seen.push(Seen::Unread { reason, requests: 1 });
                }
                // The server ends the connection.
                if reason == Reason::Malformed {
                    return None;
                }
            }
        }
        Some(())
    }

    /// Passes over bytes that were not copied.
    fn skip(&mut self, asked: &Asked, missing: u64, seen: &mut Vec<Seen>) -> bool {
        match &mut self.place {
            Place::Passed { left } if *left >= missing => {
                *left -= missing;
                if *left == 0 {
                    self.place = Place::START;
                }
                return true;
            }
            Place::Gathered { left, .. } if *left >= missing => {
                *left -= missing;
                let is_whole = *left == 0;
                if let Some(block) = &mut self.block {
                    block.fault.get_or_insert(Reason::Cut);
                    block.bytes = Vec::new();
                }
                return !is_whole || self.end_gathered(asked, seen).is_some();
            }
            Place::Sought => return true,
            _ => {}
        }
        seen.push(Seen::Unread { reason: Reason::Cut, requests: 0 });
        self.lose(Reason::Cut);
        true
    }
}

/// Takes padding and priority away from what a HEADERS frame brought. False if they do not fit.
fn strip(bytes: &mut Vec<u8>, from: usize, flags: u8) -> bool {
    let mut front = from;
    if flags & PADDED != 0 {
        let Some(padding) = bytes.get(from).map(|padding| usize::from(*padding)) else { return false };
        front += 1;
        if bytes.len() < front + padding {
            return false;
        }
        bytes.truncate(bytes.len() - padding);
    }
    if flags & HAS_PRIORITY != 0 {
        front += 5;
    }
    if bytes.len() < front {
        return false;
    }
    bytes.drain(from..front);
    true
}

/// What a header block says of a request.
#[derive(Debug, Default)]
struct Fields {
    method: Option<Vec<u8>>,
    path: Option<Vec<u8>>,
    authority: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    protocol: Option<Vec<u8>>,
    headers: Vec<(String, String)>,
    fault: Option<Reason>,
}

impl Fields {
    fn read(decoder: &mut Decoder, block: &[u8], asked: &Asked) -> Result<Self, Reason> {
        let mut fields = Self::default();
        let read = decoder.decode(block, asked.limits.table, |name, value| fields.take(name, value, asked));
        read.map_err(|fault| match fault {
            Fault::Malformed => Reason::Malformed,
            Fault::TooLarge => Reason::TooLarge,
        })?;
        Ok(fields)
    }

    fn take(&mut self, name: &[u8], value: &[u8], asked: &Asked) {
        let (slot, again) = match name {
            b":method" => (&mut self.method, Reason::Malformed),
            b":path" => (&mut self.path, Reason::Malformed),
            b":authority" => (&mut self.authority, Reason::Malformed),
            b":protocol" => (&mut self.protocol, Reason::Malformed),
            b"host" => (&mut self.host, Reason::Ambiguous),
            _ => {
                if let Some(name) = std::str::from_utf8(name).ok().filter(|name| !name.starts_with(':')) {
                    head::keep(&mut self.headers, name, value, asked);
                }
                return;
            }
        };
        if slot.is_some() {
            self.fault.get_or_insert(again);
        } else if value.len() > asked.limits.head {
            self.fault.get_or_insert(Reason::TooLarge);
        } else {
            *slot = Some(value.to_vec());
        }
        if name == b"host" {
            head::keep(&mut self.headers, "host", value, asked);
        }
    }

    fn request(self, asked: &Asked) -> Result<Request, Reason> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let authority = match (self.authority, self.host) {
            (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(&host) => {
                return Err(Reason::Ambiguous);
            }
            (Some(authority), _) => Some(authority),
            (None, host) => host,
        };
        let authority = match &authority {
            Some(authority) => {
                // The user is of no use to anyone, and may be a secret.
                let host = authority.rsplit(|byte| *byte == b'@').next().unwrap_or_default();
                Authority::read(host).ok_or(Reason::Ambiguous)?
            }
            None => Authority::default(),
        };
        let method = self.method.filter(|method| text::is_method(method)).ok_or(Reason::Malformed)?;
        let (path, query) = match self.path {
            Some(path) if path.first() == Some(&b'/') || path == b"*" => split_query(&path),
            None if method == b"CONNECT" => (String::new(), None),
            _ => return Err(Reason::Malformed),
        };
        Ok(Request {
            protocol: Protocol::Http2,
            method: text::printable(&method, 64),
            host: authority.host,
            port: authority.port,
            path,
            query: head::asked_query(query, asked),
            headers: self.headers,
            upgrade: self.protocol.map(|name| text::printable(&name, 64).to_ascii_lowercase()),
        })
    }
}
