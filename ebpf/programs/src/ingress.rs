//! `cgroup_skb/ingress`: who spoke first?
//!
//! A reply needs positive evidence: a SYN to a listening socket, or a datagram, that came in by the pod's interface. What
//! came over loopback counts for nothing: a raw socket of the pod can put any source address there.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{ConversationKey, REPLY_WINDOW_NS, class, direction};

use crate::endpoint::Endpoint;
use crate::event::now;
use crate::maps::{OWN, REPLIES};
use crate::packet::Packet;
use crate::socket;

/// `LOOPBACK_IFINDEX` (include/net/flow.h): the loopback device of every network namespace has this index.
pub const LOOPBACK: u32 = 1;
/// A time that is younger than this is not written again.
const REFRESH_NS: u64 = 1_000_000_000;

#[inline(always)]
pub fn try_ingress(ctx: &SkBuffContext) -> Option<()> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    if unsafe { (*skb).ifindex } == LOOPBACK {
        return None;
    }
    let packet = Packet::read(skb);
    match packet.class {
        class::TCP => {
            let (syn, ack) = packet.syn_ack(skb);
            if !syn || ack {
                return None;
            }
        }
        class::UDP | class::SCTP => {
            if is_own_flow(skb, &packet) {
                return None;
            }
        }
        _ => return None,
    }
    let endpoint = Endpoint::of_packet(skb)?;
    let key = ConversationKey {
        endpoint: endpoint.id,
        remote: packet.source.bytes(),
        remote_port: packet.source_port,
        local_port: packet.destination_port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
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
        && crate::address::Address::from_bytes(&flow.remote) == packet.source
}

/// Is there a time, and is it younger than `window`?
#[inline(always)]
pub fn heard_within(time: Option<*const u64>, now: u64, window: u64) -> bool {
    match time {
        // SAFETY: a live map element, an aligned word.
        Some(time) => now.wrapping_sub(unsafe { *time }) < window,
        None => false,
    }
}

#[inline(always)]
fn touch_reply(key: ConversationKey, now: u64) {
    if !heard_within(REPLIES.get_ptr(key), now, REFRESH_NS) {
        let _ = REPLIES.insert(key, now, u64::from(BPF_ANY));
    }
}

/// Notes that the pod spoke in a conversation that it began. A denied packet only refreshes what is there: else a pod
/// could push other conversations out by sending to many places in vain.
#[inline(always)]
pub fn touch_own(key: ConversationKey, now: u64, denied: bool) {
    let known = OWN.get_ptr(key);
    if heard_within(known, now, REFRESH_NS) || (denied && known.is_none()) {
        return;
    }
    let _ = OWN.insert(key, now, u64::from(BPF_ANY));
}
