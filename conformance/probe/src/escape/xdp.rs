//! Sending by `AF_XDP` (`include/uapi/linux/if_xdp.h`): `NET_RAW` suffices, and no program has to be loaded.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use super::ring::Map;
use super::{prepared, sock};

const SOL_XDP: libc::c_int = 283;
const XDP_TX_RING: libc::c_int = 3;
const XDP_UMEM_REG: libc::c_int = 4;
const XDP_UMEM_FILL_RING: libc::c_int = 5;
const XDP_UMEM_COMPLETION_RING: libc::c_int = 6;
const XDP_MMAP_OFFSETS: libc::c_int = 1;
const XDP_COPY: u16 = 1 << 1;
const TX_OFFSET: libc::off_t = 0x8000_0000;
const CHUNK: usize = 4096;
const CHUNKS: usize = 4;

/// `struct xdp_umem_reg`, in the length that all kernels take.
#[repr(C)]
#[derive(Clone, Copy)]
struct Memory {
    address: u64,
    length: u64,
    chunk: u32,
    headroom: u32,
    flags: u32,
    metadata: u32,
}

/// `struct sockaddr_xdp`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Address {
    family: u16,
    flags: u16,
    index: u32,
    queue: u32,
    shared: u32,
}

/// `struct xdp_mmap_offsets`: producer, consumer, descriptors and flags of four rings; the second is the transmit ring.
type Offsets = [[u64; 4]; 4];

/// `struct xdp_desc`.
#[repr(C)]
struct Descriptor {
    address: u64,
    length: u32,
    options: u32,
}

/// A socket whose transmit ring is mapped.
pub(super) struct Socket {
    fd: OwnedFd,
    memory: Map,
    ring: Map,
    offsets: [u64; 4],
}

impl Socket {
    pub(super) fn new(index: u32) -> io::Result<Self> {
        let fd = prepared("AF_XDP socket", sock::open(libc::AF_XDP, libc::SOCK_RAW, 0))?;
        let memory = prepared("memory", Map::new(None, CHUNK * CHUNKS, 0))?;
        let registered = Memory {
            address: memory.at::<u8>(0) as u64,
            length: (CHUNK * CHUNKS) as u64,
            chunk: CHUNK as u32,
            headroom: 0,
            flags: 0,
            metadata: 0,
        };
        prepared("XDP_UMEM_REG", sock::option(&fd, SOL_XDP, XDP_UMEM_REG, &registered))?;
        for name in [XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING, XDP_TX_RING] {
            prepared("ring", sock::option(&fd, SOL_XDP, name, &(CHUNKS as u32)))?;
        }
        let offsets = offsets(&fd)?[1];
        let length = offsets[2] as usize + CHUNKS * size_of::<Descriptor>();
        let ring = prepared("mmap of the ring", Map::new(Some(&fd), length, TX_OFFSET))?;
        let address = Address { family: libc::AF_XDP as u16, flags: XDP_COPY, index, queue: 0, shared: 0 };
        prepared("bind of AF_XDP", sock::bind(&fd, &sock::Raw::from_struct(address)))?;
        Ok(Self { fd, memory, ring, offsets })
    }

    pub(super) fn send(&self, frame: &[u8]) -> io::Result<usize> {
        self.memory.put(0, frame);
        let [producer, _, descriptors, _] = self.offsets.map(|offset| offset as usize);
        let descriptor = self.ring.at::<Descriptor>(descriptors);
        // SAFETY: the first descriptor is free, for nothing was sent yet.
        unsafe { descriptor.write(Descriptor { address: 0, length: frame.len() as u32, options: 0 }) };
        // SAFETY: the producer's index lies there for as long as the ring is mapped, aligned.
        unsafe { &*self.ring.at::<AtomicU32>(producer) }.store(1, Ordering::Release);
        sock::send(&self.fd, &[], None, libc::MSG_DONTWAIT)
    }
}

fn offsets(fd: &OwnedFd) -> io::Result<Offsets> {
    use std::os::fd::AsRawFd;
    let mut offsets: Offsets = [[0; 4]; 4];
    let mut length = size_of::<Offsets>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `offsets`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            SOL_XDP,
            XDP_MMAP_OFFSETS,
            offsets.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    prepared("XDP_MMAP_OFFSETS", sock::check(result as isize))?;
    Ok(offsets)
}
