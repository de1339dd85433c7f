//! Room to work in, held by one program at a time.
//!
//! A program at egress may be interrupted by another on the same CPU: by one at ingress, and where the kernel is
//! preemptible by one for another process. A room is held by whoever counts it up from zero.

use core::arch::asm;

use sluice_abi::{LearnedValue, QuestionValue};
use sluice_parse::bits::get;
use sluice_parse::dns::{Message, Walk};
use sluice_parse::turn::Turn;

use crate::maps::ROOMS;

/// How many rooms are tried.
const ROOMS_TRIED: u32 = 4;

/// A message and what is read of it.
#[repr(C)]
pub struct DnsRoom {
    holders: u64,
    /// Of the endpoint: cgroup id and slot.
    pub endpoint: u64,
    pub slot: u64,
    /// What [`super::learn`] finds out on the way.
    pub place: u64,
    pub rank: u64,
    pub oldest: u64,
    pub is_full: u64,
    /// Addresses that [`super::learn`] is through with.
    pub learned_upto: u64,
    /// Bytes of the message.
    pub length: u64,
    pub response_code: u64,
    /// 1 if a question could be read, and its id.
    pub is_read: u64,
    pub id: u64,
    /// How often [`super::walk`] has handed on to itself.
    pub rounds: u64,
    pub turn: Turn,
    pub walk: Walk,
    /// The question, as it was asked or as the answer repeats it.
    pub question: QuestionValue,
    /// What is to be written for each address; all but the address is the same.
    pub learned: LearnedValue,
    pub message: Message,
}

/// Takes a room, and says which. It must be [`release`]d on every way out.
#[inline(always)]
pub fn take() -> Option<(u32, *mut DnsRoom)> {
    for index in 0..ROOMS_TRIED {
        let room = ROOMS.get_ptr_mut(index)?;
        add(room, 1);
        // SAFETY: a live element. Whoever reads a 1 is the only one that has counted up and not down again.
        if get(unsafe { &(*room).holders }) == 1 {
            return Some((index, room));
        }
        release(room);
    }
    None
}

/// The room that the program before this one took, by the number that [`take`] gave.
#[inline(always)]
pub fn held(index: u32) -> Option<*mut DnsRoom> {
    ROOMS.get_ptr_mut(index)
}

/// Gives a room back.
#[inline(always)]
pub fn release(room: *mut DnsRoom) {
    add(room, u64::MAX);
}

#[inline(always)]
fn add(room: *mut DnsRoom, number: u64) {
    // VERIFIER: `core`'s atomics have no arithmetic for this target. One instruction: nothing on this CPU comes between.
    // SAFETY: a live, aligned word of a map.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {number}", word = in(reg) &raw mut (*room).holders, number = in(reg) number);
    }
}
