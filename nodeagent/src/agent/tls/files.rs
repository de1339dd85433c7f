//! Opening a file that a pod's process maps, and telling files apart.
//!
//! The pod chose the file, and what it lies on. A file system that a pod's process serves itself (FUSE) can hang whoever asks
//! it anything: such a file is told by its device number, before anything is asked.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{major, minor};

use super::mappings::{self, Mapping};

/// A file, however it is reached: a probe in it is a probe in all of its paths.
///
/// Each overlay has a device number of its own, and one file of an image shows as many of them as there are containers. Its
/// inode number is that of the layer's file, where all layers are in one file system; a copy that an overlay made of the
/// file keeps the number, but has changed at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    /// The device; of an overlay, that of its upper directory, or 0.
    pub(super) device: u64,
    pub(super) inode: u64,
    /// When the inode changed last; 0 if it is in no overlay.
    pub(super) changed_ns: i64,
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// The process has ended, or it maps something else there now.
    #[error("the process has gone on")]
    Gone,
    /// It could hang whoever reads it.
    #[error("it is on a file system that a process serves (FUSE), or on one that is mounted nowhere known")]
    Untrusted,
    /// It is no regular file.
    #[error("no regular file")]
    NotRegular,
    /// It cannot be opened.
    #[error("cannot open it: {0}")]
    Io(#[from] io::Error),
}

/// Opens what a process maps.
pub(super) fn open(mapping: &Mapping) -> Result<(File, FileId), OpenError> {
    let mounts = Mounts::of(mapping.pid)?;
    mounts.trusted(mapping.device)?;
    let file = open_regular(&mapping.link())?;
    let id = identify(&file, (mapping.device, mapping.inode), &mounts)?;
    Ok((file, id))
}

/// Opens a path of a container, as far as it leads through the file system that is the container's root. Also gives how the
/// kernel shows the file as a mapping.
pub(super) fn open_in(root: &Path, pid: u32, path: &str) -> Result<(File, FileId, (u64, u64)), OpenError> {
    let mounts = Mounts::of(pid)?;
    let root = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
        .open(root)
        .map_err(gone)?;
    mounts.trusted(root.metadata()?.dev())?;
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC).resolve(
        ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_MAGICLINKS,
    );
    let place = openat2(&root, path, how).map_err(|error| gone(error.into()))?;
    let file = open_regular(Path::new(&format!("/proc/self/fd/{}", place.as_raw_fd())))?;
    let shown = shown(&file)?;
    let id = identify(&file, shown, &mounts)?;
    Ok((file, id, shown))
}

fn open_regular(path: &Path) -> Result<File, OpenError> {
    let open = |path: &Path, flags| fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
    // A path only: nothing is asked of a device, and no writer of a FIFO is waited for.
    let place = open(path, libc::O_PATH).map_err(gone)?;
    if !place.metadata()?.is_file() {
        return Err(OpenError::NotRegular);
    }
    let place = format!("/proc/self/fd/{}", place.as_raw_fd());
    Ok(open(Path::new(&place), libc::O_NONBLOCK | libc::O_NOCTTY)?)
}

/// Which file it is. `shown` is what the kernel shows of it as a mapping: device and inode.
fn identify(file: &File, shown: (u64, u64), mounts: &Mounts) -> Result<FileId, OpenError> {
    let metadata = file.metadata()?;
    if metadata.dev() != shown.0 {
        // Before Linux 6.8 that is the file in the layer.
        return Ok(FileId { device: shown.0, inode: shown.1, changed_ns: 0 });
    }
    Ok(match mounts.trusted(metadata.dev()) {
        Ok(mount) if mount.kind == "overlay" => {
            let changed_ns = metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec();
            let upper = mount.option("upperdir").or_else(|| mount.option("lowerdir")?.split(':').next());
            let upper = upper.filter(|path| path.starts_with('/')).and_then(|path| fs::metadata(path).ok());
            FileId { device: upper.map_or(0, |upper| upper.dev()), inode: metadata.ino(), changed_ns }
        }
        _ => FileId { device: metadata.dev(), inode: metadata.ino(), changed_ns: 0 },
    })
}

/// Device and inode as the kernel shows them of a mapping.
fn shown(file: &File) -> Result<(u64, u64), OpenError> {
    let one = std::num::NonZeroUsize::MIN;
    // SAFETY: a fresh mapping at a place of the kernel's choice, which is never read.
    let place = unsafe { mmap(None, one, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file, 0) };
    let place = place.map_err(io::Error::from)?;
    let start = format!("{:x}-", place.as_ptr() as usize);
    let maps = fs::read("/proc/self/maps");
    // SAFETY: what was mapped above, and nobody else knows of it.
    unsafe { munmap(place, one.get()) }.map_err(io::Error::from)?;
    let maps = maps?;
    let line = maps.split(|byte| *byte == b'\n').find(|line| line.starts_with(start.as_bytes()));
    line.and_then(mappings::file_of).ok_or(OpenError::Gone)
}

fn gone(error: io::Error) -> OpenError {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ESRCH) => OpenError::Gone,
        _ => OpenError::Io(error),
    }
}

/// When it changed last, and how large it is.
pub(super) fn stamp(file: &File) -> io::Result<(i64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.ctime() * 1_000_000_000 + metadata.ctime_nsec(), metadata.len()))
}

/// The same file once more, for another reader.
pub(super) fn again(file: &File) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.into())
}

/// Is a process in the user namespace of this one?
fn shares_users(pid: u32) -> bool {
    let namespace = |of: &str| fs::read_link(format!("/proc/{of}/ns/user")).ok();
    let own = namespace("self");
    own.is_some() && own == namespace(&pid.to_string())
}

/// The file systems that are known: those that this process has mounted, and those that another one has, unless it is in a
/// user namespace of its own, where it may have mounted what it likes.
struct Mounts {
    own: String,
    theirs: String,
}

impl Mounts {
    fn of(pid: u32) -> io::Result<Self> {
        let theirs = if shares_users(pid) {
            fs::read_to_string(format!("/proc/{pid}/mountinfo"))
        } else {
            Ok(String::new())
        };
        Ok(Self { own: fs::read_to_string("/proc/self/mountinfo")?, theirs: theirs.unwrap_or_default() })
    }

    /// The file system with a device number, if nobody in a pod serves it.
    fn trusted(&self, device: u64) -> Result<Mount<'_>, OpenError> {
        let found = [&self.own, &self.theirs].into_iter().find_map(|mounts| mount(mounts, device));
        found.filter(|mount| !mount.kind.starts_with("fuse")).ok_or(OpenError::Untrusted)
    }
}

/// A mounted file system.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    kind: &'a str,
    options: &'a str,
}

impl<'a> Mount<'a> {
    fn option(&self, name: &str) -> Option<&'a str> {
        self.options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }
}

/// The file system with a device number, out of a `mountinfo` (proc(5)): the third field is the number; type, source and
/// options follow a lone dash.
fn mount(mounts: &str, device: u64) -> Option<Mount<'_>> {
    let number = format!("{}:{}", major(device), minor(device));
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        (fields.split(' ').nth(2)? == number).then_some(())?;
        let mut rest = rest.split(' ');
        let (kind, _, options) = (rest.next()?, rest.next()?, rest.next()?);
        Some(Mount { kind, options })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
41 31 0:38 / /sys/fs/cgroup rw shared:9 - cgroup2 cgroup2 rw
99 31 0:39 / / rw,relatime - overlay overlay rw,lowerdir=/l/1:/l/2,upperdir=/u,workdir=/w
77 31 0:55 / /mnt rw - fuse.sshfs host:/ rw,user_id=0
";

    #[test]
    fn a_file_system_is_found_by_its_number() {
        let found = mount(MOUNTS, nix::sys::stat::makedev(0, 39)).expect("the overlay");
        assert_eq!((found.kind, found.option("upperdir")), ("overlay", Some("/u")));
        assert_eq!(mount(MOUNTS, nix::sys::stat::makedev(0, 55)).map(|mount| mount.kind), Some("fuse.sshfs"));
        assert_eq!(mount(MOUNTS, nix::sys::stat::makedev(0, 3)), None);
    }

    #[test]
    fn what_is_no_regular_file_is_not_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let fifo = directory.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
        assert!(matches!(open_regular(&fifo), Err(OpenError::NotRegular)));
        assert!(matches!(open_regular(Path::new("/dev/null")), Err(OpenError::NotRegular)));
        assert!(matches!(open_regular(&directory.path().join("none")), Err(OpenError::Gone)));
    }

    #[test]
    fn a_file_is_the_same_by_its_mapping_and_by_its_path() {
        let pid = std::process::id();
        let path = std::env::current_exe().expect("a program");
        let mapping =
            mappings::of_process(pid).into_iter().find(|one| one.path == path).expect("its mapping");
        let (_, by_mapping) = open(&mapping).expect("open by its mapping");
        let mounts = Mounts::of(pid).expect("mounts");
        let file = open_regular(&path).expect("open by its path");
        let by_path = identify(&file, shown(&file).expect("a mapping"), &mounts).expect("a file");
        assert_eq!(by_mapping, by_path);
    }
}
