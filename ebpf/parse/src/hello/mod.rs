//! The name that a flow shows in its first payload: the server name of a `ClientHello`, or the `Host` of an HTTP/1
//! request. Both may come in any number of pieces, and a hello in any number of TLS records.
//!
//! What is shown is only believed where nobody could read it otherwise: two names, a name in an unusual place, or a line
//! that one server ends where another goes on, make the whole unreadable.

use sluice_abi::{NameBytes, TOLD_PAYLOAD, shown, shown_by};

use crate::Unreadable;
use crate::bits::{Room, get, keep, put};
use crate::turn::Turn;

mod http;
mod tls;

/// Bytes of a hello or a request that are kept. The largest hello of a client with post-quantum keys and a session ticket
/// is about half as long; a name that lies further on counts as unreadable.
pub const KEPT: u64 = 4096;
/// Bytes that are loaded at once.
const PIECE: u64 = 512;
/// Pieces and TLS records that one packet may hold: as many as fill the room, and 24 more.
const PIECES: u32 = 32;

/// TLS record header (RFC 8446, section 5.1).
const RECORD_HEADER: u64 = 5;
const TYPE_HANDSHAKE: u64 = 22;
const VERSION_MAJOR: u64 = 3;
/// The longest record, and what the version before allows on top.
const MAX_RECORD: u64 = (1 << 14) + 2048;

/// Where the bytes of a packet come from.
pub trait Source {
    /// Copies `length` bytes from `offset` on; false if there are not as many.
    ///
    /// # Safety
    ///
    /// `to` must be writable for as many bytes.
    unsafe fn load(&self, offset: u64, to: *mut u8, length: u64) -> bool;
}

/// The pieces of a first payload, and what was read of them.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Hello {
    /// For whoever puts packets in order: the number of the first byte that has not been added.
    pub next: u64,
    /// Likewise: 1 once that is known.
    pub is_begun: u64,
    /// One of [`shown`].
    state: u64,
    /// One of [`shown_by`].
    by: u64,
    /// Bytes that are kept.
    have: u64,
    /// Bytes of a record that are still to come.
    record_left: u64,
    /// Bytes of a record's header that have come.
    header_have: u64,
    header: [u8; 16],
    /// How far the reading has come.
    at: u64,
    /// Bytes of a request that have been read.
    scanned: u64,
    /// What it is in the middle of.
    phase: u64,
    /// Where the name starts; zero until it is seen.
    name_at: u64,
    name_length: u64,
    is_encrypted: u64,
    turn: Turn,
    bytes: Room<{ (KEPT + PIECE) as usize }>,
}

impl Hello {
    /// For the first use. In the kernel, the zeros of fresh socket storage.
    pub const fn new() -> Self {
        Self {
            next: 0,
            is_begun: 0,
            state: shown::MORE as u64,
            by: shown_by::NOTHING as u64,
            have: 0,
            record_left: 0,
            header_have: 0,
            header: [0; 16],
            at: 0,
            scanned: 0,
            phase: 0,
            name_at: 0,
            name_length: 0,
            is_encrypted: 0,
            turn: Turn::new(),
            bytes: Room::new(),
        }
    }

    /// One of [`shown`].
    #[inline(always)]
    pub fn state(&self) -> u8 {
        get(&self.state) as u8
    }

    /// One of [`shown_by`].
    #[inline(always)]
    pub fn by(&self) -> u8 {
        get(&self.by) as u8
    }

    /// The name, if the state says that there is one, or an encrypted hello has one outside, and its length.
    #[inline(always)]
    pub fn name(&self, name: &mut NameBytes) -> u8 {
        self.turn.copy_to(name);
        self.turn.length() as u8
    }

    /// Has a name been seen, whatever the state says of it?
    #[inline(always)]
    pub fn has_name(&self) -> bool {
        get(&self.name_at) != 0
    }

    /// Copies the start of what has come, without the headers of TLS records, and says how much that is.
    ///
    /// # Safety
    ///
    /// There must be room for [`TOLD_PAYLOAD`] bytes.
    #[inline(always)]
    pub unsafe fn copy_start(&self, to: *mut u8) -> u32 {
        for at in (0..TOLD_PAYLOAD).step_by(size_of::<u64>()) {
            // SAFETY: the room is longer; the caller's promise, and both lie at multiples of 8.
            unsafe {
                to.cast::<u64>().byte_add(at).write(self.bytes.0.as_ptr().cast::<u64>().byte_add(at).read())
            };
        }
        let have = get(&self.have);
        if have < TOLD_PAYLOAD as u64 { have as u32 } else { TOLD_PAYLOAD as u32 }
    }

    /// Adds `length` bytes of payload at `offset` of a packet, which follow what was added before.
    #[inline(always)]
    pub fn add(&mut self, source: &impl Source, offset: u64, length: u64) {
        if self.is_open() && self.take(source, offset, length).is_err() {
            put(&mut self.state, shown::UNREADABLE.into());
        }
    }

    /// Reads on in what was added. True if that is to be done again.
    #[inline(always)]
    pub fn read(&mut self) -> bool {
        if !self.is_open() {
            return false;
        }
        let read = match get(&self.by) as u8 {
            shown_by::TLS => self.read_hello(),
            shown_by::HTTP => self.read_request(),
            _ => Ok(Some(shown::MORE)),
        };
        let state = match read {
            Ok(None) => return true,
            Ok(Some(state)) => self.with_name(state).unwrap_or(shown::UNREADABLE),
            Err(Unreadable) => shown::UNREADABLE,
        };
        put(&mut self.state, state.into());
        false
    }

    /// Is nothing said for good yet?
    #[inline(always)]
    fn is_open(&self) -> bool {
        matches!(self.state(), shown::MORE | shown::SO_FAR)
    }

    /// Turns the name round, if there is one.
    #[inline(always)]
    fn with_name(&mut self, state: u8) -> Result<u8, Unreadable> {
        if get(&self.have) >= KEPT && matches!(state, shown::MORE | shown::SO_FAR) {
            return Err(Unreadable);
        }
        if matches!(state, shown::NAME | shown::SO_FAR)
            || (state == shown::ENCRYPTED && get(&self.name_at) != 0)
        {
            let (at, length) = (get(&self.name_at), get(&self.name_length));
            self.turn.text(&self.bytes, at, length)?;
        }
        Ok(state)
    }

    #[inline(always)]
    fn take(&mut self, source: &impl Source, offset: u64, length: u64) -> Result<(), Unreadable> {
        if length == 0 {
            return Ok(());
        }
        if get(&self.by) == shown_by::NOTHING.into() {
            let mut first = 0_u8;
            // SAFETY: one byte may be written there.
            if !unsafe { source.load(offset, &raw mut first, 1) } {
                return Err(Unreadable);
            }
            let by = match first {
                22 => shown_by::TLS,
                b'A'..=b'Z' => shown_by::HTTP,
                _ => return Err(Unreadable),
            };
            put(&mut self.by, by.into());
        }
        self.load(source, offset, length)
    }

    /// Takes in what a packet holds, without the headers of TLS records.
    #[inline(always)]
    fn load(&mut self, source: &impl Source, offset: u64, length: u64) -> Result<(), Unreadable> {
        let is_tls = get(&self.by) == shown_by::TLS.into();
        let end = offset + length;
        put(&mut self.at, offset);
        for _ in 0..PIECES {
            if is_tls && get(&self.record_left) == 0 && !self.load_header(source, end)? {
                return Ok(());
            }
            let at = get(&self.at);
            let have = get(&self.have);
            if at >= end || have >= KEPT {
                return Ok(());
            }
            let mut some = if end - at < PIECE { end - at } else { PIECE };
            if is_tls {
                let left = get(&self.record_left);
                some = if left < some { left } else { some };
                put(&mut self.record_left, left - some);
            }
            let some = keep::<{ PIECE as u32 - 1 }>(some.wrapping_sub(1)) as u64 + 1;
            let place = keep::<{ KEPT as u32 - 1 }>(have);
            // SAFETY: the masks keep the place below `KEPT` and the length at most `PIECE`; the room has both.
            if !unsafe { source.load(at, self.bytes.0.as_mut_ptr().add(place), some) } {
                return Err(Unreadable);
            }
            put(&mut self.have, have + some);
            put(&mut self.at, at + some);
        }
        if get(&self.at) < end { Err(Unreadable) } else { Ok(()) }
    }

    /// Takes in the header of a TLS record; false if it has not come whole.
    #[inline(always)]
    fn load_header(&mut self, source: &impl Source, end: u64) -> Result<bool, Unreadable> {
        let (at, have) = (get(&self.at), get(&self.header_have));
        if at >= end {
            return Ok(false);
        }
        let need = RECORD_HEADER.wrapping_sub(have);
        let some = if end - at < need { end - at } else { need };
        let some = keep::<7>(some.wrapping_sub(1)) as u64 + 1;
        let place = keep::<7>(have);
        // SAFETY: the masks keep both at most 8, and the room has 16 bytes.
        if !unsafe { source.load(at, self.header.as_mut_ptr().add(place), some) } {
            return Err(Unreadable);
        }
        put(&mut self.at, at + some);
        put(&mut self.header_have, have + some);
        if have + some < RECORD_HEADER {
            return Ok(false);
        }
        let byte = |index: usize| {
            // SAFETY: below 16.
            unsafe { u64::from(core::ptr::read_volatile(self.header.as_ptr().add(index))) }
        };
        let length = byte(3) << 8 | byte(4);
        if byte(0) != TYPE_HANDSHAKE || byte(1) != VERSION_MAJOR || length == 0 || length > MAX_RECORD {
            return Err(Unreadable);
        }
        put(&mut self.header_have, 0);
        put(&mut self.record_left, length);
        Ok(true)
    }
}

impl Default for Hello {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
