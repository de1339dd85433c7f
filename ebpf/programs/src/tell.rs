//! Events about names: questions, answers, and what flows show.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use sluice_abi::{
    FlowEvent, NAME_SIZE, NO_POLICY, NO_RULE, NameEvent, OriginValue, RulingValue, ShownValue,
    TOLD_ADDRESSES, TOLD_PAYLOAD, action, counter, hook, kind, opaque, reason, shown, shown_by,
};
use sluice_parse::bits::{get, keep};
use sluice_parse::dns::Walk;
use sluice_parse::hello::Hello;

use crate::dns::DnsRoom;
use crate::endpoint::Endpoint;
use crate::event;
use crate::flow::HTTP;
use crate::maps::{EVENTS, PAYLOADS, count};
use crate::packet::Packet;

/// What is told.
pub struct Told {
    /// One of [`sluice_abi::kind`].
    pub kind: u8,
    /// One of [`sluice_abi::hook`].
    pub hook: u8,
    /// The packet goes to the resolver.
    pub is_outgoing: bool,
    /// It was refused.
    pub is_denied: bool,
}

/// The name that it is about, and what else there is to say of it.
struct About {
    endpoint: u64,
    slot: u32,
    dns_type: u16,
    response_code: u8,
    /// One of [`shown`].
    shown: u8,
    name_length: u8,
    /// The name, at a multiple of 4; null for none.
    name: *const u32,
    /// The addresses of an answer.
    walk: Option<*const Walk>,
}

/// Tells of a message. Question, endpoint, code and addresses are in the room, which the caller holds.
#[inline(always)]
pub fn message(packet: &Packet, origin: Option<*const OriginValue>, room: *const DnsRoom, told: &Told) {
    // SAFETY: the caller holds the room.
    let about = unsafe {
        About {
            endpoint: get(&(*room).endpoint),
            slot: get(&(*room).slot) as u32,
            dns_type: (*room).question.kind,
            response_code: get(&(*room).response_code) as u8,
            shown: shown::MORE,
            name_length: (*room).question.name_length,
            name: (&raw const (*room).question.name).cast(),
            walk: if told.is_outgoing { None } else { Some(&raw const (*room).walk) },
        }
    };
    tell(packet, origin, &about, told);
}

/// Tells what a flow shows.
#[inline(always)]
pub fn shown(
    packet: &Packet,
    origin: Option<*const OriginValue>,
    endpoint: &Endpoint,
    value: *const ShownValue,
) {
    // SAFETY: live socket storage.
    let by = unsafe { (*value).by };
    // What is neither is told as what it should have been.
    let is_http = by == shown_by::HTTP || (by == shown_by::NOTHING && packet.destination_port == HTTP);
    let kind = if is_http { kind::HTTP } else { kind::TLS };
    tell(packet, origin, &About::shown(endpoint, Some(value)), &Told::sent(kind));
}

/// A payload that user space reads.
pub enum Payload<'a> {
    /// The first request of a flow, and what it shows.
    First(*const ShownValue, &'a Hello),
    /// What a packet holds.
    Packet { skb: *mut __sk_buff, start: u32, length: u32 },
}

/// Tells of a payload.
#[inline(always)]
pub fn payload(
    packet: &Packet,
    origin: Option<*const OriginValue>,
    endpoint: &Endpoint,
    kind: u8,
    payload: &Payload,
) {
    let value = match payload {
        Payload::First(value, _) => Some(*value),
        Payload::Packet { .. } => None,
    };
    let about = About::shown(endpoint, value);
    let now = event::now();
    if !event::within_budget(about.slot, now) {
        count(counter::EVENTS_OVER_BUDGET);
        return;
    }
    let Some(mut entry) = PAYLOADS.reserve(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let told = entry.as_mut_ptr();
    // SAFETY: the entry has room for a payload, of which every field is written; of the bytes as many as are said to be.
    unsafe {
        write(&raw mut (*told).event, now, packet, origin, &about, &Told::sent(kind));
        let to = (&raw mut (*told).payload).cast::<u8>();
        (*told).is_first = u32::from(value.is_some());
        (*told).length = match payload {
            Payload::First(_, hello) => hello.copy_start(to),
            Payload::Packet { skb, start, length } => {
                let all = TOLD_PAYLOAD as u32;
                let some = if *length < all { *length } else { all };
                let some = keep::<{ TOLD_PAYLOAD as u32 - 1 }>(u64::from(some.wrapping_sub(1))) as u32 + 1;
                if bpf_skb_load_bytes(skb.cast(), *start, to.cast(), some) == 0 { some } else { 0 }
            }
        };
    }
    entry.submit(0);
}

impl About {
    /// What a flow shows; nothing, if that is not known here.
    #[inline(always)]
    fn shown(endpoint: &Endpoint, value: Option<*const ShownValue>) -> Self {
        let nothing = Self {
            endpoint: endpoint.id,
            slot: endpoint.slot,
            dns_type: 0,
            response_code: 0,
            shown: shown::MORE,
            name_length: 0,
            name: core::ptr::null(),
            walk: None,
        };
        match value {
            // SAFETY: live socket storage.
            Some(value) => unsafe {
                Self {
                    shown: (*value).state,
                    name_length: (*value).name_length,
                    name: (&raw const (*value).name).cast(),
                    ..nothing
                }
            },
            None => nothing,
        }
    }
}

impl Told {
    /// Of what a flow sends, and may send.
    #[inline(always)]
    fn sent(kind: u8) -> Self {
        Self { kind, hook: hook::EGRESS, is_outgoing: true, is_denied: false }
    }
}

#[inline(always)]
fn tell(packet: &Packet, origin: Option<*const OriginValue>, about: &About, told: &Told) {
    let now = event::now();
    if !event::within_budget(about.slot, now) {
        count(counter::EVENTS_OVER_BUDGET);
        return;
    }
    let Some(mut entry) = EVENTS.reserve_untyped::<NameEvent>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    // SAFETY: the entry has room for an event; what it is about is live memory.
    unsafe { write(entry.as_mut_ptr(), now, packet, origin, about, told) };
    entry.submit(0);
}

/// Writes an event.
///
/// # Safety
///
/// There must be room for one, and what it is about must be live.
#[inline(always)]
unsafe fn write(
    event: *mut NameEvent,
    now: u64,
    packet: &Packet,
    origin: Option<*const OriginValue>,
    about: &About,
    told: &Told,
) {
    let (pid, comm) = origin.map_or((0, [0; 16]), |origin| {
        // SAFETY: live socket storage.
        unsafe { ((*origin).pid, (*origin).comm) }
    });
    let (local, remote) = if told.is_outgoing {
        ((packet.source, packet.source_port), (packet.destination, packet.destination_port))
    } else {
        ((packet.destination, packet.destination_port), (packet.source, packet.source_port))
    };
    let (action, reason) =
        if told.is_denied { (action::DENY, reason::QUESTION) } else { (action::ALLOW, reason::POLICY) };
    // SAFETY: the caller's; every field is written.
    unsafe {
        (&raw mut (*event).flow).write(FlowEvent {
            time_ns: now,
            endpoint: about.endpoint,
            repeats: 0,
            policy: NO_POLICY,
            pid,
            source: local.0.bytes(),
            remote: remote.0.bytes(),
            local_port: local.1,
            remote_port: remote.1,
            protocol: packet.protocol,
            kind: told.kind,
            hook: told.hook,
            reason,
            ruling: RulingValue {
                applied: action,
                reported: action,
                flags: 0,
                applied_rule: NO_RULE,
                reported_rule: NO_RULE,
            },
            opaque: opaque::NONE,
            name: 0,
            pad: [0; 2],
            comm,
        });
        (*event).dns_type = about.dns_type;
        (*event).response_code = about.response_code;
        (*event).shown = about.shown;
        (*event).name_length = about.name_length;
        (*event).pad = 0;
        (*event).pad2 = 0;
        let found = about.walk.map_or(0, |walk| (*walk).found());
        (*event).answers = found as u16;
        let addresses = (&raw mut (*event).addresses).cast::<[u64; 2]>();
        for index in 0..TOLD_ADDRESSES {
            let address = match about.walk {
                Some(walk) if (index as u64) < found => (*walk).address(index as u64).address,
                _ => [0; 2],
            };
            addresses.add(index).write(address);
        }
        let (from, to) = (about.name, (&raw mut (*event).name).cast::<u32>());
        for index in 0..NAME_SIZE / size_of::<u32>() {
            to.add(index).write(if from.is_null() { 0 } else { from.add(index).read() });
        }
    }
}
