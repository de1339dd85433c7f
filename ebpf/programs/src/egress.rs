//! `cgroup_skb/egress`: every packet that a pod's socket sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{
    ConversationKey, FlowValue, REPLY_WINDOW_NS, SlotWord, class, counter, direction, hook, origin, reason,
};

use crate::address::Address;
use crate::endpoint::{self, Endpoint};
use crate::event;
use crate::ingress::{LOOPBACK, heard_within, touch_own};
use crate::judge::{self, FREE, Subject, Verdict};
use crate::maps::{REPLIES, count};
use crate::packet::Packet;
use crate::socket::{self, TCP_ESTABLISHED, TCP_LISTEN};
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
    let packet = Packet::read(skb);
    let flow = socket::flow(sk).filter(|flow| is_same(*flow, &packet));
    if let Some(flow) = flow {
        // SAFETY: live socket storage, never changed once it is there.
        let flow = unsafe { &*flow };
        if endpoint::word(flow.slot).0 == flow.word && flow.ruling.applied == sluice_abi::action::ALLOW {
            return Some(PASS);
        }
    }
    judge_packet(skb, sk, &packet, flow)
}

/// Is this packet of the flow that was judged? A socket is not a flow: it may send anywhere.
#[inline(always)]
fn is_same(flow: *const FlowValue, packet: &Packet) -> bool {
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    packet.class != class::OPAQUE
        && flow.protocol == packet.protocol
        && flow.remote_port == packet.destination_port
        && Address::from_bytes(&flow.remote) == packet.destination
}

/// The way of the first packet of a flow, of every packet of a socket without one peer, and of every denied packet.
#[inline(always)]
fn judge_packet(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &Packet,
    flow: Option<*const FlowValue>,
) -> Option<i32> {
    let endpoint = Endpoint::of_packet(skb)?;
    if endpoint.owns(packet.destination) && packet.class != class::OPAQUE {
        return None;
    }
    let origin = socket::origin(sk);
    // SAFETY: a full socket, whose fields the verifier lets us read.
    let state = unsafe { (*sk).state };
    let key = ConversationKey {
        endpoint: endpoint.id,
        remote: packet.destination.bytes(),
        remote_port: packet.destination_port,
        local_port: packet.source_port,
        protocol: packet.protocol,
        pad: [0; 3],
    };
    let datagram = packet.class == class::UDP || packet.class == class::SCTP;
    let now = event::now();
    let is_reply = match packet.class {
        class::TCP => {
            let connected = origin.is_some_and(|origin| origin.flags & origin::CONNECTED != 0);
            // SAFETY: live socket storage.
            let known = flow.map(|flow| unsafe { (*flow).direction });
            // The evidence of a connection is its SYN. It holds for as long as it is remembered: the mark of an own
            // connection is looked at first.
            !connected && (known == Some(direction::REPLY) || REPLIES.get_ptr(key).is_some())
        }
        class::UDP | class::SCTP => heard_within(REPLIES.get_ptr(key), now, REPLY_WINDOW_NS),
        _ => false,
    };
    let verdict = if is_reply {
        count(counter::REPLIES);
        Verdict { word: endpoint.word(), ruling: FREE, reason: reason::POLICY }
    } else {
        let subject =
            Subject { address: packet.destination, port: packet.destination_port, class: packet.class };
        judge::judge(&endpoint, subject)
    };
    if datagram && !is_reply {
        touch_own(key, now, verdict.denied());
    }
    // A socket with one fixed peer keeps the verdict. A reply by datagram does not: its evidence runs out.
    let fixed = match packet.class {
        class::TCP => state != TCP_LISTEN,
        class::UDP => state == TCP_ESTABLISHED && !is_reply,
        _ => false,
    };
    if fixed {
        remember(sk, &endpoint, packet, &verdict, is_reply);
    }
    if verdict.told() {
        tell(&endpoint, packet, &verdict, origin);
    } else if !is_reply {
        count(counter::ALLOWED);
    }
    Some(if verdict.denied() { DROP } else { PASS })
}

#[inline(always)]
fn remember(sk: *mut bpf_sock, endpoint: &Endpoint, packet: &Packet, verdict: &Verdict, is_reply: bool) {
    let SlotWord(word) = verdict.word;
    let mut flow = FlowValue {
        word,
        slot: endpoint.slot,
        remote_port: packet.destination_port,
        protocol: packet.protocol,
        direction: if is_reply { direction::REPLY } else { direction::OWN },
        remote: packet.destination.bytes(),
        ruling: verdict.ruling,
        pad: 0,
    };
    socket::set_flow(sk, &mut flow);
}

#[inline(always)]
fn tell(endpoint: &Endpoint, packet: &Packet, verdict: &Verdict, origin: Option<sluice_abi::OriginValue>) {
    let subject = event::Subject {
        source: packet.source,
        remote: packet.destination,
        local_port: packet.source_port,
        remote_port: packet.destination_port,
        protocol: packet.protocol,
        opaque: packet.opaque,
        hook: hook::EGRESS,
    };
    event::deny(endpoint.id, endpoint.slot, verdict, &subject, origin);
}
