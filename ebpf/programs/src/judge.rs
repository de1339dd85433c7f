//! The verdict: two longest-prefix look-ups, however many rules there are.

use aya_ebpf::maps::lpm_trie::Key;
use sluice_abi::{AddressKey, NO_POLICY, NO_RULE, PortKey, RulingValue, SlotWord, action, counter, reason};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::maps::{ADDRESSES, PORTS, count};

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
}

impl Verdict {
    /// Must it be dropped?
    #[inline(always)]
    pub fn denied(&self) -> bool {
        self.ruling.applied != action::ALLOW
    }

    /// Would it be dropped if audited policies were enforced?
    #[inline(always)]
    pub fn told(&self) -> bool {
        self.denied() || self.ruling.reported != action::ALLOW
    }
}

const fn without_rule(action: u8) -> RulingValue {
    RulingValue { applied: action, reported: action, pad: 0, applied_rule: NO_RULE, reported_rule: NO_RULE }
}

/// A ruling for what policies do not judge.
pub const FREE: RulingValue = without_rule(action::ALLOW);

/// Judges under the endpoint's policy in force.
#[inline(always)]
pub fn judge(endpoint: &Endpoint, subject: Subject) -> Verdict {
    let mut word = endpoint.word();
    // VERIFIER: two turns. The second is for a policy that was retired between our reading of the word and of the
    // tries: the new word is there by then.
    for _ in 0..2 {
        if word.policy() == NO_POLICY {
            return Verdict { word, ruling: FREE, reason: reason::POLICY };
        }
        if let Some(ruling) = look_up(word.policy(), subject) {
            return Verdict { word, ruling, reason: reason::POLICY };
        }
        word = endpoint.word();
    }
    count(counter::POLICY_MISSING);
    Verdict { word, ruling: without_rule(action::DENY), reason: reason::POLICY_MISSING }
}

#[inline(always)]
fn look_up(policy: u32, subject: Subject) -> Option<RulingValue> {
    let address = AddressKey { policy, address: subject.address.bytes() };
    let list = *ADDRESSES.get(&Key::new(AddressKey::BITS, address))?;
    let port = PortKey { list, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    PORTS.get(&Key::new(PortKey::BITS, port)).copied()
}
