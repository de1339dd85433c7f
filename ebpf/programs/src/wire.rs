//! `tc` ingress at the host's end of a pod's link: every frame that the pod puts on the wire, however it made it.
//!
//! Cgroup hooks see what sockets of the Internet families send. Packet sockets, TUN devices and forwarding pass them by;
//! here their frames come along with the rest. What a socket of the pod sent has been judged already and has its
//! verdict with it, so that an established flow costs one look-up more.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::TcContext;
use sluice_abi::{NO_POLICY, class, hook, opaque};

use crate::decide::{Known, decide};
use crate::endpoint::Endpoint;
use crate::event;
use crate::flow;
use crate::packet::{Packet, TCP_SYN};
use crate::socket;

/// Leaves the frame to whatever else is attached (`TCX_NEXT` and `TC_ACT_UNSPEC` are -1, which skips nobody).
pub const NEXT: i32 = -1;
const SHOT: i32 = TC_ACT_SHOT as i32;

const ETHERNET_HEADER: u32 = 14;
const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;
/// `AF_PACKET` (include/linux/socket.h).
const AF_PACKET: u32 = 17;

#[inline(always)]
pub fn try_wire(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let (interface, protocol) = unsafe { ((*skb).ifindex, (*skb).protocol) };
    if flow::is_established(skb, ETHERNET_HEADER as usize) {
        return None;
    }
    let endpoint = Endpoint::of_link(interface)?;
    if endpoint.word().policy() == NO_POLICY {
        return None;
    }
    let sk = full_socket(skb);
    let mut packet = Packet::read(skb, ETHERNET_HEADER);
    let mut known = Known { origin: None, flow: None };
    if sk.is_null() {
        // No process's socket is behind it: the stack's own answers, or what was forwarded or injected.
        if protocol == ETH_P_ARP || is_stack_answer(skb, &packet) {
            return None;
        }
        if endpoint.is_foreign(packet.source) && packet.class != class::OPAQUE {
            packet.distrust(opaque::FOREIGN_SOURCE);
        }
    } else {
        // A process of the host in the pod's namespace, or the stack's control sockets.
        if Endpoint::of_packet(skb)?.id != endpoint.id {
            return None;
        }
        // SAFETY: a full socket, whose fields the verifier lets us read.
        if unsafe { (*sk).family } == AF_PACKET {
            packet.distrust(opaque::PACKET_SOCKET);
        } else if endpoint.is_foreign(packet.source) && packet.class != class::OPAQUE {
            packet.distrust(opaque::FOREIGN_SOURCE);
        } else {
            // Fragments are cut after egress has judged the whole.
            if packet.opaque == opaque::FRAGMENT {
                return None;
            }
            known.flow = socket::flow(sk).filter(|flow| flow::is_same(*flow, &packet));
        }
        known.origin = socket::origin(sk);
        if known.origin.is_none() && packet.is_stack_message(skb) {
            return None;
        }
    }
    judge_frame(&endpoint, &packet, known, skb)
}

#[inline(always)]
fn judge_frame(endpoint: &Endpoint, packet: &Packet, known: Known, skb: *mut __sk_buff) -> Option<i32> {
    let verdict = decide(endpoint, packet, known, event::now()).verdict;
    if !verdict.told() || is_last_segment(packet, known, skb) {
        return None;
    }
    event::deny_packet(endpoint, packet, &verdict, known.origin, hook::WIRE);
    if verdict.denied() { Some(SHOT) } else { None }
}

/// The reset that egress lets go when an edit has cut a connection.
#[inline(always)]
fn is_last_segment(packet: &Packet, known: Known, skb: *mut __sk_buff) -> bool {
    // SAFETY: live socket storage, never changed once it is there.
    known.flow.is_some_and(|flow| unsafe { (*flow).was_allowed != 0 }) && packet.is_bare_segment(skb)
}

/// A reset, the acknowledgement of a connection that is over, or a message of the stack.
#[inline(always)]
fn is_stack_answer(skb: *mut __sk_buff, packet: &Packet) -> bool {
    packet.is_stack_message(skb) || (packet.is_bare_segment(skb) && packet.tcp_flags(skb) & TCP_SYN == 0)
}

#[inline(always)]
fn full_socket(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { core::ptr::null_mut() } else { bpf_sk_fullsock(sk) }
    }
}
