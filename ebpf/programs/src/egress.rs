//! `cgroup_skb/egress`: every packet that a pod's socket sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{FlowValue, SlotWord, action, class, counter, direction, hook, opaque};

use crate::address::Address;
use crate::decide::{Decision, Known, decide, packet_key, touch_own};
use crate::endpoint::{self, Endpoint};
use crate::event;
use crate::ingress::LOOPBACK;
use crate::judge::Verdict;
use crate::maps::count;
use crate::packet::{Packet, TCP_RST};
use crate::socket::{self, SOCK_RAW, TCP_ESTABLISHED, TCP_LISTEN};
use crate::{DROP, PASS};

#[inline(always)]
pub fn try_egress(ctx: &SkBuffContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let sk = unsafe {
        // What leaves by the loopback device comes back to the same namespace.
        if (*skb).ifindex == LOOPBACK {
            return None;
        }
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return None;
        }
        bpf_sk_fullsock(sk)
    };
    if sk.is_null() {
        return None;
    }
    let mut packet = Packet::read(skb, 0);
    let flow = socket::flow(sk).filter(|flow| is_same(*flow, &packet));
    if is_allowed(flow) {
        return Some(PASS);
    }
    judge_packet(skb, sk, &mut packet, flow)
}

/// Is this packet of the flow that was judged? A socket is not a flow: it may send anywhere.
#[inline(always)]
pub fn is_same(flow: *const FlowValue, packet: &Packet) -> bool {
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    packet.class != class::OPAQUE
        && flow.protocol == packet.protocol
        && flow.remote_port == packet.destination_port
        && Address::from_bytes(&flow.remote) == packet.destination
        && Address::from_bytes(&flow.local) == packet.source
}

/// Was the flow allowed under the policy that is in force now?
#[inline(always)]
pub fn is_allowed(flow: Option<*const FlowValue>) -> bool {
    let Some(flow) = flow else { return false };
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    endpoint::word(flow.slot).0 == flow.word && flow.ruling.applied == action::ALLOW
}

/// The way of the first packet of a flow, of every packet of a socket without one peer, and of every denied packet.
#[inline(always)]
fn judge_packet(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &mut Packet,
    flow: Option<*const FlowValue>,
) -> Option<i32> {
    let endpoint = Endpoint::of_packet(skb)?;
    if endpoint.is_foreign(packet.source) && packet.class != class::OPAQUE {
        packet.distrust(opaque::FOREIGN_SOURCE);
    }
    if endpoint.owns(packet.destination) && packet.class != class::OPAQUE {
        return None;
    }
    let origin = socket::origin(sk);
    // No process opened this socket: it is the network stack's own, in a namespace that the pod made.
    if origin.is_none() && packet.is_stack_message(skb) {
        return None;
    }
    let now = event::now();
    let Decision { verdict, is_reply } = decide(&endpoint, packet, Known { origin, flow }, now);
    if matches!(packet.class, class::UDP | class::SCTP) && !is_reply {
        touch_own(packet_key(&endpoint, packet), now, verdict.denied());
    }
    // SAFETY: live socket storage, never changed once it is there.
    let was_allowed = !verdict.denied() || flow.is_some_and(|flow| unsafe { (*flow).was_allowed != 0 });
    if has_one_peer(sk, packet, is_reply) {
        remember(sk, &endpoint, packet, &verdict, is_reply, was_allowed);
    }
    // The end of a connection that an edit cut, so that the peer does not wait for more. It carries nothing.
    if verdict.denied() && was_allowed && packet.tcp_flags(skb) & TCP_RST != 0 && packet.is_bare_segment(skb)
    {
        return None;
    }
    if verdict.told() {
        event::deny_packet(&endpoint, packet, &verdict, origin, hook::EGRESS);
    } else if !is_reply {
        count(counter::ALLOWED);
    }
    Some(if verdict.denied() { DROP } else { PASS })
}

/// Does the socket send to this one place only, so that the verdict can be kept with it? A raw socket never does. A reply
/// by datagram is judged each time: its evidence runs out.
#[inline(always)]
fn has_one_peer(sk: *mut bpf_sock, packet: &Packet, is_reply: bool) -> bool {
    // SAFETY: a full socket, whose fields the verifier lets us read.
    let (state, kind) = unsafe { ((*sk).state, (*sk).type_) };
    kind != SOCK_RAW
        && match packet.class {
            class::TCP => state != TCP_LISTEN,
            class::UDP => state == TCP_ESTABLISHED && !is_reply,
            _ => false,
        }
}

#[inline(always)]
fn remember(
    sk: *mut bpf_sock,
    endpoint: &Endpoint,
    packet: &Packet,
    verdict: &Verdict,
    is_reply: bool,
    was_allowed: bool,
) {
    let SlotWord(word) = verdict.word;
    let mut flow = FlowValue {
        word,
        slot: endpoint.slot,
        remote_port: packet.destination_port,
        protocol: packet.protocol,
        direction: if is_reply { direction::REPLY } else { direction::OWN },
        remote: packet.destination.bytes(),
        local: packet.source.bytes(),
        ruling: verdict.ruling,
        was_allowed: u8::from(was_allowed),
        pad: [0; 3],
    };
    socket::set_flow(sk, &mut flow);
}
