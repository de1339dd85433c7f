//! The rig's private machine: namespaces of its own for processes, mounts and network, and the cgroup that its pods live in.
//!
//! Three processes make it up:
//!
//! ```text
//! outer   in the machine's namespaces: holds the cgroup (locked), cleans up, looks for leftovers
//! └─ init     process 1 of the private process namespace: reaps what is orphaned there
//!    └─ worker    runs the suite; containerd, shims, pods and agents are its descendants
//! ```
//!
//! When outer dies, by whatever signal, the kernel kills init; when init dies, the kernel kills everything in the process
//! namespace, and with the last process go the mounts, network namespaces, pins and links. Only the cgroup directories
//! outlive that; [`leftovers::clear`] removes those of dead rigs at the next start.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::{cgroup, leftovers};

/// Where the rig's own cgroup2 is mounted in its mount namespace.
pub const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// The private machine, as the worker sees it.
#[derive(Clone, Debug)]
pub struct Place {
    /// Name of the rig: `sluice-rig-<pid>`.
    pub name: String,
    /// Working directory, on a file system that dies with the rig.
    pub directory: PathBuf,
    /// Absolute directory of the rig's cgroup root.
    pub cgroup_root: PathBuf,
    /// The same below the cgroup mount, as the runtime takes it: `/sluice-rig-<pid>`.
    pub cgroup_path: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What the body returned.
    pub output: Vec<u8>,
    /// What the rig left on the machine; empty unless something is wrong.
    pub leftovers: Vec<String>,
}

/// Runs `body` in a private machine and returns what it returned once everything of it is gone.
///
/// The calling process must be root and have no other threads.
pub fn isolated(body: impl FnOnce(&Place) -> Result<Vec<u8>>) -> Result<Outcome> {
    ensure!(nix::unistd::geteuid().is_root(), "the rig needs root: namespaces, cgroups and containerd");
    ensure!(std::fs::read_dir("/proc/self/task")?.count() == 1, "the rig must be started before any thread");
    let hierarchy = cgroup::hierarchy()?;
    for removed in leftovers::clear(&hierarchy)? {
        eprintln!("rig: removed what a dead rig left: {}", removed.display());
    }
    let name = format!("{}{}", leftovers::PREFIX, std::process::id());
    let root = cgroup::Root::create(&hierarchy.join(&name))?;
    let before = leftovers::Traces::take(&hierarchy)?;
    let place = Place {
        directory: PathBuf::from("/run").join(&name),
        cgroup_root: Path::new(CGROUP_MOUNT).join(&name),
        cgroup_path: format!("/{name}"),
        name,
    };
    let mut output = memory_file()?;
    let (mine, theirs) = UnixStream::pair()?;
    unshare(CloneFlags::CLONE_NEWPID).context("no process namespace")?;
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            drop(mine);
            // The lock of the cgroup stays with this process too: a rig counts as alive until its last process is gone.
            std::mem::forget(root);
            let code = init(&place, &theirs, output, body).unwrap_or_else(|error| {
                eprintln!("rig: {error:#}");
                1
            });
            std::process::exit(code)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let status = supervise(child, &mine)?;
            drop(root);
            let leftovers = leftovers::Traces::take(&hierarchy)?.since(&before);
            match status {
                WaitStatus::Exited(_, 0) => {}
                other => bail!("the suite did not finish: {other:?}; leftovers: {leftovers:?}"),
            }
            let mut bytes = Vec::new();
            output.rewind()?;
            output.read_to_end(&mut bytes)?;
            Ok(Outcome { output: bytes, leftovers })
        }
    }
}

/// Lets init start once it would die with this process, and waits for its end.
fn supervise(child: Pid, mut link: &UnixStream) -> Result<WaitStatus> {
    // SAFETY: ignoring a signal installs no handler. Ctrl-C then ends the worker, and this process cleans up after it.
    unsafe { signal(Signal::SIGINT, SigHandler::SigIgn) }?;
    let mut armed = [0];
    if link.read_exact(&mut armed).is_ok() {
        // If init is gone already, waiting tells why.
        let _ = link.write_all(&armed);
    }
    waitpid(child, None).context("waiting for the rig's init")
}

/// Process 1: makes the mounts, starts the worker, reaps until it ends.
fn init(
    place: &Place,
    mut link: &UnixStream,
    output: File,
    body: impl FnOnce(&Place) -> Result<Vec<u8>>,
) -> Result<i32> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // Outer may have died before the line above: it answers only if it is alive after it.
    link.write_all(&[1])?;
    link.read_exact(&mut [0]).context("the outer process is gone")?;
    private_mounts(place)?;
    // SAFETY: this process has one thread too.
    match unsafe { fork() }.context("fork")? {
        ForkResult::Child => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            std::process::exit(worker(place, output, body))
        }
        ForkResult::Parent { child } => loop {
            match waitpid(None, None) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(code),
                Ok(WaitStatus::Signaled(pid, by, _)) if pid == child => {
                    eprintln!("rig: the suite was ended by {by}");
                    return Ok(128 + by as i32);
                }
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => bail!("waiting for the suite: {error}"),
            }
        },
    }
}

fn worker(place: &Place, mut output: File, body: impl FnOnce(&Place) -> Result<Vec<u8>>) -> i32 {
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| body(place)));
    match result.map(|bytes| bytes.and_then(|bytes| Ok(output.write_all(&bytes)?))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("rig: {error:#}");
            1
        }
        Err(_) => 101,
    }
}

/// Namespaces for mounts and network, and fresh file systems wherever the runtime, the agent or CNI keep state.
fn private_mounts(place: &Place) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context("no mount and network namespaces")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    fresh("proc", "/proc", None)?;
    fresh("sysfs", "/sys", None)?;
    fresh("cgroup2", CGROUP_MOUNT, None)?;
    fresh("bpf", "/sys/fs/bpf", Some("mode=700"))?;
    fresh("tmpfs", "/run", Some("mode=755"))?;
    fresh("tmpfs", "/var/lib", Some("mode=755"))?;
    // Only some kernels have it, and only uprobes by name want it.
    if Path::new("/sys/kernel/tracing").exists() {
        let _ = fresh("tracefs", "/sys/kernel/tracing", None);
    }
    for directory in ["/run/netns", "/run/lock"] {
        std::fs::create_dir_all(directory)?;
    }
    std::fs::create_dir_all(&place.directory)?;
    ensure!(place.cgroup_root.is_dir(), "{} is not in the fresh cgroup2 mount", place.cgroup_root.display());
    Ok(())
}

/// Mounts a new file system of that kind.
pub(super) fn fresh(kind: &str, at: impl AsRef<Path>, options: Option<&str>) -> Result<()> {
    let at = at.as_ref();
    mount(Some(kind), at, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} at {}", at.display()))
}

/// A file without a name, through which the worker hands its output to outer.
fn memory_file() -> Result<File> {
    // SAFETY: the name is a valid C string.
    let fd = unsafe { libc::memfd_create(c"sluice-rig".as_ptr(), libc::MFD_CLOEXEC) };
    ensure!(fd >= 0, "memfd_create: {}", std::io::Error::last_os_error());
    // SAFETY: the call succeeded, so fd is open and nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}
