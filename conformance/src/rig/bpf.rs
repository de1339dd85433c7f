//! What the kernel holds of BPF: asked by `bpf(2)` itself, for the machine may have no tool for it.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::containerd::TICK;

// enum bpf_cmd (include/uapi/linux/bpf.h).
const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_PROG_GET_NEXT_ID: libc::c_int = 11;
const BPF_MAP_GET_NEXT_ID: libc::c_int = 12;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_BTF_GET_NEXT_ID: libc::c_int = 23;
const BPF_LINK_GET_NEXT_ID: libc::c_int = 31;
const BPF_ENABLE_STATS: libc::c_int = 32;

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` (enum `bpf_attach_type`).
pub(super) const TCX: [u32; 2] = [46, 47];
/// Those for cgroups that all supported kernels have; the numbers between take other targets.
pub(super) const CGROUP: [u32; 23] =
    [0, 1, 2, 3, 6, 8, 9, 10, 11, 12, 13, 14, 15, 18, 19, 20, 21, 22, 29, 30, 31, 32, 34];

/// A kind of object that has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Program,
    Map,
    Link,
    Btf,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Program, Self::Map, Self::Link, Self::Btf];

    /// How `/proc/<pid>/fdinfo` names its id.
    fn field(self) -> &'static str {
        match self {
            Self::Program => "prog_id:",
            Self::Map => "map_id:",
            Self::Link => "link_id:",
            Self::Btf => "btf_id:",
        }
    }

    fn command(self) -> libc::c_int {
        match self {
            Self::Program => BPF_PROG_GET_NEXT_ID,
            Self::Map => BPF_MAP_GET_NEXT_ID,
            Self::Link => BPF_LINK_GET_NEXT_ID,
            Self::Btf => BPF_BTF_GET_NEXT_ID,
        }
    }
}

/// Programs, maps, links and type descriptions in the kernel, by their ids, which the kernel gives anew to none for long.
///
/// Other rigs have objects of the same names at the same time: ids alone tell ours from theirs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelObjects(BTreeSet<(Kind, u32)>);

impl KernelObjects {
    /// What a process holds open.
    pub(super) fn of_process(pid: u32) -> Result<Self> {
        let directory = PathBuf::from(format!("/proc/{pid}/fdinfo"));
        let mut objects = BTreeSet::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("no process {pid}"))? {
            // A descriptor may be closed meanwhile.
            let text = fs::read_to_string(entry?.path()).unwrap_or_default();
            objects.extend(named(&text));
        }
        Ok(Self(objects))
    }

    /// What is pinned below a directory; nothing, where there is no such directory.
    pub(super) fn pinned(directory: &Path) -> Result<Self> {
        let mut objects = BTreeSet::new();
        for pin in pins(directory)? {
            match open(&pin) {
                Ok(object) => objects.extend(named(&fdinfo(&object)?)),
                // The agent removes the pins of a pod that has gone.
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self(objects))
    }

    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// How many they are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Those that are still there. The kernel frees programs and maps after a grace period of its own, by a worker of its own,
    /// of which nobody is told: for that alone it is asked again, until `limit`.
    pub async fn left(&self, limit: Duration) -> Result<Vec<String>> {
        let deadline = Instant::now() + limit;
        loop {
            let mut left = Vec::new();
            for (kind, id) in &self.0 {
                if exists(*kind, *id)? {
                    left.push(format!("{kind:?} {id}"));
                }
            }
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left);
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

impl fmt::Display for KernelObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = Kind::ALL.map(|kind| self.0.iter().filter(|(of, _)| *of == kind).count());
        let [programs, maps, links, types] = counts;
        write!(f, "{programs} programs, {maps} maps, {links} links, {types} BTF")
    }
}

/// The ids in the text of a descriptor.
fn named(fdinfo: &str) -> Vec<(Kind, u32)> {
    let of_line = |line: &str| {
        let kind = Kind::ALL.into_iter().find(|kind| line.starts_with(kind.field()))?;
        // 0: a link whose program is gone.
        let id = line[kind.field().len()..].trim().parse().ok().filter(|id| *id != 0)?;
        Some((kind, id))
    };
    fdinfo.lines().filter_map(of_line).collect()
}

/// The files below a directory of a bpffs.
pub(super) fn pins(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error).with_context(|| format!("reading {}", directory.display())),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(pins(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Counts the entries of a pinned map.
pub(super) fn entries(pin: &Path) -> Result<usize> {
    #[repr(C)]
    struct Attr {
        map: u32,
        pad: u32,
        key: u64,
        next: u64,
    }
    let map = open(pin)?;
    let text = fdinfo(&map)?;
    let (key_size, most) = (field(&text, "key_size:")?, field(&text, "max_entries:")?);
    let (mut key, mut next) = (vec![0_u8; key_size], vec![0_u8; key_size]);
    let mut count = 0;
    // A map that changes meanwhile may begin anew.
    while count < most {
        let key_address = if count == 0 { 0 } else { key.as_ptr().expose_provenance() as u64 };
        let attr = Attr {
            map: map.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: key_address,
            next: next.as_mut_ptr().expose_provenance() as u64,
        };
        match bpf(BPF_MAP_GET_NEXT_KEY, &attr) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error).with_context(|| format!("reading {}", pin.display())),
        }
        std::mem::swap(&mut key, &mut next);
        count += 1;
    }
    Ok(count)
}

/// How many programs are attached at a cgroup in such a way; `None` if the kernel knows no such way.
pub(super) fn attached_at_cgroup(cgroup: BorrowedFd<'_>, way: u32) -> Result<Option<u32>> {
    attached(cgroup.as_raw_fd().cast_unsigned(), way)
}

/// How many programs are attached at an interface of this network namespace; `None` on a kernel without such links.
pub(super) fn attached_at_interface(index: u32, way: u32) -> Result<Option<u32>> {
    attached(index, way)
}

fn attached(target: u32, way: u32) -> Result<Option<u32>> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        target: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        pad: u32,
        further: [u64; 4],
    }
    let attr = Attr { target, attach_type: way, ..Attr::default() };
    match bpf(BPF_PROG_QUERY, &attr) {
        // SAFETY: `attr` lives; the kernel has written the count into it, so it is read anew.
        Ok(_) => Ok(Some(unsafe { (&raw const attr.count).read_volatile() })),
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => Ok(None),
            // Nothing was ever attached.
            Some(libc::ENOENT) => Ok(Some(0)),
            _ => Err(error).context("asking what is attached"),
        },
    }
}

fn exists(kind: Kind, id: u32) -> Result<bool> {
    #[repr(C)]
    struct Attr {
        start: u32,
        next: u32,
        flags: u32,
    }
    // Not by opening it: an array of programs that is opened and closed while the kernel's worker is about to empty it keeps
    // a reference for ever (`prog_array_map_clear` in kernel/bpf/arraymap.c takes one for work that is queued already).
    let attr = Attr { start: id.saturating_sub(1), next: 0, flags: 0 };
    match bpf(kind.command(), &attr) {
        // SAFETY: `attr` lives; the kernel has written the next id into it, so it is read anew.
        Ok(_) => Ok(unsafe { (&raw const attr.next).read_volatile() } == id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("asking for {kind:?} {id}")),
    }
}

fn open(pin: &Path) -> Result<OwnedFd> {
    #[repr(C)]
    struct Attr {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let attr = Attr { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    let fd = bpf(BPF_OBJ_GET, &attr).with_context(|| format!("opening {}", pin.display()))?;
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What the kernel accounts for a pinned map, in bytes; 0 for what is no map.
pub(super) fn memory(pin: &Path) -> Result<usize> {
    let text = fdinfo(&open(pin)?)?;
    if text.contains("map_type:") { field(&text, "memlock:") } else { Ok(0) }
}

/// As long as this lives, the kernel keeps time of every program.
pub struct RunTimes(#[expect(dead_code, reason = "what counts is that it is open")] OwnedFd);

impl RunTimes {
    /// Begins to keep time.
    pub fn keep() -> Result<Self> {
        // BPF_STATS_RUN_TIME (enum bpf_stats_type).
        let kind: u32 = 0;
        let fd = bpf(BPF_ENABLE_STATS, &kind).context("asking for the programs' run times")?;
        // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// How long a program has run while time was kept, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunTime {
    /// In nanoseconds, with the programs that it handed on to.
    pub nanoseconds: u64,
    /// How often.
    pub runs: u64,
}

/// The program behind a pinned link.
pub struct LinkedProgram(OwnedFd);

impl LinkedProgram {
    pub(super) fn of(pin: &Path) -> Result<Self> {
        #[repr(C)]
        struct Attr {
            id: u32,
            next: u32,
            flags: u32,
        }
        let id = field(&fdinfo(&open(pin)?)?, "prog_id:")?;
        let attr = Attr { id: u32::try_from(id)?, next: 0, flags: 0 };
        let fd = bpf(BPF_PROG_GET_FD_BY_ID, &attr).with_context(|| format!("opening program {id}"))?;
        // SAFETY: as above.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// So far.
    pub fn run_time(&self) -> Result<RunTime> {
        let text = fdinfo(&self.0)?;
        let number = |name: &str| field(&text, name).map(|value| value as u64);
        Ok(RunTime { nanoseconds: number("run_time_ns:")?, runs: number("run_cnt:")? })
    }
}

/// A number that `fdinfo` tells.
fn field(fdinfo: &str, name: &str) -> Result<usize> {
    let value = fdinfo.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    value.and_then(|value| value.parse().ok()).with_context(|| format!("fdinfo has no {name}"))
}

fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn fdinfo(fd: &OwnedFd) -> Result<String> {
    Ok(fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))?)
}

fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is the leading part of `union bpf_attr` for this command and lives through the call; the kernel takes
    // what it does not get as zero. Pointers inside it were made from live objects of the callers: a path, which it
    // reads to its end, and keys of the size that it gave, of which it writes the next one. What it writes into `attr`
    // itself the callers read anew.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

#[cfg(test)]
mod tests {
    use super::{Kind, named};

    #[test]
    fn ids_are_read_from_descriptors() {
        let link = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t7\nprog_tag:\tab\nprog_id:\t12\ncgroup_id:\t3\n";
        assert_eq!(named(link), [(Kind::Link, 7), (Kind::Program, 12)]);
        assert_eq!(named("pos:\t0\nflags:\t02\nino:\t5\n"), []);
        assert_eq!(named("map_type:\t1\nmap_id:\t9\n"), [(Kind::Map, 9)]);
    }
}
