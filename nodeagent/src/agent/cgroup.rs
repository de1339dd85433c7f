//! The cgroup v2 hierarchy: where it is mounted, and at which level a directory is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

/// Why a directory cannot be a cgroup root.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// It cannot be looked at.
    #[error("cannot resolve the cgroup root {path}: {source}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no cgroup2 mount above it.
    #[error("{path} is not on a cgroup2 mount; see `grep cgroup2 /proc/self/mountinfo`")]
    NotMounted {
        /// The directory.
        path: PathBuf,
    },
    /// There is no cgroup2 mount at all.
    #[error(
        "no cgroup2 file system is mounted; Sluice needs the unified hierarchy (mount -t cgroup2 none DIR)"
    )]
    NoHierarchy,
    /// The agent lives in a cgroup namespace, where levels cannot be known.
    #[error(
        "the cgroup2 mount at {path} shows only a part of the hierarchy; run the agent in the host's cgroup namespace"
    )]
    Partial {
        /// The mount point.
        path: PathBuf,
    },
}

/// A part of the hierarchy: the programs' root and everything below.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    root: PathBuf,
}

/// Deepest level that is searched for a cgroup by its id.
const SEARCH_DEPTH: u32 = 16;

impl Hierarchy {
    /// Finds the mount that a directory is on.
    pub fn of(root: &Path) -> Result<Self, CgroupError> {
        let io = |source| CgroupError::Io { path: root.to_owned(), source };
        let root = fs::canonicalize(root).map_err(io)?;
        let mounts = mounts().map_err(io)?;
        let above = mounts.into_iter().filter(|mount| root.starts_with(&mount.path));
        // The innermost mount, and of those at one place the last, is the one that is seen.
        let mount = above.max_by_key(|mount| mount.path.as_os_str().len());
        let mount = mount.ok_or_else(|| CgroupError::NotMounted { path: root.clone() })?;
        if mount.shows != "/" {
            return Err(CgroupError::Partial { path: mount.path });
        }
        Ok(Self { mount: mount.path, root })
    }

    /// Where the hierarchy is mounted, for when nobody said which directory to govern.
    pub fn default_root() -> Result<PathBuf, CgroupError> {
        let io = |source| CgroupError::Io { path: "/proc/self/mountinfo".into(), source };
        mounts().map_err(io)?.into_iter().next().map(|mount| mount.path).ok_or(CgroupError::NoHierarchy)
    }

    /// The directory that the programs are attached to.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Is a directory below the root?
    pub fn contains(&self, path: &Path) -> bool {
        path != self.root
            && path.starts_with(&self.root)
            && !path.components().any(|part| part.as_os_str() == "..")
    }

    /// The level of a directory, as the kernel counts it: the hierarchy's root is 0.
    pub fn level(&self, path: &Path) -> u32 {
        path.strip_prefix(&self.mount).map_or(u32::MAX, |below| below.components().count() as u32)
    }

    /// The directory with this id, below the root.
    pub fn find(&self, id: u64) -> Option<PathBuf> {
        find(&self.root, id, SEARCH_DEPTH)
    }

    /// The directory of a process, as `/proc/<pid>/cgroup` tells it.
    pub fn of_process(&self, pid: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(self.mount.join(path.trim_start_matches('/')))
    }
}

struct Mount {
    path: PathBuf,
    /// Which directory of the hierarchy its root is.
    shows: String,
}

fn mounts() -> io::Result<Vec<Mount>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    // One that another mount hides is listed all the same.
    let is_seen =
        |mount: &Mount| statfs(&mount.path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
    Ok(text.lines().filter_map(parse_mount).filter(is_seen).collect())
}

/// A line of mountinfo (proc(5)): fields 4 and 5 are the root and the mount point, the type follows a lone dash.
fn parse_mount(line: &str) -> Option<Mount> {
    let (fields, rest) = line.split_once(" - ")?;
    if rest.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = fields.split(' ').skip(3);
    let (shows, path) = (fields.next()?, fields.next()?);
    Some(Mount { path: PathBuf::from(path.replace("\\040", " ")), shows: shows.to_owned() })
}

fn find(directory: &Path, id: u64, depth: u32) -> Option<PathBuf> {
    for entry in fs::read_dir(directory).ok()?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if entry.metadata().is_ok_and(|metadata| metadata.ino() == id) {
            return Some(path);
        }
        if depth > 1
            && let Some(found) = find(&path, id, depth - 1)
        {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw";
        let mount = parse_mount(line).expect("a cgroup2 mount");
        assert_eq!(mount.path, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(mount.shows, "/");
        assert!(parse_mount("23 27 0:22 / /sys rw - sysfs sysfs rw").is_none());
    }

    #[test]
    fn levels_count_from_the_mount() {
        let hierarchy = Hierarchy { mount: "/c".into(), root: "/c/test".into() };
        assert_eq!(hierarchy.level(Path::new("/c/test/kubepods/pod1")), 3);
        assert!(hierarchy.contains(Path::new("/c/test/pod1")));
        assert!(!hierarchy.contains(Path::new("/c/test")));
        assert!(!hierarchy.contains(Path::new("/c/other")));
        assert!(!hierarchy.contains(Path::new("/c/test/../other")));
    }
}
