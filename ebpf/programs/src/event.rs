//! Telling the agent, without drowning it: one event a second for each denied destination, the rest counted, and a
//! budget for each endpoint.

use core::arch::asm;

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use sluice_abi::{BudgetValue, DenialKey, DenialValue, OriginValue, counter, kind};

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
pub fn deny(endpoint: &Endpoint, verdict: &Verdict, subject: &Subject, origin: Option<*const OriginValue>) {
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
    origin: Option<*const OriginValue>,
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
pub fn connect(
    endpoint: &Endpoint,
    verdict: &Verdict,
    subject: &Subject,
    origin: Option<*const OriginValue>,
) {
    emit(kind::CONNECT, now(), endpoint, verdict, subject, origin, 0);
}

#[inline(always)]
fn emit(
    kind: u8,
    now: u64,
    endpoint: &Endpoint,
    verdict: &Verdict,
    subject: &Subject,
    origin: Option<*const OriginValue>,
    repeats: u64,
) {
    if !within_budget(endpoint.slot, now) {
        count(counter::EVENTS_OVER_BUDGET);
        return;
    }
    let Some(mut entry) = EVENTS.reserve(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the entry has room for the whole, of which every field is written; an origin is live socket storage. Written
    // in place: on the stack there is no room for it.
    unsafe {
        (*event).time_ns = now;
        (*event).endpoint = endpoint.id;
        (*event).repeats = repeats;
        (*event).policy = verdict.word.policy();
        (*event).source = subject.source.bytes();
        (*event).remote = subject.remote.bytes();
        (*event).local_port = subject.local_port;
        (*event).remote_port = subject.remote_port;
        (*event).protocol = subject.protocol;
        (*event).kind = kind;
        (*event).hook = subject.hook;
        (*event).reason = verdict.reason;
        (*event).ruling = verdict.ruling;
        (*event).opaque = subject.opaque;
        (*event).name = verdict.name;
        (*event).pad = [0; 2];
        if let Some(origin) = origin {
            (*event).pid = (*origin).pid;
            (*event).comm = (*origin).comm;
        } else {
            (*event).pid = 0;
            (*event).comm = [0; 16];
        }
    }
    entry.submit(0);
}

/// May the endpoint give another event in this second?
#[inline(always)]
pub fn within_budget(slot: u32, now: u64) -> bool {
    within(slot, now, BUDGET)
}

/// May it give another one with a payload? Requests leave half of the budget to what is told of denials.
#[inline(always)]
pub fn within_half(slot: u32, now: u64) -> bool {
    within(slot, now, BUDGET / 2)
}

#[inline(always)]
fn within(slot: u32, now: u64, most: u64) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(slot) else { return false };
    // SAFETY: a live array element. CPUs race for the same budget; at worst it is a few events larger.
    unsafe {
        if now.wrapping_sub((*budget).since_ns) >= SECOND_NS {
            *budget = BudgetValue { since_ns: now, given: 0 };
        }
        let is_within = (*budget).given < most;
        if is_within {
            (*budget).given += 1;
        }
        is_within
    }
}

/// Adds one, whatever others do.
#[inline(always)]
pub fn increment(word: *mut u64) {
    add(word, 1);
}

/// Takes one away, whatever others do.
#[inline(always)]
pub fn decrement(word: *mut u64) {
    add(word, u64::MAX);
}

#[inline(always)]
fn add(word: *mut u64, number: u64) {
    // VERIFIER: `core`'s atomics have no arithmetic for this target.
    // SAFETY: the caller gives a live, aligned word of a map.
    unsafe { asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) word, number = in(reg) number) };
}

/// The boot clock, in nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: reads a clock.
    unsafe { bpf_ktime_get_boot_ns() }
}
