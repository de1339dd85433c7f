//! The host's end of a pod's link: `wire` at `tc` ingress sees every frame that the pod puts on the wire, however it made
//! it; `heard` at `tc` egress notes who speaks to the pod.
//!
//! Cgroup hooks see what sockets of the Internet families send. Packet sockets, AF_XDP, TUN devices, forwarding and the
//! stack's own answers pass them by; here they come along with the rest. What a socket of the pod sent has been judged
//! already and has its verdict with it, so that an established flow costs one look-up more.
//!
//! The stack answers to whom it is told to: a frame on loopback in a stranger's name makes it answer the stranger. So it
//! may answer only those who have sent something by the link.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY, TC_ACT_SHOT, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::programs::TcContext;
use sluice_abi::{HeardKey, NO_POLICY, REPLY_WINDOW_NS, class, hook, opaque};

use crate::address::Address;
use crate::decide::{Known, REFRESH_NS, decide, heard_within, packet_key};
use crate::endpoint::Endpoint;
use crate::event;
use crate::flow;
use crate::judge::Asker;
use crate::maps::HEARD;
use crate::names::told;
use crate::packet::Packet;
use crate::socket::{self, SOCK_RAW};

/// Leaves the frame to whatever else is attached (`TCX_NEXT` and `TC_ACT_UNSPEC` are -1, which skips nobody).
pub const NEXT: i32 = -1;
const SHOT: i32 = TC_ACT_SHOT;

const ETHERNET_HEADER: u32 = 14;
const ETH_P_ARP: u32 = 0x0806_u16.to_be() as u32;
/// `AF_INET` and `AF_INET6` (include/linux/socket.h). Sockets of no other family have met a cgroup hook.
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// Who is behind a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    /// A socket of the pod that the cgroup hooks have seen.
    Judged,
    /// A socket of the pod that they have not.
    Unseen,
    /// A socket that is not the pod's: the stack's own, or of a process of the host in the pod's namespace.
    Outside,
    /// No socket: the stack, or what was forwarded or injected.
    Nobody,
}

#[inline(always)]
pub fn try_wire(ctx: &TcContext) -> Option<i32> {
    let skb = ctx.skb.skb;
    if flow::established(skb, ETHERNET_HEADER as usize).is_some() {
        return None;
    }
    // SAFETY: `skb` is the program's context.
    let (interface, protocol) = unsafe { ((*skb).ifindex, (*skb).protocol) };
    let endpoint = Endpoint::of_link(interface)?;
    if endpoint.word().policy() == NO_POLICY {
        return None;
    }
    let sk = full_socket(skb);
    let sender = sender(skb, sk, &endpoint);
    let mut packet = Packet::read(skb, ETHERNET_HEADER);
    let (mut origin, mut flow, mut is_raw) = (None, None, false);
    let is_foreign = endpoint.is_foreign(packet.source);
    match sender {
        Sender::Judged => {
            // Fragments are cut after egress has judged the whole.
            if packet.opaque == opaque::FRAGMENT {
                return None;
            }
            origin = socket::origin(sk);
            // SAFETY: a full socket, whose fields the verifier lets us read.
            is_raw = unsafe { (*sk).type_ } == SOCK_RAW;
            if origin.is_none() && packet.is_link_message(skb) {
                return None;
            }
            if !is_foreign {
                flow = socket::flow(sk).filter(|flow| flow::is_same(*flow, &packet));
                if flow.is_some_and(flow::is_let_through) {
                    return None;
                }
            }
        }
        Sender::Unseen => {
            origin = socket::origin(sk);
            packet.distrust(opaque::PACKET_SOCKET);
        }
        Sender::Outside | Sender::Nobody => {
            if protocol == ETH_P_ARP || (!is_foreign && packet.is_link_message(skb)) {
                return None;
            }
            let is_answer = packet.is_stack_answer(skb);
            if is_answer && !is_foreign && was_heard(interface, packet.destination) {
                return None;
            }
            if sender == Sender::Outside && !is_answer {
                return None;
            }
        }
    }
    if is_foreign && packet.class != class::OPAQUE {
        packet.distrust(opaque::FOREIGN_SOURCE);
    }
    let known = Known::of(skb, origin, flow, is_raw, packet.is_opening(skb));
    let sk = if origin.is_some() { sk } else { core::ptr::null_mut() };
    judge_frame(&endpoint, &packet.forgotten(skb), known, skb, sk)
}

/// Notes who speaks to the pod.
#[inline(always)]
pub fn try_heard(ctx: &TcContext) -> Option<()> {
    let skb = ctx.skb.skb;
    // SAFETY: `skb` is the program's context.
    let interface = unsafe { (*skb).ifindex };
    let packet = Packet::read_source(skb, ETHERNET_HEADER)?;
    let key = HeardKey { interface, pad: 0, remote: packet.bytes() };
    let now = event::now();
    if !heard_within(HEARD.get_ptr(key), now, REFRESH_NS) {
        let _ = HEARD.insert(key, now, u64::from(BPF_ANY));
    }
    Some(())
}

#[inline(always)]
fn was_heard(interface: u32, remote: Address) -> bool {
    let key = HeardKey { interface, pad: 0, remote: remote.bytes() };
    heard_within(HEARD.get_ptr(key), event::now(), REPLY_WINDOW_NS)
}

#[inline(always)]
fn sender(skb: *mut __sk_buff, sk: *mut bpf_sock, endpoint: &Endpoint) -> Sender {
    if sk.is_null() {
        return Sender::Nobody;
    }
    if Endpoint::of_packet(skb).is_none_or(|owner| owner.id != endpoint.id) {
        return Sender::Outside;
    }
    // SAFETY: a full socket, whose fields the verifier lets us read.
    match unsafe { (*sk).family } {
        AF_INET | AF_INET6 => Sender::Judged,
        _ => Sender::Unseen,
    }
}

#[inline(always)]
fn judge_frame(
    endpoint: &Endpoint,
    packet: &Packet,
    known: Known,
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
) -> Option<i32> {
    // Payloads are read at egress. What egress keeps no flow for shows nothing that can be read.
    let told = if known.is_known { told::AS_READ } else { told::UNREADABLE };
    let asker = Asker::Packet { skb, is_known: known.is_known, is_kept: false, told };
    let verdict = decide(endpoint, packet, &packet_key(endpoint, packet), known, event::now(), asker)
        .verdict
        .forgotten(skb);
    if !verdict.told() || is_last_segment(packet, known, skb) {
        return None;
    }
    let origin = if sk.is_null() { None } else { socket::origin(sk) };
    event::deny_packet(endpoint, packet, &verdict, origin, hook::WIRE);
    if verdict.denied() { Some(SHOT) } else { None }
}

/// The reset that egress lets go when an edit has cut a connection.
#[inline(always)]
fn is_last_segment(packet: &Packet, known: Known, skb: *mut __sk_buff) -> bool {
    known.was_allowed && packet.is_bare_segment(skb)
}

#[inline(always)]
fn full_socket(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { core::ptr::null_mut() } else { bpf_sk_fullsock(sk) }
    }
}
