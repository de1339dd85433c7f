//! What pods are made of before their chain runs: cgroups, and network namespaces that are used again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::rig::Place;

/// A pod that is about to be added.
pub(in crate::bench) struct Birth {
    pub(super) name: String,
    pub(super) uid: String,
    /// Its label `app`.
    pub(super) app: String,
    /// Its cgroup, below the cgroup root.
    pub(super) cgroup: String,
    /// The same as a directory.
    pub(in crate::bench) directory: PathBuf,
    pub(in crate::bench) netns: PathBuf,
}

/// Makes pods. No two have the same name or cgroup.
pub(in crate::bench) struct Maker {
    root: PathBuf,
    netns: Vec<PathBuf>,
    made: u64,
}

impl Maker {
    /// With so many network namespaces, which go with the rig.
    pub(in crate::bench) fn new(place: &Place, namespaces: usize) -> Result<Self> {
        let netns = (0..namespaces).map(namespace).collect::<Result<_>>()?;
        fs::create_dir_all(place.cgroup_root.join("kubepods/burstable"))?;
        Ok(Self { root: place.cgroup_root.clone(), netns, made: 0 })
    }

    /// A pod with an empty cgroup, in the network namespace of this number.
    pub(in crate::bench) fn make(&mut self, number: usize, app: String) -> Result<Birth> {
        self.made += 1;
        let uid = format!("00000000-0000-4000-8000-{:012x}", self.made);
        let cgroup = format!("/kubepods/burstable/pod{uid}");
        let directory = self.root.join(&cgroup[1..]);
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let netns = self.netns[number % self.netns.len()].clone();
        Ok(Birth { name: format!("bench-{}", self.made), uid, app, cgroup, directory, netns })
    }
}

impl Birth {
    /// Removes its cgroup, by which the agent sees that it is gone.
    pub(in crate::bench) fn bury(self) -> Result<()> {
        fs::remove_dir(&self.directory).with_context(|| format!("cannot remove {}", self.directory.display()))
    }
}

/// A network namespace with a name.
fn namespace(number: usize) -> Result<PathBuf> {
    let path = Path::new("/run/netns").join(format!("bench-{number}"));
    fs::File::create(&path)?;
    let at = path.clone();
    let made = std::thread::spawn(move || -> Result<()> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(mount(Some("/proc/thread-self/ns/net"), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
    });
    made.join().expect("no panic").context("cannot make a network namespace")?;
    Ok(path)
}
