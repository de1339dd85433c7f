//! The containers of a pod and their processes, as the cgroups show them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Deepest level below a container that is looked at.
const DEPTH: usize = 8;

/// Libraries of the C runtime, which every process maps and in which there is no TLS.
const RUNTIME: [&str; 10] =
    ["ld-", "libc.", "libc-", "libm.", "libpthread", "libdl", "librt.", "libresolv", "libz.", "libgcc_s"];

/// Is a file of this name part of the C runtime?
pub(super) fn is_runtime(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    RUNTIME.iter().any(|runtime| name.starts_with(runtime))
}

/// The cgroup of a process's container: the directory below the pod's, or the pod's own.
pub(super) fn container(pod: &Path, cgroup: &Path) -> PathBuf {
    let below = cgroup.strip_prefix(pod).ok().and_then(|below| below.components().next());
    below.map_or_else(|| pod.to_owned(), |name| pod.join(name))
}

/// The cgroups of a pod's containers, and the pod's own.
pub(super) fn containers(pod: &Path) -> Vec<PathBuf> {
    let mut found = below(pod);
    found.push(pod.to_owned());
    found
}

fn below(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// The processes of a container. Of a pod's own cgroup only those in no container.
pub(super) fn of(pod: &Path, container: &Path) -> Vec<u32> {
    let mut found = own(container);
    if container != pod {
        for nested in nested(container, DEPTH) {
            found.extend(own(&nested));
        }
    }
    found
}

fn own(cgroup: &Path) -> Vec<u32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another pid namespace, of which nothing can be asked.
    text.lines().filter_map(|line| line.parse().ok().filter(|pid| *pid != 0)).collect()
}

fn nested(cgroup: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if depth > 0 {
        for path in below(cgroup) {
            found.extend(nested(&path, depth - 1));
            found.push(path);
        }
    }
    found
}

/// A process of a container that has its own root directory: the runtime's first process has the node's until it is ready.
pub(super) fn with_own_root(pod: &Path, container: &Path) -> Option<u32> {
    let root = |of: &str| fs::metadata(format!("/proc/{of}/root")).ok().map(|root| (root.dev(), root.ino()));
    let node = root("self");
    of(pod, container).into_iter().find(|pid| root(&pid.to_string()).is_some_and(|root| Some(root) != node))
}

/// Every cgroup of every pod, with the pod's endpoint.
pub(super) fn leaves(pods: &BTreeMap<PathBuf, u64>) -> BTreeMap<u64, u64> {
    let mut leaves = BTreeMap::new();
    for (pod, endpoint) in pods {
        for cgroup in nested(pod, DEPTH).iter().chain([pod]) {
            if let Ok(cgroup) = fs::metadata(cgroup) {
                leaves.insert(cgroup.ino(), *endpoint);
            }
        }
    }
    leaves
}
