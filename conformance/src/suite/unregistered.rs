//! Pods that no CNI call tells of: older than Sluice, added by a chain without it, or in the node's network. Cluster policies
//! judge them as pods without labels, an alert says so, and the node's own processes notice nothing.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::flood::TCP_PORT;
use super::inbound::events::attempt;
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, Place, Pod, PodSpec, Rig, RigOptions};

/// How long the agent may take to see what changed.
const LIMIT: Duration = Duration::from_secs(15);

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let mut report = Report::new("unregistered", seed);
    // The chain has no `sluice-cni`.
    let rig = Rig::new(place, RigOptions::default()).await?;
    rig.agent_directories().write_policy("cluster", &cluster("cluster", "Exclude"))?;
    rig.agent_directories().write_policy("tenant", &super::policy("shop", "tenant", "shop", "[]"))?;

    eprintln!("unregistered: a pod that is older than Sluice");
    let older = rig.run_pod(&PodSpec::new("shop", "older", &[("app", "shop")])).await?;
    reaches(&mut report, &older, "without Sluice", "connected").await?;
    let mut agent = rig.start_agent(&[]).await?;
    found(&mut report, &agent, &older, "older than Sluice").await?;
    reaches(&mut report, &older, "older than Sluice", "EPERM").await?;

    eprintln!("unregistered: a pod that the chain adds without Sluice");
    let passed = rig.run_pod(&PodSpec::new("shop", "passed", &[("app", "shop")])).await?;
    found(&mut report, &agent, &passed, "added without Sluice").await?;
    reaches(&mut report, &passed, "added without Sluice", "EPERM").await?;

    eprintln!("unregistered: a pod in the node's network");
    let mut process = Held::open()?;
    let host = PodSpec { host_network: true, ..PodSpec::new("shop", "host", &[("app", "shop")]) };
    let host = rig.run_pod(&host).await?;
    found(&mut report, &agent, &host, "in the node's network").await?;
    reaches(&mut report, &host, "in the node's network, excluded", "connected").await?;
    rig.agent_directories().write_policy("cluster", &cluster("cluster", "Include"))?;
    wait(&agent, &host, |pod| pod["policies"] != json!([])).await?;
    reaches(&mut report, &host, "in the node's network, included", "EPERM").await?;
    process.speak(&mut report, "meanwhile")?;

    eprintln!("unregistered: the agent starts again");
    agent.restart().await?;
    for (pod, what) in
        [(&older, "older than Sluice"), (&passed, "added without Sluice"), (&host, "in the node's network")]
    {
        found(&mut report, &agent, pod, &format!("{what}, after a restart")).await?;
        reaches(&mut report, pod, &format!("{what}, after a restart"), "EPERM").await?;
    }
    process.speak(&mut report, "after a restart")?;

    for pod in [older, passed, host] {
        pod.remove().await?;
    }
    let deadline = Instant::now() + LIMIT;
    while !pods(&agent)?.is_empty() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    report.equal("known when all are gone", pods(&agent)?.len(), "pods", 0);
    process.speak(&mut report, "when all are gone")?;
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// A policy that forbids every pod the forbidden places.
fn cluster(name: &str, host_network: &str) -> String {
    let [v4, v6] = DESTINATIONS.forbidden;
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: ClusterEgressPolicy
metadata: {{name: {name}}}
spec:
  podSelector: {{}}
  hostNetwork: {host_network}
  rules:
  - action: Deny
    to: [{{networks: [\"{v4}/32\", \"{v6}/128\"]}}]
"
    )
}

/// The pods that the agent knows.
fn pods(agent: &Agent) -> Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&agent.command(&["status", "--output", "json"])?)?;
    Ok(status["pods"].as_array().context("the status has no pods")?.clone())
}

/// Waits until the agent knows a pod in such a way.
async fn wait(agent: &Agent, pod: &Pod, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let pods = pods(agent)?;
        if let Some(pod) = pods.iter().find(|known| known["uid"] == pod.uid() && wanted(known)) {
            return Ok(pod.clone());
        }
        if Instant::now() > deadline {
            bail!("the agent does not know pod {} as it should; it knows {pods:?}", pod.uid());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The agent finds the pod, and says that nobody told of it.
async fn found(report: &mut Report, agent: &Agent, pod: &Pod, when: &str) -> Result<()> {
    let known = wait(agent, pod, |_| true).await?;
    report.equal(&format!("found: {when}"), known["found"].clone(), "", true);
    let log = std::fs::read_to_string(&agent.directories().log)?;
    let told = log.lines().any(|line| line.contains("ALERT") && line.contains(pod.uid()));
    report.equal(&format!("alert: {when}"), told, "", true);
    Ok(())
}

/// What a pod reaches: the allowed places always, the forbidden ones as said.
async fn reaches(report: &mut Report, pod: &Pod, when: &str, forbidden: &str) -> Result<()> {
    let places = DESTINATIONS.allowed.map(|to| (to, "connected")).into_iter();
    for (to, expected) in places.chain(DESTINATIONS.forbidden.map(|to| (to, forbidden))) {
        let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
        let kind = if DESTINATIONS.allowed.contains(&to) { "allowed" } else { "forbidden" };
        let outcome = attempt(pod, "tcp", to, TCP_PORT).await?;
        report.equal(&format!("{family} {kind}: {when}"), outcome, "", expected);
    }
    Ok(())
}

/// Connections of a process of the node itself, to the forbidden places.
struct Held(Vec<TcpStream>);

impl Held {
    fn open() -> Result<Self> {
        let open = |to: IpAddr| {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(to, TCP_PORT), LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            Ok(stream)
        };
        Ok(Self(DESTINATIONS.forbidden.into_iter().map(open).collect::<Result<_>>()?))
    }

    /// The far end still echoes, on these connections and on new ones.
    fn speak(&mut self, report: &mut Report, when: &str) -> Result<()> {
        for (stream, what) in
            self.0.iter_mut().map(|s| (s, "held")).chain(Self::open()?.0.iter_mut().map(|s| (s, "new")))
        {
            let family = if stream.peer_addr()?.is_ipv6() { "IPv6" } else { "IPv4" };
            let mut answer = [0; 5];
            stream.write_all(b"hello")?;
            stream.read_exact(&mut answer)?;
            let name = format!("{family} {what} connection of the node's own process: {when}");
            report.equal(&name, String::from_utf8_lossy(&answer).into_owned(), "", "hello");
        }
        Ok(())
    }
}
