//! `cgroup_skb/egress`: every packet that a pod's socket sends.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{class, counter, hook, opaque, state};

use crate::decide::{Decision, Known, decide, packet_key, touch_own};
use crate::dns;
use crate::endpoint::Endpoint;
use crate::event;
use crate::flow;
use crate::hello;
use crate::ingress::LOOPBACK;
use crate::judge::Asker;
use crate::maps::count;
use crate::names::told;
use crate::packet::{Packet, TCP_RST, forget_whether};
use crate::payload;
use crate::socket::{self, SOCK_RAW, TCP_ESTABLISHED, TCP_LISTEN};
use crate::{DROP, PASS};

#[inline(always)]
pub fn try_egress(ctx: &SkBuffContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let (interface, sk) = unsafe { ((*skb).ifindex, (*skb).__bindgen_anon_2.sk) };
    // What leaves by the loopback device comes back to the same namespace.
    if interface == LOOPBACK || sk.is_null() {
        return None;
    }
    match flow::established(skb, 0) {
        Some(state::SETTLED) => return Some(PASS),
        Some(_) => {
            payload::hand_on(ctx);
            return Some(PASS);
        }
        None => {}
    }
    let mut packet = Packet::read(skb, 0);
    let judged = judge_packet(skb, full_socket(sk)?, &mut packet, told::AS_READ)?;
    if judged == Judged::AwaitsName && !packet.is_bare_segment(skb) {
        hello::hand_on(ctx);
    } else if judged == Judged::Allowed && dns::may_ask(&packet) {
        dns::question::hand_on(ctx);
    } else if judged == Judged::Told {
        payload::hand_on(ctx);
        return Some(PASS);
    } else {
        return Some(if judged == Judged::Denied { DROP } else { PASS });
    }
    // It was not: an agent that starts has the programs there before anything is attached.
    Some(DROP)
}

/// Judges a packet by the name that it shows, which `hello` has read: the rest of [`try_egress`] for the first payload of a
/// flow.
#[inline(always)]
pub fn judge_named(ctx: &SkBuffContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    let mut packet = Packet::read(skb, 0);
    let judged = judge_packet(skb, full_socket(sk)?, &mut packet, told::READ)?;
    Some(if judged == Judged::Denied { DROP } else { PASS })
}

/// What is done with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Judged {
    /// It may go.
    Allowed,
    /// It may go, if what it shows is no name or one that it may show.
    AwaitsName,
    /// It may go, and what it shows is told of.
    Told,
    /// It may not.
    Denied,
}

#[inline(always)]
fn full_socket(sk: *mut bpf_sock) -> Option<*mut bpf_sock> {
    // SAFETY: a socket of the context, and not null.
    let sk = unsafe { bpf_sk_fullsock(sk) };
    if sk.is_null() { None } else { Some(sk) }
}

/// The way of the first packet of a flow, of every packet of a socket without one peer, and of every denied packet.
#[inline(always)]
fn judge_packet(skb: *mut __sk_buff, sk: *mut bpf_sock, packet: &mut Packet, told: u32) -> Option<Judged> {
    let flow = socket::flow(sk).filter(|flow| flow::is_same(*flow, packet));
    let endpoint = Endpoint::of_packet(skb)?;
    if endpoint.is_foreign(packet.source) && packet.class != class::OPAQUE {
        packet.distrust(opaque::FOREIGN_SOURCE);
    }
    let origin = socket::origin(sk);
    // No process opened this socket: it is the network stack's own, in a namespace that the pod made.
    if origin.is_none() && (packet.is_stack_answer(skb) || packet.is_link_message(skb)) {
        return None;
    }
    let now = event::now();
    // SAFETY: a full socket, whose fields the verifier lets us read.
    let is_raw = unsafe { (*sk).type_ } == SOCK_RAW;
    let known = Known::of(skb, origin, flow, is_raw, packet.is_opening(skb));
    let is_kept = forget_whether(skb, has_one_peer(sk, packet));
    // What a raw socket writes is no flow, whatever it shows.
    let told = if known.is_raw { told::UNREADABLE } else { told };
    let asker = Asker::Packet { skb, is_known: known.is_known, is_kept, told };
    let packet = packet.forgotten(skb);
    let packet = &packet;
    let key = packet_key(&endpoint, packet);
    let Decision { verdict, is_reply } = decide(&endpoint, packet, &key, known, now, asker);
    let (verdict, is_reply) = (verdict.forgotten(skb), forget_whether(skb, is_reply));
    if matches!(packet.class, class::UDP | class::SCTP) && !is_reply {
        touch_own(&key, now, verdict.denied());
    }
    let mut state = verdict.state;
    let is_own = !is_reply && state == state::SETTLED;
    // A reply by datagram is judged each time: its evidence runs out.
    if is_kept && !(is_reply && packet.class == class::UDP) {
        state = flow::remember(skb, sk, packet, (&endpoint, &verdict), is_reply, known.is_opening);
    } else if is_own && packet.class == class::UDP && flow::shows(packet) {
        state = state::UNTOLD;
    }
    // The end of a connection that an edit cut, so that the peer does not wait for more. It carries nothing.
    if verdict.denied()
        && known.was_allowed
        && packet.tcp_flags(skb) & TCP_RST != 0
        && packet.is_bare_segment(skb)
    {
        return None;
    }
    if verdict.told() {
        event::deny_packet(&endpoint, packet, &verdict, socket::origin(sk), hook::EGRESS);
    } else if !is_reply && verdict.state != state::OPENING {
        count(counter::ALLOWED);
    }
    Some(match state {
        state::DENIED => Judged::Denied,
        state::OPENING => Judged::AwaitsName,
        state::UNTOLD | state::REQUESTS => Judged::Told,
        _ => Judged::Allowed,
    })
}

/// Does the socket send to this one place only, so that the verdict can be kept with it? A raw socket never does.
#[inline(always)]
fn has_one_peer(sk: *mut bpf_sock, packet: &Packet) -> bool {
    // SAFETY: a full socket, whose fields the verifier lets us read.
    let (state, kind) = unsafe { ((*sk).state, (*sk).type_) };
    kind != SOCK_RAW
        && match packet.class {
            class::TCP => state != TCP_LISTEN,
            class::UDP => state == TCP_ESTABLISHED,
            _ => false,
        }
}
