//! `question`, after `egress`: what is sent to a resolver.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, bpf_sock};
use aya_ebpf::helpers::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{
    AddressKey, NO_POLICY, NameKey, PortKey, QuestionKey, class, counter, hook, kind, named, ruling, tail,
};
use sluice_parse::Unreadable;
use sluice_parse::bits::{get, keep, put};
use sluice_parse::dns::{Direction, MAX_MESSAGE, PORT, Question, read_question};

use super::room::{self, DnsRoom};
use super::stream::{self, Segment, Taken};
use super::{buffer, is_trusted};
use crate::endpoint::Endpoint;
use crate::event;
use crate::maps::{ADDRESSES, EGRESS_TAILS, NAMES, PORTS, QUESTIONS, count};
use crate::packet::Packet;
use crate::socket;
use crate::tell::{self, Told};
use crate::{DROP, PASS};

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
    let is_restricted = is_restricted(&endpoint, &packet);
    let Some((_, room)) = room::take() else {
        count(counter::DNS_UNREADABLE);
        return Some(if is_restricted { DROP } else { PASS });
    };
    // SAFETY: the room is held.
    unsafe {
        put(&mut (*room).endpoint, endpoint.id);
        put(&mut (*room).slot, endpoint.slot.into());
        put(&mut (*room).response_code, 0);
        (*room).question.kind = 0;
        (*room).question.name_length = 0;
    }
    let loaded = load(skb, sk, &packet, room);
    let question = if loaded == Loaded::Message { parse(room, Direction::Question) } else { Err(Unreadable) };
    let mut is_refused = is_restricted && loaded != Loaded::Nothing;
    match question {
        Ok(question) => {
            read_name(room, &question);
            if is_refused && may_ask(&endpoint, room) {
                is_refused = false;
            }
            if !is_refused {
                note(skb, &endpoint, &packet, room, question.id);
            }
        }
        Err(Unreadable) if loaded == Loaded::Nothing => {}
        Err(Unreadable) => count(counter::DNS_UNREADABLE),
    }
    if is_refused || question.is_ok() {
        let kind = if is_refused { kind::DENY } else { kind::QUESTION };
        let told = Told { kind, hook: hook::EGRESS, is_outgoing: true, is_denied: is_refused };
        tell::message(&packet, socket::origin(sk), room, &told);
    }
    room::release(room);
    if is_refused {
        count(counter::QUESTIONS_REFUSED);
        // What comes after it on the same connection is refused too, for it may be the same again.
        stream::refuse(sk);
        return Some(DROP);
    }
    if packet.class == class::TCP && loaded == Loaded::Message {
        // There may be more questions in the segment.
        hand_on(ctx);
    }
    Some(PASS)
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
    endpoint: &Endpoint,
    remote: [u8; 16],
    local_port: u16,
    id: u16,
    protocol: u8,
) -> QuestionKey {
    QuestionKey {
        endpoint: endpoint.id,
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

/// Keeps the question in the room.
#[inline(always)]
fn read_name(room: *mut DnsRoom, question: &Question) {
    // SAFETY: the caller holds the room.
    let (turn, value) = unsafe { (&(*room).turn, &mut (*room).question) };
    value.time_ns = event::now();
    value.kind = question.kind;
    value.name_length = turn.length() as u8;
    value.pad = 0;
    turn.copy_to(&mut value.name);
}

/// Notes that a question was asked.
#[inline(always)]
fn note(skb: *mut __sk_buff, endpoint: &Endpoint, packet: &Packet, room: *const DnsRoom, id: u16) {
    // SAFETY: the caller holds the room.
    let value = unsafe { &(*room).question };
    let key = key(skb, endpoint, packet.destination.bytes(), packet.source_port, id, packet.protocol);
    // The root has no addresses.
    if value.name_length != 0 {
        let _ = QUESTIONS.insert(key, value, u64::from(BPF_ANY));
    }
}

/// May the pod ask only for names that its rules could open? What is not known is answered by yes.
#[inline(always)]
fn is_restricted(endpoint: &Endpoint, packet: &Packet) -> bool {
    let policy = endpoint.word().policy();
    if policy == NO_POLICY {
        return false;
    }
    let address = AddressKey { policy, address: packet.destination.bytes() };
    let Some(list) = ADDRESSES.get(&Key::new(AddressKey::BITS, address)) else { return true };
    let port = PortKey { list: *list, class: packet.class, pad: 0, port: PORT.to_be_bytes() };
    PORTS
        .get(&Key::new(PortKey::BITS, port))
        .is_none_or(|value| value.ruling.flags & ruling::RESTRICTS_QUERIES != 0)
}

/// Could a rule open the name that is asked for, or does a search list lead to it?
#[inline(always)]
fn may_ask(endpoint: &Endpoint, room: *mut DnsRoom) -> bool {
    // SAFETY: the caller holds the room. From its prefix length on, what is learned is laid out as a key is.
    let key = unsafe {
        let learned = &mut (*room).learned;
        learned.prefix_length = NameKey::BITS;
        learned.policy = endpoint.word().policy();
        (*room).turn.copy_to(&mut learned.name);
        &*(&raw const learned.prefix_length).cast::<Key<NameKey>>()
    };
    NAMES.get(key).is_some_and(|named| named.flags & named::OPENS != 0)
}
