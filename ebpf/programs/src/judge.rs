//! The verdict: two longest-prefix look-ups, however many rules there are.

use aya_ebpf::maps::lpm_trie::Key;
use sluice_abi::{
    AddressKey, BoundValue, NO_POLICY, NO_RULE, NO_STEPS, PortKey, PortValue, RulingValue, SlotWord, action,
    class, counter, reason, state,
};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::maps::{ADDRESSES, PORTS, count};
use crate::names::{self, Nothing, Outcome, Shown};
use crate::room::{self, Room};

/// What is judged.
#[derive(Clone, Copy)]
pub struct Subject {
    pub address: Address,
    pub port: u16,
    /// One of [`sluice_abi::class`].
    pub class: u8,
}

/// A verdict and what it rests on.
#[derive(Clone, Copy)]
pub struct Verdict {
    /// The slot word under which it was made.
    pub word: SlotWord,
    /// What the policies said.
    pub ruling: RulingValue,
    /// One of [`reason`].
    pub reason: u8,
    /// One of [`state`]: where the flow stands with this verdict.
    pub state: u8,
    /// A name that led to the address; null if none did, or none matters.
    pub name: *const BoundValue,
}

impl Verdict {
    /// A verdict to which names add nothing.
    #[inline(always)]
    fn plain(word: SlotWord, ruling: RulingValue, reason: u8) -> Self {
        let state = if ruling.applied == action::ALLOW { state::SETTLED } else { state::DENIED };
        Self { word, ruling, reason, state, name: core::ptr::null() }
    }

    /// The verdict on a reply.
    #[inline(always)]
    pub fn free(word: SlotWord) -> Self {
        Self::plain(word, FREE, reason::POLICY)
    }

    /// Must it be dropped?
    #[inline(always)]
    pub fn denied(&self) -> bool {
        self.ruling.applied != action::ALLOW
    }

    /// Would it be dropped if audited policies were enforced? Not said of a flow that has yet to show its name.
    #[inline(always)]
    pub fn told(&self) -> bool {
        self.denied() || (self.state != state::OPENING && self.ruling.reported != action::ALLOW)
    }
}

const fn without_rule(action: u8) -> RulingValue {
    RulingValue { applied: action, reported: action, flags: 0, applied_rule: NO_RULE, reported_rule: NO_RULE }
}

/// A ruling for what policies do not judge.
pub const FREE: RulingValue = without_rule(action::ALLOW);

/// Judges under the endpoint's policy in force. `bound` is the name by which the flow was allowed before; `show` tells the
/// name that it shows, and is asked only if that can matter.
#[inline(always)]
pub fn judge(
    endpoint: &Endpoint,
    subject: Subject,
    bound: Option<*mut BoundValue>,
    show: impl Fn() -> Shown,
) -> Verdict {
    let mut word = endpoint.word();
    // VERIFIER: two turns. The second is for a policy that was retired between our reading of the word and of the
    // tries: the new word is there by then.
    for _ in 0..2 {
        if word.policy() == NO_POLICY {
            return Verdict::free(word);
        }
        if let Some(value) = look_up(word.policy(), subject) {
            // SAFETY: a live trie node, which is never changed.
            let (ruling, steps) = unsafe { (&(*value).ruling, (*value).steps) };
            if steps == NO_STEPS {
                return Verdict::plain(word, *ruling, reason::POLICY);
            }
            let shown = if subject.class == class::TCP { show() } else { Shown::UNREADABLE };
            let Some(room) = room::take() else { break };
            // SAFETY: a room is nobody else's until it is left.
            let found = unsafe { &mut *Room::found(room) };
            let judged = names::judge(endpoint, word.policy(), subject, ruling, steps, bound, shown, found);
            Room::leave(room);
            match judged {
                Ok(Outcome { ruling, reason, state, name }) => {
                    return Verdict { word, ruling, reason, state, name };
                }
                Err(Nothing::Unlearned) => return Verdict::plain(word, *ruling, reason::POLICY),
                Err(Nothing::Missing) => {}
            }
        }
        word = endpoint.word();
    }
    count(counter::POLICY_MISSING);
    Verdict::plain(word, without_rule(action::DENY), reason::POLICY_MISSING)
}

#[inline(always)]
fn look_up(policy: u32, subject: Subject) -> Option<*const PortValue> {
    let address = AddressKey { policy, address: subject.address.bytes() };
    let list = *ADDRESSES.get(&Key::new(AddressKey::BITS, address))?;
    let port = PortKey { list, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    PORTS.get(&Key::new(PortKey::BITS, port)).map(core::ptr::from_ref)
}
