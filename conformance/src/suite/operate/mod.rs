//! What an operator sees of the agent: its configuration, readiness, events, pods and metrics, and how it stops.
//!
//! Everything is asked of the built binary as an operator or Prometheus would ask, with real pods that are really denied.

use std::net::IpAddr;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::Command;

use super::policy;
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions, binary};

mod counts;
mod excluded;
mod follow;
pub(in crate::suite) mod http;
mod ready;
mod settings;
mod stop;

/// Where the pods live.
const NAMESPACE: &str = "operate";
/// How long anything may take that is waited for.
const LIMIT: Duration = Duration::from_secs(30);
/// How often something is looked at that cannot be waited for.
const TICK: Duration = Duration::from_millis(10);

/// The suite on its way.
struct Run<'a> {
    rig: &'a Rig,
    agent: Agent,
    report: Report,
    vault: Pod,
}

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let mut report = Report::new("operate", seed);
    eprintln!("operate: configurations");
    settings::run(&rig, &mut report).await?;
    eprintln!("operate: readiness");
    ready::run(&rig, &mut report).await?;

    let [allowed4, allowed6] = DESTINATIONS.allowed;
    let rules = format!("[{{action: Allow, to: [{{networks: [{allowed4}/32, \"{allowed6}/128\"]}}]}}]");
    rig.agent_directories().write_policy("vault", &policy(NAMESPACE, "vault", "vault", &rules))?;
    let agent = rig.start_agent(&[]).await?;
    let vault = rig.run_pod(&PodSpec::new(NAMESPACE, "vault", &[("app", "vault")])).await?;
    let mut run = Run { rig: &rig, agent, report, vault };
    eprintln!("operate: metrics");
    counts::run(&mut run).await?;
    eprintln!("operate: observers");
    follow::run(&mut run, seed).await?;
    eprintln!("operate: stopping");
    stop::run(&mut run).await?;
    let Run { agent, mut report, vault, .. } = run;
    vault.remove().await?;
    drop(agent);
    eprintln!("operate: exclusions");
    excluded::run(&rig, &mut report).await?;
    rig.shutdown().await?;
    Ok(report)
}

impl Run<'_> {
    /// Runs a command of `sluice` against the agent.
    async fn sluice(&self, arguments: &[&str]) -> Result<Output> {
        sluice(self.rig, arguments).await
    }

    /// The vault tries to reach a place that its policy denies.
    async fn denied(&self, port: u16, times: u32) -> Result<()> {
        attempts(&self.vault, DESTINATIONS.forbidden[0], port, times, "EPERM").await
    }
}

/// Runs a command of `sluice` against the rig's agent.
async fn sluice(rig: &Rig, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary("sluice")?);
    command.args(arguments).arg("--run-dir").arg(&rig.agent_directories().run);
    finish(command).await
}

/// Runs a command to its end.
async fn finish(mut command: Command) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let shown = format!("{:?}", command.as_std());
    let output = tokio::time::timeout(LIMIT, command.output()).await;
    Ok(output.with_context(|| format!("{shown} does not end"))??)
}

/// Tries TCP connections from a pod, and insists on what comes of each.
async fn attempts(pod: &Pod, to: IpAddr, port: u16, times: u32, outcome: &str) -> Result<()> {
    let (to, port, times) = (to.to_string(), port.to_string(), times.to_string());
    let arguments = ["connect", "--to", &to, "--port", &port, "--proto", "tcp", "--count", &times];
    let container = pod.start(&ContainerSpec::new("try", arguments)).await?;
    container.succeed().await?;
    let lines = container.json()?;
    ensure!(lines.len().to_string() == times, "{} attempts of {times}", lines.len());
    ensure!(lines.iter().all(|line| line["outcome"] == outcome), "not all are {outcome}: {lines:?}");
    Ok(())
}

/// Waits until something is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited in vain for: {what}");
        tokio::time::sleep(TICK).await;
    }
}

/// A text must say all these words.
fn says(report: &mut Report, name: &str, text: &str, words: &[&str]) {
    let missing: Vec<&&str> = words.iter().filter(|word| !text.contains(**word)).collect();
    let found =
        if missing.is_empty() { "said".to_owned() } else { format!("{text:?} does not say {missing:?}") };
    report.equal(name, found, "", "said");
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json_lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}
