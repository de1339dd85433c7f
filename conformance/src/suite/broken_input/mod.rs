//! I9 of the design: bad input gives a clear error and changes nothing; the last good state stays in force.
//!
//! Every kind of input has its module. "Changes nothing" is held against `sluice status`, apart from its counters, and
//! against what a governed pod can and cannot send.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::process::Command;

use super::flood;
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, Place, Pod, PodSpec, Rig, RigOptions, binary};

mod agents;
mod chain;
mod files;
mod plugin;
mod sockets;

/// Where the pods live.
const NAMESPACE: &str = "broken";
/// How long a command, or the plugin, may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// How long a change may take to show in the status.
const SHOW_LIMIT: Duration = Duration::from_secs(20);
/// How often something is looked at that cannot be waited for.
const TICK: Duration = Duration::from_millis(10);
/// Rounds of the floods: few, for there are many floods.
const ROUNDS: u32 = 2;

/// What a check says if all is well.
const GOOD: &str = "as it should be";

/// The policy that is in force throughout.
fn good_policy() -> String {
    let [allowed4, allowed6] = DESTINATIONS.allowed;
    document("", &format!("{allowed4}/32\", \"{allowed6}/128"))
}

/// The policy of the pods, with one more field or rule before its one rule ends.
fn document(more: &str, networks: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: good, namespace: {NAMESPACE}}}
spec:
  podSelector: {{matchLabels: {{app: victim}}}}
  defaultAction: Deny
{more}  rules:
  - name: allowed
    action: Allow
    to: [{{networks: [\"{networks}\"]}}]
"
    )
}

/// The suite on its way.
struct Run<'a> {
    rig: &'a Rig,
    agent: Agent,
    report: Report,
    random: SmallRng,
    victim: Pod,
}

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    rig.agent_directories().write_policy("good", &good_policy())?;
    let agent = rig.start_agent(&[]).await?;
    let victim = rig.run_pod(&pod("victim")).await?;
    let random = SmallRng::seed_from_u64(seed);
    let mut run = Run { rig: &rig, agent, report: Report::new("broken-input", seed), random, victim };
    run.enforced("at first").await?;
    eprintln!("broken-input: policy files");
    files::run(&mut run).await?;
    eprintln!("broken-input: the plugin");
    plugin::run(&mut run).await?;
    eprintln!("broken-input: the sockets");
    sockets::run(&mut run).await?;
    eprintln!("broken-input: the chain");
    chain::run(&mut run).await?;
    eprintln!("broken-input: agents");
    agents::run(&mut run).await?;
    run.enforced("at last").await?;
    let Run { agent, mut report, victim, .. } = run;
    victim.remove().await?;
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// A pod that the policy selects.
fn pod(name: &str) -> PodSpec {
    PodSpec::new(NAMESPACE, name, &[("app", "victim")])
}

/// What `sluice status` says.
struct Status {
    code: Option<i32>,
    told: Value,
}

impl Status {
    /// What is wrong with the policy directory, one fault a line.
    fn policy_errors(&self) -> String {
        let errors = self.told["policyErrors"].as_array();
        errors.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }

    /// All that bad input must not change: who is governed, by what, since when, by which agent.
    fn steady(&self) -> Value {
        let mut told = self.told.clone();
        if let Some(fields) = told.as_object_mut() {
            fields.retain(|name, _| name != "counters" && name != "policyErrors");
        }
        // A pod that was removed is shown until the agent's next sweep.
        if let Some(pods) = told["pods"].as_array_mut() {
            pods.retain(|pod| pod["leaving"] != true);
        }
        told
    }

    /// The same, for another agent.
    fn lasting(&self) -> Value {
        let mut told = self.steady();
        if let Some(fields) = told.as_object_mut() {
            fields.remove("started");
            fields.remove("readySince");
        }
        told
    }
}

impl Run<'_> {
    async fn status(&self) -> Result<Status> {
        let output = self.sluice(&["status", "--output", "json"]).await?;
        let told = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("the status is no JSON: {}", text(&output.stderr)))?;
        Ok(Status { code: output.status.code(), told })
    }

    /// Runs a command of `sluice` against the agent.
    async fn sluice(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary("sluice")?);
        command.args(arguments).arg("--run-dir").arg(&self.agent.directories().run);
        finish(command, Vec::new()).await
    }

    /// Waits until the errors of the policy directory are as wanted.
    async fn until_errors(&self, wanted: impl Fn(&str) -> bool) -> Result<Status> {
        let deadline = Instant::now() + SHOW_LIMIT;
        loop {
            let status = self.status().await?;
            if wanted(&status.policy_errors()) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the status does not show it: {}", status.told);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The victim can send what the policy allows, and nothing else.
    async fn enforced(&mut self, when: &str) -> Result<()> {
        let found = verdicts(&self.victim, self.random.random()).await?;
        self.good(&format!("{when}: enforced"), found);
        Ok(())
    }

    /// Nothing has changed since `before`.
    async fn unchanged(&mut self, what: &str, before: &Status) -> Result<()> {
        let after = self.status().await?;
        let (before, after) = (before.steady(), after.steady());
        let found = if before == after { GOOD.to_owned() } else { format!("{after}, not {before}") };
        self.good(&format!("{what}: nothing changed"), found);
        Ok(())
    }

    /// A result that is good, or a text that says why it is not.
    fn good(&mut self, name: &str, found: impl Into<String>) {
        self.report.equal(name, found.into(), "", GOOD);
    }

    /// An error must say all these words.
    fn says(&mut self, name: &str, error: &str, words: &[&str]) {
        let missing: Vec<&&str> = words.iter().filter(|word| !error.contains(**word)).collect();
        let found =
            if missing.is_empty() { GOOD.to_owned() } else { format!("{error:?} does not say {missing:?}") };
        self.good(name, found);
    }
}

/// What a pod of the policy can send, held against what it should.
async fn verdicts(pod: &Pod, tag: u64) -> Result<String> {
    let container = pod.start(&flood::container("flood", tag, ROUNDS, 0.0, &DESTINATIONS)).await?;
    let wrong: Vec<String> = flood::report(&container)
        .await?
        .iter()
        .filter(|line| line.ok != if line.is_allowed() { line.attempted } else { 0 })
        .map(|line| format!("{}: {} of {}", line.label(), line.ok, line.attempted))
        .collect();
    Ok(if wrong.is_empty() { GOOD.to_owned() } else { wrong.join("; ") })
}

/// Runs a command to its end, with this on its stdin.
async fn finish(mut command: Command, input: Vec<u8>) -> Result<Output> {
    use tokio::io::AsyncWriteExt;

    let shown = format!("{:?}", command.as_std());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {shown}"))?;
    let mut stdin = child.stdin.take().context("stdin was piped")?;
    // A command that ends early does not read it all.
    let _ = stdin.write_all(&input).await;
    drop(stdin);
    let output = tokio::time::timeout(COMMAND_LIMIT, child.wait_with_output()).await;
    Ok(output.with_context(|| format!("{shown} does not end"))??)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A cgroup for a test; removed when dropped.
struct Cgroup(PathBuf);

impl Cgroup {
    fn create(path: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir(&self.0) {
            eprintln!("broken-input: cannot remove {}: {error}", self.0.display());
        }
    }
}
