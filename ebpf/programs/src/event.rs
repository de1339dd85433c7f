//! Telling the agent, without drowning it: one event a second for each denied destination, the rest counted, and a
//! budget for each endpoint.

use core::arch::asm;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use sluice_abi::{BudgetValue, DenialKey, DenialValue, FlowEvent, OriginValue, counter, kind};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::judge::Verdict;
use crate::maps::{BUDGETS, DENIALS, EVENTS, count};
use crate::packet::Packet;

const SECOND_NS: u64 = 1_000_000_000;
/// Events that one endpoint may give in a second.
const BUDGET: u64 = 1000;

/// The flow that an event is about.
#[derive(Clone, Copy)]
pub struct Subject {
    pub source: Address,
    pub remote: Address,
    pub local_port: u16,
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`sluice_abi::opaque`].
    pub opaque: u8,
    /// One of [`sluice_abi::hook`].
    pub hook: u8,
}

/// Tells of a denied packet or call, at most once a second for each destination.
#[inline(always)]
pub fn deny(endpoint: &Endpoint, verdict: &Verdict, subject: &Subject, origin: Option<OriginValue>) {
    if verdict.denied() {
        count(counter::DENIED);
    }
    let key = DenialKey {
        endpoint: endpoint.id,
        remote: subject.remote.bytes(),
        remote_port: subject.remote_port,
        protocol: subject.protocol,
        opaque: subject.opaque,
        pad: 0,
    };
    let now = now();
    let mut repeats = 0;
    if let Some(last) = DENIALS.get_ptr_mut(key) {
        // SAFETY: a live element, the time and the count each an aligned word.
        let last_ns = unsafe { (*last).last_ns };
        if now.wrapping_sub(last_ns) < SECOND_NS {
            // SAFETY: as above.
            increment(unsafe { &raw mut (*last).repeats });
            return;
        }
        // SAFETY: as above. Two CPUs here at once give two events that share the repeats between them, or tell them
        // twice: a count of denied packets, not a verdict.
        unsafe {
            repeats = (*last).repeats;
            (*last).repeats = 0;
            (*last).last_ns = now;
        }
    } else {
        let _ = DENIALS.insert(key, DenialValue { last_ns: now, repeats: 0 }, u64::from(BPF_ANY));
    }
    emit(kind::DENY, now, endpoint, verdict, subject, origin, repeats);
}

/// Tells of a denied packet.
#[inline(always)]
pub fn deny_packet(
    endpoint: &Endpoint,
    packet: &Packet,
    verdict: &Verdict,
    origin: Option<OriginValue>,
    hook: u8,
) {
    let subject = Subject {
        source: packet.source,
        remote: packet.destination,
        local_port: packet.source_port,
        remote_port: packet.destination_port,
        protocol: packet.protocol,
        opaque: packet.opaque,
        hook,
    };
    deny(endpoint, verdict, &subject, origin);
}

/// Tells of a connection that is being opened.
#[inline(always)]
pub fn connect(endpoint: &Endpoint, verdict: &Verdict, subject: &Subject, origin: Option<OriginValue>) {
    emit(kind::CONNECT, now(), endpoint, verdict, subject, origin, 0);
}

#[inline(always)]
fn emit(
    kind: u8,
    now: u64,
    endpoint: &Endpoint,
    verdict: &Verdict,
    subject: &Subject,
    origin: Option<OriginValue>,
    repeats: u64,
) {
    if !within_budget(endpoint.slot, now) {
        count(counter::EVENTS_OVER_BUDGET);
        return;
    }
    let (pid, comm) = origin.map_or((0, [0; 16]), |origin| (origin.pid, origin.comm));
    let event = FlowEvent {
        time_ns: now,
        endpoint: endpoint.id,
        repeats,
        policy: verdict.word.policy(),
        pid,
        source: subject.source.bytes(),
        remote: subject.remote.bytes(),
        local_port: subject.local_port,
        remote_port: subject.remote_port,
        protocol: subject.protocol,
        kind,
        hook: subject.hook,
        reason: verdict.reason,
        ruling: verdict.ruling,
        opaque: subject.opaque,
        pad: [0; 3],
        comm,
    };
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    entry.write(event);
    entry.submit(0);
}

/// May the endpoint give another event in this second?
#[inline(always)]
pub fn within_budget(slot: u32, now: u64) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(slot) else { return false };
    // SAFETY: a live array element. CPUs race for the same budget; at worst it is a few events larger.
    unsafe {
        if now.wrapping_sub((*budget).since_ns) >= SECOND_NS {
            *budget = BudgetValue { since_ns: now, given: 0 };
        }
        (*budget).given += 1;
        (*budget).given <= BUDGET
    }
}

/// Adds one, whatever other CPUs do.
#[inline(always)]
fn increment(word: *mut u64) {
    // VERIFIER: `core`'s atomics have no arithmetic for this target.
    // SAFETY: the caller gives a live, aligned word of a map.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {one}", word = in(reg) word, one = in(reg) 1_u64) };
}

/// The boot clock, in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}
