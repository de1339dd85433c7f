//! The CNI plugin, clause by clause: the built binary, called as libcni calls it, beside a real agent and in a real
//! containerd's chain.
//!
//! One result for each clause of the specification, and one for each accident of another project that concerns the
//! plugin or the agent, with its reference. What concerns only the installing of a chain is skipped, and said to be.

use std::cell::Cell;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::flood::TCP_PORT;
use super::policy;
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions, binary, static_binary};

mod absent;
mod add;
mod bare;
mod chain;
mod del;
mod errors;
mod hung;
mod parallel;
mod plugin;
mod runtimes;
mod sandbox;
mod skipped;
mod verbs;

use plugin::{Answer, Vars};
use sandbox::Sandbox;

/// Every version that the plugin speaks.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// The namespace of the pods.
const NAMESPACE: &str = "cni";
/// The namespace that the chain exempts.
const EXEMPT: &str = "exempt";
/// The label of all pods, which a default-deny policy selects.
const LABEL: &str = "governed";
/// The network that the suite's own calls name.
const NETWORK: &str = "suite";

/// How long a change may take to show.
const SHOW_LIMIT: Duration = Duration::from_secs(20);
/// How often something is looked at that cannot be waited for.
const TICK: Duration = Duration::from_millis(20);

/// What a clause says if it holds.
const GOOD: &str = "holds";

/// The suite on its way.
struct Run<'a> {
    rig: &'a Rig,
    /// None until it is started for the first time.
    agent: Option<Agent>,
    report: Report,
    plugin: PathBuf,
    probe: PathBuf,
    /// Sandboxes so far.
    made: Cell<u32>,
}

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let mut options = RigOptions::with_sluice();
    if let Some(fields) = &mut options.sluice {
        fields.insert("exemptNamespaces".to_owned(), json!([EXEMPT]));
    }
    let rig = Rig::new(place, options).await?;
    let [allowed4, allowed6] = DESTINATIONS.allowed;
    let rules = format!("[{{action: Allow, to: [{{networks: [\"{allowed4}/32\", \"{allowed6}/128\"]}}]}}]");
    for namespace in [NAMESPACE, EXEMPT] {
        rig.agent_directories().write_policy(namespace, &policy(namespace, "all", LABEL, &rules))?;
    }
    // A container that no Kubernetes started has no labels.
    let plain = policy("default", "all", LABEL, &rules);
    let selector = format!("{{matchLabels: {{app: {LABEL}}}}}");
    rig.agent_directories().write_policy("default", &plain.replace(&selector, "{}"))?;

    let mut run = Run {
        rig: &rig,
        agent: None,
        report: Report::new("cni", seed),
        plugin: binary("sluice-cni")?,
        probe: static_binary("sluice-probe")?,
        made: Cell::new(0),
    };
    absent::since_boot(&mut run).await?;
    add::run(&mut run).await?;
    errors::run(&mut run).await?;
    del::run(&mut run).await?;
    verbs::run(&mut run).await?;
    runtimes::run(&mut run).await?;
    bare::run(&mut run).await?;
    parallel::run(&mut run).await?;
    absent::later(&mut run).await?;
    // Boxed: it holds many calls at once.
    Box::pin(hung::run(&mut run)).await?;
    chain::run(&mut run).await?;
    skipped::list(&mut run.report)?;

    let Run { agent, report, .. } = run;
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

impl Run<'_> {
    /// Notes whether a clause holds, or how it does not.
    fn clause(&mut self, name: &str, found: Result<()>) {
        let found = found.map_or_else(|error| format!("{error:#}"), |()| GOOD.to_owned());
        eprintln!("cni: {name}: {found}");
        self.report.equal(name, found, "", GOOD);
    }

    fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("no agent was started yet")
    }

    fn agent_mut(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().context("no agent was started yet")
    }

    /// Makes pods without a runtime.
    fn sandboxes(&self, count: u32) -> Result<Vec<Sandbox>> {
        let first = self.made.replace(self.made.get() + count);
        (first..first + count).map(|number| Sandbox::create(self.rig.place(), number)).collect()
    }

    fn sandbox(&self) -> Result<Sandbox> {
        self.sandboxes(1)?.pop().context("one was asked for")
    }

    /// What libcni writes to the plugin's stdin: its entry of the list, with what is injected.
    fn conf(&self, version: &str, sandbox: &Sandbox) -> Value {
        let directories = self.rig.agent_directories();
        json!({
            "cniVersion": version,
            "name": NETWORK,
            "type": "sluice-cni",
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
            "socket": directories.cni_socket(),
            "stateDir": directories.run,
            "cgroupRoot": self.rig.place().cgroup_root,
            "runtimeConfig": {
                "cgroupPath": sandbox.cgroup_path,
                "io.kubernetes.cri.pod-annotations": {"sluice.dev/labels": format!("app={LABEL}")},
            },
            "prevResult": sandbox.result(version),
        })
    }

    /// Calls the plugin for a pod.
    async fn call(&self, verb: &str, sandbox: &Sandbox, conf: &Value) -> Result<Answer> {
        self.call_with(&plugin::vars(verb, sandbox), conf).await
    }

    async fn call_with(&self, vars: &Vars, conf: &Value) -> Result<Answer> {
        plugin::call(&self.plugin, vars, conf.to_string().as_bytes()).await
    }

    /// ADD of a pod with nothing special.
    async fn add(&self, sandbox: &Sandbox) -> Result<()> {
        let conf = self.conf("1.0.0", sandbox);
        self.call("ADD", sandbox, &conf).await?.passes_on(&conf["prevResult"])
    }

    /// DEL of one, and the end of it.
    async fn del(&self, sandbox: Sandbox) -> Result<()> {
        self.call("DEL", &sandbox, &self.conf("1.0.0", &sandbox)).await?.is_silent()?;
        sandbox.remove()
    }

    /// The pods that `sluice status` shows, without those that leave.
    fn pods(&self) -> Result<Vec<Value>> {
        let told: Value = serde_json::from_str(&self.agent()?.command(&["status", "--output", "json"])?)?;
        let pods = told["pods"].as_array().cloned().context("the status lists no pods")?;
        Ok(pods.into_iter().filter(|pod| pod["leaving"] != true).collect())
    }

    /// What the status says of a cgroup.
    fn pod_of(&self, cgroup: &std::path::Path) -> Result<Option<Value>> {
        let shown = cgroup.display().to_string();
        Ok(self.pods()?.into_iter().find(|pod| pod["cgroup"] == shown.as_str()))
    }

    /// The status says that the pod is governed, with these addresses.
    fn shown(&self, sandbox: &Sandbox, ips: &[IpAddr]) -> Result<()> {
        let pod = self.pod_of(&sandbox.cgroup)?.context("`sluice status` does not show the pod")?;
        let mut found: Vec<IpAddr> = serde_json::from_value(pod["ips"].clone())?;
        let mut wanted = ips.to_vec();
        found.sort_unstable();
        wanted.sort_unstable();
        ensure!(found == wanted, "addresses {found:?}, not {wanted:?}");
        ensure!(pod["guarded"] == true, "its link is not guarded: {pod}");
        Ok(())
    }

    fn not_shown(&self, sandbox: &Sandbox) -> Result<()> {
        let found = self.pod_of(&sandbox.cgroup)?;
        ensure!(found.is_none(), "`sluice status` shows {}", found.unwrap_or_default());
        Ok(())
    }

    /// The pod is governed: shown so, and its processes get what the policy says.
    async fn governed(&self, sandbox: &Sandbox) -> Result<()> {
        self.shown(sandbox, &sandbox.ips)?;
        for (to, wanted) in [(DESTINATIONS.forbidden, "EPERM"), (DESTINATIONS.allowed, "connected")] {
            let found = sandbox.connect(&self.probe, to[0]).await?;
            ensure!(found == wanted, "a connection to {} comes to {found}, not {wanted}", to[0]);
        }
        Ok(())
    }

    /// Waits until something is so.
    async fn until(&self, what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + SHOW_LIMIT;
        while !is_so()? {
            if Instant::now() > deadline {
                bail!("waited in vain: {what}");
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Nothing waits for the agent.
    fn none_spooled(&self) -> Result<()> {
        let spooled = self.spooled()?;
        ensure!(spooled.is_empty(), "spooled: {spooled:?}");
        Ok(())
    }

    /// The requests that wait for the agent.
    fn spooled(&self) -> Result<Vec<PathBuf>> {
        let directory = self.rig.agent_directories().run.join("spool");
        if !directory.exists() {
            return Ok(Vec::new());
        }
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            found.extend(path.extension().is_some_and(|end| end == "json").then_some(path));
        }
        Ok(found)
    }
}

/// A pod of containerd's.
fn spec(namespace: &str, name: &str) -> PodSpec {
    PodSpec::new(namespace, name, &[("app", LABEL)])
}

/// What a container of such a pod gets when it connects to a forbidden place with its first instructions.
async fn denied(pod: &Pod) -> Result<()> {
    let (to, port) = (DESTINATIONS.forbidden[0].to_string(), TCP_PORT.to_string());
    let arguments = ["connect", "--to", &to, "--port", &port, "--proto", "tcp"];
    let container = pod.start(&ContainerSpec::new("try", arguments)).await?;
    container.succeed().await?;
    let lines = container.json()?;
    let outcome = lines.first().context("the probe wrote nothing")?["outcome"].clone();
    ensure!(outcome == "EPERM", "a connection to {to} comes to {outcome}");
    Ok(())
}

/// A configuration with some fields set.
fn with(conf: &Value, fields: &Value) -> Value {
    let mut conf = conf.clone();
    for (name, value) in fields.as_object().into_iter().flatten() {
        conf[name] = value.clone();
    }
    conf
}

/// A configuration without a field.
fn without(conf: &Value, field: &str) -> Value {
    let mut conf = conf.clone();
    if let Some(fields) = conf.as_object_mut() {
        fields.shift_remove(field);
    }
    conf
}
