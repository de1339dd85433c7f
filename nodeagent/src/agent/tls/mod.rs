//! Requests over TLS, seen in plain text without a proxy: probes in the libraries that pods' processes encrypt with.
//!
//! ```text
//! finder ──► probes ──► ring buffer ──► pump ──► reader of requests ──► events
//! ```
//!
//! Nothing that is enforced depends on it: what cannot be seen is counted, and named by `sluice tls`. The probes end with
//! the agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_abi::plaintext_counter;
use sluice_requests::{Asked, Reason};

use super::Shared;
use super::cgroup::Hierarchy;
use super::events::Line;
use super::features::Feature;
use crate::datapath::{DatapathError, Place, Plaintexts, Uprobes};
use bind::Connections;
pub(super) use bind::Destination;
use registry::{Registry, Why};

mod bind;
pub(crate) mod child;
mod elf;
mod files;
mod finder;
mod mappings;
mod processes;
mod pump;
mod registry;
mod stream;
mod uses;

pub(super) use pump::Pump;
pub use uses::TlsUse;
pub(super) use uses::answer;

/// What the observation of TLS libraries shares.
pub(super) struct Observer {
    uprobes: Mutex<Uprobes>,
    registry: Mutex<Registry>,
    connections: Mutex<Connections>,
    tally: Mutex<Tally>,
    /// Files of one pod that are probed at most.
    limit: usize,
    asked: Arc<Asked>,
}

impl Observer {
    /// Loads the probes, if this kernel takes them.
    pub(super) fn open(place: &Place, asked: Arc<Asked>) -> Result<(Self, Plaintexts), DatapathError> {
        let (uprobes, plaintexts) = Uprobes::open(place)?;
        let observer = Self {
            uprobes: Mutex::new(uprobes),
            registry: Mutex::default(),
            connections: Mutex::default(),
            tally: Mutex::default(),
            limit: registry::PROBED_OF_POD,
            asked,
        };
        Ok((observer, plaintexts))
    }

    fn uprobes(&self) -> MutexGuard<'_, Uprobes> {
        self.uprobes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is counted, of this moment.
    pub(super) fn counts(&self) -> Result<Counts, DatapathError> {
        let kernel = self.uprobes().counters()?;
        let count = |index: u32| kernel[index as usize];
        let registry = self.registry();
        let (files, probes) = registry.probed();
        let refused = Why::ALL.map(|why| (why.name(), registry.refused(why))).to_vec();
        drop(registry);
        let (flows, silent) = self.connections().flows();
        let tally = self.tally();
        Ok(Counts {
            probed: files,
            probes,
            refused,
            writes: count(plaintext_counter::WRITES),
            records: count(plaintext_counter::RECORDS),
            lost: vec![
                ("ring", count(plaintext_counter::LOST)),
                ("pod_budget", count(plaintext_counter::OVER_BUDGET)),
                ("unreadable", count(plaintext_counter::UNREADABLE)),
            ],
            passed_over: count(plaintext_counter::PASSED_OVER),
            unread: Reason::ALL.map(|reason| (reason.name(), tally.unread_so_far(reason))).to_vec(),
            flows,
            silent,
            unbound: tally.unbound,
        })
    }

    /// Takes up a connection that an event tells of.
    pub(super) fn note(&self, line: &Line) {
        self.connections().note(line);
    }

    fn destination(&self, pid: u32, host: Option<&str>) -> Option<Destination> {
        self.connections().find(pid, host)
    }
}

/// What is counted, for the metrics.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) probed: usize,
    pub(super) probes: usize,
    pub(super) refused: Vec<(&'static str, u64)>,
    pub(super) writes: u64,
    pub(super) records: u64,
    pub(super) lost: Vec<(&'static str, u64)>,
    pub(super) passed_over: u64,
    pub(super) unread: Vec<(&'static str, u64)>,
    pub(super) flows: u64,
    pub(super) silent: u64,
    pub(super) unbound: u64,
}

/// What the pump counts.
#[derive(Default)]
struct Tally {
    unread: BTreeMap<Reason, u64>,
    unbound: u64,
}

impl Tally {
    fn unread(&mut self, reason: Reason, requests: u64) {
        *self.unread.entry(reason).or_default() += requests;
    }

    fn unread_so_far(&self, reason: Reason) -> u64 {
        self.unread.get(&reason).copied().unwrap_or(0)
    }

    fn told(&mut self, is_bound: bool) {
        self.unbound += u64::from(!is_bound);
    }
}

/// Finds libraries and probes them, for as long as the agent runs.
pub(super) async fn find(shared: Arc<Shared>, observer: Arc<Observer>) -> anyhow::Result<()> {
    let hierarchy = Hierarchy::of(&shared.cgroup_root)?;
    finder::Finder::new(shared, observer, hierarchy).run().await
}

/// What `sluice status` and the log say of it.
pub(super) fn feature(opened: Result<(), &DatapathError>) -> Feature {
    let without = match opened {
        Ok(()) => "requests over TLS are not seen".to_owned(),
        // The verifier's log follows.
        Err(error) => {
            let error = error.to_string();
            format!("requests over TLS are not seen: {}", error.lines().next().unwrap_or_default())
        }
    };
    Feature { name: "probes in TLS libraries (uprobes)".to_owned(), present: opened.is_ok(), without }
}
