//! Rules by name: what the names that an address was learned from add to the ruling about it.
//!
//! Each learned name leads to a list of the rules that mean it. The rules of several lists, and of the address, are put
//! together by their first steps. Where a rule asks for the name that the flow shows, the flow may open if it would be
//! allowed with one of the names, and is judged for good by its first payload.

use core::arch::asm;

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use aya_ebpf::maps::lpm_trie::Key;
use sluice_abi::{
    AddressKey, BOUND_NAME, BoundValue, Firsts, LEARNED_BUCKETS, LEARNED_PROBES, LearnedKey, LearnedValue,
    NAME_SIZE, NO_LIST, NO_POLICY, NO_RULE, NO_STEPS, NameBytes, NameKey, PortKey, PortValue, RulingValue,
    SlotWord, StepsKey, StepsValue, action, class, first, learned_bucket, reason, shown, state,
};

use crate::endpoint;
use crate::event;
use crate::judge::FREE;
use crate::maps::{ADDRESSES, LEARNED, NAMES, PORTS, STEPS};
use crate::room;
use crate::socket;

/// The applied and the reported verdict.
const VERDICTS: usize = 2;
const TIERS: usize = 3;
/// The name that the flow is bound to, and those that its address was learned from.
const CANDIDATES: usize = LEARNED_PROBES as usize + 1;
/// Marks a candidate that is none.
const NOBODY: u32 = u32::MAX;

/// What is known of the name that a flow shows.
pub mod told {
    /// It has sent nothing yet, or not enough.
    pub const NOTHING: u32 = 0;
    /// No name, or none that can be read.
    pub const UNREADABLE: u32 = 1;
    /// What was read of it, if anything: it is with the socket.
    pub const AS_READ: u32 = 2;
    /// The same, after reading: what is not with the socket could not be read.
    pub const READ: u32 = 3;
}

/// What a function answers when the verdict is in the room.
pub const JUDGED: u32 = 0;
/// What it answers when the policy is not in the maps any more.
const MISSING: u32 = 1;

/// What is asked, and what was found.
#[repr(C)]
pub struct Found {
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// The word under which it was judged.
    pub word: SlotWord,
    /// With what follows, a key of `ADDRESSES`: how many bits of it count.
    address_bits: u32,
    policy: u32,
    /// The destination.
    pub address: [u64; 2],
    /// With what follows, a key of `PORTS`.
    port_bits: u32,
    /// Class and port; the list is filled in.
    pub port: PortKey,
    /// The endpoint's slot.
    pub slot: u32,
    /// One of [`told`].
    pub told: u32,
    /// 1 if the packet is of the flow that is kept with the socket, so of the one that a name may be kept for.
    pub is_known: u32,
    /// 1 if the name by which the flow is allowed is to be kept with the socket.
    pub binds: u32,
    /// The verdict: to begin with, what is ruled without names.
    pub ruling: RulingValue,
    /// One of [`reason`].
    pub reason: u32,
    /// One of [`state`].
    pub state: u32,
    /// The name of the flow, as [`sluice_abi::FlowEvent::name`] has it.
    pub name: u32,
    /// Which of the candidates that is, or [`NOBODY`].
    named: u32,
    learned_key: LearnedKey,
    steps_key: StepsKey,
    /// What comes first for the name that is being tried.
    tried: Firsts,
    /// What comes first whatever is shown.
    learned: Firsts,
    /// What comes first if no name of the address is shown.
    unread: Firsts,
    /// Bits in which what is shown makes a difference.
    differs: u32,
    /// The steps of the name that is shown, or [`NOBODY`].
    shown: u32,
    /// The steps of each candidate, or [`NOBODY`].
    steps: [u32; CANDIDATES],
}

/// The name that a flow shows.
#[derive(Clone, Copy)]
struct Shown {
    /// One of [`shown`].
    state: u8,
    /// The name, if there is one.
    name: *const NameBytes,
}

impl Shown {
    /// As [`told`] says, with what is kept with the socket.
    #[inline(always)]
    fn of(told: u32, sk: Option<*mut bpf_sock>) -> Self {
        let nothing = Self { state: shown::MORE, name: core::ptr::null() };
        match told {
            told::NOTHING => nothing,
            told::UNREADABLE => Self { state: shown::UNREADABLE, ..nothing },
            _ => match sk.and_then(socket::shown) {
                // SAFETY: live socket storage; the name is whole before the state says so.
                Some(value) => unsafe {
                    let state = core::ptr::read_volatile(&raw const (*value).state);
                    Self { state, name: &raw const (*value).name }
                },
                None if told == told::READ => Self { state: shown::UNREADABLE, ..nothing },
                None => nothing,
            },
        }
    }

    #[inline(always)]
    fn is_name(&self) -> bool {
        !self.name.is_null() && shown::is_name(self.state)
    }
}

/// Judges a call: nothing is bound or shown before a flow opens.
///
/// VERIFIER: a global function is verified once, and not again for everything that can be known where it is called. It
/// takes numbers only, as 5.10 wants it; all else is in the room of that number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn names_of_call(room: u32) -> u32 {
    in_room(room, None)
}

/// The same for a packet, with what is kept with its socket.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn names_of_packet(skb: *mut __sk_buff, room: u32) -> u32 {
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { sk } else { bpf_sk_fullsock(sk) }
    };
    in_room(room, if sk.is_null() { None } else { Some(sk) })
}

#[inline(always)]
fn in_room(room: u32, sk: Option<*mut bpf_sock>) -> u32 {
    let Some(found) = room::found(room) else { return MISSING };
    // SAFETY: the caller holds the room.
    let found = unsafe { &mut *found };
    found.word = endpoint::word(found.slot);
    if judge(found, sk).is_some() { JUDGED } else { MISSING }
}

const _: () = {
    assert!(core::mem::offset_of!(Found, policy) == core::mem::offset_of!(Found, address_bits) + 4);
    assert!(core::mem::offset_of!(Found, address) == core::mem::offset_of!(Found, policy) + 4);
    assert!(core::mem::offset_of!(Found, port) == core::mem::offset_of!(Found, port_bits) + 4);
};

impl Found {
    /// What is ruled about the destination and its port without any name.
    #[inline(always)]
    fn look_up(&mut self) -> Option<&'static PortValue> {
        self.address_bits = AddressKey::BITS;
        // SAFETY: laid out as the key is, by the assertions below.
        let key = unsafe { &*(&raw const self.address_bits).cast::<Key<AddressKey>>() };
        self.port.list = *ADDRESSES.get(key)?;
        self.port_bits = PortKey::BITS;
        self.port_of_list()
    }

    /// What the list in the key says of class and port.
    #[inline(always)]
    fn port_of_list(&self) -> Option<&'static PortValue> {
        // SAFETY: as above.
        PORTS.get(unsafe { &*(&raw const self.port_bits).cast::<Key<PortKey>>() })
    }

    #[inline(always)]
    fn steps_of(&mut self, steps: u32) -> Option<*const StepsValue> {
        self.steps_key.steps = steps;
        // VERIFIER: read where it is: there is no room for a copy on the stack.
        let key: &StepsKey = &self.steps_key;
        STEPS.get_ptr(key)
    }

    /// The entry at a place, from 1, of those where the address may lie.
    #[inline(always)]
    fn entry(&mut self, place: u32) -> Option<*mut LearnedValue> {
        let first = learned_bucket(self.address);
        self.learned_key.bucket = (first + place - 1) & (LEARNED_BUCKETS - 1);
        let key: &LearnedKey = &self.learned_key;
        LEARNED.get_ptr_mut(key)
    }
}

/// Rules about the flow in the room. `None` if the policy is gone.
#[inline(always)]
fn judge(found: &mut Found, sk: Option<*mut bpf_sock>) -> Option<()> {
    found.policy = found.word.policy();
    if found.policy == NO_POLICY {
        found.ruling = FREE;
        (found.reason, found.state, found.name) = (reason::POLICY.into(), state::SETTLED.into(), 0);
        return Some(());
    }
    found.steps_key.policy = found.policy;
    found.learned_key.endpoint = found.endpoint;
    found.learned_key.pad = 0;
    let base = found.look_up()?;
    let (from, to) = ((&raw const base.ruling).cast::<u32>(), (&raw mut found.ruling).cast::<u32>());
    for word in 0..size_of::<RulingValue>() / 4 {
        // SAFETY: both rulings are as many words, and lie at multiples of 4.
        unsafe { put(&mut *to.add(word), *from.add(word)) };
    }
    found.reason = reason::POLICY.into();
    found.state = if found.ruling.applied == action::ALLOW { state::SETTLED } else { state::DENIED }.into();
    found.name = 0;
    if base.steps == NO_STEPS {
        return Some(());
    }
    let region = found.steps_of(base.steps)?;
    for place in 0..TIERS * VERDICTS {
        // SAFETY: a live hash element, which is never changed.
        let first = unsafe { (*region).learned[place] };
        put(&mut found.learned[place], first);
        put(&mut found.unread[place], first);
    }
    found.differs = 0;
    found.shown = NOBODY;
    found.named = NOBODY;
    let shown = Shown::of(found.told, sk);
    let bound = if found.is_known != 0 { sk.and_then(socket::bound) } else { None };
    find(bound, shown, found)?;
    if found.named == NOBODY {
        return Some(());
    }
    found.name = if found.named == 0 { BOUND_NAME.into() } else { found.named };
    if found.port.class != class::TCP || found.differs == 0 {
        settle(found, |found| &found.unread);
    } else if shown.state == shown::MORE {
        found.reason = reason::NAME_AWAITED.into();
        settle(found, |found| &found.unread);
        // VERIFIER: constant bound, so that 5.10 can follow it.
        for candidate in 0..CANDIDATES {
            let steps = found.steps[candidate];
            if steps == NOBODY {
                continue;
            }
            try_shown(found, steps)?;
            if verdict(&found.tried, 0).0 == action::ALLOW {
                settle(found, |found| &found.tried);
                break;
            }
        }
    } else {
        found.reason = reason::NAME_SHOWN.into();
        if shown.is_name() && found.shown != NOBODY {
            try_shown(found, found.shown)?;
            settle(found, |found| &found.tried);
        } else {
            settle(found, |found| &found.unread);
        }
    }
    if found.reason != reason::POLICY.into()
        && found.state == state::SETTLED.into()
        && matches!(shown.state, shown::MORE | shown::SO_FAR)
    {
        found.state = state::OPENING.into();
    }
    if found.state == state::SETTLED.into()
        && found.binds != 0
        && found.named != 0
        && let (Some(sk), Some(entry)) = (sk, found.entry(found.named))
    {
        socket::bind(sk, bound_part(entry));
    }
    Some(())
}

/// Reads what was learned of the address. `None` if the policy is gone.
#[inline(always)]
fn find(bound: Option<*mut BoundValue>, shown: Shown, found: &mut Found) -> Option<()> {
    for candidate in 0..CANDIDATES {
        put(&mut found.steps[candidate], NOBODY);
    }
    let now = event::now();
    for candidate in 0..CANDIDATES {
        let name = if candidate == 0 {
            let Some(bound) = bound else { continue };
            bound
        } else {
            // Places are filled in order and used again, never emptied.
            let Some(entry) = found.entry(candidate as u32) else { break };
            // SAFETY: a live hash element; the address lies at a multiple of 8 in it.
            let is_live = unsafe {
                let of = (&raw const (*entry).address).cast::<u64>();
                *of == found.address[0] && *of.add(1) == found.address[1] && (*entry).until_ns > now
            };
            if !is_live {
                continue;
            }
            bound_part(entry)
        };
        let steps = candidate_steps(name, found)?;
        found.steps[candidate] = steps;
        if found.named == NOBODY {
            found.named = candidate as u32;
        }
        if shown.is_name() && is_equal(name, shown.name) {
            found.shown = steps;
            found.named = candidate as u32;
        }
        if steps != NO_STEPS {
            let added = found.steps_of(steps)?;
            // SAFETY: a live hash element, which is never changed.
            add(found, unsafe { &*added });
        }
    }
    Some(())
}

/// A learned entry, as far as it is its own key.
#[inline(always)]
fn bound_part(entry: *mut LearnedValue) -> *mut BoundValue {
    const {
        assert!(
            core::mem::offset_of!(LearnedValue, policy)
                == core::mem::offset_of!(LearnedValue, prefix_length) + 4
        )
    };
    const {
        assert!(
            core::mem::offset_of!(LearnedValue, name)
                == core::mem::offset_of!(LearnedValue, prefix_length) + 8
        )
    };
    // SAFETY: inside the element, and laid out alike by the assertions.
    unsafe { (&raw mut (*entry).prefix_length).cast() }
}

/// The number of the steps that a name adds, or [`NO_STEPS`].
#[inline(always)]
fn candidate_steps(name: *mut BoundValue, found: &mut Found) -> Option<u32> {
    let policy = found.policy;
    // SAFETY: a live element; its word of the policy is written whole, and read again after the look-up that it is for.
    let named = unsafe {
        if (*name).policy != policy {
            core::ptr::write_volatile(&raw mut (*name).policy, policy);
        }
        NAMES.get(&*name.cast_const().cast::<Key<NameKey>>())
    };
    let list = named.map_or(NO_LIST, |named| named.list);
    // Another packet of the pod may be judged under another policy at this moment, when the policy changes.
    // SAFETY: as above.
    if unsafe { core::ptr::read_volatile(&raw const (*name).policy) } != policy {
        return None;
    }
    if list == NO_LIST {
        return Some(NO_STEPS);
    }
    found.port.list = list;
    Some(found.port_of_list().map_or(NO_STEPS, |value| value.steps))
}

#[inline(always)]
fn add(found: &mut Found, steps: &StepsValue) {
    for place in 0..TIERS * VERDICTS {
        let (shown, unread, learned) = (steps.shown[place], steps.unread[place], steps.learned[place]);
        found.differs |= (shown ^ learned) | (unread ^ learned);
        found.learned[place] = least(found.learned[place], learned);
        found.unread[place] = least(found.unread[place], unread);
    }
}

/// Puts together what comes first for a flow that shows a name.
#[inline(always)]
fn try_shown(found: &mut Found, steps: u32) -> Option<()> {
    for place in 0..TIERS * VERDICTS {
        let first = found.learned[place];
        put(&mut found.tried[place], first);
    }
    if steps != NO_STEPS {
        let added = found.steps_of(steps)?;
        for place in 0..TIERS * VERDICTS {
            // SAFETY: a live hash element, which is never changed.
            found.tried[place] = least(found.tried[place], unsafe { (*added).shown[place] });
        }
    }
    Some(())
}

/// Takes for the verdict what comes first.
#[inline(always)]
fn settle(found: &mut Found, firsts: impl Fn(&Found) -> &Firsts) {
    let (applied, applied_rule) = verdict(firsts(found), 0);
    let (reported, reported_rule) = verdict(firsts(found), 1);
    found.ruling = RulingValue { applied, reported, flags: found.ruling.flags, applied_rule, reported_rule };
    found.state = if applied == action::ALLOW { state::SETTLED } else { state::DENIED }.into();
}

/// Tier after tier, until one does more than pass.
#[inline(always)]
fn verdict(firsts: &Firsts, verdict: usize) -> (u8, u32) {
    for tier in 0..TIERS {
        let step = firsts[tier * VERDICTS + verdict];
        if step == first::NONE || step & first::ACTION == first::PASS {
            continue;
        }
        let action = if step & first::ACTION == first::ALLOW { action::ALLOW } else { action::DENY };
        return (action, step >> first::SHIFT);
    }
    (action::ALLOW, NO_RULE)
}

#[inline(always)]
fn is_equal(name: *const BoundValue, shown: *const NameBytes) -> bool {
    let mut differs = 0_u32;
    for index in 0..NAME_SIZE / 4 {
        // SAFETY: two live elements of maps; both names lie at multiples of 4 there and are as long as this.
        unsafe {
            let name = (&raw const (*name).name).cast::<u32>().add(index);
            differs |= *name ^ *shown.cast::<u32>().add(index);
        }
    }
    differs == 0
}

/// Writes a word.
///
/// VERIFIER: by itself: for several at once LLVM calls a function, which takes 32 bytes of a stack that is full.
#[inline(always)]
fn put(word: &mut u32, value: u32) {
    // SAFETY: a word that is ours to write.
    unsafe { core::ptr::write_volatile(word, value) };
}

/// The smaller of two.
#[inline(always)]
fn least(one: u32, other: u32) -> u32 {
    let difference = i64::from(one) - i64::from(other);
    let mut sign = difference;
    // VERIFIER: without a branch, of which there would be hundreds.
    // SAFETY: shifts a register.
    unsafe { asm!("{0} s>>= 63", inout(reg) sign) };
    (i64::from(other) + (difference & sign)) as u32
}
