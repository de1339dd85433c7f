//! From the probes' ring buffer to events.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice_abi::{ConnectionKey, PlaintextHeader};
use sluice_requests::{Request, Seen};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::Observer;
use super::bind::Destination;
use super::stream::{Stream, begins};
use crate::agent::Shared;
use crate::agent::drain::Stop;
use crate::agent::events::Describer;
use crate::agent::output::Outlet;
use crate::datapath::{Plaintexts, read_plaintext};

/// Connections whose requests are read.
const CONNECTIONS: usize = 8192;
/// Bytes that they may hold together.
const HELD: usize = 32 << 20;
/// How often connections of processes that have ended are forgotten.
const SWEEP: Duration = Duration::from_secs(5);
/// A request waits so long for the event of its connection, which comes by another ring buffer.
const PATIENCE: Duration = Duration::from_millis(50);

/// A connection that is read.
struct Read {
    stream: Stream,
    held: usize,
    last: u64,
}

/// A request whose destination is not known yet.
struct Waiting {
    header: PlaintextHeader,
    request: Request,
    until: Instant,
}

pub(in crate::agent) struct Pump {
    shared: Arc<Shared>,
    observer: Arc<Observer>,
    describer: Describer,
    outlet: Outlet,
    connections: HashMap<ConnectionKey, Read>,
    held: usize,
    records: u64,
    waiting: Vec<Waiting>,
}

impl Pump {
    pub(in crate::agent) fn new(
        shared: Arc<Shared>,
        observer: Arc<Observer>,
        describer: Describer,
        outlet: Outlet,
    ) -> Self {
        Self {
            shared,
            observer,
            describer,
            outlet,
            connections: HashMap::new(),
            held: 0,
            records: 0,
            waiting: Vec::new(),
        }
    }

    /// Reads records until told to stop, and then those that are there.
    pub(in crate::agent) async fn run(mut self, records: Plaintexts, mut stop: Stop) -> anyhow::Result<()> {
        // SAFETY: the ring buffer owns its descriptor and keeps it open and unchanged until it is dropped.
        let mut records = unsafe { AsyncFd::register(records)? };
        let mut sweeps = tokio::time::interval(SWEEP);
        loop {
            let next = self.waiting.first().map(|waiting| waiting.until);
            tokio::select! {
                ready = records.readable_mut() => {
                    let mut ready = ready?;
                    self.drain(ready.get_inner_mut());
                    ready.clear_ready();
                }
                _ = sweeps.tick() => self.sweep(),
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => self.tell_late(false),
                () = stop.told() => break,
            }
        }
        self.drain(records.get_mut());
        self.tell_late(true);
        Ok(())
    }

    fn drain(&mut self, ring: &mut Plaintexts) {
        while let Some(item) = ring.next() {
            let Some((header, bytes)) = read_plaintext(&item) else { continue };
            self.read(&header, bytes);
        }
    }

    fn read(&mut self, header: &PlaintextHeader, bytes: &[u8]) {
        tracing::trace!(?header, "plain text");
        self.records += 1;
        self.observer.connections().seen(header.pid);
        let key = ConnectionKey { connection: header.connection, pid: header.pid, pad: 0 };
        if begins(header) {
            // The address of one that has ended, which was given to another.
            self.forget(key);
        }
        if !self.connections.contains_key(&key) {
            self.make_room();
            let stream = Stream::new(header, Arc::clone(&self.observer.asked));
            self.connections.insert(key, Read { stream, held: 0, last: 0 });
        }
        let Some(read) = self.connections.get_mut(&key) else { return };
        let seen = read.stream.read(header, bytes);
        let held = read.stream.held();
        self.held = self.held + held - read.held;
        (read.held, read.last) = (held, self.records);
        let is_over = read.stream.is_over();
        for seen in seen {
            match seen {
                Seen::Request(request) => self.found(header, request),
                Seen::Unread { reason, requests } => self.observer.tally().unread(reason, requests),
            }
        }
        if is_over {
            self.forget(key);
            if let Err(error) = self.observer.uprobes().pass_over(key) {
                tracing::debug!(%error, "a connection without requests goes on being copied");
            }
        }
    }

    fn found(&mut self, header: &PlaintextHeader, request: Request) {
        match self.observer.destination(header.pid, request.host.as_deref()) {
            Some(destination) => self.tell(header, request, Some(&destination)),
            None => {
                self.waiting.push(Waiting { header: *header, request, until: Instant::now() + PATIENCE });
            }
        }
    }

    /// Tells of requests that have waited long enough.
    fn tell_late(&mut self, all: bool) {
        let now = Instant::now();
        let late = self.waiting.iter().take_while(|waiting| all || waiting.until <= now).count();
        let late: Vec<Waiting> = self.waiting.drain(..late).collect();
        for Waiting { header, request, .. } in late {
            let destination = self.observer.destination(header.pid, request.host.as_deref());
            self.tell(&header, request, destination.as_ref());
        }
    }

    fn tell(&self, header: &PlaintextHeader, request: Request, destination: Option<&Destination>) {
        self.observer.tally().told(destination.is_some());
        let line = {
            let node = self.shared.node();
            self.describer.request(header, request, destination, &node)
        };
        self.outlet.tell(Arc::new(line));
    }

    fn forget(&mut self, key: ConnectionKey) {
        if let Some(read) = self.connections.remove(&key) {
            self.held -= read.held;
        }
    }

    /// Forgets those that were quiet for longest, if there are too many or they hold too much.
    fn make_room(&mut self) {
        if self.connections.len() < CONNECTIONS && self.held < HELD {
            return;
        }
        let mut quiet: Vec<(u64, ConnectionKey)> =
            self.connections.iter().map(|(key, read)| (read.last, *key)).collect();
        quiet.sort_unstable();
        for (_, key) in quiet.iter().take(quiet.len() / 4 + 1) {
            self.forget(*key);
        }
    }

    fn sweep(&mut self) {
        let gone: Vec<ConnectionKey> = self
            .connections
            .keys()
            .filter(|key| !Path::new(&format!("/proc/{}", key.pid)).exists())
            .copied()
            .collect();
        for key in gone {
            self.forget(key);
        }
    }
}
