//! When is a policy in force?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::rig::Agent;

/// How long a policy may take until it is in force.
const LIMIT: Duration = Duration::from_secs(10);

/// Waits until so many pods are governed by a policy of this name. The agent answers with what it has put into the kernel.
pub(in crate::suite) async fn wait(agent: &Agent, policy: &str, pods: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = tokio::task::block_in_place(|| agent.command(&["status", "--output", "json"]))?;
        let status: Value = serde_json::from_str(&status).context("the status is not JSON")?;
        let governed = status["pods"].as_array().context("the status has no pods")?.iter();
        if governed.filter(|pod| pod["policies"].to_string().contains(policy)).count() == pods {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "policy {policy} does not come into force: {status}");
        tokio::task::yield_now().await;
    }
}
