//! The transmit ring of packet sockets (`Documentation/networking/packet_mmap.rst`).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::sock;

const PACKET_TX_RING: libc::c_int = 13;
const BLOCK: usize = 4096;
const FRAME: usize = 2048;
/// `TPACKET_ALIGN(sizeof(struct tpacket_hdr))`.
const HEADER: usize = 32;
const TP_STATUS_SEND_REQUEST: libc::c_ulong = 1;

/// `struct tpacket_req`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Request {
    block_size: libc::c_uint,
    block_count: libc::c_uint,
    frame_size: libc::c_uint,
    frame_count: libc::c_uint,
}

/// `struct tpacket_hdr`.
#[repr(C)]
struct Header {
    status: libc::c_ulong,
    length: libc::c_uint,
    captured: libc::c_uint,
    mac: u16,
    net: u16,
    seconds: libc::c_uint,
    microseconds: libc::c_uint,
}

/// A mapping that goes away with its owner.
pub(super) struct Map {
    pointer: *mut u8,
    length: usize,
}

impl Map {
    /// Maps a socket's memory, or memory of nobody's without one.
    pub(super) fn new(fd: Option<&OwnedFd>, length: usize, offset: libc::off_t) -> io::Result<Self> {
        let flags = if fd.is_some() { libc::MAP_SHARED } else { libc::MAP_PRIVATE | libc::MAP_ANONYMOUS };
        let fd = fd.map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: a new mapping, wherever the kernel likes.
        let pointer = unsafe {
            libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
        };
        if pointer == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pointer: pointer.cast(), length })
    }

    /// The place of a value in the mapping.
    pub(super) fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.length && offset.is_multiple_of(align_of::<T>()));
        // SAFETY: within the mapping, as asserted.
        unsafe { self.pointer.add(offset).cast() }
    }

    /// Copies bytes into the mapping.
    pub(super) fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length);
        // SAFETY: within the mapping, as asserted; nobody else's Rust memory lies there.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer.add(offset), bytes.len()) };
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new`, and nobody points into it any more.
        unsafe { libc::munmap(self.pointer.cast(), self.length) };
    }
}

/// A ring of two frames.
pub(super) struct Transmit(Map);

impl Transmit {
    pub(super) fn new(fd: &OwnedFd, to: &sock::Raw) -> io::Result<Self> {
        let request = Request {
            block_size: BLOCK as libc::c_uint,
            block_count: 1,
            frame_size: FRAME as libc::c_uint,
            frame_count: (BLOCK / FRAME) as libc::c_uint,
        };
        sock::option(fd, libc::SOL_PACKET, PACKET_TX_RING, &request)?;
        let map = Map::new(Some(fd), BLOCK, 0)?;
        sock::bind(fd, to)?;
        Ok(Self(map))
    }

    /// Sends what is put into the first frame.
    pub(super) fn send(&self, fd: &OwnedFd, frame: &[u8]) -> io::Result<usize> {
        self.0.put(HEADER, frame);
        let header = self.0.at::<Header>(0);
        // SAFETY: the first frame's header lies at the start of the ring; the kernel reads it once the status says so.
        unsafe {
            (*header).length = frame.len() as libc::c_uint;
            (&raw mut (*header).status).write_volatile(TP_STATUS_SEND_REQUEST);
        }
        sock::send(fd, &[], None, 0)
    }
}
