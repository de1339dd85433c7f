//! Which files are known, who uses them, and how many one pod may have looked at.
//!
//! ```text
//! container ──► the files that its processes map ──► file: probed, without TLS, or refused
//! pod ──► how many files it may still have looked at
//! ```
//!
//! A pod chooses its files. So what it costs is bounded for each: one that maps 10,000 copies of a library spends its own
//! share, and no other's.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::elf::Library;
use super::files::FileId;
use crate::datapath::Probe;

/// Files of one pod that are looked at in all.
const FILES: usize = 1024;
/// Files that one pod may have looked at at once, and how many more in a second.
const BURST: u64 = 64;
const PER_SECOND: u64 = 4;
/// Files of one pod that are probed, unless configured.
pub(super) const PROBED_OF_POD: usize = 32;
/// Files of the node that are probed.
const PROBED: usize = 1024;
/// What was found in a file is believed for so long: another file may have its number by then. One that is probed keeps it.
const BELIEVED: Duration = Duration::from_secs(2);
/// A file that nobody uses is probed for so long on: the next container may use it.
const KEPT: Duration = Duration::from_secs(15);

/// Why a file is not probed though it may hold a TLS library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Why {
    /// Its file system can hang whoever reads it.
    Untrusted,
    /// No regular file.
    NotRegular,
    /// It cannot be opened.
    Unreadable,
    /// Reading it took too long.
    Deadline,
    /// Reading it took too much, or ended the reader.
    Faulty,
    /// No ELF file.
    NoElf,
    /// Built by a Go that is too old.
    OldGo,
    /// The kernel refused the probe.
    Attach,
    /// The pod has too many files.
    PodLimit,
    /// The node has too many.
    NodeLimit,
}

impl Why {
    /// All of them.
    pub(super) const ALL: [Self; 10] = [
        Self::Untrusted,
        Self::NotRegular,
        Self::Unreadable,
        Self::Deadline,
        Self::Faulty,
        Self::NoElf,
        Self::OldGo,
        Self::Attach,
        Self::PodLimit,
        Self::NodeLimit,
    ];

    /// As metrics name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Untrusted => "untrusted_file_system",
            Self::NotRegular => "not_regular",
            Self::Unreadable => "unreadable",
            Self::Deadline => "deadline",
            Self::Faulty => "faulty",
            Self::NoElf => "no_elf",
            Self::OldGo => "old_go",
            Self::Attach => "attach",
            Self::PodLimit => "pod_limit",
            Self::NodeLimit => "node_limit",
        }
    }
}

/// What is known of a file.
pub(super) enum State {
    /// It is being read.
    Examined,
    /// It holds no TLS library.
    Plain,
    /// It is probed.
    Probed(BTreeSet<Library>, Vec<Probe>),
    /// It is not, and why in words.
    Refused(Why, String),
}

struct Known {
    state: State,
    stamp: Stamp,
    /// The pod for which it was read.
    read_for: u64,
    users: BTreeSet<PathBuf>,
    unused_since: Option<Instant>,
}

struct Container {
    endpoint: u64,
    seen: HashMap<(u64, u64), Seen>,
}

enum Seen {
    File(FileId),
    Refused(State),
}

/// What tells a file from a later one of the same number: when its inode changed last, and its size.
pub(super) type Stamp = (i64, u64);

#[derive(Debug)]
struct Share {
    /// In thousandths.
    left: u64,
    since: Instant,
    files: usize,
}

/// Files that were looked at a moment ago, as mappings show them: asked for each mapping of code on the node.
#[derive(Clone, Default)]
pub(super) struct Settled(Arc<Mutex<HashMap<(u64, u64), Instant>>>);

impl Settled {
    pub(super) fn has(&self, file: (u64, u64)) -> bool {
        self.lock().get(&file).is_some_and(|since| since.elapsed() < BELIEVED)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(u64, u64), Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state of the discovery.
#[derive(Default)]
pub(super) struct Registry {
    containers: HashMap<PathBuf, Container>,
    files: HashMap<FileId, Known>,
    shares: HashMap<u64, Share>,
    refusals: HashMap<Why, u64>,
    pub(super) settled: Settled,
}

/// What is to be done with a file that was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It is known.
    Nothing,
    /// It is to be read.
    Examine,
    /// Its pod has had too many read.
    TooMany,
}

impl Registry {
    /// Does this file of this container need no look now? One that is probed keeps its number.
    pub(super) fn is_settled(&self, container: &Path, seen: (u64, u64)) -> bool {
        let Some(what) = self.containers.get(container).and_then(|container| container.seen.get(&seen))
        else {
            return false;
        };
        let is_probed = match what {
            Seen::File(file) => {
                matches!(self.files.get(file), Some(Known { state: State::Probed(..) | State::Examined, .. }))
            }
            Seen::Refused(_) => false,
        };
        if is_probed {
            self.settled.lock().insert(seen, Instant::now());
        }
        is_probed || self.settled.has(seen)
    }

    /// Takes one look out of a pod's share.
    fn take(&mut self, endpoint: u64, now: Instant) -> bool {
        let all = BURST * 1000;
        let share = self.shares.entry(endpoint).or_insert(Share { left: all, since: now, files: 0 });
        let passed = now.saturating_duration_since(share.since).as_millis();
        let grown = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(PER_SECOND);
        (share.left, share.since) = (share.left.saturating_add(grown).min(all), now);
        let may = share.left >= 1000 && share.files < FILES;
        if may {
            share.left -= 1000;
            share.files += 1;
        } else {
            self.refuse(Why::PodLimit);
        }
        may
    }

    /// Counts a file that is not probed.
    pub(super) fn refuse(&mut self, why: Why) {
        *self.refusals.entry(why).or_default() += 1;
    }

    /// How many were not, by reason.
    pub(super) fn refused(&self, why: Why) -> u64 {
        self.refusals.get(&why).copied().unwrap_or(0)
    }

    /// A file of a container was opened: `seen` is how its mappings show it.
    pub(super) fn enter(
        &mut self,
        container: &Path,
        endpoint: u64,
        seen: (u64, u64),
        (file, stamp): (FileId, Stamp),
        now: Instant,
    ) -> Next {
        let is_known = self.files.get(&file).is_some_and(|known| {
            // One pod's limit is no other's.
            let is_limited = matches!(known.state, State::Refused(Why::PodLimit | Why::NodeLimit, _));
            matches!(known.state, State::Probed(..) | State::Examined)
                || known.stamp == stamp && (!is_limited || known.read_for == endpoint)
        });
        if !is_known && !self.take(endpoint, now) {
            return Next::TooMany;
        }
        self.see(container, endpoint, seen, Seen::File(file));
        let known = self.files.entry(file).or_insert_with(|| Known {
            state: State::Examined,
            stamp,
            read_for: endpoint,
            users: BTreeSet::new(),
            unused_since: None,
        });
        known.users.insert(container.to_owned());
        known.unused_since = None;
        if is_known {
            return Next::Nothing;
        }
        (known.state, known.stamp, known.read_for) = (State::Examined, stamp, endpoint);
        Next::Examine
    }

    /// A file of a container was not opened.
    pub(super) fn enter_refused(
        &mut self,
        container: &Path,
        endpoint: u64,
        seen: (u64, u64),
        why: Why,
        error: String,
    ) {
        self.refuse(why);
        self.see(container, endpoint, seen, Seen::Refused(State::Refused(why, error)));
    }

    fn see(&mut self, container: &Path, endpoint: u64, seen: (u64, u64), what: Seen) {
        let entry = self
            .containers
            .entry(container.to_owned())
            .or_insert_with(|| Container { endpoint, seen: HashMap::new() });
        entry.seen.insert(seen, what);
        self.settled.lock().insert(seen, Instant::now());
    }

    /// May another file of a pod be probed?
    pub(super) fn has_room(&self, endpoint: u64, of_pod: usize) -> Result<(), Why> {
        let is_probed = |known: &&Known| matches!(known.state, State::Probed(..));
        if self.files.values().filter(is_probed).count() >= PROBED {
            return Err(Why::NodeLimit);
        }
        let is_of_pod = |known: &&Known| {
            known.users.iter().any(|user| self.containers.get(user).is_some_and(|of| of.endpoint == endpoint))
        };
        if self.files.values().filter(is_probed).filter(is_of_pod).count() >= of_pod {
            return Err(Why::PodLimit);
        }
        Ok(())
    }

    /// What became of a file. Its probes are given back if nobody knows of it any more.
    pub(super) fn settle(&mut self, file: FileId, state: State) -> Option<State> {
        if let State::Refused(why, _) = state {
            self.refuse(why);
        }
        match self.files.get_mut(&file) {
            Some(known) => {
                known.state = state;
                None
            }
            None => Some(state),
        }
    }

    /// What is known of a file of a container, as its mappings show it.
    pub(super) fn state(&self, container: &Path, seen: (u64, u64)) -> Option<&State> {
        match self.containers.get(container)?.seen.get(&seen)? {
            Seen::File(file) => self.files.get(file).map(|known| &known.state),
            Seen::Refused(state) => Some(state),
        }
    }

    /// How many files are probed, and in how many functions.
    pub(super) fn probed(&self) -> (usize, usize) {
        let probes = self.files.values().filter_map(|known| match &known.state {
            State::Probed(_, probes) => Some(probes.len()),
            _ => None,
        });
        probes.fold((0, 0), |(files, all), probes| (files + 1, all + probes))
    }

    /// Forgets containers that have ended, pods that are gone, and files that nobody has used for a while. Gives what is to be
    /// dropped, which takes a moment.
    pub(super) fn sweep(
        &mut self,
        now: Instant,
        lives: impl Fn(&Path) -> bool,
        is_endpoint: impl Fn(u64) -> bool,
    ) -> Vec<State> {
        let gone: Vec<PathBuf> =
            self.containers.keys().filter(|container| !lives(container)).cloned().collect();
        for path in gone {
            let Some(container) = self.containers.remove(&path) else { continue };
            self.settled.lock().retain(|seen, _| !container.seen.contains_key(seen));
            for seen in container.seen.values() {
                if let Seen::File(file) = seen
                    && let Some(known) = self.files.get_mut(file)
                {
                    known.users.remove(&path);
                }
            }
        }
        self.shares.retain(|endpoint, _| is_endpoint(*endpoint));
        let mut dropped = Vec::new();
        for known in self.files.values_mut() {
            known.unused_since = if known.users.is_empty() { known.unused_since.or(Some(now)) } else { None };
        }
        let is_over = |known: &Known| {
            known.unused_since.is_some_and(|since| now.saturating_duration_since(since) >= KEPT)
        };
        let over: Vec<FileId> =
            self.files.iter().filter(|(_, known)| is_over(known)).map(|(file, _)| *file).collect();
        for file in over {
            dropped.extend(self.files.remove(&file).map(|known| known.state));
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64) -> (FileId, Stamp) {
        (FileId { device: 1, inode, changed_ns: 0 }, (0, 0))
    }

    #[test]
    fn a_pod_that_maps_many_files_spends_its_own_share() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let mut enter = |pod: u64, inode| {
            let container = PathBuf::from(format!("/pod{pod}/c"));
            registry.enter(&container, pod, (1, inode), file(inode), now)
        };
        let examined = (0..10_000).filter(|inode| enter(1, *inode) == Next::Examine).count();
        assert_eq!(examined as u64, BURST);
        assert_eq!(enter(2, 20_000), Next::Examine);
        // What is known costs nobody anything.
        assert_eq!(enter(1, 20_000), Next::Nothing);
        assert_eq!(registry.refused(Why::PodLimit), 10_000 - examined as u64);
    }

    #[test]
    fn a_file_is_read_once_and_kept_for_all_that_use_it() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let (one, other) = (PathBuf::from("/pod1/c"), PathBuf::from("/pod2/c"));
        assert_eq!(registry.enter(&one, 1, (7, 5), file(5), now), Next::Examine);
        assert_eq!(registry.enter(&other, 2, (8, 5), file(5), now), Next::Nothing);
        assert!(
            registry.settle(file(5).0, State::Probed(BTreeSet::from([Library::Go]), Vec::new())).is_none()
        );
        assert!(registry.sweep(now, |path| path == other, |_| true).is_empty());
        assert!(registry.state(&one, (7, 5)).is_none());
        assert!(matches!(registry.state(&other, (8, 5)), Some(State::Probed(..))));
        assert!(registry.sweep(now, |_| false, |_| true).is_empty());
        assert_eq!(registry.sweep(now + KEPT, |_| false, |_| true).len(), 1);
    }

    #[test]
    fn the_limit_of_one_pod_is_no_other_pods() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let (one, other) = (PathBuf::from("/pod1/c"), PathBuf::from("/pod2/c"));
        assert_eq!(registry.enter(&one, 1, (1, 5), file(5), now), Next::Examine);
        registry.settle(file(5).0, State::Refused(Why::PodLimit, String::new()));
        assert_eq!(registry.enter(&one, 1, (1, 5), file(5), now), Next::Nothing);
        assert_eq!(registry.enter(&other, 2, (1, 5), file(5), now), Next::Examine);
    }

    #[test]
    fn another_file_of_the_same_number_is_read_again() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let container = PathBuf::from("/pod1/c");
        let mut enter = |stamp| {
            let next = registry.enter(&container, 1, (1, 5), (file(5).0, stamp), now);
            registry.settle(file(5).0, State::Plain);
            next
        };
        assert_eq!(enter((1, 100)), Next::Examine);
        assert_eq!(enter((1, 100)), Next::Nothing);
        assert_eq!(enter((2, 100)), Next::Examine);
    }
}
