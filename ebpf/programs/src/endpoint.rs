//! Whose packet is it? The pod-level ancestor cgroup says.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_get_current_ancestor_cgroup_id, bpf_skb_ancestor_cgroup_id};
use sluice_abi::endpoint::HOST_NETWORK;
use sluice_abi::{EndpointValue, MAX_CGROUP_LEVEL, MAX_OWN_ADDRESSES, SlotWord};

use crate::address::Address;
use crate::maps::{CONFIG, ENDPOINTS, LINKS, SLOTS};

/// A governed pod.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// Its pod-level cgroup id.
    pub id: u64,
    /// Its slot.
    pub slot: u32,
    value: *const EndpointValue,
}

impl Endpoint {
    /// The pod whose socket sends or receives this packet.
    #[inline(always)]
    pub fn of_packet(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: `skb` is the context of a cgroup_skb program.
        Self::find(|level| unsafe { bpf_skb_ancestor_cgroup_id(skb, level) })
    }

    /// The pod whose process runs this program. Only for hooks that run in the caller's context.
    #[inline(always)]
    pub fn of_caller() -> Option<Self> {
        // SAFETY: takes a number only.
        Self::find(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level) })
    }

    /// The pod behind the host's end of a link.
    #[inline(always)]
    pub fn of_link(interface: u32) -> Option<Self> {
        let id = LINKS.get_ptr(interface)?;
        // SAFETY: a live hash element, an aligned word.
        Self::by_id(unsafe { *id })
    }

    #[inline(always)]
    fn by_id(id: u64) -> Option<Self> {
        let value = ENDPOINTS.get_ptr(id)?;
        // SAFETY: a live hash element; `slot` never changes while it is in the map.
        let slot = unsafe { (*value).slot };
        Some(Self { id, slot, value })
    }

    #[inline(always)]
    fn find(ancestor: impl Fn(i32) -> u64) -> Option<Self> {
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
            let id = ancestor(level as i32);
            if id == 0 {
                break;
            }
            if let Some(endpoint) = Self::by_id(id) {
                return Some(endpoint);
            }
        }
        None
    }

    /// The policy and generation in force.
    #[inline(always)]
    pub fn word(&self) -> SlotWord {
        word(self.slot)
    }

    /// Can this not be the source of what the pod sends? Not known of a pod whose addresses are not all known.
    #[inline(always)]
    pub fn is_foreign(&self, source: Address) -> bool {
        // SAFETY: `value` points at a live hash element: the program runs in one RCU read section.
        let known = unsafe { (*self.value).own_count != 0 && (*self.value).flags & HOST_NETWORK == 0 };
        known && !source.is_provisional() && !self.owns(source)
    }

    /// Is this one of the pod's own addresses?
    #[inline(always)]
    pub fn owns(&self, address: Address) -> bool {
        for index in 0..MAX_OWN_ADDRESSES {
            // VERIFIER: the count is read anew each time. LLVM would else count down from the smaller of the two bounds, and
            // 5.10 and 6.1 lose that count: they do not see that `4 > count` is decided once `count` is below 4.
            // SAFETY: `value` points at a live hash element: the program runs in one RCU read section.
            let (count, own) = unsafe {
                (core::ptr::read_volatile(&raw const (*self.value).own_count), &(*self.value).own[index])
            };
            if index as u32 >= count {
                break;
            }
            if Address::from_bytes(own) == address {
                return true;
            }
        }
        false
    }
}

/// The word of a slot. A slot that does not exist has the word of no policy, which no flow was judged under.
#[inline(always)]
pub fn word(slot: u32) -> SlotWord {
    match SLOTS.get_ptr(slot) {
        // SAFETY: a live array element, eight bytes and aligned: read by one load, as the agent writes it by one store.
        Some(word) => unsafe { core::ptr::read_volatile(word) },
        None => SlotWord(0),
    }
}
