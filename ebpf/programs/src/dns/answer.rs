//! `answer`, after `ingress`: what a resolver sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{NAME_SIZE, QuestionValue, class, counter, hook, kind, tail};
use sluice_parse::bits::{get, put};
use sluice_parse::dns::{Direction, MAX_STEPS, Question, Step};

use super::question::{Read, datagram, key, parse};
use super::room::{self, DnsRoom};
use super::stream::{self, Segment, Taken};
use super::tell::{self, Told};
use super::{buffer, is_trusted};
use crate::endpoint::Endpoint;
use crate::maps::{INGRESS_TAILS, QUESTIONS, count};
use crate::packet::Packet;
use crate::socket;

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
    let read = read(skb, sk, &packet, room);
    let found = match &read {
        Read::Message(question) => take_in(skb, sk, &endpoint, &packet, room, question),
        Read::Nothing => 0,
        Read::Unreadable => {
            count(counter::DNS_UNREADABLE);
            0
        }
    };
    if found != 0 {
        // SAFETY: `skb` is the program's context. The kernel gives the packet's own bytes there back afterwards, as it
        // does for every program with tail calls.
        unsafe { (*skb).cb[0] = index };
        // SAFETY: one program of the same kind into another. It gives the room back.
        unsafe { INGRESS_TAILS.tail_call(ctx, tail::LEARN) };
    }
    room::release(room);
    if packet.class == class::TCP && matches!(read, Read::Message(_)) {
        // There may be more answers in the segment.
        hand_on(ctx);
    }
    Some(())
}

#[inline(always)]
fn read(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet, room: *mut DnsRoom) -> Read {
    let Some((start, length)) = packet.payload(skb) else { return Read::Nothing };
    if packet.class == class::UDP {
        return datagram(skb, start, length, room, Direction::Answer);
    }
    if length == 0 {
        return Read::Nothing;
    }
    let Some(streams) = stream::known(sk) else { return Read::Nothing };
    let Some([number, _]) = packet.tcp_numbers(skb) else { return Read::Nothing };
    // SAFETY: live socket storage. Segments of one connection that two CPUs read at once lose the stream between them.
    let stream = unsafe { &mut (*streams).answers };
    match stream.take(skb, Segment { number, start, length }) {
        Taken::Message(length) => {
            stream.copy_to(room, length);
            parse(room, length, Direction::Answer)
        }
        Taken::Part => Read::Nothing,
        Taken::Lost => Read::Unreadable,
    }
}

/// Takes in an answer, if this socket asked for it, and says how many addresses it has.
#[inline(always)]
fn take_in(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    endpoint: &Endpoint,
    packet: &Packet,
    room: *mut DnsRoom,
    question: &Question,
) -> u64 {
    let key =
        key(skb, endpoint, packet.source.bytes(), packet.destination_port, question.id, packet.protocol);
    // SAFETY: the caller holds the room.
    let held = unsafe { &mut *room };
    let value = &mut held.question;
    value.kind = question.kind;
    value.name_length = held.turn.length() as u8;
    held.turn.copy_to(&mut value.name);
    let asked = QUESTIONS.get_ptr(key);
    if !asked.is_some_and(|asked| is_same(asked, value)) {
        count(counter::DNS_UNASKED);
        return 0;
    }
    let _ = QUESTIONS.remove(key);
    put(&mut held.endpoint, endpoint.id);
    put(&mut held.slot, endpoint.slot.into());
    held.learned.resolver = packet.source.bytes();
    held.walk.begin(question.end.into(), question.answers.into(), get(&held.length));
    if question.response_code == 0 && question.answers != 0 {
        for _ in 0..MAX_STEPS {
            match held.walk.step(&held.message) {
                Step::More => {}
                Step::Done => break,
                Step::Unreadable => {
                    count(counter::DNS_UNREADABLE);
                    held.walk.forget();
                    break;
                }
            }
        }
    }
    let told = Told { kind: kind::ANSWER, hook: hook::INGRESS, question, is_outgoing: false };
    tell::tell(endpoint, packet, socket::origin(sk), room, &told);
    held.walk.found()
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
