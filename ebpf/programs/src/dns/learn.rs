//! `learn`, after `walk`: the addresses that a name leads to, written down for the whole pod.
//!
//! An endpoint's part of the table is bounded and looks after itself: an address lies within [`LEARNED_PROBES`] places of
//! its own one. What is written over is, in this order: the same pair, nothing, what ran out, what no rule of the policy
//! in force names, and at last what was learned longest ago, which is closed by that and told.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{
    LEARNED_BUCKETS, LEARNED_PROBES, LearnedKey, LearnedValue, NO_POLICY, NameKey, counter, hook, kind,
    learned_bucket, tail,
};
use sluice_parse::bits::{get, put};
use sluice_parse::dns::Found;

use super::room::{self, DnsRoom};
use super::{answer, buffer};
use crate::address::Address;
use crate::endpoint;
use crate::event;
use crate::maps::{INGRESS_TAILS, LEARNED, NAMES, NAMES_CONFIG, NODE_ADDRESSES, count};
use crate::packet::Packet;
use crate::socket;
use crate::tell::{self, Told};

const SECOND_NS: u64 = 1_000_000_000;
/// A TTL that is longer counts as this: a week (RFC 8767, section 4).
const MAX_TTL: u64 = 7 * 24 * 3600;

/// Addresses between which the verifier starts anew.
const ADDRESSES_AT_ONCE: u32 = 16;

/// [`DnsRoom::is_full`]: something had to give way, and that is what is left to tell.
const FULL: u64 = 1;
const FULL_TO_TELL: u64 = 2;

/// How good a place is.
mod rank {
    pub(super) const NONE: u64 = 0;
    pub(super) const LIVE: u64 = 1;
    pub(super) const UNRULED: u64 = 2;
    pub(super) const EXPIRED: u64 = 3;
    pub(super) const EMPTY: u64 = 4;
    pub(super) const SAME: u64 = 5;
}

/// What holds for all addresses of an answer.
#[derive(Clone, Copy)]
struct Terms {
    now: u64,
    floor_ns: u64,
    grace_ns: u64,
    policy: u32,
}

#[inline(always)]
pub fn try_learn(ctx: &SkBuffContext) -> Option<()> {
    let skb = buffer(ctx);
    // SAFETY: `skb` is the program's context; the program before has written the number there.
    let (index, sk) = unsafe { ((*skb).cb[0], (*skb).__bindgen_anon_2.sk) };
    let room = room::held(index)?;
    // SAFETY: the program before took the room and left it to this one.
    let held = unsafe { &mut *room };
    let is_full = get(&held.is_full);
    if get(&held.learned_upto) == 0 || is_full == FULL_TO_TELL {
        let packet = Packet::read(skb, 0);
        let origin = if sk.is_null() { None } else { socket::origin(sk) };
        let kind = if is_full == FULL_TO_TELL { kind::FORGOTTEN } else { kind::ANSWER };
        let told = Told { kind, hook: hook::INGRESS, is_outgoing: false, is_denied: false };
        tell::message(&packet, origin, room, &told);
    }
    if is_full != FULL_TO_TELL && learn_some(held) {
        // SAFETY: one program of the same kind into another; the room's number is still there.
        unsafe { INGRESS_TAILS.tail_call(ctx, tail::LEARN) };
    }
    room::release(room);
    // There may be more answers in the segment; a datagram holds one.
    answer::hand_on(ctx);
    Some(())
}

/// Learns the next addresses. True if this program is to be run again.
#[inline(always)]
fn learn_some(room: &mut DnsRoom) -> bool {
    let Some(config) = NAMES_CONFIG.get_ptr(0) else { return false };
    // SAFETY: a live array element, two words.
    let (floor_ns, grace_ns) = unsafe { ((*config).floor_ns, (*config).grace_ns) };
    let policy = endpoint::word(get(&room.slot) as u32).policy();
    let terms = Terms { now: event::now(), floor_ns, grace_ns, policy };
    let learned = &mut room.learned;
    learned.learned_ns = terms.now;
    learned.name_length = room.question.name_length;
    learned.pad = [0; 7];
    learned.prefix_length = NameKey::BITS;
    learned.policy = NO_POLICY;
    learned.pad2 = 0;
    room.turn.copy_to(&mut learned.name);
    for _ in 0..ADDRESSES_AT_ONCE {
        let index = get(&room.learned_upto);
        if index >= room.walk.found() {
            break;
        }
        put(&mut room.learned_upto, index + 1);
        let found = room.walk.address(index);
        let is_own = NODE_ADDRESSES.get_ptr(found.address).is_some();
        if is_own || Address::from_words(found.address).is_never_learned() {
            count(counter::ADDRESSES_REFUSED);
            continue;
        }
        learn(room, found, terms);
    }
    if get(&room.learned_upto) < room.walk.found() {
        return true;
    }
    if get(&room.is_full) == FULL {
        count(counter::LEARNED_FULL);
        put(&mut room.is_full, FULL_TO_TELL);
        return true;
    }
    false
}

#[inline(always)]
fn learn(room: &mut DnsRoom, found: Found, terms: Terms) {
    let ttl = if found.ttl < MAX_TTL { found.ttl } else { MAX_TTL } * SECOND_NS;
    let ttl = if ttl > terms.floor_ns { ttl } else { terms.floor_ns };
    put(&mut room.learned.until_ns, terms.now + ttl + terms.grace_ns);
    // SAFETY: 16 bytes, at a multiple of 8 in the struct.
    unsafe { (&raw mut room.learned.address).cast::<[u64; 2]>().write(found.address) };
    find_place(room, found.address, terms);
    let rank = get(&room.rank);
    let key = LearnedKey { endpoint: get(&room.endpoint), bucket: get(&room.place) as u32, pad: 0 };
    let learned: &LearnedValue = &room.learned;
    let done = match rank {
        rank::SAME => true,
        rank::NONE => false,
        rank::EMPTY => LEARNED.insert(key, learned, u64::from(BPF_NOEXIST)).is_ok(),
        _ => LEARNED.insert(key, learned, u64::from(BPF_ANY)).is_ok(),
    };
    if done {
        count(counter::LEARNED);
    }
    if !done || rank == rank::LIVE {
        put(&mut room.is_full, FULL);
    }
}

/// Finds the best place for the pair, or brings the entry that there is up to date.
#[inline(always)]
fn find_place(room: &mut DnsRoom, address: [u64; 2], terms: Terms) {
    put(&mut room.rank, rank::NONE);
    put(&mut room.oldest, u64::MAX);
    let first = learned_bucket(address);
    for probe in 0..LEARNED_PROBES {
        let bucket = (first + probe) & (LEARNED_BUCKETS - 1);
        let key = LearnedKey { endpoint: get(&room.endpoint), bucket, pad: 0 };
        let rank = match LEARNED.get_ptr_mut(key) {
            None => rank::EMPTY,
            Some(entry) if is_same(entry, &room.learned) => {
                refresh(entry, &room.learned);
                rank::SAME
            }
            Some(entry) => {
                // SAFETY: a live element, each field an aligned word.
                let (until, learned) = unsafe { ((*entry).until_ns, (*entry).learned_ns) };
                if until + terms.grace_ns < terms.now {
                    rank::EXPIRED
                } else if get(&room.rank) <= rank::LIVE && !is_ruled(entry, terms.policy) {
                    rank::UNRULED
                } else if get(&room.rank) <= rank::LIVE && learned < get(&room.oldest) {
                    put(&mut room.oldest, learned);
                    put(&mut room.rank, rank::NONE);
                    rank::LIVE
                } else {
                    rank::NONE
                }
            }
        };
        if rank > get(&room.rank) {
            put(&mut room.rank, rank);
            put(&mut room.place, bucket.into());
        }
    }
}

/// The same address and name?
#[inline(always)]
fn is_same(entry: *const LearnedValue, learned: &LearnedValue) -> bool {
    let (one, other) = ((&raw const learned.address).cast::<u64>(), entry);
    // SAFETY: live elements; the address and the name with the zeros around it lie at multiples of 8.
    unsafe {
        let entry_address = (&raw const (*other).address).cast::<u64>();
        if *one != *entry_address || *one.add(1) != *entry_address.add(1) {
            return false;
        }
        let (one, other) =
            ((&raw const learned.name).cast::<u64>(), (&raw const (*other).name).cast::<u64>());
        let mut differ = 0;
        for index in 0..NAME_WORDS {
            differ |= one.add(index).read() ^ other.add(index).read();
        }
        differ == 0
    }
}

/// Words of a name and of the zeros behind it.
const NAME_WORDS: usize = (sluice_abi::NAME_SIZE + 4) / size_of::<u64>();

const _: () = {
    assert!(core::mem::offset_of!(LearnedValue, name) % 8 == 0);
    assert!(core::mem::offset_of!(LearnedValue, pad2) == core::mem::offset_of!(LearnedValue, name) + 252);
    assert!(
        core::mem::offset_of!(LearnedValue, policy) == core::mem::offset_of!(LearnedValue, prefix_length) + 4
    );
    assert!(core::mem::offset_of!(LearnedValue, name) == core::mem::offset_of!(LearnedValue, policy) + 4);
};

/// An address that was told before still counts for those who were told then.
#[inline(always)]
fn refresh(entry: *mut LearnedValue, learned: &LearnedValue) {
    // SAFETY: a live element; each field is one aligned word, and whoever reads it takes either value.
    unsafe {
        if (*entry).until_ns < learned.until_ns {
            (*entry).until_ns = learned.until_ns;
        }
        (*entry).learned_ns = learned.learned_ns;
    }
}

/// Does a rule of the policy name it?
#[inline(always)]
fn is_ruled(entry: *mut LearnedValue, policy: u32) -> bool {
    if policy == NO_POLICY {
        return false;
    }
    // SAFETY: a live element. From its prefix length on it is laid out as a key is; whoever looks it up writes the policy
    // first, which is the same for all of one endpoint but for the moment of an edit.
    let key = unsafe {
        (*entry).policy = policy;
        &*(&raw const (*entry).prefix_length).cast::<Key<NameKey>>()
    };
    NAMES.get(key).is_some()
}
