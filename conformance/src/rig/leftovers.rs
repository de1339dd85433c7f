//! What a rig could leave on the machine, and how it is found and removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::FlockArg;

use super::cgroup;

/// Begins the name of everything that a rig makes where others could see it.
pub const PREFIX: &str = "sluice-rig-";

/// Removes the cgroups of rigs that are dead. A rig that runs holds the lock of its own.
pub fn clear(hierarchy: &Path) -> Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(hierarchy)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else { continue };
        let path = entry.path();
        // If its first process is gone but the lock is not free yet, the kernel is still killing the rest: wait for that.
        let how = if Path::new("/proc").join(pid).exists() {
            FlockArg::LockExclusiveNonblock
        } else {
            FlockArg::LockExclusive
        };
        if cgroup::lock(&path, how)?.is_some() {
            cgroup::remove(&path)?;
            removed.push(path);
        }
    }
    Ok(removed)
}

/// Everything on the machine that could be a rig's.
#[derive(Debug, PartialEq, Eq)]
pub struct Traces(BTreeSet<String>);

impl Traces {
    /// Looks at the machine as it is now.
    pub fn take(hierarchy: &Path) -> Result<Self> {
        let mut found = BTreeSet::new();
        for name in names(hierarchy)?.iter().filter(|name| name.starts_with(PREFIX)) {
            found.insert(format!("cgroup {name}"));
        }
        for name in names(Path::new("/sys/class/net"))? {
            if name.starts_with("rig-") || is_pod_link(&name) {
                found.insert(format!("link {name}"));
            }
        }
        // The pods' are `cni-…`, the far end's `rig-far`.
        for name in names(Path::new("/run/netns")).unwrap_or_default() {
            if name.starts_with("cni-") || name.starts_with("rig-") {
                found.insert(format!("network namespace {name}"));
            }
        }
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            if line.contains(PREFIX) || (line.contains(" - nsfs ") && line.contains("/netns/cni-")) {
                found.insert(format!("mount {line}"));
            }
        }
        for pid in names(Path::new("/proc"))?.iter().filter(|name| name.parse::<u32>().is_ok()) {
            // A process may end while we look.
            let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            if let Some(cgroup) = cgroups.lines().find(|line| line.contains(PREFIX)) {
                found.insert(format!("process {pid} in {cgroup}"));
            }
        }
        Ok(Self(found))
    }

    /// What is here now and was not before.
    pub fn since(&self, before: &Self) -> Vec<String> {
        // Another rig may be running at the same time; what it holds is not ours, and it has locked its cgroup.
        self.0.difference(&before.0).filter(|trace| !is_foreign(trace)).cloned().collect()
    }
}

/// Whether the trace names a rig other than this process's.
fn is_foreign(trace: &str) -> bool {
    trace.split(PREFIX).nth(1).is_some_and(|rest| {
        let pid: String = rest.chars().take_while(char::is_ascii_digit).collect();
        pid != std::process::id().to_string()
    })
}

/// The bridge plugin names the host's end of a pod's link `veth` and eight hexadecimal digits.
fn is_pod_link(name: &str) -> bool {
    name.strip_prefix("veth")
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Traces, is_foreign, is_pod_link};

    #[test]
    fn links_of_pods_are_known() {
        assert!(is_pod_link("veth0a1b2c3d"));
        assert!(!is_pod_link("veth0"));
        assert!(!is_pod_link("eth0"));
    }

    #[test]
    fn another_rig_is_not_a_leftover_of_this_one() {
        let own = format!("cgroup sluice-rig-{}", std::process::id());
        assert!(!is_foreign(&own));
        assert!(is_foreign("cgroup sluice-rig-1"));
        assert!(!is_foreign("link rig-far"));
        assert!(is_foreign("process 7 in 0::/sluice-rig-1/kubepods/pod1"));
        let before = Traces(BTreeSet::new());
        let now = Traces(BTreeSet::from([own.clone(), "cgroup sluice-rig-1".to_owned()]));
        assert_eq!(now.since(&before), [own]);
    }
}
