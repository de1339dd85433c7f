//! Metrics move by exactly what happened, and name nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{NAMESPACE, Run, attempts, http, says, text, until};
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::suite::flood::TCP_PORT;

/// Places that are denied, one event each.
const PLACES: u16 = 4;
/// Attempts at one more place, in quick succession: one event for all of them, or a few.
const REPEATED: u32 = 12;

pub(super) const DENIED: &str = "sluice_decisions_total{verdict=\"deny\",posture=\"enforce\"}";
const AT_CONNECT: &str = "sluice_denied_packets_total{hook=\"connect\",protocol=\"tcp\"}";
const ALLOWED_EVENTS: &str = "sluice_events_total{kind=\"connect\",verdict=\"allow\"}";
pub(super) const DENY_EVENTS: &str = "sluice_events_total{kind=\"deny\",verdict=\"deny\"}";

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    listeners(run)?;
    let answer = http::get("/metrics").await?;
    report_type(&mut run.report, &answer);
    for (path, status) in [("/readyz", 200), ("/healthz", 200), ("/", 404), ("/metrics/x", 404)] {
        run.report.equal(&format!("GET {path}"), http::get(path).await?.status, "", status);
    }
    let post = "POST /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    run.report.equal("POST /metrics", http::ask(post).await?.status, "", 405);

    let before = http::samples().await?;
    for port in 0..PLACES {
        run.denied(1000 + port, 1).await?;
    }
    run.denied(2000, REPEATED).await?;
    attempts(&run.vault, DESTINATIONS.allowed[0], TCP_PORT, 3, "connected").await?;
    // The last of them is in the agent when its event is.
    let is_told = async || Ok((http::samples().await?.growth(&before, ALLOWED_EVENTS)? >= 3).then_some(()));
    until("the events", is_told).await?;
    let after = http::samples().await?;
    let made = u64::from(PLACES) + u64::from(REPEATED);
    run.report.equal("denials counted by the kernel", after.growth(&before, DENIED)?, "", made);
    run.report.equal("connections told of", after.growth(&before, ALLOWED_EVENTS)?, "", 3);
    let told = after.growth(&before, DENY_EVENTS)?;
    let (least, most) = (u64::from(PLACES) + 1, made);
    let ok = (least..=most).contains(&told);
    run.report.add("denials told of", told, "", &format!("{least} to {most}"), Some(ok));
    let at_connect = after.growth(&before, AT_CONNECT)?;
    let ok = (told..=made).contains(&at_connect);
    run.report.add("denials of events, with repeats", at_connect, "", &format!("{told} to {made}"), Some(ok));
    run.report.equal("no series is new", before.series() == after.series(), "", true);
    let names: Vec<&str> = after
        .series()
        .into_iter()
        .filter(|series| series.contains("vault") || series.contains(NAMESPACE))
        .collect();
    run.report.equal("series that name a pod", names, "", Vec::<String>::new());
    for (series, value) in [
        ("sluice_endpoints{state=\"governed\"}", 1),
        ("sluice_map_entries{map=\"endpoints\"}", 1),
        ("sluice_map_capacity{map=\"endpoints\"}", 4096),
        ("sluice_policies", 1),
        ("sluice_rules", 1),
        ("sluice_policy_errors", 0),
        ("sluice_orphans", 0),
        ("sluice_unguarded_endpoints", 0),
        ("sluice_cni_requests_total{call=\"add\",result=\"done\"}", 1),
        ("sluice_cni_request_duration_seconds_count{call=\"add\"}", 1),
        ("sluice_events_lost_total{at=\"ring\"}", 0),
        ("sluice_events_attributed_total{result=\"miss\"}", 0),
    ] {
        run.report.equal(series, after.get(series)?, "", value);
    }
    run.report.some("entries of compiled policies", after.get("sluice_map_entries{map=\"addresses\"}")?, "");
    pods(run).await
}

fn report_type(report: &mut Report, answer: &http::Answer) {
    report.equal("GET /metrics", answer.status, "", 200);
    says(
        report,
        "GET /metrics: type",
        &answer.head,
        &["content-type: application/openmetrics-text; version=1.0.0"],
    );
    report.equal("GET /metrics: end", answer.body.ends_with("# EOF\n"), "", true);
}

/// Every port on which the agent's process listens is on loopback.
fn listeners(run: &mut Run<'_>) -> Result<()> {
    let process = Path::new("/proc").join(run.agent.pid().context("the agent runs")?.to_string());
    let mut sockets = BTreeSet::new();
    for entry in fs::read_dir(process.join("fd"))? {
        let target = fs::read_link(entry?.path()).unwrap_or_default();
        let name = target.to_string_lossy().into_owned();
        sockets.extend(name.strip_prefix("socket:[").map(|rest| rest.trim_end_matches(']').to_owned()));
    }
    let mut listening = Vec::new();
    for table in ["net/tcp", "net/tcp6", "net/udp", "net/udp6"] {
        // proc(5): local address, remote address, state, …, and the inode as the tenth field.
        for line in fs::read_to_string(process.join(table))?.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let is_open = table.contains("udp") || fields.get(3) == Some(&"0A");
            if is_open && fields.get(9).is_some_and(|inode| sockets.contains(*inode)) {
                listening.push(fields[1].to_owned());
            }
        }
    }
    // 127.0.0.1:9470, the address in the machine's order.
    let loopback = format!("{:08X}:{:04X}", u32::from_ne_bytes([127, 0, 0, 1]), http::ADDRESS.port());
    run.report.equal("where the agent listens", listening, "", vec![loopback]);
    Ok(())
}

/// `sluice pods`, for people and for machines.
async fn pods(run: &mut Run<'_>) -> Result<()> {
    let output = run.sluice(&["pods", "-n", NAMESPACE, "--output", "json"]).await?;
    run.report.equal("pods: exit code", output.status.code(), "", 0);
    let told: Value = serde_json::from_slice(&output.stdout).context("the pods")?;
    let pods = told["pods"].as_array().map(Vec::as_slice).unwrap_or_default();
    run.report.equal("pods: how many", pods.len(), "", 1);
    let pod = pods.first().cloned().unwrap_or_default();
    for (field, value) in [
        ("namespace", Value::from(NAMESPACE)),
        ("name", "vault".into()),
        ("leaving", false.into()),
        ("guarded", true.into()),
        ("policies", vec![format!("EgressPolicy {NAMESPACE}/vault")].into()),
    ] {
        run.report.equal(&format!("pods: {field}"), pod[field].clone(), "", value);
    }
    let address = run.vault.ipv4()?.to_string();
    let table = text(&run.sluice(&["pods", "-A"]).await?.stdout);
    eprintln!("$ sluice pods -A\n{table}");
    eprintln!("$ sluice status\n{}", text(&run.sluice(&["status"]).await?.stdout));
    let words = ["NAMESPACE", "POLICIES", "AGE", NAMESPACE, "vault", &address, "governed"];
    says(&mut run.report, "pods: the table", &table, &words);
    let none = run.sluice(&["pods", "-n", "elsewhere"]).await?;
    run.report.equal("pods of no namespace", text(&none.stdout), "", "");
    Ok(())
}
