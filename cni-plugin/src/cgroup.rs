//! Finds the pod's cgroup: the one that holds, or will hold, every container of the pod.
//!
//! At ADD no process of the pod may have started, so the kernel cannot be asked: the path comes from the runtime, or
//! from the pod's UID by the rules of the kubelet, and only for a bare container from a process.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};
use sluice_api::Cgroup;

mod mount;
#[cfg(test)]
mod tests;

/// How deep the search for a UID goes below the root. Kubernetes in a container nests five levels.
const SEARCH_DEPTH: usize = 6;

/// How many directories it reads at most.
const SEARCH_DIRECTORIES: usize = 20_000;

/// Why the pod's cgroup could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup2 file system is mounted here.
    #[error(
        "no cgroup2 mount is in /proc/self/mountinfo; boot with the unified hierarchy, or set cgroupRoot"
    )]
    NoMount,
    /// A directory cannot be read.
    #[error("{path} cannot be read: {source}; check cgroupRoot")]
    Unreadable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory is on another file system.
    #[error("{0} is not on cgroup2; set cgroupRoot to the unified hierarchy that holds the pods' cgroups")]
    NotCgroup2(PathBuf),
    /// The directory is the root itself, or one in which the plugin runs: governing it would govern the node.
    #[error("{0} is not a cgroup of the pod's own; give the pod one (cgroup parent, cgroup manager)")]
    NotThePods(PathBuf),
    /// Nothing is there.
    #[error(
        "the pod's cgroup was not found; tried {}; check cgroupRoot, and that the runtime uses cgroup v2 and passes the \
         capability cgroupPath",
        .tried.join(", ")
    )]
    NotFound {
        /// Each place that was looked at, in order.
        tried: Vec<String>,
    },
}

/// What is known of the pod.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The directory below which pods' cgroups are; `None` means the cgroup2 mount.
    pub root: Option<&'a Path>,
    /// The capability `cgroupPath`: the pod's cgroup, relative to the root.
    pub declared: Option<&'a str>,
    /// The pod's UID; empty if there is none.
    pub uid: &'a str,
    /// `CNI_NETNS`, which names a process if a hook of the container's runtime calls.
    pub netns: &'a str,
    /// When to stop searching.
    pub until: Instant,
}

/// Finds the pod's cgroup: where the runtime says, else by its UID, else where its process is.
pub fn find(wanted: Wanted<'_>) -> Result<Cgroup, CgroupError> {
    let mount = mount::cgroup2();
    let root = match (wanted.root, &mount) {
        (Some(root), _) => {
            root.canonicalize().map_err(|source| CgroupError::Unreadable { path: root.to_owned(), source })?
        }
        (None, Some(mount)) => mount.point.clone(),
        (None, None) => return Err(CgroupError::NoMount),
    };
    let hierarchy = Hierarchy { root_id: id_of(&root)?, root, mount };

    let mut tried = Vec::new();
    let named = wanted.declared.map(declared_places).unwrap_or_default();
    for place in named.into_iter().chain(uid_places(wanted.uid)) {
        let path = hierarchy.root.join(place);
        if path.is_dir() {
            return hierarchy.take(path);
        }
        tried.push(path.display().to_string());
    }
    if let Some(names) = uid_names(wanted.uid) {
        if let Some(path) = search(&hierarchy.root, &names, wanted.until) {
            return hierarchy.take(path);
        }
        let [cgroupfs, systemd] = names;
        tried.push(format!("a search of {} for {cgroupfs} and *{systemd}", hierarchy.root.display()));
    }
    if let Some(pid) = process_of(wanted.netns) {
        if let Some(path) = hierarchy.of_process(&pid.to_string()).filter(|path| path.is_dir()) {
            return hierarchy.take(path);
        }
        tried.push(format!("/proc/{pid}/cgroup"));
    }
    if tried.is_empty() {
        tried.push("nothing: there is no capability cgroupPath, no K8S_POD_UID and no process".to_owned());
    }
    Err(CgroupError::NotFound { tried })
}

/// The cgroup tree as this process sees it.
struct Hierarchy {
    /// Where pods' cgroups are.
    root: PathBuf,
    /// Its inode number.
    root_id: u64,
    /// The mount through which paths in `/proc/*/cgroup` are seen.
    mount: Option<mount::Mount>,
}

impl Hierarchy {
    /// Takes a directory as the pod's, if it can be one.
    fn take(&self, path: PathBuf) -> Result<Cgroup, CgroupError> {
        let id = id_of(&path)?;
        let is_ours = self.of_process("self").is_some_and(|own| own.starts_with(&path));
        if id == self.root_id || !path.starts_with(&self.root) || is_ours {
            return Err(CgroupError::NotThePods(path));
        }
        Ok(Cgroup { path: path.display().to_string(), id })
    }

    /// The directory of a process's cgroup (cgroups(7), "/proc files"); `None` if it cannot be seen from here.
    fn of_process(&self, pid: &str) -> Option<PathBuf> {
        let text = fs::read_to_string(Path::new("/proc").join(pid).join("cgroup")).ok()?;
        self.mount.as_ref()?.locate(unified_path(&text)?)
    }
}

/// The inode number of a directory on cgroup2: the cgroup's id. Both are read from one open directory.
fn id_of(path: &Path) -> Result<u64, CgroupError> {
    let unreadable = |source| CgroupError::Unreadable { path: path.to_owned(), source };
    let directory = File::open(path).map_err(unreadable)?;
    let metadata = directory.metadata().map_err(unreadable)?;
    if !metadata.is_dir() {
        return Err(unreadable(io::ErrorKind::NotADirectory.into()));
    }
    if fstatfs(&directory).map_err(|error| unreadable(error.into()))?.filesystem_type() != CGROUP2_SUPER_MAGIC
    {
        return Err(CgroupError::NotCgroup2(path.to_owned()));
    }
    Ok(metadata.ino())
}

/// Where a declared cgroup may be, relative to the root: the path itself; a lone slice's place in the tree of slices;
/// or, for the `slice:prefix:name` of an OCI configuration, the pod's slice, or else the scope in that slice.
fn declared_places(declared: &str) -> Vec<PathBuf> {
    let mut places = Vec::new();
    let parts: Vec<&str> = declared.split(':').collect();
    if let [slice, prefix, name] = parts[..] {
        let slice = slice.rsplit('/').next().unwrap_or_default();
        if let Some(tree) = expand_slice(slice) {
            let is_pods = slice.contains("-pod");
            places.push(if is_pods { tree } else { tree.join(format!("{prefix}-{name}.scope")) });
        }
    } else {
        places.push(PathBuf::from(declared.trim_matches('/')));
        places.extend(expand_slice(declared.trim_matches('/')));
    }
    let is_below = |place: &PathBuf| {
        place.components().next().is_some()
            && place.components().all(|part| matches!(part, Component::Normal(_)))
    };
    places.retain(is_below);
    places.dedup();
    places
}

/// A slice's path (systemd.slice(5)): `a-b.slice` lies in `a.slice`.
fn expand_slice(slice: &str) -> Option<PathBuf> {
    let stem = slice.strip_suffix(".slice").filter(|stem| !stem.is_empty() && !stem.contains('/'))?;
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    Some(ends.filter(|&end| end > 0).map(|end| format!("{}.slice", &stem[..end])).collect())
}

/// The names of a pod's directory: cgroupfs's, and the end of systemd's, which writes `_` for `-`.
fn uid_names(uid: &str) -> Option<[String; 2]> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let usable = uid.chars().any(|c| c.is_ascii_alphanumeric()) && uid.chars().all(is_plain);
    usable.then(|| [format!("pod{uid}"), format!("-pod{}.slice", uid.replace('-', "_"))])
}

/// Where the kubelet puts a pod of this UID: both cgroup drivers, the three classes of service (Guaranteed has no
/// level of its own), and both once more below `kubelet`, as in Kubernetes in a container.
fn uid_places(uid: &str) -> Vec<PathBuf> {
    let Some([cgroupfs, systemd]) = uid_names(uid) else { return Vec::new() };
    let mut places = Vec::new();
    for (outer, prefix) in [("", ""), ("kubelet.slice", "kubelet-")] {
        let top = Path::new(outer).join(format!("{prefix}kubepods.slice"));
        for class in ["burstable", "besteffort"] {
            let stem = format!("{prefix}kubepods-{class}");
            places.push(top.join(format!("{stem}.slice")).join(format!("{stem}{systemd}")));
        }
        places.push(top.join(format!("{prefix}kubepods{systemd}")));
    }
    for top in ["kubepods", "kubelet/kubepods"].map(Path::new) {
        places.extend(["burstable", "besteffort"].map(|class| top.join(class).join(&cgroupfs)));
        places.push(top.join(&cgroupfs));
    }
    places
}

/// Looks for a pod's directory level by level, so that what a container makes inside its own cgroup comes last.
fn search(root: &Path, [cgroupfs, systemd]: &[String; 2], until: Instant) -> Option<PathBuf> {
    let mut queue = VecDeque::from([(root.to_owned(), 1)]);
    for _ in 0..SEARCH_DIRECTORIES {
        let (directory, depth) = queue.pop_front()?;
        if Instant::now() >= until {
            return None;
        }
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let children = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for child in children {
            let name = child.file_name();
            if name.to_str().is_some_and(|name| name == cgroupfs || name.ends_with(systemd.as_str())) {
                return Some(child.path());
            }
            if depth < SEARCH_DEPTH {
                queue.push_back((child.path(), depth + 1));
            }
        }
    }
    None
}

/// The process in `/proc/<pid>/ns/net`.
fn process_of(netns: &str) -> Option<u32> {
    netns.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}

/// The path of the unified hierarchy's line in a `/proc/<pid>/cgroup`.
fn unified_path(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}
