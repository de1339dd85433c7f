//! `hello`, after `egress`: the first payload of a flow whose name rules ask for, or that is to be told of.
//!
//! A program of its own, reached by a tail call: what is not read pays nothing for the reading. It reads what the payload
//! shows, keeps that with the socket, and hands a packet whose name rules ask for on to `named`, which judges it by what is
//! known then.
//!
//! Pieces are put together by their numbers. What was read before is not read again, and does not count if it is sent
//! another time with other bytes: the server's end takes the first as well. Past a gap a flow is unreadable.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::{bpf_sk_fullsock, bpf_skb_load_bytes};
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::names_config::OUTER_NAMES;
use sluice_abi::{ShownValue, counter, shown, shown_by, tail};
use sluice_parse::bits::{get, put};
use sluice_parse::hello::{Hello, Source};

use crate::PASS;
use crate::endpoint::Endpoint;
use crate::maps::{EGRESS_TAILS, HELLOS, NAMES_CONFIG, SHOWN, count};
use crate::packet::{Packet, TCP_SYN};
use crate::payload;
use crate::socket;
use crate::tell;

/// Hands on a packet whose flow has not shown its name yet.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::HELLO) };
}

/// Reads, and hands on, unless the flow is allowed whatever it shows. None if there is nobody to hand on to.
#[inline(always)]
pub fn try_hello(ctx: &SkBuffContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    let mut is_untold = false;
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { sk } else { bpf_sk_fullsock(sk) }
    };
    if !sk.is_null() {
        let packet = Packet::read(skb, 0);
        let mut hello = add(skb, &packet, sk);
        if hello.as_mut().is_some_and(|hello| hello.read()) {
            // What is longer than one program may read is read on in another run of it.
            hand_on(ctx);
            hello = None;
        }
        let value = note(sk, hello.as_deref());
        if hello.is_some() && value.is_some_and(is_request) {
            payload::hand_on(ctx);
        }
        is_untold = payload::settle(sk, &packet, value);
        if let Some(value) = value
            && let Some(endpoint) = Endpoint::of_packet(skb)
        {
            tell::shown(&packet, socket::origin(sk), &endpoint, value);
        }
    }
    if is_untold {
        return Some(PASS);
    }
    judge(ctx);
    None
}

/// Hands on a packet that is to be judged by what its flow shows.
#[inline(always)]
pub fn judge(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::NAMED) };
}

/// What a hello shows, as the configuration has it read.
#[inline(always)]
fn state_of(hello: &Hello) -> u8 {
    let state = hello.state();
    // SAFETY: a live array element, which the agent writes before the programs are there.
    let goes_by_outer =
        || NAMES_CONFIG.get_ptr(0).is_some_and(|config| unsafe { (*config).flags } & OUTER_NAMES != 0);
    if state == shown::ENCRYPTED && hello.has_name() && goes_by_outer() { shown::OUTER } else { state }
}

/// Is it the name of a request, of which more is told?
#[inline(always)]
fn is_request(value: *const ShownValue) -> bool {
    // SAFETY: live socket storage.
    unsafe { (*value).by == shown_by::HTTP }
}

/// A packet's bytes.
struct Buffer(*mut __sk_buff);

impl Source for Buffer {
    #[inline(always)]
    unsafe fn load(&self, offset: u64, to: *mut u8, length: u64) -> bool {
        // SAFETY: the program's context; the caller's promise about `to`.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, to.cast(), length as u32) == 0 }
    }
}

/// Adds a packet to what the flow of a socket has shown; none if it cannot be followed.
#[inline(always)]
fn add<'a>(skb: *mut __sk_buff, packet: &Packet, sk: *mut bpf_sock) -> Option<&'a mut Hello> {
    let (start, length) = packet.payload(skb)?;
    let [number, _] = packet.tcp_numbers(skb)?;
    // A SYN, of a fast open, has a number of its own.
    let number = number.wrapping_add(u32::from(packet.tcp_flags(skb) & TCP_SYN != 0));
    let Some(hello) = socket::get_or_create(&HELLOS, sk) else {
        count(counter::STORAGE_FAILED);
        return None;
    };
    // SAFETY: live socket storage; one socket sends from one CPU at a time.
    let hello = unsafe { &mut *hello };
    if get(&hello.is_begun) == 0 {
        put(&mut hello.next, number.into());
        put(&mut hello.is_begun, 1);
    }
    let old = (get(&hello.next) as u32).wrapping_sub(number);
    if old > u32::MAX / 2 {
        return None;
    }
    if old < length {
        let next = get(&hello.next);
        put(&mut hello.next, next.wrapping_add(u64::from(length - old)));
        hello.add(&Buffer(skb), u64::from(start + old), u64::from(length - old));
    }
    Some(hello)
}

/// Keeps with the socket what was read: gives it, once that is for good. The pieces go then, unless `payload` is to tell of
/// them. Nothing to read is unreadable.
#[inline(always)]
fn note(sk: *mut bpf_sock, hello: Option<&Hello>) -> Option<*const ShownValue> {
    let Some(place) = socket::get_or_create(&SHOWN, sk) else {
        count(counter::STORAGE_FAILED);
        return None;
    };
    // SAFETY: live socket storage; one socket sends from one CPU at a time.
    let value = unsafe { &mut *place };
    let state = match hello {
        Some(hello) => {
            value.by = hello.by();
            value.name_length = hello.name(&mut value.name);
            state_of(hello)
        }
        None => shown::UNREADABLE,
    };
    // Last, for whoever reads it on another CPU.
    // SAFETY: a field of live socket storage.
    unsafe { core::ptr::write_volatile(&raw mut value.state, state) };
    if matches!(state, shown::MORE | shown::SO_FAR) {
        return None;
    }
    if !shown::is_name(state) {
        count(counter::NAMES_UNREADABLE);
    }
    if hello.is_none() || !is_request(place) {
        socket::delete(&HELLOS, sk);
    }
    Some(place)
}
