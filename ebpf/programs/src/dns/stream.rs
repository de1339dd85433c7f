//! DNS over TCP (RFC 7766): messages with their length in front, one after the other, cut into segments anywhere.
//!
//! Where a message starts is known from the handshake on, byte by byte: else a segment in the middle of one answer could
//! pass for another answer. Only bytes in order count; past a gap nothing of the stream is read any more, so that what
//! it answers opens nothing. A longer message than there is room for ends the reading too.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_skb_load_bytes;
use sluice_parse::bits::{Room, get, keep, load_long, put};

use super::room::DnsRoom;
use crate::maps::STREAMS;
use crate::packet::{Packet, TCP_ACK, TCP_SYN};
use crate::socket;

/// `SOCK_STREAM` (include/linux/net.h).
const SOCK_STREAM: u32 = 1;

/// The length in front of a message.
const PREFIX: u64 = 2;
/// Bytes that are loaded at once: as many as a room has behind its last offset.
const PIECE: u64 = 512;

/// [`Streams::state`], which is zero as long as nothing is known of the connection.
const OPENING: u64 = 1;
const OPEN: u64 = 2;

/// The two directions of a connection to a resolver. Kept with its socket.
#[repr(C)]
pub struct Streams {
    state: u64,
    pub questions: Stream<1024>,
    pub answers: Stream<4608>,
}

/// One direction.
#[repr(C)]
pub struct Stream<const SIZE: usize> {
    /// The number of the next byte.
    next: u64,
    is_lost: u64,
    /// Bytes of the message that have come, its length included.
    have: u64,
    /// Where the reading of a segment is.
    at: u64,
    bytes: Room<SIZE>,
}

/// What a segment came to.
pub enum Taken {
    /// A message is whole. There may be more in the segment.
    Message,
    /// Nothing new, or not all of a message.
    Part,
    /// The stream cannot be followed.
    Lost,
}

/// The payload of a segment.
#[derive(Clone, Copy)]
pub struct Segment {
    pub number: u32,
    pub start: u32,
    pub length: u32,
}

/// Follows a connection from its SYN on, and gives the streams once it stands.
#[inline(always)]
pub fn follow(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &Packet,
    length: u32,
) -> Option<(*mut Streams, u32)> {
    // SAFETY: a full socket, whose fields the verifier lets us read.
    if unsafe { (*sk).type_ } != SOCK_STREAM {
        return None;
    }
    let streams = socket::get_or_create(&STREAMS, sk)?;
    let flags = packet.tcp_flags(skb);
    let [number, next] = packet.tcp_numbers(skb)?;
    // SAFETY: live socket storage; one socket sends from one CPU at a time.
    let state = unsafe { &mut *streams };
    if flags & (TCP_SYN | TCP_ACK) == TCP_SYN {
        put(&mut state.state, OPENING);
        // A fast open: what it carries has been sent before anything is known.
        put(&mut state.questions.is_lost, u64::from(length != 0));
        put(&mut state.questions.have, 0);
        put(&mut state.answers.is_lost, 0);
        put(&mut state.answers.have, 0);
        return None;
    }
    if get(&state.state) == OPENING && flags & TCP_ACK != 0 {
        put(&mut state.questions.next, number.into());
        put(&mut state.answers.next, next.into());
        put(&mut state.state, OPEN);
    }
    if get(&state.state) == OPEN { Some((streams, number)) } else { None }
}

/// No question on this connection is to be read any more.
#[inline(always)]
pub fn refuse(sk: *mut bpf_sock) {
    if let Some(streams) = socket::get(&STREAMS, sk) {
        // SAFETY: live socket storage; one socket sends from one CPU at a time.
        put(unsafe { &mut (*streams).questions.is_lost }, 1);
    }
}

/// The streams of a connection that was followed.
#[inline(always)]
pub fn known(sk: *mut bpf_sock) -> Option<*mut Streams> {
    let streams = socket::get(&STREAMS, sk)?;
    // SAFETY: live socket storage.
    if get(unsafe { &(*streams).state }) == OPEN { Some(streams) } else { None }
}

impl<const SIZE: usize> Stream<SIZE> {
    /// Bytes of a message that there is room for, its length included.
    const ROOM: u64 = SIZE as u64 - PIECE;
    /// As many as there is room for, one for the length and one for a start in the middle.
    const PIECES: u64 = Self::ROOM / PIECE + 2;

    /// Takes in what a segment holds of the next message.
    #[inline(always)]
    pub fn take(&mut self, skb: *mut __sk_buff, segment: Segment) -> Taken {
        if get(&self.is_lost) != 0 {
            return Taken::Lost;
        }
        let old = (get(&self.next) as u32).wrapping_sub(segment.number);
        if old > u32::MAX / 2 {
            return self.lose();
        }
        if old >= segment.length {
            return Taken::Part;
        }
        let end = u64::from(segment.start) + u64::from(segment.length);
        put(&mut self.at, u64::from(segment.start) + u64::from(old));
        for _ in 0..Self::PIECES {
            let (at, have) = (get(&self.at), get(&self.have));
            if at >= end {
                return Taken::Part;
            }
            let whole = if have < PREFIX { PREFIX } else { PREFIX + self.bytes.half(0) };
            if whole > Self::ROOM {
                return self.lose();
            }
            let need = whole.wrapping_sub(have);
            let mut some = if end - at < need { end - at } else { need };
            some = if some < PIECE { some } else { PIECE };
            let some = keep::<{ PIECE as u32 - 1 }>(some.wrapping_sub(1)) as u64 + 1;
            // SAFETY: `place_mut` leaves `PIECE` bytes, and `some` is at most as many.
            let failed = unsafe {
                bpf_skb_load_bytes(skb.cast(), at as u32, self.bytes.place_mut(have).cast(), some as u32)
            };
            if failed != 0 {
                return self.lose();
            }
            put(&mut self.at, at + some);
            let next = get(&self.next);
            put(&mut self.next, next.wrapping_add(some));
            put(&mut self.have, have + some);
            if have + some >= PREFIX && have + some == PREFIX + self.bytes.half(0) {
                put(&mut self.have, 0);
                return Taken::Message;
            }
        }
        self.lose()
    }

    #[inline(always)]
    fn lose(&mut self) -> Taken {
        put(&mut self.is_lost, 1);
        Taken::Lost
    }

    /// Copies the message that was taken in last.
    #[inline(always)]
    pub fn copy_to(&self, room: *mut DnsRoom) {
        // SAFETY: the caller holds the room.
        let (message, length) = unsafe { (&mut (*room).message, &mut (*room).length) };
        put(length, self.bytes.half(0));
        for index in (0..SIZE - PIECE as usize).step_by(8) {
            // VERIFIER: from memory, so that it does not matter at which turn the loop ended.
            if index as u64 >= get(length) {
                break;
            }
            // SAFETY: `index` is below the size of both by a `PIECE`, of which the length in front takes two bytes.
            unsafe {
                let long = load_long(self.bytes.0.as_ptr().add(PREFIX as usize + index));
                message.0.as_mut_ptr().add(index).cast::<u64>().write(long);
            }
        }
    }
}
