//! Memory for judging by names: the stack of 512 bytes has no room for it.
//!
//! Programs may interrupt each other on one CPU: a softirq comes in between anywhere, and with a preemptible kernel so does
//! another process. So a room is taken before it is used, and given back after.

use sluice_abi::FlowValue;

use crate::event::{decrement, increment};
use crate::maps::NAME_ROOMS;
use crate::names::Found;

/// Rooms of a CPU: for a process, for a softirq that interrupts it, and for as many again that were preempted.
pub const ROOMS_OF_A_CPU: usize = 4;

/// A room.
#[repr(C)]
pub struct Room {
    /// How many are at the door. Who finds itself alone has the room.
    claims: u64,
    found: Found,
    flow: FlowValue,
}

/// A number that no room has.
const NONE: u32 = u32::MAX;

/// Takes a room, which must be left by [`leave_room`] if there is one. If all are taken, no room has the number.
///
/// VERIFIER: global functions, which it walks once: which room it is makes no difference after.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn take_room() -> u32 {
    for number in 0..ROOMS_OF_A_CPU as u32 {
        let Some(claims) = claims(number) else { break };
        // Counted before it is read, and never the other way round: of two that come at once, at most one reads 1.
        increment(claims);
        // SAFETY: a live element of a per-CPU array, an aligned word.
        if unsafe { core::ptr::read_volatile(claims) } == 1 {
            return number;
        }
        decrement(claims);
    }
    NONE
}

/// Gives a room back.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn leave_room(number: u32) -> u32 {
    if let Some(claims) = claims(number) {
        decrement(claims);
    }
    0
}

/// The memory of a room.
#[inline(always)]
pub fn found(number: u32) -> Option<*mut Found> {
    // SAFETY: a live element of a per-CPU array.
    NAME_ROOMS.get_ptr_mut(number).map(|room| unsafe { &raw mut (*room).found })
}

/// Room for a flow that is to be kept with its socket.
#[inline(always)]
pub fn flow(number: u32) -> Option<*mut FlowValue> {
    // SAFETY: as above.
    NAME_ROOMS.get_ptr_mut(number).map(|room| unsafe { &raw mut (*room).flow })
}

#[inline(always)]
fn claims(number: u32) -> Option<*mut u64> {
    // SAFETY: as above.
    NAME_ROOMS.get_ptr_mut(number).map(|room| unsafe { &raw mut (*room).claims })
}
