//! `hello`, after `egress`: the first payload of a flow whose name rules ask for.
//!
//! A program of its own, reached by a tail call: what does not ask for a name pays nothing for the reading. It reads, and
//! has the packet judged again by what is known then.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::tail;

use crate::egress;
use crate::maps::EGRESS_TAILS;
use crate::names::told;
use crate::packet::Packet;

/// Hands on a packet whose flow has not shown its name yet.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext) {
    // SAFETY: one program of the same kind into another; nothing is held.
    unsafe { EGRESS_TAILS.tail_call(ctx, tail::HELLO) };
}

#[inline(always)]
pub fn try_hello(ctx: &SkBuffContext) -> Option<i32> {
    egress::judge_named(ctx)
}

/// Reads the name that a payload shows, and keeps it with the socket. What is not kept there cannot be read.
#[inline(always)]
pub fn name_of(_skb: *mut __sk_buff, _packet: &Packet, _sk: *mut bpf_sock) -> u32 {
    told::UNREADABLE
}
