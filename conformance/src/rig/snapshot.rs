//! What Sluice could change on a machine, as it is at one moment.
//!
//! Taken before the agent first starts and again after `sluice detach`, the two are equal, but for what is left out here:
//!
//! - the policy directory, which is the operator's, and `last-good` in the state directory, the copies of the operator's
//!   policies that are kept over a boot. Without them a file that became invalid would lose its last good meaning;
//! - the pods' bridge, which its plugin makes with the first pod and leaves, and the parents of the pods' cgroups.
//!
//! Programs, maps and links have ids: see [`super::KernelObjects`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nameindex;
use serde_json::Value;

use super::agent::AgentDirectories;
use super::bpf;
use super::command::run;
use super::isolate::Place;
use super::net::{BRIDGE, FAR};

/// What `ip -j` is asked.
const ASKED: [&str; 6] = [
    "link show",
    "addr show",
    "-4 route show table all",
    "-6 route show table all",
    "-4 rule show",
    "-6 rule show",
];
/// Cgroups that the pods' lie in.
const PARENTS: [&str; 3] = ["kubepods", "kubepods/burstable", "kubepods/besteffort"];
/// Begin the lines that only Sluice can have caused, whatever pods and runtime do meanwhile.
const SLUICES_OWN: [&str; 3] = ["attached", "file", "filter"];

/// The machine at one moment: lines that say what is there, and how often each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, usize>);

impl Snapshot {
    /// Looks at everything.
    pub(super) fn take(place: &Place, agent: &AgentDirectories) -> Result<Self> {
        let mut snapshot = Self::default();
        snapshot.network("node", &[])?;
        snapshot.network("far", &["-n", FAR])?;
        snapshot.attached(place)?;
        for (name, directory) in [
            ("run", agent.run.as_path()),
            ("state", &agent.state),
            ("bpffs", &agent.bpffs),
            ("sys-bpffs", Path::new("/sys/fs/bpf")),
            ("net.d", &place.directory.join("net.d")),
            ("cni-bin", &place.directory.join("cni-bin")),
        ] {
            snapshot.files(name, directory)?;
        }
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            let (fields, kind) = line.split_once(" - ").context("mountinfo has another form")?;
            let point = fields.split(' ').nth(4).unwrap_or_default();
            snapshot.add(format!("mount {} at {point}", kind.split(' ').next().unwrap_or_default()));
        }
        snapshot.processes()?;
        snapshot.cgroups(&place.cgroup_root, &place.cgroup_root)?;
        Ok(snapshot)
    }

    /// Only what nobody but Sluice can have caused: for a look while pods run.
    #[must_use]
    pub fn sluices_own(&self) -> Self {
        let own = |line: &String| SLUICES_OWN.iter().any(|kind| line.starts_with(kind));
        Self(self.0.iter().filter(|(line, _)| own(line)).map(|(line, n)| (line.clone(), *n)).collect())
    }

    /// What is here and was not, with `+`, and what was and is not, with `-`.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let count = |of: &Self, line: &str| of.0.get(line).copied().unwrap_or(0);
        let lines: std::collections::BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        lines
            .into_iter()
            .filter_map(|line| {
                let (now, then) = (count(self, line), count(before, line));
                (now != then).then(|| format!("{}{line}", if now > then { '+' } else { '-' }))
            })
            .collect()
    }

    fn add(&mut self, line: String) {
        *self.0.entry(line).or_default() += 1;
    }

    /// Links, addresses, routes, rules, queueing disciplines and filters of a namespace.
    fn network(&mut self, name: &str, namespace: &[&str]) -> Result<()> {
        for question in ASKED {
            let words = namespace.iter().copied().chain(["-j"]).chain(question.split(' '));
            for entry in array(&run("ip", words)?)? {
                if entry["ifname"] != BRIDGE && entry["dev"] != BRIDGE {
                    self.add(format!("{name} {question}: {entry}"));
                }
            }
        }
        for queueing in array(&run("tc", namespace.iter().copied().chain(["-j", "qdisc", "show"]))?)? {
            let device = queueing["dev"].as_str().unwrap_or_default();
            if device == BRIDGE {
                continue;
            }
            self.add(format!("{name} qdisc: {queueing}"));
            if !matches!(queueing["kind"].as_str(), Some("clsact" | "ingress")) {
                continue;
            }
            for side in ["ingress", "egress"] {
                let words = namespace.iter().copied().chain(["-j", "filter", "show", "dev", device, side]);
                for filter in array(&run("tc", words)?)? {
                    self.add(format!("filter in {name} at {device} {side}: {filter}"));
                }
            }
        }
        Ok(())
    }

    /// Programs at the cgroup root and at the interfaces of the node.
    fn attached(&mut self, place: &Place) -> Result<()> {
        let root = fs::File::open(&place.cgroup_root)?;
        let mut known = 0;
        for way in bpf::CGROUP {
            if let Some(count) = bpf::attached_at_cgroup(root.as_fd(), way)? {
                known += 1;
                (0..count).for_each(|_| self.add(format!("attached at the cgroup root, in way {way}")));
            }
        }
        ensure!(known > 0, "the kernel does not say what is attached at a cgroup");
        for interface in &if_nameindex()? {
            for way in bpf::TCX {
                let count = bpf::attached_at_interface(interface.index(), way)?.unwrap_or(0);
                let device = interface.name().to_string_lossy();
                (0..count).for_each(|_| self.add(format!("attached at {device}, in way {way}")));
            }
        }
        Ok(())
    }

    fn files(&mut self, name: &str, path: &Path) -> Result<()> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("looking at {}", path.display())),
        };
        if name == "state" || name.starts_with("state/last-good") {
            // See above.
        } else if metadata.is_dir() {
            self.add(format!("file {name}/ {:o}", metadata.permissions().mode()));
        } else {
            self.add(format!("file {name} {:o}, {} bytes", metadata.permissions().mode(), metadata.len()));
        }
        if metadata.is_dir() {
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                self.files(&format!("{name}/{}", entry.file_name().to_string_lossy()), &entry.path())?;
            }
        }
        Ok(())
    }

    /// All of the rig: it has a process namespace of its own.
    fn processes(&mut self) -> Result<()> {
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            let is_process = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()).is_some();
            // One that has ended has no command line, nor a file.
            let words = fs::read(path.join("cmdline")).unwrap_or_default();
            if is_process && !words.is_empty() {
                let words = String::from_utf8_lossy(&words).replace('\0', " ");
                self.add(format!("process {}", words.trim()));
            }
        }
        Ok(())
    }

    fn cgroups(&mut self, root: &Path, directory: &Path) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let name = entry.path().strip_prefix(root)?.display().to_string();
                if !PARENTS.contains(&name.as_str()) {
                    self.add(format!("cgroup {name}"));
                }
                self.cgroups(root, &entry.path())?;
            }
        }
        Ok(())
    }
}

/// A JSON array; tools print nothing at all in place of an empty one.
fn array(text: &str) -> Result<Vec<Value>> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let entries: Vec<Value> = serde_json::from_str(text).with_context(|| format!("not a list: {text}"))?;
    // Where nothing is to be told of an entry, `ip` prints an empty one.
    Ok(entries
        .into_iter()
        .filter(|entry| entry.as_object().is_none_or(|fields| !fields.is_empty()))
        .collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Snapshot, array};

    fn snapshot(lines: &[(&str, usize)]) -> Snapshot {
        Snapshot(lines.iter().map(|(line, count)| ((*line).to_owned(), *count)).collect::<BTreeMap<_, _>>())
    }

    #[test]
    fn differences_say_in_which_direction() {
        let before = snapshot(&[("file run/", 1), ("process a", 2), ("mount x", 1)]);
        let after = snapshot(&[("file run/", 1), ("process a", 1), ("attached at eth0", 1), ("mount x", 1)]);
        assert_eq!(after.since(&before), ["+attached at eth0", "-process a"]);
        assert_eq!(after.sluices_own().since(&before.sluices_own()), ["+attached at eth0"]);
        assert!(before.since(&before).is_empty());
    }

    #[test]
    fn lists_may_be_empty() {
        assert!(array("").unwrap().is_empty() && array("[{},{ }]").unwrap().is_empty());
        assert_eq!(array("[{\"dev\":\"lo\"}]").unwrap().len(), 1);
        assert!(array("{}").is_err());
    }
}
