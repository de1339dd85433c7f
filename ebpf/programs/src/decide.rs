//! Is a packet a reply, and if not, what does policy say of it? The same for every place that sees packets.
//!
//! Who spoke first is told by evidence alone. For TCP it is the SYN that came in, for datagrams a recent one of the
//! peer's; the mark of a connect by the pod itself wins over both.

use aya_ebpf::bindings::{__sk_buff, BPF_ANY};
use sluice_abi::{
    ConversationKey, FlowValue, OriginValue, REPLY_WINDOW_NS, class, counter, direction, origin,
};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::judge::{self, Asker, Subject, Verdict};
use crate::maps::{OWN, REPLIES, count};
use crate::packet::{Packet, forget_whether};

/// A time that is younger than this is not written again.
pub const REFRESH_NS: u64 = 1_000_000_000;

/// What is remembered with the socket that sent a packet.
#[derive(Clone, Copy)]
pub struct Known {
    /// The pod connected it.
    pub is_connected: bool,
    /// The packet is of the flow that is kept with it.
    pub is_known: bool,
    /// That flow only answers.
    pub is_answer: bool,
    /// That flow was ever allowed.
    pub was_allowed: bool,
    /// It is a raw socket: it writes what it likes, and no connection is behind it.
    pub is_raw: bool,
    /// The packet opens a TCP connection.
    pub is_opening: bool,
}

impl Known {
    /// Of a socket's origin, and of its flow if the packet is of it.
    ///
    /// VERIFIER: each is forgotten, and both are looked up again where they are needed: what judges a packet would else be
    /// followed for each case of having them or not.
    #[inline(always)]
    pub fn of(
        skb: *mut __sk_buff,
        origin: Option<*const OriginValue>,
        flow: Option<*const FlowValue>,
        is_raw: bool,
        is_opening: bool,
    ) -> Self {
        // SAFETY: live socket storage; a flow is never changed once it is there, and the flags are an aligned word.
        let (is_connected, is_answer, was_allowed) = unsafe {
            (
                origin.is_some_and(|origin| (*origin).flags & origin::CONNECTED != 0),
                flow.is_some_and(|flow| (*flow).direction == direction::REPLY),
                flow.is_some_and(|flow| (*flow).was_allowed != 0),
            )
        };
        Self {
            is_connected: forget_whether(skb, is_connected),
            is_known: forget_whether(skb, flow.is_some()),
            is_answer: forget_whether(skb, is_answer),
            was_allowed: forget_whether(skb, was_allowed),
            is_raw: forget_whether(skb, is_raw),
            is_opening: forget_whether(skb, is_opening),
        }
    }
}

/// A verdict, and which way the flow goes.
#[derive(Clone, Copy)]
pub struct Decision {
    pub verdict: Verdict,
    pub is_reply: bool,
}

/// Decides about a packet that an endpoint sends, in the conversation of that key.
#[inline(always)]
pub fn decide(
    endpoint: &Endpoint,
    packet: &Packet,
    key: &ConversationKey,
    known: Known,
    now: u64,
    asker: Asker,
) -> Decision {
    let is_reply = match packet.class {
        class::TCP => {
            // The evidence holds for as long as it is remembered: a connection may be idle for long.
            let may_answer = !known.is_connected && !known.is_raw && !known.is_opening;
            may_answer && (known.is_answer || REPLIES.get_ptr(key).is_some())
        }
        class::UDP | class::SCTP => heard_within(REPLIES.get_ptr(key), now, REPLY_WINDOW_NS),
        _ => false,
    };
    if is_reply {
        count(counter::REPLIES);
        return Decision { verdict: Verdict::free(endpoint.word()), is_reply };
    }
    let subject = Subject { address: packet.destination, port: packet.destination_port, class: packet.class };
    Decision { verdict: judge::judge(endpoint, subject, asker), is_reply }
}

/// The conversation that a packet of the endpoint belongs to.
#[inline(always)]
pub fn packet_key(endpoint: &Endpoint, packet: &Packet) -> ConversationKey {
    conversation(endpoint, packet.destination, packet.destination_port, packet.source_port, packet.protocol)
}

/// A conversation of the endpoint.
#[inline(always)]
pub fn conversation(
    endpoint: &Endpoint,
    remote: Address,
    remote_port: u16,
    local_port: u16,
    protocol: u8,
) -> ConversationKey {
    ConversationKey {
        endpoint: endpoint.id,
        remote: remote.bytes(),
        remote_port,
        local_port,
        protocol,
        pad: [0; 3],
    }
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

/// Notes that a peer spoke in a conversation that it began.
#[inline(always)]
pub fn touch_reply(key: ConversationKey, now: u64) {
    if !heard_within(REPLIES.get_ptr(key), now, REFRESH_NS) {
        let _ = REPLIES.insert(key, now, u64::from(BPF_ANY));
    }
}

/// Notes that the pod spoke in a conversation that it began. A denied packet only refreshes what is there: else a pod
/// could push other conversations out by sending to many places in vain.
#[inline(always)]
pub fn touch_own(key: &ConversationKey, now: u64, denied: bool) {
    let known = OWN.get_ptr(key);
    if heard_within(known, now, REFRESH_NS) || (denied && known.is_none()) {
        return;
    }
    let _ = OWN.insert(key, now, u64::from(BPF_ANY));
}
