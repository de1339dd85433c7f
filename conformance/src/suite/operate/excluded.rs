//! Of excluded networks and names there are no events, which is counted; what is denied is told all the same. And what the
//! kernel counts of names is shown.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use serde_json::Value;

use super::counts::{DENIED, DENY_EVENTS};
use super::{NAMESPACE, attempts, http, says, sluice, text, until};
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, FAR_ADDRESS};
use crate::rig::{ContainerSpec, Pod, PodSpec, Rig};
use crate::suite::flood::TCP_PORT;
use crate::suite::names::server::Servers;
use crate::suite::policy;

/// Connections to an excluded network.
const CONNECTIONS: u32 = 4;
/// What two names lead to, the first of which is excluded.
const QUIET: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const LOUD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 21);
const ZONE: &str = "$ORIGIN test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 60
@ NS ns
ns A 192.0.2.2
a.quiet A 203.0.113.20
a.loud A 203.0.113.21
a.loud A 127.0.0.1
";

/// Runs the checks.
pub(super) async fn run(rig: &Rig, report: &mut Report) -> Result<()> {
    let directory = rig.place().directory.join("excluded");
    fs::create_dir_all(&directory)?;
    let servers = Servers::knot(rig, &directory, ZONE, &[53]).await?;
    let ([allowed, _], [forbidden, _]) = (DESTINATIONS.allowed, DESTINATIONS.forbidden);
    let rules = format!(
        "[{{action: Allow, to: [{{domainNames: [\"*.quiet.test\", \"*.loud.test\"]}}, {{networks: [{allowed}/32]}}]}}]"
    );
    rig.agent_directories().write_policy("named", &policy(NAMESPACE, "named", "named", &rules))?;
    let agent = rig
        .start_agent(&[
            &format!("--resolvers={FAR_ADDRESS}"),
            &format!("--exclude-networks={allowed}/32,{forbidden}/32"),
            "--exclude-domains=*.quiet.test",
        ])
        .await?;
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "named", &[("app", "named")])).await?;
    let before = http::samples().await?;
    attempts(&pod, allowed, TCP_PORT, CONNECTIONS, "connected").await?;
    for (name, address) in [("a.quiet.test", QUIET), ("a.loud.test", LOUD)] {
        ask(&pod, name).await?;
        attempts(&pod, IpAddr::V4(address), TCP_PORT, 1, "connected").await?;
    }
    attempts(&pod, forbidden, TCP_PORT, 1, "EPERM").await?;
    // The last of them is in the agent when its event is.
    let is_told = async || Ok((http::samples().await?.growth(&before, DENY_EVENTS)? >= 1).then_some(()));
    until("the event of a denial", is_told).await?;
    let after = http::samples().await?;
    for (kind, count) in [("connect", u64::from(CONNECTIONS) + 1), ("dns", 2), ("deny", 0)] {
        let series = format!("sluice_events_filtered_total{{kind=\"{kind}\",reason=\"excluded\"}}");
        report.equal(&format!("excluded: {kind}"), after.growth(&before, &series)?, "events", count);
    }
    report.equal("excluded: denied all the same", after.growth(&before, DENIED)?, "", 1);
    report.equal("excluded: told all the same", after.growth(&before, DENY_EVENTS)?, "", 1);
    let events = agent.events();
    let of = |field: &str, value: String| events.iter().filter(|event| event[field] == value).count();
    for (what, told, aim) in [
        ("to the network", of("dst", allowed.to_string()), 0),
        ("of the name", of("domain", "a.quiet.test".to_owned()), 0),
        ("to its address", of("dst", QUIET.to_string()), 0),
        ("to the network, denied", of("dst", forbidden.to_string()), 1),
        // A question, its answer, and the connection.
        ("of another name", of("domain", "a.loud.test".to_owned()), 3),
    ] {
        report.equal(&format!("excluded: events {what}"), told, "", aim);
    }

    for (series, grown) in [
        ("sluice_learned_total", 2),
        ("sluice_addresses_refused_total", 1),
        ("sluice_dns_unreadable_total", 0),
        ("sluice_questions_refused_total", 0),
    ] {
        report.equal(&format!("names: {series}"), after.growth(&before, series)?, "", grown);
    }
    let told = sluice(rig, &["status", "--output", "json"]).await?;
    let status: Value = serde_json::from_slice(&told.stdout).context("the status")?;
    let names = &status["counters"]["names"];
    for (counter, series) in
        [("learned", "sluice_learned_total"), ("addressesRefused", "sluice_addresses_refused_total")]
    {
        report.equal(&format!("status: {counter}"), names[counter].clone(), "", after.get(series)?);
    }
    let told = text(&sluice(rig, &["status"]).await?.stdout);
    let words = ["addresses learned from DNS", "no name may open", "of excluded networks and names"];
    says(report, "status: names", &told, &words);
    pod.remove().await?;
    drop(agent);
    drop(servers);
    Ok(())
}

/// A pod asks for a name.
async fn ask(pod: &Pod, name: &str) -> Result<()> {
    let server = FAR_ADDRESS.to_string();
    let arguments = ["ask", "--server", &server, "--port", "53", "--name", name, "--count", "1"];
    pod.start(&ContainerSpec::new("ask", arguments)).await?.succeed().await
}
