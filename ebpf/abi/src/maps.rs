//! Keys and values of the maps.
//!
//! ```text
//! ENDPOINTS  cgroup id ──► slot, own addresses
//! SLOTS      slot ──► policy id and generation in one word: the only thing that a policy change flips
//! ADDRESSES  (policy id, address), longest prefix ──► list id
//! PORTS      (list id, class, port), longest prefix ──► ruling, and where names can change it the number of its steps
//! STEPS      (policy id, number) ──► the first step of each tier, to be put together with those of names
//! LINKS      interface index of the host's end of a pod's link ──► cgroup id
//! HEARD      (that interface, remote) ──► when the remote last sent anything by it
//! FLOWS      socket ──► the ruling of its one flow, good for one generation
//! BOUND      socket ──► the name by which its flow was allowed, which counts for as long as the flow lives
//! ORIGINS    socket ──► who opened it, and in which direction
//! REPLIES    (endpoint, remote, local port) ──► when the peer last spoke, in a conversation that it began
//! OWN        (endpoint, remote, local port) ──► when the pod last spoke, in a conversation that it began
//! ```

/// Most endpoints on a node. Kubernetes supports 110 pods a node by default, the largest platforms 500.
pub const MAX_ENDPOINTS: u32 = 4096;

/// Addresses of its own that an endpoint may have.
pub const MAX_OWN_ADDRESSES: usize = 4;

/// Deepest level of the cgroup tree at which a pod may be; the root is level 0.
pub const MAX_CGROUP_LEVEL: u32 = 15;

/// How long after its last datagram a peer may still be answered, in nanoseconds.
pub const REPLY_WINDOW_NS: u64 = 60_000_000_000;

/// A governed pod, found by its pod-level cgroup id.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointValue {
    /// In front, so that everything lies elsewhere.
    #[cfg(feature = "rehearsal")]
    pub rehearsal: u64,
    /// Index into `SLOTS` and `BUDGETS`; below [`MAX_ENDPOINTS`].
    pub slot: u32,
    /// How many of `own` are set.
    pub own_count: u32,
    /// Bits of [`endpoint`].
    pub flags: u32,
    /// Zero.
    pub pad: u32,
    /// The pod's own addresses.
    pub own: [[u8; 16]; MAX_OWN_ADDRESSES],
}

/// Bits of [`EndpointValue::flags`].
pub mod endpoint {
    /// It is in the host's network namespace: addresses beside `own` may be its own too.
    pub const HOST_NETWORK: u32 = 1;
}

/// What the agent tells the programs. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// Bit `n`: an endpoint is registered at cgroup level `n`.
    pub levels: u64,
    /// Zero.
    pub reserved: [u32; 2],
}

/// A word of `SLOTS`: the policy id in the low half, the generation in the high half, written by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct SlotWord(pub u64);

impl SlotWord {
    /// Puts a word together.
    pub const fn new(policy: u32, generation: u32) -> Self {
        Self((generation as u64) << 32 | policy as u64)
    }

    /// The policy id: [`crate::NO_POLICY`] or a key of `ADDRESSES`.
    pub const fn policy(self) -> u32 {
        self.0 as u32
    }

    /// The generation: no two words that a slot ever held share one.
    pub const fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Key data of `ADDRESSES`; the prefix length counts these bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressKey {
    /// Policy id; always compared whole.
    pub policy: u32,
    /// The address.
    pub address: [u8; 16],
}

impl AddressKey {
    /// Bits before the address.
    pub const HEADER_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = 160;
}

/// Key data of `PORTS`; the prefix length counts these bits.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortKey {
    /// List id; always compared whole.
    pub list: u32,
    /// One of [`crate::class`]; always compared whole.
    pub class: u8,
    /// Zero.
    pub pad: u8,
    /// The port in network order; zero for a class without ports.
    pub port: [u8; 2],
}

impl PortKey {
    /// Bits before the port.
    pub const HEADER_BITS: u32 = 48;
    /// Bits of a whole key.
    pub const BITS: u32 = 64;
}

/// Value of `PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortValue {
    /// What is ruled if no name changes it. In a list of names of no account.
    pub ruling: RulingValue,
    /// The number of the steps behind it, or [`NO_STEPS`].
    pub steps: u32,
}

/// [`PortValue::steps`] where no name can change the ruling, or where a name adds nothing.
pub const NO_STEPS: u32 = 0;

/// Key of `STEPS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepsKey {
    /// Policy id.
    pub policy: u32,
    /// The number, from 1.
    pub steps: u32,
}

/// For each tier what comes first for the applied verdict, then for the reported one: each a value of [`first`]. The least
/// of several lists' is what comes first in all of them.
pub type Firsts = [u32; 6];

/// Value of `STEPS`. For an address all three are the same, and hold the tiers' defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepsValue {
    /// The flow shows the name.
    pub shown: Firsts,
    /// The flow shows no name from which the address was learned.
    pub unread: Firsts,
    /// The address was learned from the name, whatever the flow shows.
    pub learned: Firsts,
}

/// A rule as [`Firsts`] hold it: its index above, what it does in the lowest bits.
pub mod first {
    /// No step of the tier matches, and it has no default.
    pub const NONE: u32 = u32::MAX;
    /// Bits of the action.
    pub const ACTION: u32 = 3;
    /// Bits below the index.
    pub const SHIFT: u32 = 2;
    /// The flow may go.
    pub const ALLOW: u32 = 0;
    /// It may not.
    pub const DENY: u32 = 1;
    /// The next tier is asked.
    pub const PASS: u32 = 2;
}

/// Bits of [`RulingValue::flags`].
pub mod ruling {
    /// The pod may ask its resolvers only for names whose entry in `NAMES` says so: [`crate::named::OPENS`].
    pub const RESTRICTS_QUERIES: u16 = 1;
}

/// What the policies say of an address and a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulingValue {
    /// What is done: one of [`crate::action`].
    pub applied: u8,
    /// What would be done if audited policies were enforced.
    pub reported: u8,
    /// Bits of [`ruling`].
    pub flags: u16,
    /// The rule behind `applied`, an index into the compiled policy's rules, or [`crate::NO_RULE`].
    pub applied_rule: u32,
    /// The rule behind `reported`.
    pub reported_rule: u32,
}

/// Which way a flow was opened.
pub mod direction {
    /// By the pod: policy judges it.
    pub const OWN: u8 = 0;
    /// By its peer: the pod only answers.
    pub const REPLY: u8 = 1;
}

/// Where a judged flow stands: [`FlowValue::state`].
pub mod state {
    /// Allowed for good: its packets are looked at no more until the policy changes.
    pub const SETTLED: u8 = 0;
    /// Allowed so far. Rules ask for the name that its first payload shows.
    pub const OPENING: u8 = 1;
    /// Allowed, and each of its packets is looked at: it goes to port 53.
    pub const READ: u8 = 2;
    /// Denied.
    pub const DENIED: u8 = 3;
    /// As [`SETTLED`], and its first payload is still to be told of: a name, or the first datagrams of QUIC.
    pub const UNTOLD: u8 = 4;
    /// As [`SETTLED`], and it was seen to be HTTP/1: payloads that begin as a request does are told of.
    pub const REQUESTS: u8 = 5;

    /// Is a flow in this state allowed for good?
    pub const fn is_free(state: u8) -> bool {
        state == SETTLED || state >= UNTOLD
    }
}

/// The judged flow of a socket: value of `FLOWS`. A new verdict is a new value; of one that is there nothing changes but
/// the state, and that only from one to another of those that are allowed for good.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    /// In front, so that everything lies elsewhere.
    #[cfg(feature = "rehearsal")]
    pub rehearsal: u64,
    /// The slot word under which it was judged.
    pub word: u64,
    /// The endpoint's slot.
    pub slot: u32,
    /// Remote port.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`direction`].
    pub direction: u8,
    /// Remote address.
    pub remote: [u8; 16],
    /// Local address.
    pub local: [u8; 16],
    /// What the policies said.
    pub ruling: RulingValue,
    /// 1 if this flow was ever allowed.
    pub was_allowed: u8,
    /// IP version: 4 or 6.
    pub version: u8,
    /// One of [`state`].
    pub state: u8,
    /// Zero.
    pub pad: u8,
}

/// The name by which a flow was allowed: value of `BOUND`. It is its own key for `NAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundValue {
    /// [`crate::NameKey::BITS`].
    pub prefix_length: u32,
    /// The policy under which the name was looked up last.
    pub policy: u32,
    /// The name, reversed.
    pub name: crate::NameBytes,
}

/// Bits of [`OriginValue::flags`].
pub mod origin {
    /// The pod called `connect()` on this socket: its flow is the pod's own, whatever else is set.
    pub const CONNECTED: u32 = 1;
}

/// Who opened a socket: value of `ORIGINS`. Not inherited by accepted sockets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginValue {
    /// Process id (the thread group) that last connected or sent by address, in the initial pid namespace.
    pub pid: u32,
    /// Bits of [`origin`].
    pub flags: u32,
    /// Its command name, padded with zeros.
    pub comm: [u8; 16],
}

/// Key of `REPLIES` and `OWN`: a conversation of an endpoint, told apart by the local port and the peer. The value of
/// both is a time on the boot clock, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConversationKey {
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// The peer's address.
    pub remote: [u8; 16],
    /// The peer's port.
    pub remote_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Key of `HEARD`. The value is a time on the boot clock, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeardKey {
    /// Index of the host's end of the pod's link.
    pub interface: u32,
    /// Zero.
    pub pad: u32,
    /// Who sent to the pod.
    pub remote: [u8; 16],
}

/// Key of `DENIALS`: what one event stands for.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialKey {
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// Destination address.
    pub remote: [u8; 16],
    /// Destination port.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`crate::opaque`].
    pub opaque: u8,
    /// Zero.
    pub pad: u32,
}

/// Value of `DENIALS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialValue {
    /// When the last event was given, on the boot clock.
    pub last_ns: u64,
    /// Packets denied since, not yet told.
    pub repeats: u64,
}

/// Events that an endpoint may still give in this second: value of `BUDGETS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetValue {
    /// Start of the second, on the boot clock.
    pub since_ns: u64,
    /// Events given since.
    pub given: u64,
}

/// Indices of `EGRESS_TAILS` and `INGRESS_TAILS`: the programs that a packet is handed on to, each with a budget of its own
/// with the verifier.
pub mod tail {
    /// At egress, `question`: reads what is sent to a resolver.
    pub const QUESTION: u32 = 0;
    /// At egress, `asked`: notes the question, or refuses it.
    pub const ASKED: u32 = 3;
    /// At egress, `hello`: reads the first payload of a flow whose name rules ask for.
    pub const HELLO: u32 = 1;
    /// At egress, `named`: judges the flow by it.
    pub const NAMED: u32 = 2;
    /// At egress, `payload`: tells of what an allowed flow sends first, and of further requests of HTTP/1.
    pub const PAYLOAD: u32 = 4;
    /// At ingress, `answer`: reads what a resolver sends.
    pub const ANSWER: u32 = 0;
    /// At ingress, `walk`: reads the records of an answer.
    pub const WALK: u32 = 2;
    /// At ingress, `learn`: writes down the addresses of an answer.
    pub const LEARN: u32 = 1;
    /// How many there may be.
    pub const COUNT: u32 = 8;
}

/// Indices of `COUNTERS`, per CPU.
pub mod counter {
    /// Packets that a rehearsed program judged.
    #[cfg(feature = "rehearsal")]
    pub const REHEARSED: u32 = 14;
    /// Events that found the ring buffer full.
    pub const EVENTS_LOST: u32 = 0;
    /// Events held back by an endpoint's budget.
    pub const EVENTS_OVER_BUDGET: u32 = 1;
    /// Socket storage that could not be made.
    pub const STORAGE_FAILED: u32 = 2;
    /// Packets denied because their policy was not in the maps.
    pub const POLICY_MISSING: u32 = 3;
    /// Packets and calls that were denied.
    pub const DENIED: u32 = 4;
    /// Flows that were judged and allowed.
    pub const ALLOWED: u32 = 5;
    /// Replies that passed on evidence.
    pub const REPLIES: u32 = 6;
    /// Addresses learned from DNS, again or for the first time.
    pub const LEARNED: u32 = 7;
    /// Answers of which an address took the place of one that still counted, or found none: the endpoint's table, or the
    /// node's, was full.
    pub const LEARNED_FULL: u32 = 8;
    /// Addresses of answers that no name may open: loopback, link-local, multicast, the node's own.
    pub const ADDRESSES_REFUSED: u32 = 9;
    /// DNS messages that cannot be read.
    pub const DNS_UNREADABLE: u32 = 10;
    /// Answers to nobody's question.
    pub const DNS_UNASKED: u32 = 11;
    /// Questions refused: no rule could open the name.
    pub const QUESTIONS_REFUSED: u32 = 12;
    /// First payloads whose name cannot be read.
    pub const NAMES_UNREADABLE: u32 = 13;
    /// How many there are.
    pub const COUNT: u32 = if cfg!(feature = "rehearsal") { 15 } else { 14 };
}

const _: () = {
    let rehearsal = if cfg!(feature = "rehearsal") { 8 } else { 0 };
    assert!(size_of::<EndpointValue>() == rehearsal + 16 + 16 * MAX_OWN_ADDRESSES);
    assert!(size_of::<ConfigValue>() == 16);
    assert!(size_of::<SlotWord>() == 8);
    assert!(size_of::<AddressKey>() == 20);
    assert!(size_of::<PortKey>() == 8);
    assert!(size_of::<RulingValue>() == 12);
    assert!(size_of::<PortValue>() == 16);
    assert!(size_of::<StepsKey>() == 8);
    assert!(size_of::<StepsValue>() == 72);
    assert!(size_of::<BoundValue>() == 260);
    assert!(size_of::<FlowValue>() == rehearsal + 64);
    assert!(size_of::<OriginValue>() == 24);
    assert!(size_of::<ConversationKey>() == 32);
    assert!(size_of::<HeardKey>() == 24);
    assert!(size_of::<DenialKey>() == 32);
    assert!(size_of::<DenialValue>() == 16);
    assert!(size_of::<BudgetValue>() == 16);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        AddressKey, BoundValue, BudgetValue, ConfigValue, ConversationKey, DenialKey, DenialValue,
        EndpointValue, FlowValue, OriginValue, PortKey, PortValue, RulingValue, SlotWord, StepsKey,
        StepsValue,
    };

    macro_rules! pod {
        ($($name:ident),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, `Copy` and `'static`, made of integers only, and the size assertions above leave no
            // room for padding: every byte is initialised and any byte pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+};
    }

    pod!(
        EndpointValue,
        ConfigValue,
        SlotWord,
        AddressKey,
        PortKey,
        PortValue,
        RulingValue,
        StepsKey,
        StepsValue,
        FlowValue,
        BoundValue,
        OriginValue,
        ConversationKey,
        DenialKey,
        DenialValue,
        BudgetValue,
    );
}
