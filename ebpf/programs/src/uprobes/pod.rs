//! Whose process runs this? The pod-level ancestor cgroup says.

use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id};
use sluice_abi::MAX_CGROUP_LEVEL;

use crate::has_ancestors;
use crate::maps::{CONFIG, ENDPOINTS, LEAVES};

/// The governed pod of the calling process.
#[derive(Clone, Copy)]
pub struct Pod {
    /// Its pod-level cgroup id.
    pub id: u64,
    /// Its slot.
    pub slot: u32,
}

impl Pod {
    /// None for a process of no governed pod, such as the node's own.
    #[inline(always)]
    pub fn of_caller() -> Option<Self> {
        if !has_ancestors() {
            // SAFETY: takes nothing.
            let leaf = unsafe { bpf_get_current_cgroup_id() };
            let id = LEAVES.get_ptr(leaf)?;
            // SAFETY: a live hash element, an aligned word.
            return Self::by_id(unsafe { *id });
        }
        let config = CONFIG.get_ptr(0)?;
        // SAFETY: a live array element; the agent writes the word whole.
        let levels = unsafe { (*config).levels };
        // VERIFIER: constant bound, so that 5.10 can unroll it.
        for level in 1..=MAX_CGROUP_LEVEL {
            if levels >> level == 0 {
                break;
            }
            if levels >> level & 1 == 0 {
                continue;
            }
            // SAFETY: takes a number only.
            let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
            if id == 0 {
                break;
            }
            if let Some(pod) = Self::by_id(id) {
                return Some(pod);
            }
        }
        None
    }

    #[inline(always)]
    fn by_id(id: u64) -> Option<Self> {
        let value = ENDPOINTS.get_ptr(id)?;
        // SAFETY: a live hash element; `slot` never changes while it is in the map.
        Some(Self { id, slot: unsafe { (*value).slot } })
    }
}
