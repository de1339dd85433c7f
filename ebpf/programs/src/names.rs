//! Rules by name: what the names that an address was learned from add to the ruling about it.
//!
//! Each learned name leads to a list of the rules that mean it. The rules of several lists, and of the address, are put
//! together by their first steps. Where a rule asks for the name that the flow shows, the flow may open if it would be
//! allowed with one of the names, and is judged for good by its first payload.

use core::arch::asm;

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::maps::lpm_trie::Key;
use sluice_abi::{
    BoundValue, Firsts, LEARNED_BUCKETS, LEARNED_PROBES, LearnedKey, LearnedValue, NAME_SIZE, NO_LIST,
    NO_RULE, NO_STEPS, NameBytes, NameKey, PortKey, RulingValue, StepsKey, StepsValue, action, class, first,
    learned_bucket, reason, shown, state,
};

use crate::endpoint::Endpoint;
use crate::event;
use crate::judge::Subject;
use crate::maps::{LEARNED, NAMES, PORTS, STEPS};
use crate::socket;

/// The applied and the reported verdict.
const VERDICTS: usize = 2;
const TIERS: usize = 3;
/// The name that the flow is bound to, and those that its address was learned from.
const CANDIDATES: usize = LEARNED_PROBES as usize + 1;
/// Marks a candidate that is none.
const NOBODY: u32 = u32::MAX;

/// What is known of the name that a flow shows.
#[derive(Clone, Copy)]
pub struct Shown {
    /// One of [`told`].
    pub told: u8,
    /// The name, if there is one.
    pub name: *const NameBytes,
}

/// [`Shown::told`].
pub mod told {
    /// It has sent nothing yet, or not enough.
    pub const NOTHING: u8 = 0;
    /// This name.
    pub const NAME: u8 = 1;
    /// This name, unless what follows takes it back.
    pub const NAME_SO_FAR: u8 = 2;
    /// No name, or none that can be read.
    pub const UNREADABLE: u8 = 3;
}

impl Shown {
    /// Of what has sent nothing yet.
    pub const NOTHING: Self = Self { told: told::NOTHING, name: core::ptr::null() };
    /// Of what cannot be read.
    pub const UNREADABLE: Self = Self { told: told::UNREADABLE, name: core::ptr::null() };

    /// What is known of the flow of a socket; none if nothing of it was read yet.
    #[inline(always)]
    pub fn of(sk: *mut bpf_sock) -> Option<Self> {
        let value = socket::shown(sk)?;
        // SAFETY: live socket storage; the name is whole before the state says so.
        let (state, name) =
            unsafe { (core::ptr::read_volatile(&raw const (*value).state), &raw const (*value).name) };
        Some(match state {
            shown::MORE => Self::NOTHING,
            shown::NAME => Self { told: told::NAME, name },
            shown::SO_FAR => Self { told: told::NAME_SO_FAR, name },
            _ => Self::UNREADABLE,
        })
    }

    #[inline(always)]
    fn is_name(&self) -> bool {
        self.told == told::NAME || self.told == told::NAME_SO_FAR
    }
}

/// What comes of it.
#[derive(Clone, Copy)]
pub struct Outcome {
    /// What the policies say.
    pub ruling: RulingValue,
    /// One of [`reason`].
    pub reason: u8,
    /// One of [`state`].
    pub state: u8,
    /// A name that led to the address; null if there is none. It is followed by nothing and preceded by the rest of its
    /// key.
    pub name: *const BoundValue,
}

/// Why there is no outcome.
pub enum Nothing {
    /// The address was learned from no name: its own ruling stands.
    Unlearned,
    /// The policy is not in the maps any more.
    Missing,
}

/// What was found of the names.
#[repr(C)]
pub struct Found {
    learned_key: LearnedKey,
    port_key: Key<PortKey>,
    steps_key: StepsKey,
    /// What comes first for the name that is being tried.
    tried: Firsts,
    /// What comes first whatever is shown.
    learned: Firsts,
    /// What comes first if no name of the address is shown.
    unread: Firsts,
    /// Bits in which what is shown makes a difference.
    differs: u32,
    /// The steps of each candidate, or [`NOBODY`].
    steps: [u32; CANDIDATES],
    /// The steps of the name that is shown, or [`NOBODY`].
    shown: u32,
}

impl Found {
    #[inline(always)]
    fn steps_of(&mut self, steps: u32) -> Option<*const StepsValue> {
        self.steps_key.steps = steps;
        STEPS.get_ptr(&self.steps_key)
    }
}

/// Rules about a flow under a policy. `steps` are those of its address and port; `found` is room for what is found.
#[inline(always)]
pub fn judge(
    endpoint: &Endpoint,
    policy: u32,
    subject: Subject,
    base: &RulingValue,
    steps: u32,
    bound: Option<*mut BoundValue>,
    shown: Shown,
    found: &mut Found,
) -> Result<Outcome, Nothing> {
    found.steps_key.policy = policy;
    found.learned_key = LearnedKey { endpoint: endpoint.id, bucket: 0, pad: 0 };
    let port = PortKey { list: 0, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    found.port_key = Key::new(PortKey::BITS, port);
    let region = found.steps_of(steps).ok_or(Nothing::Missing)?;
    // SAFETY: a live hash element, which is never changed.
    found.learned = unsafe { (*region).learned };
    found.unread = found.learned;
    found.differs = 0;
    found.shown = NOBODY;
    for candidate in 0..CANDIDATES {
        // VERIFIER: one by one, or LLVM would call a function for it, and 5.10 then follows every number exactly.
        // SAFETY: inside the array.
        unsafe { core::ptr::write_volatile(&raw mut found.steps[candidate], NOBODY) };
    }
    let name = find(policy, subject, bound, shown, found)?;
    if name.is_null() {
        return Err(Nothing::Unlearned);
    }
    let mut outcome = Outcome { ruling: *base, reason: reason::POLICY, state: state::SETTLED, name };
    if subject.class != class::TCP || found.differs == 0 {
        settle(&mut outcome, &found.unread);
        return Ok(outcome);
    }
    if shown.told == told::NOTHING {
        outcome.reason = reason::NAME_AWAITED;
        // VERIFIER: constant bound, so that 5.10 can follow it.
        for candidate in 0..CANDIDATES {
            if found.steps[candidate] == NOBODY {
                continue;
            }
            try_shown(found, found.steps[candidate]).ok_or(Nothing::Missing)?;
            settle(&mut outcome, &found.tried);
            if outcome.ruling.applied == action::ALLOW {
                break;
            }
        }
        if outcome.state == state::DENIED {
            settle(&mut outcome, &found.unread);
        }
    } else {
        outcome.reason = reason::NAME_SHOWN;
        if shown.is_name() && found.shown != NOBODY {
            try_shown(found, found.shown).ok_or(Nothing::Missing)?;
            settle(&mut outcome, &found.tried);
        } else {
            settle(&mut outcome, &found.unread);
        }
    }
    if outcome.state == state::SETTLED && matches!(shown.told, told::NOTHING | told::NAME_SO_FAR) {
        outcome.state = state::OPENING;
    }
    Ok(outcome)
}

/// Reads what was learned of the address, and gives a name of it; null if it has none.
#[inline(always)]
fn find(
    policy: u32,
    subject: Subject,
    bound: Option<*mut BoundValue>,
    shown: Shown,
    found: &mut Found,
) -> Result<*const BoundValue, Nothing> {
    // VERIFIER: not kept in the room, where a pointer would be one no more.
    let mut first: *const BoundValue = core::ptr::null();
    let address = subject.address.words();
    let bucket = learned_bucket(address);
    let now = event::now();
    for candidate in 0..CANDIDATES {
        let name = if candidate == 0 {
            let Some(bound) = bound else { continue };
            bound
        } else {
            found.learned_key.bucket = (bucket + candidate as u32 - 1) & (LEARNED_BUCKETS - 1);
            // Places are filled in order and used again, never emptied.
            let Some(entry) = LEARNED.get_ptr_mut(&found.learned_key) else {
                break;
            };
            // SAFETY: a live hash element; the address lies at a multiple of 8 in it.
            let is_live = unsafe {
                let of = (&raw const (*entry).address).cast::<u64>();
                *of == address[0] && *of.add(1) == address[1] && (*entry).until_ns > now
            };
            if !is_live {
                continue;
            }
            bound_part(entry)
        };
        let steps = candidate_steps(policy, name, found)?;
        found.steps[candidate] = steps;
        if first.is_null() {
            first = name;
        }
        if shown.is_name() && is_equal(name, shown.name) {
            found.shown = steps;
            first = name;
        }
        if steps != NO_STEPS {
            let added = found.steps_of(steps).ok_or(Nothing::Missing)?;
            // SAFETY: a live hash element, which is never changed.
            add(found, unsafe { &*added });
        }
    }
    Ok(first)
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
fn candidate_steps(policy: u32, name: *mut BoundValue, found: &mut Found) -> Result<u32, Nothing> {
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
        return Err(Nothing::Missing);
    }
    if list == NO_LIST {
        return Ok(NO_STEPS);
    }
    found.port_key.data.list = list;
    Ok(PORTS.get(&found.port_key).map_or(NO_STEPS, |value| value.steps))
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
    found.tried = found.learned;
    if steps != NO_STEPS {
        let added = found.steps_of(steps)?;
        for place in 0..TIERS * VERDICTS {
            // SAFETY: a live hash element, which is never changed.
            found.tried[place] = least(found.tried[place], unsafe { (*added).shown[place] });
        }
    }
    Some(())
}

/// Tier after tier, until one does more than pass.
#[inline(always)]
fn settle(outcome: &mut Outcome, firsts: &Firsts) {
    let (applied, applied_rule) = verdict(firsts, 0);
    let (reported, reported_rule) = verdict(firsts, 1);
    outcome.ruling =
        RulingValue { applied, reported, flags: outcome.ruling.flags, applied_rule, reported_rule };
    outcome.state = if applied == action::ALLOW { state::SETTLED } else { state::DENIED };
}

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
