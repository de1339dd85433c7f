//! I3 of the design: the kernel's verdict is the reference evaluator's, for every policy and flow.
//!
//! Part one runs packets through the programs without traffic, a million of them. Part two is the same question put to
//! everything together: files on disk, agent, plugin and real sockets in a pod, against `sluice policy test`.

use anyhow::{Result, ensure};

use crate::report::Report;
use crate::rig::Place;

mod generate;
mod kernel;
mod names;
mod sockets;

/// What the suite is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets that the programs judge without traffic.
    pub pairs: u64,
    /// Flows that a pod tries.
    pub sockets: u32,
    /// Seed of policies and flows.
    pub seed: u64,
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.pairs > 0 && options.sockets > 0, "at least one packet and one flow");
    let mut report = Report::new("meaning", options.seed);
    eprintln!("meaning: seed {}", options.seed);
    kernel::run(place, options.pairs, options.seed, &mut report)?;
    sockets::run(place, options.sockets, options.seed, &mut report).await?;
    Ok(report)
}
