//! What Sluice does, in a minute: three pods under different policies, what each could reach, and the events of it.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions};

use super::flood::{TCP_PORT, UDP_PORT};

const POLICY: &str = "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: frontend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: frontend}}
  rules:
  - name: payments
    action: Allow
    to: [{networks: [\"203.0.113.10/32\", \"2001:db8:203::10/128\"]}]
    ports: [{port: 8080}, {port: 5353, protocol: UDP}]
---
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: vault, namespace: shop}
spec:
  podSelector: {matchLabels: {app: vault}}
  rules: []                       # defaultAction is Deny
";

/// How long an event may take from the kernel to here.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// A pod of the demo, and what it may reach.
struct Actor {
    name: &'static str,
    label: &'static str,
    governed_by: &'static str,
    may: fn(allowed: bool, protocol: &str) -> bool,
}

const ACTORS: [Actor; 3] = [
    Actor { name: "batch", label: "batch", governed_by: "no policy", may: |_, _| true },
    Actor {
        name: "frontend",
        label: "frontend",
        governed_by: "allow-list",
        may: |allowed, protocol| allowed && protocol != "icmp",
    },
    Actor { name: "vault", label: "vault", governed_by: "default-deny", may: |_, _| false },
];

/// A row of the closing table: what was tried, and what each pod got.
type Row = (String, Vec<String>);

/// Runs the demo.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let mut report = Report::new("demo", seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    eprintln!("\n/etc/sluice/policies/shop.yaml:\n\n{POLICY}");
    rig.agent_directories().write_policy("shop", POLICY)?;
    eprintln!("$ sluice agent");
    let mut agent = rig.start_agent(&["--output", "text"]).await?;

    let mut rows: Vec<Row> = Vec::new();
    let mut pods = Vec::new();
    for actor in &ACTORS {
        let pod = rig.run_pod(&PodSpec::new("shop", actor.name, &[("app", actor.label)])).await?;
        attempts(actor, &pod, &mut rows, &mut report).await?;
        show_events(actor, &agent).await?;
        pods.push(pod);
    }

    agent.kill_hard()?;
    eprintln!("\n$ kill -9 $(pidof sluice)      # the kernel goes on:");
    let [frontend, vault] = [&pods[1], &pods[2]];
    for (pod, name, to, aim) in [
        (frontend, "frontend", DESTINATIONS.allowed[0], "connected"),
        (frontend, "frontend", DESTINATIONS.forbidden[0], "EPERM"),
        (vault, "vault", DESTINATIONS.allowed[0], "EPERM"),
    ] {
        let outcome = attempt(pod, "tcp", &to.to_string(), TCP_PORT).await?;
        eprintln!("shop/{name} -> tcp {to}:{TCP_PORT}: {outcome}");
        report.equal(&format!("agent dead: {name} to {to}"), outcome, "", aim);
    }
    agent.restart().await?;

    print_table(&rows);
    for pod in pods {
        pod.remove().await?;
    }
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// Tries every address by every protocol.
async fn attempts(actor: &Actor, pod: &Pod, rows: &mut Vec<Row>, report: &mut Report) -> Result<()> {
    let mut row = 0;
    for (destinations, allowed) in [(DESTINATIONS.allowed, true), (DESTINATIONS.forbidden, false)] {
        for to in destinations {
            for (protocol, port) in [("tcp", TCP_PORT), ("udp", UDP_PORT), ("icmp", 0)] {
                let to = to.to_string();
                let outcome = attempt(pod, protocol, &to, port).await?;
                let (what, aim) = match (protocol, (actor.may)(allowed, protocol)) {
                    ("icmp", reached) => (format!("icmp {to}"), if reached { "reply" } else { "EPERM" }),
                    ("tcp", true) => (format!("tcp  {to} {port}"), "connected"),
                    (_, true) => (format!("udp  {to} {port}"), "reply"),
                    (_, false) => (format!("{protocol}  {to} {port}"), "EPERM"),
                };
                report.equal(&format!("{}: {what}", actor.name), outcome.clone(), "", aim);
                if rows.len() == row {
                    rows.push((what, Vec::new()));
                }
                rows[row].1.push(outcome);
                row += 1;
            }
        }
    }
    Ok(())
}

async fn attempt(pod: &Pod, protocol: &str, to: &str, port: u16) -> Result<String> {
    let port = port.to_string();
    let arguments = ["connect", "--to", to, "--port", &port, "--proto", protocol];
    let container = pod.start(&ContainerSpec::new("try", arguments)).await?;
    container.succeed().await?;
    let lines = container.json()?;
    let outcome = lines.first().context("the probe wrote nothing")?["outcome"].as_str().map(str::to_owned);
    outcome.context("the probe named no outcome")
}

/// Prints the pod's events so far. The last attempt is an ICMP packet to the forbidden IPv6 address.
async fn show_events(actor: &Actor, agent: &Agent) -> Result<()> {
    let of_pod = |line: &serde_json::Value| {
        line.as_str().filter(|line| line.contains(&format!(" shop/{} ", actor.name))).map(str::to_owned)
    };
    if !(actor.may)(false, "icmp") {
        let last = DESTINATIONS.forbidden[1].to_string();
        let is_last = |line: &serde_json::Value| {
            of_pod(line).is_some_and(|line| line.contains("icmpv6") && line.contains(&last))
        };
        agent.wait_for_event(EVENT_LIMIT, is_last).await?;
    }
    for line in agent.events().iter().filter_map(of_pod) {
        eprintln!("{line}");
    }
    Ok(())
}

fn print_table(rows: &[Row]) {
    eprintln!("\nWhat each pod could reach:\n");
    let heads = ACTORS.iter().map(|actor| format!("{:<14}", actor.name));
    eprintln!("{:<30}{}", "", heads.collect::<String>().trim_end());
    let by = ACTORS.iter().map(|actor| format!("{:<14}", actor.governed_by));
    eprintln!("{:<30}{}", "", by.collect::<String>().trim_end());
    for (what, outcomes) in rows {
        let cells = outcomes.iter().map(|outcome| format!("{outcome:<14}"));
        eprintln!("{what:<30}{}", cells.collect::<String>().trim_end());
    }
    eprintln!();
}
