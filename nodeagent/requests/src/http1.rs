//! HTTP/1.0 and 1.1: one request after the other, and what may come after them.

use crate::chunked::{Chunked, Passed};
use crate::head::{self, Body, Looks};
use crate::http2::{Http2, PREFACE};
use crate::{Asked, Reason, Seen};

/// The most writes without any request in a connection of which nothing is known.
const MAX_SOUGHT: u16 = 1024;

/// More than a method has bytes.
const FAR: usize = 64;

/// A connection that speaks HTTP/1, or has not said yet what it speaks.
#[derive(Debug)]
pub(crate) struct Http1 {
    place: Place,
    /// The beginning of a head, or of HTTP/2's preface.
    buffer: Vec<u8>,
    /// What that looks like.
    looks: Looks,
    /// It is known to be HTTP.
    is_http: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Where a request begins, or in its head.
    Head,
    /// In a body of which so much is left.
    Length { left: u64, switches: bool },
    /// In a body in chunks.
    Chunks { chunks: Chunked, switches: bool },
    /// Behind a request that asked for another protocol.
    Switched,
    /// Nobody knows where. A write that begins with a head tells; so many did not.
    Sought(u16),
}

/// What comes after a write.
pub(crate) enum Outcome<'a> {
    /// The same.
    Done,
    /// Nothing: no HTTP, or not any more.
    Over,
    /// HTTP/2, with what is left of the write.
    Http2(Box<Http2>, &'a [u8]),
}

/// What comes after a part of a write.
enum Step<'a> {
    Go(&'a [u8]),
    Over,
    Http2(Box<Http2>, &'a [u8]),
}

impl Http1 {
    pub(crate) fn new() -> Self {
        Self { place: Place::Head, buffer: Vec::new(), looks: Looks::SoFar, is_http: false }
    }

    /// In the middle of something.
    pub(crate) fn met() -> Self {
        Self { place: Place::Sought(0), ..Self::new() }
    }

    pub(crate) fn held(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn write<'a>(
        &mut self,
        asked: &Asked,
        bytes: &'a [u8],
        missing: u64,
        seen: &mut Vec<Seen>,
    ) -> Outcome<'a> {
        if let Place::Sought(writes) = self.place {
            if let Some(http2) = Http2::met(bytes).filter(|_| !self.is_http) {
                return Outcome::Http2(Box::new(http2), bytes);
            }
            if Looks::at(bytes) != Looks::Yes {
                self.place = Place::Sought(writes.saturating_add(1));
                return if self.is_http || writes < MAX_SOUGHT { Outcome::Done } else { Outcome::Over };
            }
            self.place = Place::Head;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.step(asked, rest, seen) {
                Step::Go(after) => rest = after,
                Step::Over => return Outcome::Over,
                Step::Http2(http2, after) => return Outcome::Http2(http2, after),
            }
        }
        if missing == 0 || self.skip(asked, missing, seen) { Outcome::Done } else { Outcome::Over }
    }

    /// Writes were lost. False if nothing can be read after that.
    pub(crate) fn lost(&mut self, asked: &Asked, seen: &mut Vec<Seen>) -> bool {
        self.give_cut_head(asked, seen);
        if self.is_http && !matches!(self.place, Place::Sought(_)) {
            seen.push(Seen::Unread { reason: Reason::Lost, requests: 0 });
        }
        self.seek()
    }

    fn step<'a>(&mut self, asked: &Asked, rest: &'a [u8], seen: &mut Vec<Seen>) -> Step<'a> {
        match &mut self.place {
            Place::Head => self.head(asked, rest, seen),
            Place::Length { left, switches } => {
                let step = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= step as u64;
                if *left == 0 {
                    self.place = after(*switches);
                }
                Step::Go(&rest[step..])
            }
            Place::Chunks { chunks, switches } => match chunks.pass(rest) {
                Ok(Passed::All) => Step::Go(&[]),
                Ok(Passed::Ends(length)) => {
                    self.place = after(*switches);
                    Step::Go(&rest[length..])
                }
                Err(reason) => {
                    seen.push(Seen::Unread { reason, requests: 0 });
                    Step::Over
                }
            },
            Place::Switched => self.switched(rest, seen),
            Place::Sought(_) => Step::Go(&[]),
        }
    }

    /// Behind a request that asked for another protocol: HTTP/2 is read, nothing else is.
    fn switched<'a>(&mut self, rest: &'a [u8], seen: &mut Vec<Seen>) -> Step<'a> {
        self.preface(rest, Http2::upgraded).unwrap_or_else(|| {
            seen.push(Seen::Unread { reason: Reason::Switched, requests: 0 });
            Step::Over
        })
    }

    /// Looks for the preface of HTTP/2. None if it is not there.
    fn preface<'a>(&mut self, rest: &'a [u8], http2: impl Fn() -> Http2) -> Option<Step<'a>> {
        let held = self.buffer.len();
        let wanted = PREFACE.get(held..).filter(|_| PREFACE.starts_with(&self.buffer))?;
        let length = wanted.len().min(rest.len());
        if wanted[..length] != rest[..length] {
            return None;
        }
        if length == wanted.len() {
            return Some(Step::Http2(Box::new(http2()), &rest[length..]));
        }
        self.buffer.extend_from_slice(rest);
        Some(Step::Go(&[]))
    }

    fn head<'a>(&mut self, asked: &Asked, mut rest: &'a [u8], seen: &mut Vec<Seen>) -> Step<'a> {
        if !self.is_http
            && let Some(step) = self.preface(rest, Http2::new)
        {
            return step;
        }
        if self.buffer.is_empty() {
            // Empty lines before a request are allowed.
            rest = &rest[rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count()..];
            let within = &rest[..rest.len().min(asked.limits.head)];
            if let Some(end) = head::end(within, 0) {
                return if self.whole_head(asked, &rest[..end], seen) {
                    Step::Go(&rest[end..])
                } else {
                    Step::Over
                };
            }
        }
        let held = self.buffer.len();
        let room = asked.limits.head.saturating_sub(held).min(rest.len());
        self.buffer.extend_from_slice(&rest[..room]);
        if let Some(end) = head::end(&self.buffer, held) {
            let mut buffer = std::mem::take(&mut self.buffer);
            buffer.truncate(end);
            return if self.whole_head(asked, &buffer, seen) {
                Step::Go(&rest[end - held..])
            } else {
                Step::Over
            };
        }
        // Far in a line, only its end tells more.
        let tells = |bytes: &[u8]| held < FAR || bytes.iter().any(u8::is_ascii_control);
        if held == 0 || (self.looks == Looks::SoFar && tells(&rest[..room])) {
            self.looks = Looks::at(&self.buffer);
        }
        self.is_http |= self.looks == Looks::Yes;
        match self.looks {
            Looks::No => self.no_head(seen),
            // Most of it is known, but not where it ends.
            _ if self.buffer.len() >= asked.limits.head => {
                self.give_cut_head(asked, seen);
                if self.is_http {
                    seen.push(Seen::Unread { reason: Reason::TooLarge, requests: 0 });
                }
                Step::Over
            }
            _ => Step::Go(&rest[room..]),
        }
    }

    fn no_head<'a>(&self, seen: &mut Vec<Seen>) -> Step<'a> {
        if self.is_http {
            seen.push(Seen::Unread { reason: Reason::Malformed, requests: 1 });
        }
        Step::Over
    }

    /// Takes a head that is there as a whole. False if nothing can be read after it.
    fn whole_head(&mut self, asked: &Asked, bytes: &[u8], seen: &mut Vec<Seen>) -> bool {
        if Looks::at(bytes) != Looks::Yes {
            self.no_head(seen);
            return false;
        }
        self.is_http = true;
        match head::read(bytes, asked) {
            Ok(head) => {
                self.place = match head.body {
                    Body::None | Body::Length(0) => after(head.switches),
                    // What follows is the tunnel.
                    _ if head.request.method == "CONNECT" => Place::Switched,
                    Body::Length(left) => Place::Length { left, switches: head.switches },
                    Body::Chunked => Place::Chunks { chunks: Chunked::START, switches: head.switches },
                };
                seen.push(Seen::Request(head.request));
                true
            }
            Err(reason) => {
                seen.push(Seen::Unread { reason, requests: 1 });
                false
            }
        }
    }

    /// Gives the request of a head of which the rest will not come.
    fn give_cut_head(&mut self, asked: &Asked, seen: &mut Vec<Seen>) {
        if self.place != Place::Head || self.buffer.is_empty() {
            return;
        }
        match head::cut(&self.buffer, asked) {
            Ok(request) => {
                self.is_http = true;
                seen.push(Seen::Request(request));
            }
            Err(reason) if self.is_http => seen.push(Seen::Unread { reason, requests: 1 }),
            Err(_) => {}
        }
        self.buffer.clear();
    }

    /// Passes over bytes that were not copied. False if nothing can be read after them.
    fn skip(&mut self, asked: &Asked, missing: u64, seen: &mut Vec<Seen>) -> bool {
        let requests = match &mut self.place {
            Place::Head if !self.buffer.is_empty() => {
                self.give_cut_head(asked, seen);
                return self.seek();
            }
            Place::Head => u64::from(self.is_http),
            Place::Length { left, switches } => match left.checked_sub(missing) {
                Some(0) => {
                    self.place = after(*switches);
                    return true;
                }
                Some(now) => {
                    *left = now;
                    return true;
                }
                // What follows the body is missing too.
                None => u64::from(!*switches),
            },
            Place::Chunks { chunks, .. } => {
                if chunks.skip(missing) {
                    return true;
                }
                0
            }
            Place::Switched => {
                seen.push(Seen::Unread { reason: Reason::Switched, requests: 0 });
                return false;
            }
            Place::Sought(_) => return true,
        };
        if self.is_http {
            seen.push(Seen::Unread { reason: Reason::Cut, requests });
        }
        self.seek()
    }

    /// The place is lost. False if what comes may be another protocol.
    fn seek(&mut self) -> bool {
        let switches = match self.place {
            Place::Length { switches, .. } | Place::Chunks { switches, .. } => switches,
            Place::Switched => true,
            Place::Head | Place::Sought(_) => false,
        };
        self.buffer = Vec::new();
        self.place = Place::Sought(0);
        !switches
    }
}

/// What comes after a request.
fn after(switches: bool) -> Place {
    if switches { Place::Switched } else { Place::Head }
}
