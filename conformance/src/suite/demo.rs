//! What Sluice does, in a minute: a pod that may talk to one address of each family, and what happens when it tries others.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions};

use super::flood::{TCP_PORT, UDP_PORT};

const POLICY: &str = "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: frontend, namespace: shop}
spec:
  podSelector: {matchLabels: {app: frontend}}
  defaultAction: Deny
  rules:
  - name: payments
    action: Allow
    to: [{networks: [\"203.0.113.10/32\", \"2001:db8:203::10/128\"]}]
    ports: [{port: 8080}, {port: 5353, protocol: UDP}]
";

/// Runs the demo.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let mut report = Report::new("demo", seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    eprintln!("\nThe policy:\n\n{POLICY}");
    rig.agent_directories().write_policy("frontend", POLICY)?;
    let mut agent = rig.start_agent(&[]).await?;
    let pod = rig.run_pod(&PodSpec::new("shop", "frontend-1", &[("app", "frontend")])).await?;
    eprintln!("Pod shop/frontend-1 runs with {:?}.", pod.ips());
    attempts(&pod, &mut report, "").await?;
    eprintln!("\nThe agent is killed; nothing changes:");
    agent.kill_hard()?;
    attempts(&pod, &mut report, ", agent dead").await?;
    agent.restart().await?;
    let denied = agent
        .wait_for_event(Duration::from_secs(5), |event| event.to_string().to_lowercase().contains("deny"))
        .await
        .context("no event of a denied flow")?;
    eprintln!("\nOne of the events:\n{denied}");
    pod.remove().await?;
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// Tries an allowed and a forbidden address of each family, by TCP and UDP.
async fn attempts(pod: &Pod, report: &mut Report, when: &str) -> Result<()> {
    for (destinations, tcp, udp) in
        [(DESTINATIONS.allowed, "connected", "reply"), (DESTINATIONS.forbidden, "EPERM", "EPERM")]
    {
        for to in destinations {
            for (protocol, port, aim) in [("tcp", TCP_PORT, tcp), ("udp", UDP_PORT, udp)] {
                let (to, port) = (to.to_string(), port.to_string());
                let arguments = ["connect", "--to", &to, "--port", &port, "--proto", protocol];
                let container = pod.start(&ContainerSpec::new("try", arguments)).await?;
                container.succeed().await?;
                let outcome =
                    container.json()?.first().context("the probe wrote nothing")?["outcome"].clone();
                eprintln!("  {protocol} to {to}: {outcome}");
                report.equal(&format!("{protocol} to {to}{when}"), outcome, "", aim);
            }
        }
    }
    Ok(())
}
