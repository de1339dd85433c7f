//! From the ring buffer to standard output and to the observers.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc;
use serde::{Deserialize, Serialize};
use sluice_abi::{hook, kind};
use tokio::io::unix::AsyncFd;

use super::Shared;
use super::config::Exclude;
use super::drain::Stop;
use super::events::{Describer, Line};
use super::metrics::{Filtered, LostAt};
use crate::datapath::{Events, Ring, read_event};

/// Lines that may wait for a slow reader; past that they are counted and dropped.
const WAITING: usize = 8192;

/// How long the ring buffer is left alone once it was emptied. The kernel wakes who waits for it by the first event only,
/// so that a pod that gives many, by asking for names, has the CPU to itself meanwhile.
const REST: Duration = Duration::from_millis(2);

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line of text for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts the thread that prints: a reader that hangs must not hang the agent. It ends when the sender is dropped.
pub(super) fn start(format: Format) -> io::Result<(SyncSender<Arc<Line>>, JoinHandle<()>)> {
    let (lines, waiting) = sync_channel(WAITING);
    let thread =
        std::thread::Builder::new().name("output".to_owned()).spawn(move || print(&waiting, format))?;
    Ok((lines, thread))
}

fn print(lines: &Receiver<Arc<Line>>, format: Format) {
    let mut out = io::stdout().lock();
    while let Ok(line) = lines.recv() {
        let written = match format {
            Format::Text => writeln!(out, "{line}"),
            Format::Json => match serde_json::to_string(line.as_ref()) {
                Ok(json) => writeln!(out, "{json}"),
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = written.and_then(|()| out.flush()) {
            tracing::error!(%error, "standard output is gone; events are not printed any more");
            return;
        }
    }
}

/// Where lines go: to standard output, to observers, into the metrics.
#[derive(Clone)]
pub(super) struct Outlet {
    pub(super) shared: Arc<Shared>,
    pub(super) lines: SyncSender<Arc<Line>>,
    /// How many in a row were not printed.
    lost: Arc<AtomicU64>,
}

impl Outlet {
    pub(super) fn new(shared: Arc<Shared>, lines: SyncSender<Arc<Line>>) -> Self {
        Self { shared, lines, lost: Arc::default() }
    }

    pub(super) fn tell(&self, line: Arc<Line>) {
        let fate = self.shared.hub.publish(Arc::clone(&line));
        self.shared.metrics.event(&line, fate);
        if self.lines.try_send(line).is_ok() {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                tracing::warn!(lost, "events were not printed: the reader of standard output is too slow");
            }
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            self.shared.metrics.lost(LostAt::Stdout, 1);
        }
    }
}

/// Where events go.
pub(super) struct Pump {
    pub(super) shared: Arc<Shared>,
    pub(super) describer: Describer,
    pub(super) outlet: Outlet,
    /// What is not told.
    pub(super) excluded: Exclude,
}

impl Pump {
    /// Reads events until told to stop, and then those that are there.
    pub(super) async fn run(mut self, events: Events, mut stop: Stop) -> anyhow::Result<()> {
        // SAFETY: a ring buffer owns its descriptor and keeps it open and unchanged until it is dropped.
        let (mut flows, mut payloads) =
            unsafe { (AsyncFd::register(events.flows)?, AsyncFd::register(events.payloads)?) };
        loop {
            let mut ready = tokio::select! {
                ready = flows.readable_mut() => ready?,
                ready = payloads.readable_mut() => ready?,
                () = stop.told() => break,
            };
            self.drain(ready.get_inner_mut());
            ready.clear_ready();
            tokio::time::sleep(REST).await;
        }
        self.drain(flows.get_mut());
        self.drain(payloads.get_mut());
        self.shared.hub.close();
        Ok(())
    }

    /// Empties a ring buffer.
    fn drain(&mut self, ring: &mut Ring) {
        while let Some(item) = ring.next() {
            let Some(event) = read_event(&item) else { continue };
            drop(item);
            let flow = event.flow();
            let mut node = self.shared.node();
            // Its client waits for an answer that will not come.
            if flow.kind == kind::DENY
                && flow.hook == hook::EGRESS
                && i32::from(flow.protocol) == libc::IPPROTO_TCP
            {
                node.end_denied(flow.endpoint);
            }
            let kind = flow.kind;
            let line = self.describer.describe(&event, &node);
            drop(node);
            let Some(line) = line.map(Arc::new) else { continue };
            if self.excluded.covers(kind, &line) {
                self.shared.metrics.filtered(line.kind, Filtered::Excluded, 1);
                continue;
            }
            if let Some(requests) = &self.shared.requests {
                requests.note(&line);
            }
            self.outlet.tell(line);
        }
    }
}
