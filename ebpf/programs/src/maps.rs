//! The maps. [`sluice_abi::maps`] tells how they hang together.

use crate::room::{ROOMS_OF_A_CPU, Room};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{
    Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf, SkStorage,
};
use aya_ebpf::macros::btf_map;
use sluice_abi::{
    AddressKey, BoundValue, BudgetValue, ConfigValue, ConversationKey, DenialKey, DenialValue, EndpointValue,
    FlowEvent, FlowValue, HeardKey, LearnedKey, LearnedValue, MAX_ENDPOINTS, NameKey, NamedValue,
    NamesConfigValue, OriginValue, PayloadEvent, PortKey, PortValue, QuestionKey, QuestionValue, ResolverKey,
    ShownValue, SlotWord, StepsKey, StepsValue, ToldValue, counter, tail,
};
use sluice_parse::hello::Hello;

use crate::dns::{DnsRoom, Streams};

/// Compiled prefixes and port ranges that the node can hold; memory is taken as they are used.
const RULES: usize = 1 << 20;
/// Conversations remembered on the node. At 10,000 fresh peers a second this is over 6 s, and a reply takes far less.
const CONVERSATIONS: usize = 1 << 16;
/// Denied destinations told apart on the node.
const DENIED: usize = 1 << 13;
/// Questions of the node that wait for their answers.
const QUESTIONS_ASKED: usize = 1 << 14;
/// Resolvers that are trusted, and addresses of the node.
const KNOWN_ADDRESSES: usize = 1 << 10;
/// Learned addresses that the node can hold; memory is taken as they are used. One endpoint has at most
/// [`sluice_abi::LEARNED_BUCKETS`].
const LEARNED_ADDRESSES: usize = 1 << 17;
/// Programs that may interrupt each other on one CPU while each holds a room.
const ROOMS_PER_CPU: usize = 4;
/// Bytes of a ring buffer.
const EVENTS_SIZE: usize = 1 << 20;

// The agent maps CONFIG and SLOTS into its memory and changes a word by one atomic store.
#[btf_map]
pub static CONFIG: Array<ConfigValue, 1, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static ENDPOINTS: HashMap<
    u64,
    EndpointValue,
    { MAX_ENDPOINTS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();
#[btf_map]
pub static SLOTS: Array<SlotWord, { MAX_ENDPOINTS as usize }, { BPF_F_MMAPABLE as usize }> = Array::new();
#[btf_map]
pub static ADDRESSES: LpmTrie<AddressKey, u32, RULES> = LpmTrie::new();
#[btf_map]
pub static PORTS: LpmTrie<PortKey, PortValue, RULES> = LpmTrie::new();
#[btf_map]
pub static STEPS: HashMap<StepsKey, StepsValue, RULES, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
pub static LINKS: HashMap<u32, u64, { MAX_ENDPOINTS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map]
pub static HEARD: LruHashMap<HeardKey, u64, CONVERSATIONS> = LruHashMap::new();
#[btf_map]
pub static FLOWS: SkStorage<FlowValue> = SkStorage::new();
#[btf_map]
pub static BOUND: SkStorage<BoundValue> = SkStorage::new();
#[btf_map]
pub static ORIGINS: SkStorage<OriginValue> = SkStorage::new();
#[btf_map]
pub static REPLIES: LruHashMap<ConversationKey, u64, CONVERSATIONS> = LruHashMap::new();
#[btf_map]
pub static OWN: LruHashMap<ConversationKey, u64, CONVERSATIONS> = LruHashMap::new();
#[btf_map]
pub static DENIALS: LruHashMap<DenialKey, DenialValue, DENIED> = LruHashMap::new();
#[btf_map]
pub static BUDGETS: Array<BudgetValue, { MAX_ENDPOINTS as usize }> = Array::new();
#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { counter::COUNT as usize }> = PerCpuArray::new();
#[btf_map]
pub static EVENTS: RingBuf<FlowEvent, EVENTS_SIZE> = RingBuf::new();
// Of its own: payloads are long, and must not take the place of denials.
#[btf_map]
pub static PAYLOADS: RingBuf<PayloadEvent, EVENTS_SIZE> = RingBuf::new();

/// See [`crate::room`].
#[btf_map]
pub static NAME_ROOMS: PerCpuArray<Room, ROOMS_OF_A_CPU> = PerCpuArray::new();
#[btf_map]
pub static NAMES_CONFIG: Array<NamesConfigValue, 1> = Array::new();
#[btf_map]
pub static NAMES: LpmTrie<NameKey, NamedValue, RULES> = LpmTrie::new();
#[btf_map]
pub static RESOLVERS: HashMap<ResolverKey, u32, KNOWN_ADDRESSES> = HashMap::new();
#[btf_map]
pub static NODE_ADDRESSES: HashMap<[u64; 2], u32, KNOWN_ADDRESSES> = HashMap::new();
#[btf_map]
pub static QUESTIONS: LruHashMap<QuestionKey, QuestionValue, QUESTIONS_ASKED> = LruHashMap::new();
#[btf_map]
pub static LEARNED: HashMap<LearnedKey, LearnedValue, LEARNED_ADDRESSES, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();
#[btf_map]
pub static STREAMS: SkStorage<Streams> = SkStorage::new();
#[btf_map]
pub static HELLOS: SkStorage<Hello> = SkStorage::new();
#[btf_map]
pub static SHOWN: SkStorage<ShownValue> = SkStorage::new();
#[btf_map]
pub static TOLD: SkStorage<ToldValue> = SkStorage::new();
#[btf_map]
pub static ROOMS: PerCpuArray<DnsRoom, ROOMS_PER_CPU> = PerCpuArray::new();
// The programs that `egress` and `ingress` hand a packet on to: one array for each, as the kernel takes programs of one
// kind of hook only into one array.
#[btf_map]
pub static EGRESS_TAILS: ProgramArray<{ tail::COUNT as usize }> = ProgramArray::new();
#[btf_map]
pub static INGRESS_TAILS: ProgramArray<{ tail::COUNT as usize }> = ProgramArray::new();

// What only the programs know of. Whoever changes one of these raises its number in `sluice_abi::layout`.
const _: () = {
    assert!(size_of::<Streams>() == 5704);
    assert!(size_of::<Hello>() == 5760);
    assert!(size_of::<DnsRoom>() == 7960);
};

/// Counts one of [`counter`].
#[inline(always)]
pub fn count(index: u32) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a live element of a per-CPU array; programs of one CPU that interrupt each other may lose a count.
        unsafe { *value += 1 };
    }
}
