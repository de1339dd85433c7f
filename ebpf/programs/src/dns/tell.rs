//! Events about questions and answers.

use sluice_abi::{
    FlowEvent, NAME_SIZE, NO_POLICY, NO_RULE, NameEvent, OriginValue, RulingValue, TOLD_ADDRESSES, action,
    counter, opaque, reason, shown,
};
use sluice_parse::bits::get;

use super::room::DnsRoom;
use crate::event;
use crate::maps::{EVENTS, count};
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

/// Tells of a message. Question, endpoint, code and addresses are in the room.
#[inline(always)]
pub fn tell(packet: &Packet, origin: Option<*const OriginValue>, room: *const DnsRoom, told: &Told) {
    let now = event::now();
    // SAFETY: the caller holds the room.
    let (endpoint, slot) = unsafe { (get(&(*room).endpoint), get(&(*room).slot) as u32) };
    if !event::within_budget(slot, now) {
        count(counter::EVENTS_OVER_BUDGET);
        return;
    }
    let (pid, comm) = origin.map_or((0, [0; 16]), |origin| {
        // SAFETY: live socket storage.
        unsafe { ((*origin).pid, (*origin).comm) }
    });
    let (local, remote) = if told.is_outgoing {
        ((packet.source, packet.source_port), (packet.destination, packet.destination_port))
    } else {
        ((packet.destination, packet.destination_port), (packet.source, packet.source_port))
    };
    let Some(mut entry) = EVENTS.reserve_untyped::<NameEvent>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let event = entry.as_mut_ptr();
    let (action, reason) =
        if told.is_denied { (action::DENY, reason::QUESTION) } else { (action::ALLOW, reason::POLICY) };
    // SAFETY: the entry has room for an event, of which every field is written; the caller holds the room.
    unsafe {
        (&raw mut (*event).flow).write(FlowEvent {
            time_ns: now,
            endpoint,
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
        (*event).dns_type = (*room).question.kind;
        (*event).response_code = get(&(*room).response_code) as u8;
        (*event).shown = shown::MORE;
        (*event).name_length = (*room).question.name_length;
        (*event).pad = 0;
        (*event).pad2 = 0;
        let found = if told.is_outgoing { 0 } else { (*room).walk.found() };
        (*event).answers = found as u16;
        let addresses = (&raw mut (*event).addresses).cast::<[u64; 2]>();
        for index in 0..TOLD_ADDRESSES {
            let address =
                if (index as u64) < found { (*room).walk.address(index as u64).address } else { [0; 2] };
            addresses.add(index).write(address);
        }
        let (from, to) =
            ((&raw const (*room).question.name).cast::<u32>(), (&raw mut (*event).name).cast::<u32>());
        for index in 0..NAME_SIZE / size_of::<u32>() {
            to.add(index).write(from.add(index).read());
        }
    }
    entry.submit(0);
}
