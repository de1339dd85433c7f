//! What one connection's records tell, in their order: which bytes are missing between them, and which write is one that the
//! library had refused before.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use sluice_abi::{PlaintextHeader, written};
use sluice_requests::{Asked, Connection, Seen};

/// The side of a connection that the application writes into.
pub(super) struct Stream {
    reader: Connection,
    /// How many bytes were written so far.
    position: u64,
    /// The last write, if it was made while hands were shaken: its length, and a sum of its first record.
    early: Option<(u32, u64)>,
    /// The number of a write that repeats the one before it, and is not read.
    repeated: u32,
}

impl Stream {
    /// A connection of which this is the first record that came.
    pub(super) fn new(first: &PlaintextHeader, asked: Arc<Asked>) -> Self {
        let reader = if begins(first) { Connection::new(asked) } else { Connection::met(asked) };
        Self { reader, position: place(first), early: None, repeated: 0 }
    }

    /// Takes the next record.
    pub(super) fn read(&mut self, header: &PlaintextHeader, bytes: &[u8]) -> Vec<Seen> {
        if header.offset == 0 {
            let this = (header.total, sum(bytes));
            // The one before it surely failed if hands are still shaken. Else it may have ended that, and been sent: then
            // this is a retry if it comes out of the same buffer, as OpenSSL asks for, and otherwise the next request.
            let may_repeat = header.flags & (written::HANDSHAKE | written::SAME_BUFFER) != 0;
            if may_repeat && self.early == Some(this) {
                self.repeated = header.write;
            }
            self.early = (header.flags & written::HANDSHAKE != 0).then_some(this);
        }
        if self.repeated == header.write {
            self.position = header.position + u64::from(header.total);
            return Vec::new();
        }
        let at = place(header);
        if at > self.position {
            // Records that were lost, or not given: the kernel counted them, so what the reader says of it is not counted again.
            drop(self.reader.write(&[], at - self.position));
        }
        let told = header.offset + header.length;
        let end = if told >= header.copied { header.total.max(told) } else { told };
        self.position = header.position + u64::from(end);
        self.reader.write(bytes, (end - told).into())
    }

    /// The bytes that it holds.
    pub(super) fn held(&self) -> usize {
        self.reader.held()
    }

    /// Whether nothing will ever be read of it.
    pub(super) fn is_over(&self) -> bool {
        self.reader.is_over()
    }
}

/// Is this the first of all records of a connection?
pub(super) fn begins(header: &PlaintextHeader) -> bool {
    header.write == 1 && header.offset == 0
}

fn place(header: &PlaintextHeader) -> u64 {
    header.position + u64::from(header.offset)
}

/// A sum that tells what was written from something else.
fn sum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"GET /a HTTP/1.1\r\nHost: a.example\r\n\r\n";

    /// Writes, each with its flags, and the paths of the requests that are read in them.
    fn paths(writes: &[(&[u8], u8)]) -> Vec<String> {
        let mut header = header();
        let mut stream = Stream::new(&header, Arc::default());
        let mut paths = Vec::new();
        for (bytes, flags) in writes {
            let length = bytes.len() as u32;
            (header.total, header.copied, header.length, header.flags) = (length, length, length, *flags);
            paths.extend(stream.read(&header, bytes).into_iter().filter_map(path));
            header.position += u64::from(length);
            header.write += 1;
        }
        paths
    }

    fn path(seen: Seen) -> Option<String> {
        match seen {
            Seen::Request(request) => Some(request.path),
            Seen::Unread { .. } => None,
        }
    }

    fn header() -> PlaintextHeader {
        PlaintextHeader {
            time_ns: 0,
            endpoint: 0,
            connection: 0,
            position: 0,
            pid: 1,
            tid: 1,
            write: 1,
            total: 0,
            copied: 0,
            offset: 0,
            length: 0,
            library: 1,
            flags: 0,
            pad: [0; 2],
            comm: [0; 16],
        }
    }

    #[test]
    fn equal_requests_one_after_the_other_are_as_many() {
        assert_eq!(paths(&[(HEAD, 0), (HEAD, written::SAME_BUFFER), (HEAD, 0)]).len(), 3);
    }

    #[test]
    fn what_a_library_refuses_while_it_shakes_hands_is_one_request() {
        let (shakes, same) = (written::HANDSHAKE, written::SAME_BUFFER);
        // The last one ended the handshake itself, or found it ended.
        assert_eq!(paths(&[(HEAD, shakes), (HEAD, shakes), (HEAD, shakes | same)]).len(), 1);
        assert_eq!(paths(&[(HEAD, shakes), (HEAD, shakes), (HEAD, same)]).len(), 1);
        // And then come two more.
        assert_eq!(paths(&[(HEAD, shakes), (HEAD, shakes), (HEAD, 0), (HEAD, 0)]).len(), 3);
        let other = b"GET /b HTTP/1.1\r\nHost: a.example\r\n\r\n";
        assert_eq!(paths(&[(HEAD, shakes), (other, same)]), ["/a", "/b"]);
    }

    #[test]
    fn a_body_whose_records_are_missing_is_passed_over_by_its_length() {
        let mut header = header();
        let mut stream = Stream::new(&header, Arc::default());
        let head = b"POST /a HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9000\r\n\r\n";
        let mut next = |position: usize, write, total: usize, bytes: &[u8]| {
            let length = bytes.len() as u32;
            (header.position, header.write, header.total) = (position as u64, write, total as u32);
            (header.copied, header.length) = (length, length);
            stream.read(&header, bytes).into_iter().filter_map(path).collect::<Vec<_>>()
        };
        assert_eq!(next(0, 1, head.len(), head), ["/a"]);
        // Of one write a glimpse, of the next nothing.
        assert!(next(head.len(), 2, 5000, &[b'x'; 256]).is_empty());
        assert_eq!(next(head.len() + 9000, 4, HEAD.len(), HEAD), ["/a"]);
    }
}
