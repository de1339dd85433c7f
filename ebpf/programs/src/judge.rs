//! The verdict: two longest-prefix look-ups, however many rules there are.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::maps::lpm_trie::Key;
use sluice_abi::{
    AddressKey, NO_POLICY, NO_RULE, NO_STEPS, PortKey, PortValue, RulingValue, SlotWord, action, counter,
    reason, state,
};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::maps::{ADDRESSES, PORTS, count};
use crate::names::{self, told};
use crate::room;

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
    /// The name that led to the address, as [`sluice_abi::FlowEvent::name`] has it.
    pub name: u8,
}

impl Verdict {
    /// A verdict to which names add nothing.
    #[inline(always)]
    fn plain(word: SlotWord, ruling: RulingValue, reason: u8) -> Self {
        let state = if ruling.applied == action::ALLOW { state::SETTLED } else { state::DENIED };
        Self { word, ruling, reason, state, name: 0 }
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

/// Who asks for a verdict: what names are looked for with.
#[derive(Clone, Copy)]
pub enum Asker {
    /// A call, before anything is sent.
    Call,
    /// A packet and its socket.
    Packet {
        skb: *mut __sk_buff,
        /// It is of the flow that is kept with the socket.
        is_known: bool,
        /// The verdict will be kept with the socket.
        is_kept: bool,
        /// One of [`names::told`].
        told: u32,
    },
}

/// Judges under the endpoint's policy in force.
#[inline(always)]
pub fn judge(endpoint: &Endpoint, subject: Subject, asker: Asker) -> Verdict {
    let mut word = endpoint.word();
    // VERIFIER: two turns. The second is for a policy that was retired between our reading of the word and of the
    // tries: the new word is there by then.
    for _ in 0..2 {
        if word.policy() == NO_POLICY {
            return Verdict::free(word);
        }
        if let Some(value) = look_up(word.policy(), subject) {
            // SAFETY: a live trie node, which is never changed.
            let value = unsafe { &*value };
            if value.steps == NO_STEPS {
                return Verdict::plain(word, value.ruling, reason::POLICY);
            }
            let Some(room) = room::take() else { break };
            let verdict = by_names(room, endpoint, word, subject, value, asker);
            room::leave(room);
            if let Some(verdict) = verdict {
                return verdict;
            }
        }
        word = endpoint.word();
    }
    count(counter::POLICY_MISSING);
    Verdict::plain(word, without_rule(action::DENY), reason::POLICY_MISSING)
}

/// Judges with the names that the address was learned from. `None` if the policy is gone.
#[inline(always)]
fn by_names(
    room: u32,
    endpoint: &Endpoint,
    word: SlotWord,
    subject: Subject,
    value: &PortValue,
    asker: Asker,
) -> Option<Verdict> {
    let found = room::found(room)?;
    // SAFETY: the room is nobody else's until it is left.
    let found = unsafe { &mut *found };
    found.endpoint = endpoint.id;
    found.address = subject.address.words();
    found.policy = word.policy();
    found.base = value.steps;
    let without = Verdict::plain(word, value.ruling, reason::POLICY);
    found.ruling = without.ruling;
    found.reason = without.reason.into();
    found.state = without.state.into();
    found.name = 0;
    let port = PortKey { list: 0, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    found.port_key = Key::new(PortKey::BITS, port);
    let answer = match asker {
        Asker::Call => {
            (found.told, found.is_known, found.binds) = (told::NOTHING, 0, 0);
            names::names_of_call(room)
        }
        Asker::Packet { skb, is_known, is_kept, told } => {
            (found.told, found.is_known, found.binds) = (told, u32::from(is_known), u32::from(is_kept));
            names::names_of_packet(skb, room)
        }
    };
    if answer != names::JUDGED {
        return None;
    }
    let (reason, state, name) = (found.reason as u8, found.state as u8, found.name as u8);
    Some(Verdict { word, ruling: found.ruling, reason, state, name })
}

#[inline(always)]
fn look_up(policy: u32, subject: Subject) -> Option<*const PortValue> {
    let address = AddressKey { policy, address: subject.address.bytes() };
    let list = *ADDRESSES.get(&Key::new(AddressKey::BITS, address))?;
    let port = PortKey { list, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    PORTS.get(&Key::new(PortKey::BITS, port)).map(core::ptr::from_ref)
}
