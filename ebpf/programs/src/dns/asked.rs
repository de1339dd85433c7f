//! `asked`, after `question`: may the pod ask that? Then it is noted, so that the answer counts.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{AddressKey, NO_POLICY, NameKey, PortKey, class, counter, hook, kind, named, ruling, tail};
use sluice_parse::bits::get;
use sluice_parse::dns::PORT;

use super::room::{self, DnsRoom};
use super::{buffer, question, stream};
use crate::endpoint;
use crate::maps::{ADDRESSES, EGRESS_TAILS, NAMES, PORTS, QUESTIONS, count};
use crate::packet::Packet;
use crate::socket;
use crate::tell::{self, Told};
use crate::{DROP, PASS};

/// Hands a packet on whose question is in a room. Comes back only where that fails.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext, room: u32) {
    // SAFETY: `skb` is the program's context. The kernel gives the packet's own bytes there back afterwards, as it does
    // for every program with tail calls.
    unsafe { (*buffer(ctx)).cb[0] = room };
    // SAFETY: one program of the same kind into another. It gives the room back.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::ASKED) };
}

#[inline(always)]
pub fn try_asked(ctx: &SkBuffContext) -> Option<i32> {
    let skb = buffer(ctx);
    // SAFETY: `skb` is the program's context; the program before has written the number there. A null socket is not given
    // to the helper.
    let (index, sk) = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        ((*skb).cb[0], if sk.is_null() { sk } else { bpf_sk_fullsock(sk) })
    };
    let room = room::held(index)?;
    let packet = Packet::read(skb, 0);
    // SAFETY: the program before took the room and left it to this one.
    let held = unsafe { &mut *room };
    let is_read = get(&held.is_read) != 0;
    let policy = endpoint::word(get(&held.slot) as u32).policy();
    let is_refused = is_restricted(policy, &packet) && !(is_read && may_ask(policy, held));
    if is_read && !is_refused {
        note(skb, &packet, held);
    }
    if is_read || is_refused {
        let kind = if is_refused { kind::DENY } else { kind::QUESTION };
        let told = Told { kind, hook: hook::EGRESS, is_outgoing: true, is_denied: is_refused };
        let origin = if sk.is_null() { None } else { socket::origin(sk) };
        tell::message(&packet, origin, room, &told);
    }
    if !is_read {
        count(counter::DNS_UNREADABLE);
    }
    room::release(room);
    if is_refused {
        count(counter::QUESTIONS_REFUSED);
        if !sk.is_null() {
            // What comes after it on the same connection is refused too, for it may be the same again.
            stream::refuse(sk);
        }
        return Some(DROP);
    }
    if packet.class == class::TCP && is_read {
        // There may be more questions in the segment.
        question::hand_on(ctx);
    }
    Some(PASS)
}

/// Notes that a question was asked.
#[inline(always)]
fn note(skb: *mut __sk_buff, packet: &Packet, room: &DnsRoom) {
    let (endpoint, id) = (get(&room.endpoint), get(&room.id) as u16);
    let resolver = packet.destination.bytes();
    let key = question::key(skb, endpoint, resolver, packet.source_port, id, packet.protocol);
    let value = &room.question;
    // The root has no addresses.
    if value.name_length != 0 {
        let _ = QUESTIONS.insert(key, value, u64::from(BPF_ANY));
    }
}

/// May the pod ask only for names that its rules could open? What is not known is answered by yes.
#[inline(always)]
fn is_restricted(policy: u32, packet: &Packet) -> bool {
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
fn may_ask(policy: u32, room: &mut DnsRoom) -> bool {
    let learned = &mut room.learned;
    learned.prefix_length = NameKey::BITS;
    learned.policy = policy;
    room.turn.copy_to(&mut learned.name);
    // SAFETY: from its prefix length on, what is learned is laid out as a key is.
    let key = unsafe { &*(&raw const learned.prefix_length).cast::<Key<NameKey>>() };
    NAMES.get(key).is_some_and(|named| named.flags & named::OPENS != 0)
}
