//! The records of an answer: which addresses does the name that was asked lead to?
//!
//! ```text
//!            ┌──────────────────── next record ─────────────────────┐
//!            ▼                                                      │
//!         COMPARE ── the owner is not the name followed ──► SKIP ──►│
//!            │                                                      │
//!            └─ it is ──────────────────────────────────► RECORD ───┘
//! ```
//!
//! The name followed is the one asked, and once a CNAME of it has come, that CNAME's target: a chain is followed in the
//! order in which it is written, as resolvers write it and C libraries read it. Both names may be compressed in any way
//! (section 4.1.4); they are compared where they lie, eight bytes of a label in a step. A pointer must lead backwards
//! from where its name began, so that none can lead in circles.
//!
//! One step does one thing, and the number of steps is bounded: what a message holds past that is not read.

use sluice_abi::V4_MAPPED;

use super::{CLASS_IN, HEADER, MAX_MESSAGE, Message, kind};
use crate::bits::{get, keep, lower_all, put};

/// Addresses of one answer that are read.
pub const MAX_ADDRESSES: usize = 64;

/// The two upper bits of a length byte that is a pointer.
const POINTER: u64 = 0xc0;
const MAX_LABEL: u64 = 63;
/// Type, class, TTL and length of a record's data.
const FIXED: u64 = 10;
/// A TTL with the upper bit set counts as zero (RFC 2181, section 8).
const TTL_SIGN: u64 = 1 << 31;

const COMPARE: u64 = 0;
const SKIP: u64 = 1;
const RECORD: u64 = 2;
const ENDED: u64 = 3;

/// An address of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Found {
    /// The address, as maps hold it.
    pub address: [u64; 2],
    /// Seconds for which it holds.
    pub ttl: u64,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do.
    More,
    /// That was the last record.
    Done,
    /// The message breaks off, or contradicts itself.
    Unreadable,
}

/// How far the reading has come.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Walk {
    phase: u64,
    /// Bytes of the message.
    length: u64,
    /// Records to come, this one included.
    records: u64,
    /// Where the name that is followed starts.
    followed: u64,
    /// Where the comparison is in the owner of the record, and in the name that is followed.
    owner: u64,
    name: u64,
    /// What a pointer there must lead to something before.
    owner_limit: u64,
    name_limit: u64,
    /// Bytes of the label that are still to be compared.
    left: u64,
    /// Where the owner ends in the record; zero until that is known.
    end: u64,
    is_followed: u64,
    found: u64,
    addresses: [Found; MAX_ADDRESSES],
}

impl Walk {
    /// For the first use. In the kernel, the zeros of a fresh map element.
    pub const fn new() -> Self {
        Self {
            phase: 0,
            length: 0,
            records: 0,
            followed: 0,
            owner: 0,
            name: 0,
            owner_limit: 0,
            name_limit: 0,
            left: 0,
            end: 0,
            is_followed: 0,
            found: 0,
            addresses: [Found { address: [0; 2], ttl: 0 }; MAX_ADDRESSES],
        }
    }

    /// Begins with the first of `records` records, at `start` of a message of `length` bytes.
    #[inline(always)]
    pub fn begin(&mut self, start: u64, records: u64, length: u64) {
        put(&mut self.length, length);
        put(&mut self.records, records);
        put(&mut self.followed, HEADER);
        put(&mut self.found, 0);
        self.next_record(start);
        if records == 0 {
            put(&mut self.phase, ENDED);
        }
    }

    #[inline(always)]
    fn next_record(&mut self, start: u64) {
        let followed = get(&self.followed);
        put(&mut self.owner, start);
        put(&mut self.owner_limit, start);
        put(&mut self.name, followed);
        put(&mut self.name_limit, followed);
        put(&mut self.left, 0);
        put(&mut self.end, 0);
        put(&mut self.is_followed, 0);
        put(&mut self.phase, COMPARE);
    }

    /// How many addresses were found.
    #[inline(always)]
    pub fn found(&self) -> u64 {
        get(&self.found)
    }

    /// What was found does not count.
    #[inline(always)]
    pub fn forget(&mut self) {
        put(&mut self.found, 0);
    }

    /// An address that was found.
    #[inline(always)]
    pub fn address(&self, index: u64) -> Found {
        let place = self.addresses.as_ptr();
        // SAFETY: the mask keeps the index below the number of addresses.
        unsafe { *place.add(keep::<{ MAX_ADDRESSES as u32 - 1 }>(index)) }
    }

    /// Does the next thing.
    #[inline(always)]
    pub fn step(&mut self, message: &Message) -> Step {
        match get(&self.phase) {
            COMPARE => self.compare(message),
            SKIP => self.skip(message),
            RECORD => self.record(message),
            _ => Step::Done,
        }
    }

    #[inline(always)]
    fn compare(&mut self, message: &Message) -> Step {
        let (mut owner, mut name) = (get(&self.owner), get(&self.name));
        let mut left = get(&self.left);
        let length = get(&self.length);
        if left == 0 {
            if owner >= length || name >= length {
                return Step::Unreadable;
            }
            let (owner_label, name_label) = (message.byte(owner, 0), message.byte(name, 0));
            if owner_label >= POINTER {
                let target = message.half(owner) & !(POINTER << 8);
                if owner + 1 >= length || target >= get(&self.owner_limit) {
                    return Step::Unreadable;
                }
                if get(&self.end) == 0 {
                    put(&mut self.end, owner + 2);
                }
                put(&mut self.owner, target);
                put(&mut self.owner_limit, target);
                return Step::More;
            }
            if name_label >= POINTER {
                let target = message.half(name) & !(POINTER << 8);
                if name + 1 >= length || target >= get(&self.name_limit) {
                    return Step::Unreadable;
                }
                put(&mut self.name, target);
                put(&mut self.name_limit, target);
                return Step::More;
            }
            if owner == name {
                // One name written once; the owner leads there by a pointer, or the message overlaps with itself.
                return if get(&self.end) == 0 { Step::Unreadable } else { self.owner_is_followed() };
            }
            if owner_label != name_label {
                put(&mut self.phase, SKIP);
                return Step::More;
            }
            if owner_label == 0 {
                if get(&self.end) == 0 {
                    put(&mut self.end, owner + 1);
                }
                return self.owner_is_followed();
            }
            if owner_label > MAX_LABEL || owner + 1 + owner_label > length || name + 1 + owner_label > length
            {
                return Step::Unreadable;
            }
            left = owner_label;
            owner += 1;
            name += 1;
        }
        let some = if left < 8 { left } else { 8 };
        let differ = lower_all(message.raw_long(owner)) ^ lower_all(message.raw_long(name));
        put(&mut self.owner, owner + some);
        put(&mut self.name, name + some);
        put(&mut self.left, left - some);
        // The first byte is the lowest: what is past `some` bytes is shifted out.
        if differ << ((64 - some * 8) & 63) != 0 {
            put(&mut self.phase, SKIP);
        }
        Step::More
    }

    #[inline(always)]
    fn owner_is_followed(&mut self) -> Step {
        put(&mut self.is_followed, 1);
        put(&mut self.phase, RECORD);
        Step::More
    }

    /// To the end of an owner that is of no interest.
    #[inline(always)]
    fn skip(&mut self, message: &Message) -> Step {
        if get(&self.end) == 0 {
            let owner = get(&self.owner) + get(&self.left);
            put(&mut self.left, 0);
            if owner >= get(&self.length) {
                return Step::Unreadable;
            }
            let label = message.byte(owner, 0);
            if label >= POINTER {
                put(&mut self.end, owner + 2);
            } else if label == 0 {
                put(&mut self.end, owner + 1);
            } else if label > MAX_LABEL {
                return Step::Unreadable;
            } else {
                put(&mut self.owner, owner + 1 + label);
                return Step::More;
            }
        }
        put(&mut self.phase, RECORD);
        Step::More
    }

    #[inline(always)]
    fn record(&mut self, message: &Message) -> Step {
        let end = get(&self.end);
        let data = end + FIXED;
        let length = get(&self.length);
        if data > length {
            return Step::Unreadable;
        }
        let size = message.half(end + 8);
        if data + size > length {
            return Step::Unreadable;
        }
        if get(&self.is_followed) != 0 && message.half(end + 2) == CLASS_IN {
            match (message.half(end), size) {
                (kind::CNAME, _) => put(&mut self.followed, data),
                (kind::A, 4) => {
                    let address = [0, u64::from_le_bytes(MAPPED) | message.raw_word(data) << 32];
                    self.add(address, message.word(end + 4));
                }
                (kind::AAAA, 16) => {
                    let address = [message.raw_long(data), message.raw_long(data + 8)];
                    self.add(address, message.word(end + 4));
                }
                _ => {}
            }
        }
        let records = get(&self.records) - 1;
        put(&mut self.records, records);
        if records == 0 {
            put(&mut self.phase, ENDED);
            return Step::Done;
        }
        self.next_record(data + size);
        Step::More
    }

    #[inline(always)]
    fn add(&mut self, address: [u64; 2], ttl: u64) {
        let found = get(&self.found);
        if found >= MAX_ADDRESSES as u64 {
            return;
        }
        put(&mut self.found, found + 1);
        let place = self.addresses.as_mut_ptr();
        let ttl = if ttl & TTL_SIGN == 0 { ttl } else { 0 };
        // SAFETY: the mask keeps the index below the number of addresses.
        unsafe { *place.add(keep::<{ MAX_ADDRESSES as u32 - 1 }>(found)) = Found { address, ttl } };
    }
}

impl Default for Walk {
    fn default() -> Self {
        Self::new()
    }
}

/// The first half of an IPv4 address's last eight bytes.
const MAPPED: [u8; 8] = [V4_MAPPED[8], V4_MAPPED[9], V4_MAPPED[10], V4_MAPPED[11], 0, 0, 0, 0];

/// Steps between which the verifier starts anew.
pub const STEPS_AT_ONCE: u32 = 256;
/// How often: enough for 4,096 bytes of any message that is not made to be slow.
pub const ROUNDS: u32 = 8;

const _: () = assert!(MAX_MESSAGE <= 1 << 12);
