//! I1 and I2 of the design: no packet that policy denies leaves a pod, from its first instruction on, and none that it
//! allows is lost; whichever container of the pod sends, and whether the agent lives or not.
//!
//! Every pod runs an init container, a main container and the main container once more; all of them send with their first
//! instructions. Control pods show that the suite can see a leak: the same policy reaches them 500 ms too late.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use super::flood::{self, Arrivals, Line};
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, is_wire};
use crate::rig::{Place, Pod, PodSpec, Qos, Rig, RigOptions};

/// Where the pods live.
const NAMESPACE: &str = "first";
/// Rounds that each container sends without a pause.
const ROUNDS: u32 = 30;
/// How long the main containers go on.
const MAIN_SECONDS: f64 = 0.5;
/// How long the main containers go on around the agent's death.
const CRASH_SECONDS: f64 = 6.0;
/// How late the control's policy is.
const CONTROL_DELAY: Duration = Duration::from_millis(500);
/// How long the control's container goes on.
const CONTROL_SECONDS: f64 = 2.0;

/// What the suite is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Governed pods.
    pub pods: u32,
    /// Pods at the same time.
    pub parallel: u32,
    /// Seed of tags and of the pods' quality of service.
    pub seed: u64,
}

/// A pod that has been through it all.
struct Finished {
    name: String,
    ips: Vec<IpAddr>,
    containers: Vec<(&'static str, Vec<Line>)>,
}

/// What the agent is to do, for pods with such a label.
fn policy(name: &str, label: &str) -> String {
    let [allowed4, allowed6] = DESTINATIONS.allowed;
    let networks = format!("[\"{allowed4}/32\", \"{allowed6}/128\"]");
    let rules = format!("[{{name: allowed, action: Allow, to: [{{networks: {networks}}}]}}]");
    super::policy(NAMESPACE, name, label, &rules)
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.pods > 0 && options.parallel > 0, "at least one pod, and one at a time");
    let mut report = Report::new("first-packet", options.seed);
    let mut random = SmallRng::seed_from_u64(options.seed);
    let rig = Arc::new(Rig::new(place, RigOptions::with_sluice()).await?);
    rig.agent_directories().write_policy("fp", &policy("fp", "fp"))?;
    let mut agent = rig.start_agent(&[]).await?;

    let mut controls = Vec::new();
    let control_count = (options.pods / 20).max(3);
    for index in 0..control_count {
        eprintln!("first-packet: control {} of {control_count}", index + 1);
        controls.push(control(&rig, index, &mut random).await?);
    }

    let mut finished = Vec::new();
    let half = options.pods / 2;
    finished.extend(batch(&rig, 0..half, options, &mut random).await?);
    eprintln!("first-packet: killing the agent");
    let next = (half + options.parallel).min(options.pods);
    let survivors = crash(&rig, &mut agent, half..next, &mut random).await?;
    finished.extend(survivors);
    finished.extend(batch(&rig, next..options.pods, options, &mut random).await?);

    rig.far().settle().await?;
    let arrivals = Arrivals::new(rig.far().counts());
    judge(&mut report, &finished, &controls, &arrivals);
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    drop(agent);
    Arc::into_inner(rig).context("a pod still holds the rig")?.shutdown().await?;
    Ok(report)
}

/// A pod that its policy reaches 500 ms after its start.
async fn control(rig: &Rig, index: u32, random: &mut SmallRng) -> Result<Finished> {
    let name = format!("control-{index}");
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, &name, &[("app", &name)])).await?;
    let container =
        pod.start(&flood::container("main", random.random(), ROUNDS, CONTROL_SECONDS, &DESTINATIONS)).await?;
    tokio::time::sleep(CONTROL_DELAY).await;
    rig.agent_directories().write_policy(&name, &policy(&name, &name))?;
    let lines = flood::report(&container).await?;
    finish(rig, pod, name, vec![("main", lines)]).await
}

/// Runs governed pods, some at a time.
async fn batch(
    rig: &Arc<Rig>,
    indices: std::ops::Range<u32>,
    options: Options,
    random: &mut SmallRng,
) -> Result<Vec<Finished>> {
    let mut running = JoinSet::new();
    let mut finished = Vec::new();
    for index in indices {
        if running.len() >= options.parallel as usize {
            finished.extend(running.join_next().await.transpose()?.transpose()?);
        }
        let (rig, spec, tags) = (Arc::clone(rig), spec(index, random), random.random());
        running.spawn(async move { whole_life(&rig, spec, tags).await });
        if (index + 1).is_multiple_of(10) {
            eprintln!("first-packet: pod {} of {}", index + 1, options.pods);
        }
    }
    while let Some(pod) = running.join_next().await {
        finished.push(pod??);
    }
    Ok(finished)
}

fn spec(index: u32, random: &mut SmallRng) -> PodSpec {
    let qos = [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort][random.random_range(0..3)];
    PodSpec { qos, ..PodSpec::new(NAMESPACE, &format!("fp-{index}"), &[("app", "fp")]) }
}

async fn whole_life(rig: &Rig, spec: PodSpec, tags: [u64; 3]) -> Result<Finished> {
    let pod = rig.run_pod(&spec).await?;
    let mut containers = Vec::new();
    for ((name, seconds), tag) in
        [("init", 0.0), ("main", MAIN_SECONDS), ("restarted", 0.0)].into_iter().zip(tags)
    {
        // A restart is the main container under its own name again.
        let container_name = if name == "init" { "init" } else { "main" };
        let container =
            pod.start(&flood::container(container_name, tag, ROUNDS, seconds, &DESTINATIONS)).await?;
        containers.push((name, flood::report(&container).await?));
    }
    finish(rig, pod, spec.name, containers).await
}

/// Kills the agent while the main containers of some pods send, restarts one container meanwhile, and starts the agent again.
async fn crash(
    rig: &Rig,
    agent: &mut crate::rig::Agent,
    indices: std::ops::Range<u32>,
    random: &mut SmallRng,
) -> Result<Vec<Finished>> {
    let mut pods = Vec::new();
    for index in indices {
        let spec = spec(index, random);
        let pod = rig.run_pod(&spec).await?;
        let init = pod.start(&flood::container("init", random.random(), ROUNDS, 0.0, &DESTINATIONS)).await?;
        let lines = flood::report(&init).await?;
        pods.push((spec.name, pod, vec![("init", lines)]));
    }
    let mut mains = Vec::new();
    for (_, pod, _) in &pods {
        let spec = flood::container("main", random.random(), ROUNDS, CRASH_SECONDS, &DESTINATIONS);
        mains.push(pod.start(&spec).await?);
    }
    agent.kill_hard()?;
    let orphan = match pods.first_mut() {
        Some((_, pod, containers)) => {
            // The main container of this one goes on next to it: what is seen is seen of both.
            let spec = flood::container("main", random.random(), ROUNDS, 0.0, &DESTINATIONS);
            let container = pod.start(&spec).await?;
            containers.push(("restarted", flood::report(&container).await?));
            1
        }
        None => 0,
    };
    let newcomer = rig.run_pod(&PodSpec::new(NAMESPACE, "newcomer", &[("app", "fp")])).await;
    ensure!(newcomer.is_err(), "a pod was started while no agent could govern it");
    for main in &mains {
        ensure!(main.is_running().await?, "a main container ended too early to see the agent's death");
    }
    agent.restart().await?;
    let mut finished = Vec::new();
    for (number, ((name, pod, mut containers), main)) in pods.into_iter().zip(mains).enumerate() {
        containers.push(("main", flood::report(&main).await?));
        if number >= orphan {
            let spec = flood::container("main", random.random(), ROUNDS, 0.0, &DESTINATIONS);
            let restarted = pod.start(&spec).await?;
            containers.push(("restarted", flood::report(&restarted).await?));
        }
        finished.push(finish(rig, pod, name, containers).await?);
    }
    Ok(finished)
}

/// Removes the pod. Its packets are counted before that: what is still queued goes away with its interfaces.
async fn finish(
    rig: &Rig,
    pod: Pod,
    name: String,
    containers: Vec<(&'static str, Vec<Line>)>,
) -> Result<Finished> {
    let ips = pod.ips().to_vec();
    ensure!(ips.len() == 2, "{name} has the addresses {ips:?}, not one of each family");
    rig.far().settle().await?;
    pod.remove().await?;
    Ok(Finished { name, ips, containers })
}

fn judge(report: &mut Report, pods: &[Finished], controls: &[Finished], arrivals: &Arrivals) {
    report.note("pods", pods.len(), "");
    report.note("containers", pods.iter().map(|pod| pod.containers.len()).sum::<usize>(), "");
    let lines = || {
        pods.iter()
            .flat_map(|pod| pod.containers.iter().map(move |(container, lines)| (pod, *container, lines)))
    };
    let mut attempted = [0, 0];
    let mut silent = None;
    let mut false_denials = 0;
    let mut refused = Vec::new();
    for (pod, container, lines) in lines() {
        for line in lines {
            attempted[usize::from(line.is_allowed())] += line.attempted;
            if line.attempted == 0 && silent.is_none() {
                silent = Some(format!("{}/{container}: {}", pod.name, line.label()));
            }
            let denied = falsely_denied(line, arrivals.of_line(line, &pod.ips, &DESTINATIONS));
            if denied > 0 {
                refused.push(format!("{denied} of {}/{container} {line:?}", pod.name));
                false_denials += denied;
            }
        }
    }
    report.some("attempted", attempted[0], "packets to the forbidden");
    report.some("attempted_allowed", attempted[1], "packets to the allowed");
    let every = silent.as_ref().map_or("by all", String::as_str);
    report.equal("attempted_by", every, "", "by all");

    let governed: HashSet<IpAddr> = pods.iter().flat_map(|pod| pod.ips.clone()).collect();
    let (leaked, examples) = arrivals.elsewhere(&governed, &DESTINATIONS.allowed);
    show("leaked", &examples);
    show("falsely denied", &refused);
    report.equal("leaked", leaked, "packets", 0);
    report.equal("false_denials", false_denials, "packets", 0);

    let control_ips: HashSet<IpAddr> = controls.iter().flat_map(|pod| pod.ips.clone()).collect();
    let (control_leaked, _) = arrivals.elsewhere(&control_ips, &DESTINATIONS.allowed);
    report.note("control_pods", controls.len(), "");
    report.some("control_leaked", control_leaked, "packets");
    let denied = controls
        .iter()
        .flat_map(|pod| &pod.containers)
        .flat_map(|(_, lines)| lines)
        .filter(|line| !line.is_allowed())
        .map(|line| line.errors.get("EPERM").copied().unwrap_or(0))
        .sum();
    report.some("control_denied", denied, "attempts, once its policy was there");

    let strangers = arrivals.from_strangers(|source| {
        governed.contains(&source) || control_ips.contains(&source) || is_wire(source)
    });
    report.equal("strangers", strangers, "", Vec::<String>::new());
}

/// The first few of what went wrong.
fn show(what: &str, examples: &[String]) {
    for example in examples.iter().take(16) {
        eprintln!("{what}: {example}");
    }
    if let Some(more) = examples.len().checked_sub(16).filter(|more| *more > 0) {
        eprintln!("{what}: and {more} more");
    }
}

/// How much of an allowed line did not get through: refused, lost, or not connected.
fn falsely_denied(line: &Line, arrived: u64) -> u64 {
    match (line.is_allowed(), line.protocol.as_str()) {
        (false, _) => 0,
        (true, "tcp") => line.attempted.saturating_sub(line.ok),
        (true, _) => line.attempted.saturating_sub(arrived.min(line.ok)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{falsely_denied, policy};
    use crate::suite::flood::Line;

    fn line(protocol: &str, destination: &str, ok: u64) -> Line {
        Line {
            tag: 1,
            family: 4,
            protocol: protocol.to_owned(),
            destination: destination.to_owned(),
            attempted: 10,
            ok,
            errors: BTreeMap::new(),
            replies: 0,
        }
    }

    #[test]
    fn what_was_allowed_must_arrive() {
        assert_eq!(falsely_denied(&line("udp", "allowed", 10), 10), 0);
        assert_eq!(falsely_denied(&line("udp", "allowed", 10), 7), 3);
        assert_eq!(falsely_denied(&line("icmp", "allowed", 8), 8), 2);
        assert_eq!(falsely_denied(&line("udp", "forbidden", 0), 0), 0);
    }

    #[test]
    fn a_connection_must_come_about() {
        assert_eq!(falsely_denied(&line("tcp", "allowed", 9), 10), 1);
        assert_eq!(falsely_denied(&line("tcp", "allowed", 10), 0), 0);
    }

    #[test]
    fn the_policy_names_both_families() {
        let text = policy("fp", "fp");
        assert!(text.contains("203.0.113.10/32") && text.contains("2001:db8:203::10/128"), "{text}");
    }
}
