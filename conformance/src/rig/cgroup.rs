//! cgroup v2 directories.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

/// How long killed processes may take to leave a cgroup.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Where the machine has a cgroup2 mounted.
pub(super) fn hierarchy() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    mounts
        .lines()
        .find_map(mount_point)
        .context("no cgroup2 is mounted; try: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// The mount point of a line of mountinfo, if the whole cgroup2 hierarchy is mounted there.
fn mount_point(line: &str) -> Option<PathBuf> {
    let (fields, kind) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
}

/// The rig's own cgroup; locked while the rig lives, removed with all below when it is dropped.
pub(super) struct Root {
    path: PathBuf,
    _lock: Flock<fs::File>,
}

impl Root {
    pub(super) fn create(path: &Path) -> Result<Self> {
        fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock =
            lock(path, FlockArg::LockExclusiveNonblock)?.context("somebody else took the rig's cgroup")?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("rig: {error:#}");
        }
    }
}

/// Locks a directory; `None` if somebody else holds the lock and `how` does not wait.
pub(super) fn lock(path: &Path, how: FlockArg) -> Result<Option<Flock<fs::File>>> {
    let directory = fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(directory, how) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => bail!("cannot lock {}: {error}", path.display()),
    }
}

/// Kills whatever runs in a cgroup and removes it with all below it. One that is not there is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    if !path.exists() {
        return Ok(());
    }
    if is_populated(path)? {
        kill(path)?;
        wait_until_empty(path)?;
    }
    remove_directories(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn is_populated(path: &Path) -> Result<bool> {
    Ok(fs::read_to_string(path.join("cgroup.events"))?.lines().any(|line| line == "populated 1"))
}

fn kill(path: &Path) -> Result<()> {
    // 5.14 and later; before, one by one.
    if path.join("cgroup.kill").exists() {
        return Ok(fs::write(path.join("cgroup.kill"), "1")?);
    }
    for pid in fs::read_to_string(path.join("cgroup.procs"))?.lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse()?);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    for child in children(path)? {
        kill(&child)?;
    }
    Ok(())
}

/// `cgroup.events` reports a change as an exceptional condition.
fn wait_until_empty(path: &Path) -> Result<()> {
    let events = fs::File::open(path.join("cgroup.events"))?;
    let deadline = Instant::now() + KILL_LIMIT;
    while is_populated(path)? {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("processes in {} survive SIGKILL", path.display());
        }
        let mut entry = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
        // The state was read through another descriptor, so a change in between is reported only after this long.
        let wait = left.min(Duration::from_millis(50)).as_millis() as libc::c_int;
        // SAFETY: the pointer is to one valid pollfd.
        unsafe { libc::poll(&raw mut entry, 1, wait) };
    }
    Ok(())
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_directories(path: &Path) -> io::Result<()> {
    for child in children(path)? {
        remove_directories(&child)?;
    }
    fs::remove_dir(path)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::mount_point;

    #[test]
    fn finds_the_hierarchy_wherever_it_is_mounted() {
        let line = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(line), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point("41 31 0:38 /below /mnt rw - cgroup2 cgroup2 rw"), None);
        assert_eq!(mount_point("32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }
}
