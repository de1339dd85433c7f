//! Memory to work in, for what does not fit on a stack of 512 bytes.
//!
//! Programs may interrupt each other on one CPU: a softirq comes in between anywhere, and with a preemptible kernel so does
//! another process. So a room is taken before it is used, and given back after.

use crate::event::{decrement, increment};
use crate::maps::NAME_ROOMS;
use crate::names::Found;

/// Rooms of a CPU: for a process, for a softirq that interrupts it, and for as many again that were preempted.
const ROOMS_OF_A_CPU: usize = 4;

/// A room.
#[repr(C)]
pub struct Room {
    /// How many are at the door. Who finds itself alone has the room.
    claims: u64,
    found: Found,
}

/// The rooms of a CPU.
#[repr(C)]
pub struct Rooms {
    rooms: [Room; ROOMS_OF_A_CPU],
}

impl Room {
    /// The memory.
    #[inline(always)]
    pub fn found(room: *mut Self) -> *mut Found {
        // SAFETY: a live element of a map.
        unsafe { &raw mut (*room).found }
    }

    /// Gives it back.
    #[inline(always)]
    pub fn leave(room: *mut Self) {
        // SAFETY: a live element of a map; an aligned word.
        decrement(unsafe { &raw mut (*room).claims });
    }
}

/// Takes a room, which must be left again; none if all are taken.
#[inline(always)]
pub fn take() -> Option<*mut Room> {
    let rooms = NAME_ROOMS.get_ptr_mut(0)?;
    for index in 0..ROOMS_OF_A_CPU {
        // SAFETY: a live element of a per-CPU array.
        let room = unsafe { &raw mut (*rooms).rooms[index] };
        // SAFETY: as above; an aligned word.
        let claims = unsafe { &raw mut (*room).claims };
        // Counted before it is read, and never the other way round: of two that come at once, at most one reads 1.
        increment(claims);
        // SAFETY: as above.
        if unsafe { core::ptr::read_volatile(claims) } == 1 {
            return Some(room);
        }
        decrement(claims);
    }
    None
}
