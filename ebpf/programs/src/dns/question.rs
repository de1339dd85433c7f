//! `question`, after `egress`: what is sent to a resolver is read.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{QuestionKey, class, counter, tail};
use sluice_parse::Unreadable;
use sluice_parse::bits::{get, keep, put};
use sluice_parse::dns::{Direction, MAX_MESSAGE, PORT, Question, read_question};

use super::room::{self, DnsRoom};
use super::stream::{self, Segment, Taken};
use super::{asked, buffer, is_trusted};
use crate::DROP;
use crate::endpoint::Endpoint;
use crate::event;
use crate::maps::{EGRESS_TAILS, count};
use crate::packet::Packet;

/// What a packet holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loaded {
    /// A message, which is in the room.
    Message,
    /// No message, or not all of one.
    Nothing,
    /// What cannot be read.
    Unreadable,
}

/// Hands a packet that policy allows on to `question`, if it could be one.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::QUESTION) };
}

#[inline(always)]
pub fn try_question(ctx: &SkBuffContext) -> Option<i32> {
    let skb = buffer(ctx);
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        bpf_sk_fullsock(sk)
    };
    if sk.is_null() {
        return None;
    }
    let packet = Packet::read(skb, 0);
    if !is_trusted(packet.destination) {
        return None;
    }
    let endpoint = Endpoint::of_packet(skb)?;
    let Some((index, room)) = room::take() else {
        count(counter::DNS_UNREADABLE);
        return Some(DROP);
    };
    let loaded = load(skb, sk, &packet, room);
    if loaded == Loaded::Nothing {
        room::release(room);
        return None;
    }
    // SAFETY: the room is held.
    let held = unsafe { &mut *room };
    put(&mut held.endpoint, endpoint.id);
    put(&mut held.slot, endpoint.slot.into());
    put(&mut held.response_code, 0);
    put(&mut held.is_read, 0);
    held.question.kind = 0;
    held.question.name_length = 0;
    if loaded == Loaded::Message
        && let Ok(question) = parse(room, Direction::Question)
    {
        let value = &mut held.question;
        value.time_ns = event::now();
        value.kind = question.kind;
        value.name_length = held.turn.length() as u8;
        value.pad = 0;
        held.turn.copy_to(&mut value.name);
        put(&mut held.id, question.id.into());
        put(&mut held.is_read, 1);
    }
    asked::hand_on(ctx, index);
    room::release(room);
    Some(DROP)
}

#[inline(always)]
fn load(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet, room: *mut DnsRoom) -> Loaded {
    let Some((start, length)) = packet.payload(skb) else { return Loaded::Nothing };
    if packet.class == class::UDP {
        // SAFETY: `skb` is the program's context.
        if unsafe { (*skb).gso_size } != 0 {
            // Several datagrams, of which only the first would be read.
            return Loaded::Unreadable;
        }
        return datagram(skb, start, length, room);
    }
    let followed = stream::follow(skb, sk, packet, length);
    if length == 0 {
        return Loaded::Nothing;
    }
    let Some((streams, number)) = followed else { return Loaded::Unreadable };
    // SAFETY: live socket storage; one socket sends from one CPU at a time.
    let stream = unsafe { &mut (*streams).questions };
    match stream.take(skb, Segment { number, start, length }) {
        Taken::Message => {
            stream.copy_to(room);
            Loaded::Message
        }
        Taken::Part => Loaded::Nothing,
        Taken::Lost => Loaded::Unreadable,
    }
}

/// Loads the message in a datagram.
#[inline(always)]
pub(super) fn datagram(skb: *mut __sk_buff, start: u32, length: u32, room: *mut DnsRoom) -> Loaded {
    if length == 0 || u64::from(length) > MAX_MESSAGE {
        return Loaded::Unreadable;
    }
    let some = keep::<{ MAX_MESSAGE as u32 - 1 }>(u64::from(length).wrapping_sub(1)) as u32 + 1;
    // SAFETY: the mask keeps the length within `MAX_MESSAGE`, for which the room has space.
    let failed =
        unsafe { bpf_skb_load_bytes(skb.cast(), start, (*room).message.0.as_mut_ptr().cast(), some) };
    if failed != 0 {
        return Loaded::Unreadable;
    }
    // SAFETY: the caller holds the room.
    put(unsafe { &mut (*room).length }, length.into());
    Loaded::Message
}

/// Reads the header and the question of the message in the room.
#[inline(always)]
pub(super) fn parse(room: *mut DnsRoom, direction: Direction) -> Result<Question, Unreadable> {
    // SAFETY: the caller holds the room.
    let room = unsafe { &mut *room };
    read_question(&room.message, get(&room.length), direction, &mut room.turn)
}

/// The question that a message asks or answers.
#[inline(always)]
pub(super) fn key(
    skb: *mut __sk_buff,
    endpoint: u64,
    remote: [u8; 16],
    local_port: u16,
    id: u16,
    protocol: u8,
) -> QuestionKey {
    QuestionKey {
        endpoint,
        // SAFETY: `skb` is the program's context.
        socket: unsafe { bpf_get_socket_cookie(skb.cast()) },
        resolver: remote,
        local_port,
        resolver_port: PORT,
        id,
        protocol,
        pad: 0,
    }
}
