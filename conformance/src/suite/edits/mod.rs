//! I4 of the design: a policy change is seen whole or not at all, and flows that were judged before are judged again.
//!
//! Two versions of a policy take turns, as fast as the agent takes them. Both deny one destination and both allow another,
//! but by different rules, so that a packet which met half of one and half of the other would leak or be lost. Each version
//! has a name of its own, and is in force once `sluice status` names it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::flood::{self, Arrivals, Line};
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, is_wire};
use crate::rig::{Agent, Place, Pod, PodSpec, Rig, RigOptions};
use streams::{Accepted, Streams, host};

pub(super) mod force;
mod maps;
pub(in crate::suite) mod sink;
mod streams;

const NAMESPACE: &str = "edits";
/// Allowed by both versions; IPv4, IPv6.
const KEPT: [IpAddr; 2] = DESTINATIONS.allowed;
/// Allowed by the first version only.
const DENIED_LATER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 20)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x20)),
];
/// How long what a retired version left may stay in the maps.
const RETIRE_LIMIT: Duration = Duration::from_secs(30);
/// A flood sends so many rounds without a pause,
const ROUNDS: u32 = 1000;
/// and goes on for so long.
const SECONDS: f64 = 5.0;
/// Edits between two questions on the accepted connections.
const ASK_EVERY: u32 = 10;

/// What the suite is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Edits.
    pub flips: u32,
    /// Seed of the tags.
    pub seed: u64,
}

/// A version: odd ones allow by name, even ones allow all but what they deny.
fn policy(version: u32) -> String {
    let [forbidden4, forbidden6] = DESTINATIONS.forbidden.map(host);
    let [kept4, kept6] = KEPT.map(host);
    let rules = if version.is_multiple_of(2) {
        format!(
            "  - name: forbidden
    action: Deny
    to: [{{networks: [\"{forbidden4}\", \"{forbidden6}\"]}}]
  - name: rest
    action: Allow
    to: [{{networks: [\"0.0.0.0/0\", \"::/0\"]}}]
"
        )
    } else {
        format!(
            "  - name: kept
    action: Allow
    to: [{{networks: [\"{kept4}\", \"{kept6}\"]}}]
"
        )
    };
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {}, namespace: {NAMESPACE}}}
spec:
  podSelector: {{matchLabels: {{app: edits}}}}
  defaultAction: Deny
  rules:
{rules}",
        name(version)
    )
}

fn name(version: u32) -> String {
    format!("v{version:06}")
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.flips >= 2, "at least two edits: there and back");
    let mut report = Report::new("edits", options.seed);
    let mut random = SmallRng::seed_from_u64(options.seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    rig.agent_directories().write_policy("edits", &policy(0))?;
    let agent = rig.start_agent(&[]).await?;
    let flooder = rig.run_pod(&PodSpec::new(NAMESPACE, "flooder", &[("app", "edits")])).await?;
    let talker = rig.run_pod(&PodSpec::new(NAMESPACE, "talker", &[("app", "edits")])).await?;
    force::wait(&agent, &name(0), 2).await?;
    let before = maps::count(&agent)?;
    let control = control(&rig, &mut report, &mut random).await?;

    let mut streams = Streams::open(&rig, &talker).await?;
    let mut accepted = Accepted::open(rig.far(), &talker).await?;
    edit(&agent, 1).await?;
    streams.cut(rig.far(), &mut report).await?;

    // An even number more, so that the last version is of the first kind.
    let last = options.flips + options.flips % 2;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (flipped, lines) = tokio::join!(
        async {
            let flipped = flips(&agent, last, &mut accepted).await;
            done.store(true, Ordering::Relaxed);
            flipped
        },
        floods(&flooder, &done, &mut random)
    );
    flipped?;
    let lines = lines?;
    report.note("edits in force, one after the other", last, "");
    let each = start.elapsed() / last;
    report.note("an edit takes", each.as_micros() as u64, "µs");

    streams.judge(rig.far(), last, &mut report).await?;
    for failure in accepted.failures.iter().take(5) {
        eprintln!("edits: an accepted connection: {failure}");
    }
    report.some("accepted connections: questions", accepted.requests, "");
    report.equal("accepted connections: failures", accepted.failures.len(), "", 0);
    rig.far().settle().await?;
    let governed = [flooder.ips(), talker.ips()].concat();
    judge(&mut report, &rig, &lines, &governed, &control);

    let after = maps::wait(&agent, before, RETIRE_LIMIT).await?;
    report.equal("entries in ADDRESSES and PORTS", format!("{after:?}"), "", format!("{before:?}"));
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    flooder.remove().await?;
    talker.remove().await?;
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// A pod without a policy, to show that what goes to the denied destination would be seen there.
async fn control(rig: &Rig, report: &mut Report, random: &mut SmallRng) -> Result<Vec<IpAddr>> {
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "control", &[("app", "control")])).await?;
    let container = pod.start(&flood::container("flood", random.random(), 3, 0.0, &DESTINATIONS)).await?;
    let lines = flood::report(&container).await?;
    rig.far().settle().await?;
    let arrivals = Arrivals::new(rig.far().counts());
    let arrived =
        lines.iter().filter(|line| arrivals.of_line(line, pod.ips(), &DESTINATIONS) == line.attempted);
    report.equal("control: ways that arrive", arrived.count(), "", lines.len());
    let ips = pod.ips().to_vec();
    pod.remove().await?;
    Ok(ips)
}

/// Edits up to version `last`, one after the other.
async fn flips(agent: &Agent, last: u32, accepted: &mut Accepted) -> Result<()> {
    for version in 2..=last {
        edit(agent, version).await?;
        if version.is_multiple_of(ASK_EVERY) {
            tokio::task::block_in_place(|| accepted.ask());
        }
        if version.is_multiple_of(500) {
            eprintln!("edits: {version} of {last}");
        }
    }
    Ok(())
}

/// Floods one after the other, until there are no more edits.
async fn floods(pod: &Pod, done: &AtomicBool, random: &mut SmallRng) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let spec = flood::container("flood", random.random(), ROUNDS, SECONDS, &DESTINATIONS);
        lines.extend(flood::report(&pod.start(&spec).await?).await?);
    }
    Ok(lines)
}

/// Puts a version in force.
async fn edit(agent: &Agent, version: u32) -> Result<()> {
    agent.directories().write_policy("edits", &policy(version))?;
    force::wait(agent, &name(version), 2).await
}

/// What the floods sent, against what arrived.
fn judge(report: &mut Report, rig: &Rig, lines: &[Line], governed: &[IpAddr], control: &[IpAddr]) {
    let counts = rig.far().counts();
    let leaked: Vec<String> = counts
        .iter()
        .filter(|(key, _)| {
            governed.contains(&key.source) && DESTINATIONS.forbidden.contains(&key.destination)
        })
        .map(|(key, count)| format!("{} × {key:?}", count.frames))
        .collect();
    for leak in leaked.iter().take(16) {
        eprintln!("edits: leaked: {leak}");
    }
    let arrivals = Arrivals::new(counts);
    let mut attempted = [0, 0];
    let (mut refused, mut lost) = (0, 0);
    for line in lines {
        attempted[usize::from(line.is_allowed())] += line.attempted;
        if line.is_allowed() {
            // Connections carry no tag: one that came about has arrived.
            let arrived = if line.protocol == "tcp" {
                line.ok
            } else {
                arrivals.of_line(line, governed, &DESTINATIONS)
            };
            let errors: u64 = line.errors.values().sum();
            let missing = line.ok.saturating_sub(arrived) + line.attempted.saturating_sub(line.ok + errors);
            if errors + missing > 0 {
                eprintln!("edits: {arrived} arrived of {line:?}");
            }
            refused += errors;
            lost += missing;
        }
    }
    report.some("to the denied: attempted", attempted[0], "packets");
    report.equal("to the denied: arrived", leaked.len(), "flows", 0);
    report.some("to the allowed: attempted", attempted[1], "packets");
    report.equal("to the allowed: errors", refused, "packets", 0);
    report.equal("to the allowed: lost", lost, "packets", 0);
    let known = |source| governed.contains(&source) || control.contains(&source) || is_wire(source);
    let strangers = arrivals.from_strangers(known);
    report.equal("strangers", strangers, "", Vec::<String>::new());
}

#[cfg(test)]
mod tests {
    use super::policy;

    #[test]
    fn versions_have_names_and_take_turns() {
        assert!(policy(7).contains("name: v000007") && policy(7).contains("203.0.113.10/32"));
        assert!(policy(8).contains("name: v000008") && policy(8).contains("198.51.100.10/32"));
    }
}
