//! What compiled policies take in the agent's maps.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::rig::{Agent, run};

/// The maps of compiled policies.
const MAPS: [&str; 2] = ["ADDRESSES", "PORTS"];
/// How often they are counted while a number is waited for.
const TICK: Duration = Duration::from_millis(100);

/// Entries of each map.
pub(super) type Entries = [usize; MAPS.len()];

/// Counts them.
pub(super) fn count(agent: &Agent) -> Result<Entries> {
    let mut entries = [0; MAPS.len()];
    for (name, count) in MAPS.into_iter().zip(&mut entries) {
        let pin = pin(agent, name)?.display().to_string();
        let dump = run("bpftool", ["--json", "map", "dump", "pinned", &pin])?;
        let dump: Value = serde_json::from_str(&dump).context("bpftool's dump")?;
        *count = dump.as_array().context("bpftool dumps no list")?.len();
    }
    Ok(entries)
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

/// `<bpffs>/sluice/<ABI version>/maps/<NAME>-<layout>`.
fn pin(agent: &Agent, name: &str) -> Result<PathBuf> {
    let base = agent.directories().bpffs.join("sluice");
    let versions = fs::read_dir(&base).with_context(|| format!("no pins in {}", base.display()))?;
    let version = versions.flatten().next().context("no ABI version has pins")?;
    let pins = fs::read_dir(version.path().join("maps"))?.flatten().map(|pin| pin.path());
    let is_of = |pin: &PathBuf| {
        let file = pin.file_name().and_then(|file| file.to_str());
        file.and_then(|file| file.rsplit_once('-')).is_some_and(|(map, _)| map == name)
    };
    pins.into_iter().find(is_of).with_context(|| format!("no map {name} is pinned"))
}
