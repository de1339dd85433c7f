//! Array maps that the agent has in its own memory, so that a change is one atomic store.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A mapping of an array map of 64-bit words, made with `BPF_F_MMAPABLE` (Linux 5.5).
pub(super) struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory belongs to the mapping until it is dropped, and is only touched by atomic operations.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// Maps the first `words` words of an array.
    pub(super) fn map(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        let bytes = NonZeroUsize::new(words * size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: a fresh mapping at a place that the kernel chooses takes nothing from anybody.
        let start = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map, 0)?
        };
        Ok(Self { start: start.cast(), words })
    }

    pub(super) fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    pub(super) fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words, "word {index} of {}", self.words);
        // SAFETY: inside the mapping by the assertion, aligned because the mapping starts at a page, and never
        // accessed but atomically.
        unsafe { self.start.add(index).as_ref() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and no reference into it outlives `self`.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.words * size_of::<AtomicU64>()) } {
            tracing::error!(%error, "cannot unmap an array map");
        }
    }
}
