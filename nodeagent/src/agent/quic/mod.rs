//! The names that QUIC shows: the `ClientHello` in a client's first datagrams, put together and read as that of TLS is.
//!
//! What is read here is told, and nothing else: the kernel lets such datagrams pass, or not, without it.

use std::collections::VecDeque;

use initial::Initial;
use sluice_abi::{NameBytes, NameEvent, PayloadEvent, shown};
use sluice_parse::hello::{Hello, KEPT, Source};

mod initial;

/// Connections that are known at a time. One that is pushed out before its hello was whole is not told of.
const CONNECTIONS: usize = 256;
/// Bytes of a hello that are kept, as with TCP.
const MAX_HELLO: usize = KEPT as usize;
/// TLS record header: a handshake, of any version.
const RECORD: [u8; 3] = [22, 3, 1];
/// Type and length of a handshake message.
const HANDSHAKE_HEADER: usize = 4;

/// The connections whose hellos have begun to come.
#[derive(Default)]
pub(super) struct Connections(VecDeque<Connection>);

struct Connection {
    /// Who opened it: the endpoint, its port, the server, and the id that the client chose.
    key: Key,
    /// The stream of its handshake, with holes; empty once it was told of.
    stream: Vec<Option<u8>>,
    is_told: bool,
}

#[derive(Clone, PartialEq, Eq)]
struct Key {
    endpoint: u64,
    local_port: u16,
    remote: [u8; 16],
    connection: Vec<u8>,
}

/// What a hello shows: one of [`shown`], and the name if it says that there is one.
struct Shows {
    state: u8,
    name: NameBytes,
    name_length: u8,
}

impl Connections {
    /// Adds a datagram: gives what its connection shows, when that is known.
    pub(super) fn add(&mut self, event: &PayloadEvent) -> Option<NameEvent> {
        let datagram = event.payload.get(..event.length as usize)?;
        let flow = &event.event.flow;
        let mut told = None;
        for initial in initial::read(datagram) {
            let key = Key {
                endpoint: flow.endpoint,
                local_port: flow.local_port,
                remote: flow.remote,
                connection: initial.connection.clone(),
            };
            told = told.or(self.add_initial(key, &initial));
        }
        let Shows { state, name, name_length } = told?;
        Some(NameEvent { shown: state, name, name_length, ..event.event })
    }

    fn add_initial(&mut self, key: Key, initial: &Initial) -> Option<Shows> {
        let place = self.0.iter().position(|connection| connection.key == key);
        let place = place.unwrap_or_else(|| {
            if self.0.len() == CONNECTIONS {
                self.0.pop_front();
            }
            self.0.push_back(Connection { key, stream: Vec::new(), is_told: false });
            self.0.len() - 1
        });
        let connection = &mut self.0[place];
        if connection.is_told {
            return None;
        }
        for (at, bytes) in &initial.crypto {
            connection.put(*at, bytes);
        }
        let shows = connection.read()?;
        connection.is_told = true;
        connection.stream = Vec::new();
        Some(shows)
    }
}

impl Connection {
    /// Puts bytes where they belong. What came first stays, as it does at the server; what is too far on is left out.
    fn put(&mut self, at: u64, bytes: &[u8]) {
        let room = MAX_HELLO as u64 + 1;
        for (at, byte) in (at..room).zip(bytes) {
            let at = at as usize;
            if self.stream.len() <= at {
                self.stream.resize(at + 1, None);
            }
            self.stream[at].get_or_insert(*byte);
        }
    }

    /// What the hello shows; none as long as more of it is to come.
    fn read(&self) -> Option<Shows> {
        let whole: Vec<u8> = self.stream.iter().map_while(|byte| *byte).collect();
        let [_, a, b, c] = *whole.first_chunk::<HANDSHAKE_HEADER>()?;
        let length = HANDSHAKE_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
        if length > MAX_HELLO {
            return Some(Shows { state: shown::UNREADABLE, name: [0; _], name_length: 0 });
        }
        Some(shows(whole.get(..length)?))
    }
}

/// Reads a whole hello, in a record of its own, as `sluice_parse` takes it.
fn shows(hello: &[u8]) -> Shows {
    let mut record = RECORD.to_vec();
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    let mut reader = Hello::new();
    reader.add(&Bytes(&record), 0, record.len() as u64);
    while reader.read() {}
    let mut name = [0; _];
    let state = reader.state();
    let name_length = reader.name(&mut name);
    // Past a reader that is through, a name is only what the state says.
    if matches!(state, shown::NAME | shown::ENCRYPTED) {
        Shows { state, name, name_length }
    } else {
        Shows { state, name: [0; _], name_length: 0 }
    }
}

struct Bytes<'a>(&'a [u8]);

impl Source for Bytes<'_> {
    unsafe fn load(&self, offset: u64, to: *mut u8, length: u64) -> bool {
        let end = offset.saturating_add(length);
        let Some(from) = self.0.get(offset as usize..end as usize) else { return false };
        // SAFETY: the caller's room is as long as the slice, and nobody else's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        true
    }
}

#[cfg(test)]
mod tests;
