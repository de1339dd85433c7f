//! `answer`, after `ingress`: what a resolver sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{NAME_SIZE, QuestionValue, class, counter, tail};
use sluice_parse::Unreadable;
use sluice_parse::bits::{get, put};
use sluice_parse::dns::{Direction, Question};

use super::question::{Loaded, datagram, key, parse};
use super::room::{self, DnsRoom};
use super::stream::{self, Segment, Taken};
use super::{buffer, is_trusted, walk};
use crate::endpoint::Endpoint;
use crate::maps::{INGRESS_TAILS, QUESTIONS, count};
use crate::packet::Packet;

/// Hands a packet that came in by the pod's interface on to `answer`.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { INGRESS_TAILS.tail_call(ctx, tail::ANSWER) };
}

#[inline(always)]
pub fn try_answer(ctx: &SkBuffContext) -> Option<()> {
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
    if !is_trusted(packet.source) {
        return None;
    }
    let endpoint = Endpoint::of_packet(skb)?;
    let Some((index, room)) = room::take() else {
        count(counter::DNS_UNREADABLE);
        return None;
    };
    let loaded = load(skb, sk, &packet, room);
    let question = if loaded == Loaded::Message { parse(room, Direction::Answer) } else { Err(Unreadable) };
    let is_ours = match question {
        Ok(question) => take_in(skb, &endpoint, &packet, room, &question),
        Err(Unreadable) if loaded == Loaded::Nothing => false,
        Err(Unreadable) => {
            count(counter::DNS_UNREADABLE);
            false
        }
    };
    if is_ours {
        walk::hand_on(ctx, index);
    }
    room::release(room);
    if packet.class == class::TCP && loaded == Loaded::Message {
        // There may be more answers in the segment.
        hand_on(ctx);
    }
    Some(())
}

#[inline(always)]
fn load(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet, room: *mut DnsRoom) -> Loaded {
    let Some((start, length)) = packet.payload(skb) else { return Loaded::Nothing };
    if packet.class == class::UDP {
        return datagram(skb, start, length, room);
    }
    if length == 0 {
        return Loaded::Nothing;
    }
    let Some(streams) = stream::known(sk) else { return Loaded::Nothing };
    let Some([number, _]) = packet.tcp_numbers(skb) else { return Loaded::Nothing };
    // SAFETY: live socket storage. Segments of one connection that two CPUs read at once lose the stream between them.
    let stream = unsafe { &mut (*streams).answers };
    match stream.take(skb, Segment { number, start, length }) {
        Taken::Message => {
            stream.copy_to(room);
            Loaded::Message
        }
        Taken::Part => Loaded::Nothing,
        Taken::Lost => Loaded::Unreadable,
    }
}

/// Prepares the reading of an answer, if this socket asked for it.
#[inline(always)]
fn take_in(
    skb: *mut __sk_buff,
    endpoint: &Endpoint,
    packet: &Packet,
    room: *mut DnsRoom,
    question: &Question,
) -> bool {
    let key =
        key(skb, endpoint.id, packet.source.bytes(), packet.destination_port, question.id, packet.protocol);
    // SAFETY: the caller holds the room.
    let held = unsafe { &mut *room };
    let value = &mut held.question;
    value.kind = question.kind;
    value.name_length = held.turn.length() as u8;
    held.turn.copy_to(&mut value.name);
    let asked = QUESTIONS.get_ptr(key);
    if !asked.is_some_and(|asked| is_same(asked, value)) {
        count(counter::DNS_UNASKED);
        return false;
    }
    let _ = QUESTIONS.remove(key);
    put(&mut held.endpoint, endpoint.id);
    put(&mut held.slot, endpoint.slot.into());
    put(&mut held.response_code, question.response_code.into());
    put(&mut held.rounds, 0);
    put(&mut held.learned_upto, 0);
    put(&mut held.is_full, 0);
    held.learned.resolver = packet.source.bytes();
    let records = if question.response_code == 0 { question.answers } else { 0 };
    held.walk.begin(question.end.into(), records.into(), get(&held.length));
    true
}

/// Is it the same name and type?
#[inline(always)]
fn is_same(asked: *const QuestionValue, answered: &QuestionValue) -> bool {
    // SAFETY: a live element of the map. It may be used again for another question meanwhile, which only makes it differ.
    let (kind, length, name) =
        unsafe { ((*asked).kind, (*asked).name_length, (&raw const (*asked).name).cast::<u32>()) };
    let other = (&raw const answered.name).cast::<u32>();
    let mut differ = 0;
    for index in 0..NAME_SIZE / size_of::<u32>() {
        // SAFETY: as many words as a name has.
        differ |= unsafe { name.add(index).read() ^ other.add(index).read() };
    }
    kind == answered.kind && length == answered.name_length && differ == 0
}
