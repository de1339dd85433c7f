//! The maps. [`sluice_abi::plaintext`] tells what is in them; `CONFIG` and `ENDPOINTS` are those of the other programs.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use sluice_abi::{
    ConfigValue, ConnectionKey, ConnectionValue, CopyBudgetValue, EndpointValue, MAX_ENDPOINTS, Plaintext,
    plaintext_counter,
};

/// Connections of the node that are told apart.
const CONNECTIONS_KNOWN: usize = 1 << 14;
/// Cgroups below those of pods.
const LEAVES_KNOWN: usize = 1 << 14;
/// Bytes of the ring buffer.
const PLAINTEXT_SIZE: usize = 4 << 20;

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
pub static LEAVES: HashMap<u64, u64, LEAVES_KNOWN, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, ConnectionValue, CONNECTIONS_KNOWN> = LruHashMap::new();
#[btf_map]
pub static COPIES: Array<CopyBudgetValue, { MAX_ENDPOINTS as usize }> = Array::new();
#[btf_map]
pub static PLAINTEXT: RingBuf<Plaintext, PLAINTEXT_SIZE> = RingBuf::new();
#[btf_map]
pub static PLAINTEXT_COUNTERS: PerCpuArray<u64, { plaintext_counter::COUNT as usize }> = PerCpuArray::new();

/// Counts one of [`plaintext_counter`].
#[inline(always)]
pub fn count(index: u32) {
    if let Some(value) = PLAINTEXT_COUNTERS.get_ptr_mut(index) {
        // SAFETY: a live element of a per-CPU array; programs of one CPU that interrupt each other may lose a count.
        unsafe { *value += 1 };
    }
}
