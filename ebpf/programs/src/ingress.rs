//! `cgroup_skb/ingress`: who spoke first?
//!
//! A reply needs positive evidence: a SYN to a listening socket, or a datagram, that came in by the pod's interface. What
//! came over loopback counts for nothing: a raw socket of the pod can put any source address there.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{REPLY_WINDOW_NS, class, direction};

use crate::address::Address;
use crate::decide::{conversation, heard_within, touch_reply};
use crate::dns;
use crate::endpoint::Endpoint;
use crate::event::now;
use crate::maps::OWN;
use crate::packet::Packet;
use crate::socket;

/// `LOOPBACK_IFINDEX` (include/net/flow.h): the loopback device of every network namespace has this index.
pub const LOOPBACK: u32 = 1;

#[inline(always)]
pub fn try_ingress(ctx: &SkBuffContext) -> Option<()> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    if unsafe { (*skb).ifindex } == LOOPBACK {
        return None;
    }
    let packet = Packet::read(skb, 0);
    let noted = note(skb, &packet);
    if dns::may_answer(&packet) {
        dns::answer::hand_on(ctx);
    }
    noted
}

/// Notes who spoke first.
#[inline(always)]
fn note(skb: *mut __sk_buff, packet: &Packet) -> Option<()> {
    match packet.class {
        class::TCP => {
            if !packet.is_opening(skb) {
                return None;
            }
        }
        class::UDP | class::SCTP => {
            if is_own_flow(skb, packet) {
                return None;
            }
        }
        _ => return None,
    }
    let endpoint = Endpoint::of_packet(skb)?;
    let key =
        conversation(&endpoint, packet.source, packet.source_port, packet.destination_port, packet.protocol);
    let now = now();
    if packet.class != class::TCP && heard_within(OWN.get_ptr(key), now, REPLY_WINDOW_NS) {
        return None;
    }
    touch_reply(key, now);
    Some(())
}

/// Does the socket hold a flow to this very peer, opened by the pod?
#[inline(always)]
fn is_own_flow(skb: *mut __sk_buff, packet: &Packet) -> bool {
    // SAFETY: `skb` is the program's context; its socket may be null, which the helper is not given.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return false;
        }
        bpf_sk_fullsock(sk)
    };
    if sk.is_null() {
        return false;
    }
    let Some(flow) = socket::flow(sk) else { return false };
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    flow.direction == direction::OWN
        && flow.protocol == packet.protocol
        && flow.remote_port == packet.source_port
        && Address::from_bytes(&flow.remote) == packet.source
}
