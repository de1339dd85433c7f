//! The calls of `bpf(2)` on links that aya 0.14 does not offer for cgroup programs.
//!
//! A link is created, pinned, opened again and its program exchanged here, in one way for all kinds of program.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

// enum bpf_cmd (include/uapi/linux/bpf.h).
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Places to attach a program: `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum AttachType {
    InetIngress = 0,
    InetEgress = 1,
    SockCreate = 2,
    Inet4Connect = 10,
    Inet6Connect = 11,
    Udp4Sendmsg = 14,
    Udp6Sendmsg = 15,
    TcxIngress = 46,
    TcxEgress = 47,
}

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target<'a> {
    Cgroup(BorrowedFd<'a>),
    Interface(u32),
}

/// What the kernel says of a link: the head of `struct bpf_link_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkInfo {
    kind: u32,
    id: u32,
    /// The program that runs.
    pub(super) program: u32,
    pad: u32,
    target: [u32; 4],
}

impl LinkInfo {
    /// Where it is attached: the id of its cgroup or the index of its interface; 0 once that is gone.
    pub(super) fn target(&self, at: AttachType) -> u64 {
        match at {
            AttachType::TcxIngress | AttachType::TcxEgress => self.target[0].into(),
            _ => u64::from(self.target[1]) << 32 | u64::from(self.target[0]),
        }
    }

    /// Is it attached as this?
    pub(super) fn is(&self, at: AttachType) -> bool {
        let place = if matches!(at, AttachType::TcxIngress | AttachType::TcxEgress) { 1 } else { 2 };
        self.target[place] == at as u32
    }
}

/// Attaches a program. Needs Linux 5.7, for an interface 6.6.
pub(super) fn link_create(
    program: BorrowedFd<'_>,
    target: Target<'_>,
    at: AttachType,
) -> io::Result<OwnedFd> {
    /// The part of the union that all kinds have, and as many zeros as any of them reads.
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        options: [u64; 4],
    }
    let target = match target {
        Target::Cgroup(fd) => raw(fd),
        Target::Interface(index) => index,
    };
    let attr = Attr { program: raw(program), target, attach_type: at as u32, flags: 0, options: [0; 4] };
    let fd = bpf(BPF_LINK_CREATE, &attr)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Exchanges the program of a link in one step: each packet meets the old or the new one. Needs Linux 5.7.
pub(super) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    bpf(BPF_LINK_UPDATE, &Attr { link: raw(link), program: raw(program), flags: 0, old_program: 0 }).map(drop)
}

/// Takes a link's program away from its cgroup, whoever else holds the link. Needs Linux 5.9.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
    }
    bpf(BPF_LINK_DETACH, &Attr { link: raw(link) }).map(drop)
}

/// Asks what a link is.
pub(super) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let attr = Attr {
        fd: raw(link),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attr)?;
    Ok(info)
}

/// Opens a loaded program by its id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        id: u32,
        next_id: u32,
        flags: u32,
    }
    let fd = bpf(BPF_PROG_GET_FD_BY_ID, &Attr { id, next_id: 0, flags: 0 })?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a test run gave.
#[derive(Clone, Copy, Debug)]
pub struct TestRun {
    /// What the program returned.
    pub value: u32,
    /// Mean duration of a run, in nanoseconds.
    pub nanoseconds: u32,
}

/// Runs a program that takes a packet, `repeat` times. The first 14 bytes of `packet` are its Ethernet header;
/// `interface` is what the program sees as the packet's device, unless it is 0.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    interface: u32,
    repeat: u32,
) -> io::Result<TestRun> {
    /// `struct __sk_buff` (include/uapi/linux/bpf.h). What is not named here must be zero.
    #[repr(C)]
    struct Context {
        before: [u32; 10],
        interface: u32,
        after: [u32; 37],
    }
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        program: u32,
        value: u32,
        data_in_size: u32,
        data_out_size: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        nanoseconds: u32,
        context_in_size: u32,
        context_out_size: u32,
        context_in: u64,
        context_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    const { assert!(size_of::<Context>() == 192) };
    let context = Context { before: [0; 10], interface, after: [0; 37] };
    let attr = Attr {
        program: raw(program),
        data_in_size: packet.len() as u32,
        data_in: packet.as_ptr().expose_provenance() as u64,
        repeat,
        context_in_size: size_of::<Context>() as u32,
        context_in: std::ptr::from_ref(&context).expose_provenance() as u64,
        ..Attr::default()
    };
    bpf(BPF_PROG_TEST_RUN, &attr)?;
    // SAFETY: `attr` lives; the kernel has written the two results into it, so they are read anew.
    let (value, nanoseconds) =
        unsafe { ((&raw const attr.value).read_volatile(), (&raw const attr.nanoseconds).read_volatile()) };
    Ok(TestRun { value, nanoseconds })
}

/// Pins an object to a path on a bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    with_path(BPF_OBJ_PIN, raw(object), path).map(drop)
}

/// Opens what is pinned at a path.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let fd = with_path(BPF_OBJ_GET, 0, path)?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn with_path(command: libc::c_int, fd: u32, path: &Path) -> io::Result<libc::c_int> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_bytes())?;
    bpf(command, &Attr { path: path.as_ptr().expose_provenance() as u64, fd, flags: 0 })
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is the leading part of `union bpf_attr` for this command and lives through the call; the kernel
    // takes what it does not get as zero. Pointers inside it were made from live objects of the callers, which the
    // kernel writes only within the length given.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
