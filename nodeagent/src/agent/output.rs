//! From the ring buffer to standard output.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use nix::libc;
use sluice_abi::{hook, kind};
use tokio::io::unix::AsyncFd;

use super::Shared;
use super::events::{Describer, Line};
use crate::datapath::{Event, Events, read_event};

/// Lines that may wait for a slow reader; past that they are counted and dropped.
const WAITING: usize = 8192;

/// How events are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One line of text for people.
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Starts the thread that prints: a reader that hangs must not hang the agent.
pub(super) fn start(format: Format) -> SyncSender<Line> {
    let (lines, waiting) = sync_channel(WAITING);
    std::thread::spawn(move || print(&waiting, format));
    lines
}

fn print(lines: &Receiver<Line>, format: Format) {
    let mut out = io::stdout().lock();
    while let Ok(line) = lines.recv() {
        let written = match format {
            Format::Text => writeln!(out, "{line}"),
            Format::Json => match serde_json::to_string(&line) {
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

/// Reads events for good.
pub(super) async fn pump(
    events: Events,
    shared: Arc<Shared>,
    describer: Describer,
    lines: SyncSender<Line>,
) -> anyhow::Result<()> {
    // SAFETY: the ring buffer owns its descriptor and keeps it open and unchanged until it is dropped.
    let mut events = unsafe { AsyncFd::register(events)? };
    let mut lost = 0_u64;
    loop {
        let mut ready = events.readable_mut().await?;
        let ring = ready.get_inner_mut();
        while let Some(item) = ring.next() {
            let Some(event) = read_event(&item) else { continue };
            drop(item);
            let flow = match &event {
                Event::Flow(flow) => flow,
                Event::Name(event) => &event.flow,
            };
            let mut node = shared.node();
            // Its client waits for an answer that will not come.
            if flow.kind == kind::DENY
                && flow.hook == hook::EGRESS
                && i32::from(flow.protocol) == libc::IPPROTO_TCP
            {
                node.end_denied(flow.endpoint);
            }
            let line = describer.describe(&event, &node);
            drop(node);
            match lines.try_send(line) {
                Ok(()) if lost > 0 => {
                    tracing::warn!(
                        lost,
                        "events were not printed: the reader of standard output is too slow"
                    );
                    lost = 0;
                }
                Ok(()) => {}
                Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => lost += 1,
            }
        }
        ready.clear_ready();
    }
}
