//! What the datapath's cost is held against: a program that finds the packet's socket, looks up its storage and reads
//! one element of an array, which is the least that a verdict kept with its socket can cost.
//!
//! Written in the kernel's own instructions, so that it is exactly that and never part of the object that agents load. It
//! uses the maps of the datapath under test, `FLOWS` and `SLOTS`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;
use nix::libc;

use crate::datapath::Place;

// enum bpf_cmd, enum bpf_prog_type, enum bpf_attach_type (include/uapi/linux/bpf.h).
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TYPE_CGROUP_SKB: u32 = 8;
const BPF_CGROUP_INET_EGRESS: u32 = 1;

// Helpers, by their numbers there.
const MAP_LOOKUP_ELEM: i32 = 1;
const SK_FULLSOCK: i32 = 95;
const SK_STORAGE_GET: i32 = 107;
const SK_STORAGE_GET_F_CREATE: i32 = 1;

/// Offset of `sk` in `struct __sk_buff`.
const SKB_SK: i16 = 168;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

const fn set(to: u8, immediate: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, immediate)
}

const fn copy(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

const fn load(to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x79, to, from, offset, 0)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const fn skip_if_zero(register: u8, instructions: i16) -> Instruction {
    instruction(0x15, register, 0, instructions, 0)
}

/// A map's address, which the kernel puts in place of its descriptor (`BPF_PSEUDO_MAP_FD`).
fn map(to: u8, map: &OwnedFd) -> [Instruction; 2] {
    [instruction(0x18, to, 1, 0, map.as_raw_fd()), instruction(0, 0, 0, 0, 0)]
}

/// Loads the program.
pub(super) fn load_program(place: &Place) -> anyhow::Result<OwnedFd> {
    let open = |name: &str| open_pin(&place.map(name)).with_context(|| format!("cannot open the map {name}"));
    let (flows, slots) = (open("FLOWS")?, open("SLOTS")?);
    let [flows, flows_end] = map(1, &flows);
    let [slots, slots_end] = map(1, &slots);
    let program = [
        load(1, 1, SKB_SK),
        skip_if_zero(1, 17),
        call(SK_FULLSOCK),
        skip_if_zero(0, 15),
        // What the socket remembers; its first packet makes room for it.
        flows,
        flows_end,
        copy(2, 0),
        set(3, 0),
        set(4, SK_STORAGE_GET_F_CREATE),
        call(SK_STORAGE_GET),
        skip_if_zero(0, 8),
        // The slot word at index 0: the key is a word on the stack.
        instruction(0x62, 10, 0, -4, 0),
        copy(2, 10),
        instruction(0x07, 2, 0, 0, -4),
        slots,
        slots_end,
        call(MAP_LOOKUP_ELEM),
        skip_if_zero(0, 1),
        load(1, 0, 0),
        // Whatever it says, pass.
        set(0, 1),
        instruction(0x95, 0, 0, 0, 0),
    ];
    load_instructions(&program).context("the kernel refuses the baseline")
}

fn load_instructions(program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The head of `union bpf_attr` for this command.
    #[repr(C)]
    struct Attr {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let attr = Attr {
        kind: BPF_PROG_TYPE_CGROUP_SKB,
        count: program.len() as u32,
        instructions: program.as_ptr().expose_provenance() as u64,
        licence: c"GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"baseline\0\0\0\0\0\0\0\0",
        interface: 0,
        attach_type: BPF_CGROUP_INET_EGRESS,
    };
    bpf(BPF_PROG_LOAD, &attr)
}

fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(BPF_OBJ_GET, &Attr { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 })
}

/// A call of `bpf(2)` that gives a descriptor.
fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is the leading part of `union bpf_attr` for this command and lives through the call, as does what it
    // points to; the kernel only reads both, and takes what it does not get as zero.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}
