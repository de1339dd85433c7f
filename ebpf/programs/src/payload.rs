//! `payload`, after `egress`: tells user space of what an allowed flow sends, for it to read: the requests of a connection
//! that was seen to be HTTP/1, and the first datagrams of QUIC. What comes first on TCP it has `hello` read.
//!
//! Only flows in the states [`state::UNTOLD`] and [`state::REQUESTS`] come here, and datagrams to QUIC's port from sockets
//! without one peer. Nothing is judged, and nothing dropped: what is to be judged is handed on to `named`.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{FlowValue, ShownValue, class, kind, shown, shown_by, state, tail};
use sluice_parse::bits::get;
use sluice_parse::hello::Hello;

use crate::PASS;
use crate::endpoint::Endpoint;
use crate::flow;
use crate::hello;
use crate::maps::{EGRESS_TAILS, HELLOS, TOLD};
use crate::packet::{Packet, load};
use crate::socket;
use crate::tell::{self, Payload};

/// The shortest request: a method, a target, the version and two ends of lines.
const SHORTEST_REQUEST: u32 = 18;
/// Datagrams with an Initial packet are padded to this, by clients at least (RFC 9000, section 14.1).
const SHORTEST_INITIAL: u32 = 1200;
/// Versions of QUIC whose keys are known (RFC 9000, RFC 9369).
const QUIC_1: u32 = 1;
const QUIC_2: u32 = 0x6b33_43cf;

/// Hands on a packet that may be told of.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::PAYLOAD) };
}

/// Tells, and lets the packet through unless it has yet to be judged. None if there is nobody to judge it.
#[inline(always)]
pub fn try_payload(ctx: &SkBuffContext) -> Option<i32> {
    let skb = ctx.skb.skb;
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
    if packet.class == class::UDP {
        datagram(skb, sk, &packet);
        return Some(PASS);
    }
    let state = flow_of(sk, &packet).map_or(state::OPENING, state_of);
    if let Some(hello) = finished(sk) {
        first_request(skb, sk, &packet, hello);
        socket::delete(&HELLOS, sk);
        if settle(sk, &packet, socket::shown(sk)) {
            return Some(PASS);
        }
    } else if state == state::UNTOLD {
        if !packet.is_bare_segment(skb) {
            hello::hand_on(ctx);
        }
        return Some(PASS);
    } else if state::is_free(state) {
        if state == state::REQUESTS {
            further_request(skb, sk, &packet);
        }
        return Some(PASS);
    }
    hello::judge(ctx);
    None
}

/// Is the packet's flow allowed for good? Then nothing more is told of it than what follows from what it has shown.
#[inline(always)]
pub fn settle(sk: *mut bpf_sock, packet: &Packet, value: Option<*const ShownValue>) -> bool {
    let Some(flow) = flow_of(sk, packet) else { return false };
    let state = state_of(flow);
    if state == state::UNTOLD {
        // SAFETY: live socket storage.
        let known = value.map(|value| unsafe { ((*value).state, (*value).by) });
        match known {
            Some((shown, by)) => socket::settle(flow, flow::state_after(shown, by)),
            // There was no room for what it shows.
            None if socket::shown(sk).is_none() => socket::settle(flow, state::SETTLED),
            None => {}
        }
    }
    state::is_free(state)
}

#[inline(always)]
fn flow_of(sk: *mut bpf_sock, packet: &Packet) -> Option<*const FlowValue> {
    socket::flow(sk).filter(|flow| flow::is_same(*flow, packet))
}

#[inline(always)]
fn state_of(flow: *const FlowValue) -> u8 {
    // SAFETY: live socket storage.
    unsafe { core::ptr::read_volatile(&raw const (*flow).state) }
}

/// The pieces of a first request, once it was read.
#[inline(always)]
fn finished<'a>(sk: *mut bpf_sock) -> Option<&'a Hello> {
    // SAFETY: live socket storage; one socket sends from one CPU at a time.
    let hello = unsafe { &*socket::get(&HELLOS, sk)? };
    let is_finished = hello.by() == shown_by::HTTP && !matches!(hello.state(), shown::MORE | shown::SO_FAR);
    if is_finished { Some(hello) } else { None }
}

#[inline(always)]
fn first_request(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet, hello: &Hello) {
    if let (Some(endpoint), Some(value)) = (Endpoint::of_packet(skb), socket::shown(sk)) {
        tell::payload(packet, socket::origin(sk), &endpoint, kind::HTTP, &Payload::First(value, hello));
    }
    told_upto(sk, get(&hello.next) as u32);
}

/// Tells of a request on a connection that has had one, if the packet begins with it.
#[inline(always)]
fn further_request(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet) -> Option<()> {
    let (start, length) = packet.payload(skb)?;
    if length < SHORTEST_REQUEST || !is_method(load(skb, start)?) {
        return None;
    }
    let [number, _] = packet.tcp_numbers(skb)?;
    if let Some(told) = socket::get(&TOLD, sk) {
        // SAFETY: live socket storage, an aligned word.
        let ahead = number.wrapping_sub(unsafe { (*told).next });
        if ahead > u32::MAX / 2 {
            return None;
        }
    }
    let endpoint = Endpoint::of_packet(skb)?;
    let payload = Payload::Packet { skb, start, length };
    tell::payload(packet, socket::origin(sk), &endpoint, kind::HTTP, &payload);
    told_upto(sk, number.wrapping_add(length));
    Some(())
}

#[inline(always)]
fn told_upto(sk: *mut bpf_sock, next: u32) {
    if let Some(told) = socket::get_or_create(&TOLD, sk) {
        // SAFETY: live socket storage, an aligned word.
        unsafe { (*told).next = next };
    }
}

/// Are these the first four bytes of a request with one of the methods of RFC 9110 and RFC 5789?
#[inline(always)]
fn is_method(bytes: [u8; 4]) -> bool {
    const METHODS: [[u8; 4]; 9] =
        [*b"GET ", *b"POST", *b"HEAD", *b"PUT ", *b"DELE", *b"OPTI", *b"PATC", *b"CONN", *b"TRAC"];
    METHODS.iter().any(|method| u32::from_ne_bytes(*method) == u32::from_ne_bytes(bytes))
}

/// Tells of a datagram that begins with an Initial packet. The first without one is the last that is looked at.
#[inline(always)]
fn datagram(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &Packet) -> Option<()> {
    let (start, whole) = packet.payload(skb)?;
    // SAFETY: `skb` is the program's context.
    let segment = unsafe { (*skb).gso_size };
    let length = if segment != 0 && segment < whole { segment } else { whole };
    if length >= SHORTEST_INITIAL && is_initial(skb, start)? {
        let endpoint = Endpoint::of_packet(skb)?;
        let payload = Payload::Packet { skb, start, length };
        tell::payload(packet, socket::origin(sk), &endpoint, kind::TLS, &payload);
    } else if let Some(flow) = flow_of(sk, packet)
        && state_of(flow) == state::UNTOLD
    {
        socket::settle(flow, state::SETTLED);
    }
    Some(())
}

/// A long header of the type Initial (RFC 9000, section 17.2; RFC 9369, section 3.2). Its lower four bits are masked.
#[inline(always)]
fn is_initial(skb: *mut __sk_buff, start: u32) -> Option<bool> {
    let first: u8 = load(skb, start)?;
    let version = u32::from_be_bytes(load(skb, start + 1)?);
    Some(matches!((first >> 4, version), (0b1100, QUIC_1) | (0b1101, QUIC_2)))
}
