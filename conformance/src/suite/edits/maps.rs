//! What compiled policies take in the agent's maps.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::rig::Agent;

/// The maps of compiled policies.
const MAPS: [&str; 2] = ["ADDRESSES", "PORTS"];
/// How often they are counted while a number is waited for.
const TICK: Duration = Duration::from_millis(100);

/// Entries of each map.
pub(super) type Entries = [usize; MAPS.len()];

/// Counts them.
pub(super) fn count(agent: &Agent) -> Result<Entries> {
    agent.map_entries(MAPS)
}

/// Waits until there are so many, and gives what there are in the end.
pub(super) async fn wait(agent: &Agent, wanted: Entries, limit: Duration) -> Result<Entries> {
    let deadline = Instant::now() + limit;
    loop {
        let entries = count(agent)?;
        if entries == wanted || Instant::now() > deadline {
            return Ok(entries);
        }
        tokio::time::sleep(TICK).await;
    }
}
