//! The verdict: two longest-prefix look-ups, however many rules there are, and more only where names can matter. They are made
//! in [`names`].

use aya_ebpf::bindings::__sk_buff;
use sluice_abi::{NO_POLICY, NO_RULE, PortKey, RulingValue, SlotWord, action, counter, reason, state};

use crate::address::Address;
use crate::endpoint::Endpoint;
use crate::maps::count;
use crate::names::{self, told};
use crate::packet::forget;
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
    /// The verdict on a reply.
    #[inline(always)]
    pub fn free(word: SlotWord) -> Self {
        Self { word, ruling: FREE, reason: reason::POLICY, state: state::SETTLED, name: 0 }
    }

    /// The same verdict, which there are several ways to come to: see [`forget`].
    #[inline(always)]
    pub fn forgotten(mut self, skb: *mut __sk_buff) -> Self {
        self.ruling.applied = forget(skb, self.ruling.applied.into()) as u8;
        self.ruling.reported = forget(skb, self.ruling.reported.into()) as u8;
        self.state = forget(skb, self.state.into()) as u8;
        self
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
    let word = endpoint.word();
    if word.policy() == NO_POLICY {
        return Verdict::free(word);
    }
    if let Some(verdict) = look_up(endpoint, subject, asker) {
        return verdict;
    }
    count(counter::POLICY_MISSING);
    Verdict {
        state: state::DENIED,
        ruling: without_rule(action::DENY),
        reason: reason::POLICY_MISSING,
        ..Verdict::free(word)
    }
}

/// Judges in a room. `None` if the policy is gone.
#[inline(always)]
fn look_up(endpoint: &Endpoint, subject: Subject, asker: Asker) -> Option<Verdict> {
    let room = room::take_room();
    let found = room::found(room)?;
    // SAFETY: the room is nobody else's until it is left.
    let found = unsafe { &mut *found };
    found.endpoint = endpoint.id;
    found.slot = endpoint.slot;
    found.address = subject.address.words();
    found.port = PortKey { list: 0, class: subject.class, pad: 0, port: subject.port.to_be_bytes() };
    (found.told, found.is_known, found.binds) = match asker {
        Asker::Call => (told::NOTHING, 0, 0),
        Asker::Packet { is_known, is_kept, told, .. } => (told, u32::from(is_known), u32::from(is_kept)),
    };
    let ask = || match asker {
        Asker::Call => names::names_of_call(room),
        Asker::Packet { skb, .. } => names::names_of_packet(skb, room),
    };
    // Twice: the policy may be retired between the reading of the word and of the tries, and the new word is there by then.
    let is_judged = ask() == names::JUDGED || ask() == names::JUDGED;
    let (reason, state, name) = (found.reason as u8, found.state as u8, found.name as u8);
    let verdict = Verdict { word: found.word, ruling: found.ruling, reason, state, name };
    room::leave_room(room);
    is_judged.then_some(verdict)
}
