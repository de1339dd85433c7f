//! The policies, and how they are edited.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::NAMESPACE;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, AgentDirectories};

/// Label of the pods that keep what they may.
pub(super) const STEADY: &str = "steady";
/// Label of the pods that only answer.
pub(super) const SERVER: &str = "server";
/// Label of the pods whose policy is lifted now and then.
pub(super) const FLIP: &str = "flip";

/// How long a policy may take until it is in force.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

fn networks(addresses: &[IpAddr]) -> String {
    let host = |address: &IpAddr| format!("\"{address}/{}\"", if address.is_ipv6() { 128 } else { 32 });
    addresses.iter().map(host).collect::<Vec<_>>().join(", ")
}

fn allow(addresses: &[IpAddr]) -> String {
    format!("[{{name: kept, action: Allow, to: [{{networks: [{}]}}]}}]", networks(addresses))
}

/// A version of the steady pods' policy: odd ones allow by name, even ones allow all but what they deny. A packet that met half
/// of one and half of the other would leak or be lost.
fn steady(version: u32) -> String {
    if version.is_multiple_of(2) {
        format!(
            "[{{name: forbidden, action: Deny, to: [{{networks: [{}]}}]}}, \
             {{name: rest, action: Allow, to: [{{networks: [\"0.0.0.0/0\", \"::/0\"]}}]}}]",
            networks(&DESTINATIONS.forbidden)
        )
    } else {
        allow(&DESTINATIONS.allowed)
    }
}

/// Writes a version of the steady pods' policy, and gives its name.
pub(super) fn write_steady(to: &AgentDirectories, version: u32) -> Result<String> {
    let name = format!("steady-v{version:06}");
    to.write_policy(STEADY, &crate::suite::policy(NAMESPACE, &name, STEADY, &steady(version)))?;
    Ok(name)
}

/// Writes a version of the policy that is lifted now and then, and gives its name.
pub(super) fn write_flip(to: &AgentDirectories, version: u32, lifted: bool) -> Result<String> {
    let name = format!("flip-v{version:06}");
    let both = [DESTINATIONS.allowed, DESTINATIONS.forbidden].concat();
    let rules = allow(if lifted { &both } else { &DESTINATIONS.allowed });
    to.write_policy(FLIP, &crate::suite::policy(NAMESPACE, &name, FLIP, &rules))?;
    Ok(name)
}

/// Writes the policy of the pods that only answer.
pub(super) fn write_server(to: &AgentDirectories) -> Result<()> {
    to.write_policy(SERVER, &crate::suite::policy(NAMESPACE, SERVER, SERVER, "[]"))
}

/// What the agent says of itself.
pub(super) fn status(agent: &Agent) -> Result<Value> {
    let status = tokio::task::block_in_place(|| agent.command(&["status", "--output", "json"]))?;
    serde_json::from_str(&status).context("the status is not JSON")
}

/// Waits until every pod of a label has the policy of this name. The agent answers with what it has put into the kernel.
pub(super) async fn in_force(agent: &Agent, label: &str, policy: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let status = status(agent)?;
        let pods = status["pods"].as_array().context("the status has no pods")?.iter();
        let mut of_label = pods.filter(|pod| {
            pod["leaving"] == false && pod["name"].as_str().is_some_and(|name| name.starts_with(label))
        });
        if status["policies"].to_string().contains(policy)
            && of_label.all(|pod| pod["policies"].to_string().contains(policy))
        {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "policy {policy} does not come into force: {status}");
        tokio::time::sleep(TICK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::steady;

    #[test]
    fn versions_take_turns() {
        assert!(steady(0).contains("198.51.100.10/32") && steady(0).contains("action: Deny"));
        assert!(steady(1).contains("203.0.113.10/32") && !steady(1).contains("Deny"));
    }
}
