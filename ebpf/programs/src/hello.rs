//! The first payload of a flow.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};

use crate::names::Shown;
use crate::packet::Packet;

/// Reads the name that a payload shows.
#[inline(always)]
pub fn name_of(_skb: *mut __sk_buff, _packet: &Packet, _sk: *mut bpf_sock) -> Shown {
    Shown::UNREADABLE
}
