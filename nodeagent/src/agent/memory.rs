//! The agent's share of the node's memory.

/// Keeps the allocator from setting memory aside for each thread. To be called before the first thread.
pub(super) fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes numbers only, and no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back to the system what was needed for a moment: the kernel's types at the start, policies that were replaced.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number only; the allocator locks what it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}
