//! Requests over TLS, seen in plain text without a proxy: probes in the libraries that pods' processes encrypt with.
//!
//! ```text
//! finder ──► probes ──► ring buffer ──► pump ──► reader of requests ──► events
//! ```
//!
//! Nothing that is enforced depends on it: what cannot be seen is counted, and named by `sluice tls`. The probes end with
//! the agent.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sluice_requests::Asked;

use super::Shared;
use super::cgroup::Hierarchy;
use super::events::Line;
use super::features::Feature;
use crate::datapath::{DatapathError, Place, Plaintexts, Uprobes};
use bind::Connections;
pub(super) use bind::Destination;
use registry::Registry;

mod bind;
pub(crate) mod child;
mod elf;
mod files;
mod finder;
mod mappings;
mod processes;
mod pump;
mod registry;

pub(super) use pump::Pump;

/// What the observation of TLS libraries shares.
pub(super) struct Observer {
    uprobes: Mutex<Uprobes>,
    registry: Mutex<Registry>,
    connections: Mutex<Connections>,
    /// Files of one pod that are probed at most.
    limit: usize,
    asked: Arc<Asked>,
}

impl Observer {
    /// Loads the probes, if this kernel takes them.
    pub(super) fn open(place: &Place) -> Result<(Self, Plaintexts), DatapathError> {
        let (uprobes, plaintexts) = Uprobes::open(place)?;
        let observer = Self {
            uprobes: Mutex::new(uprobes),
            registry: Mutex::default(),
            connections: Mutex::default(),
            limit: registry::PROBED_OF_POD,
            asked: Arc::new(Asked::default()),
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

    /// Takes up a connection that an event tells of.
    pub(super) fn note(&self, line: &Line) {
        self.connections().note(line);
    }

    fn destination(&self, pid: u32, host: Option<&str>) -> Option<Destination> {
        self.connections().find(pid, host)
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
        Err(error) => format!("requests over TLS are not seen: {error}"),
    };
    Feature { name: "probes in TLS libraries (uprobes)".to_owned(), present: opened.is_ok(), without }
}
