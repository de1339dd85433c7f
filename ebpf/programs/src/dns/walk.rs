//! `walk`, after `answer`: the records of an answer, [`STEPS_AT_ONCE`] steps at a time.

use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{counter, tail};
use sluice_parse::bits::{get, put};
use sluice_parse::dns::{ROUNDS, STEPS_AT_ONCE, Step};

use super::buffer;
use super::room::{self, DnsRoom};
use crate::maps::{INGRESS_TAILS, count};

/// Hands a packet on whose answer is in a room. Comes back only where that fails.
#[inline(always)]
pub fn hand_on(ctx: &SkBuffContext, room: u32) {
    // SAFETY: `skb` is the program's context. The kernel gives the packet's own bytes there back afterwards, as it does
    // for every program with tail calls.
    unsafe { (*buffer(ctx)).cb[0] = room };
    // SAFETY: one program of the same kind into another. It gives the room back.
    unsafe { INGRESS_TAILS.tail_call(ctx, tail::WALK) };
}

#[inline(always)]
pub fn try_walk(ctx: &SkBuffContext) -> Option<()> {
    // SAFETY: the program before has written it.
    let index = unsafe { (*buffer(ctx)).cb[0] };
    let room = room::held(index)?;
    // SAFETY: the program before took the room and left it to this one.
    if walk(unsafe { &mut *room }) {
        hand_on(ctx, index);
        // Too long a chain of programs: what has been found counts.
        count(counter::DNS_UNREADABLE);
    }
    // SAFETY: one program of the same kind into another; the room's number is still there. It gives the room back.
    unsafe { INGRESS_TAILS.tail_call(ctx, tail::LEARN) };
    room::release(room);
    Some(())
}

/// Walks on. True if there is more to do.
#[inline(always)]
fn walk(room: &mut DnsRoom) -> bool {
    for _ in 0..STEPS_AT_ONCE {
        match room.walk.step(&room.message) {
            Step::More => {}
            Step::Done => return false,
            Step::Unreadable => {
                count(counter::DNS_UNREADABLE);
                room.walk.forget();
                return false;
            }
        }
    }
    let rounds = get(&room.rounds) + 1;
    put(&mut room.rounds, rounds);
    rounds < u64::from(ROUNDS)
}
