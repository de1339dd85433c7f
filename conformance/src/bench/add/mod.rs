//! The speed of birth: what ADD costs, what the agent takes of memory, and how fast an edit is in the kernel.
//!
//! ADD runs real chains with the real plugin and agent, as libcni runs them, with and without Sluice in them, and with a
//! program that does nothing in its place. The aim is held against the chain that containerd installs; the shortest chain
//! that there can be takes so little that one more process is beyond the aim, whatever it does.
//!
//! For memory and edits pods are registered over the agent's own socket, with a cgroup each; their network namespace and
//! the host's end of their link are shared.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::ratio::{self, Median};
use crate::report::Report;
use crate::rig::{Place, PodSpec, Rig, RigOptions};
use births::Line;
use chain::{Chain, Kind};
use node::Node;
use pods::Maker;

mod births;
pub(super) mod chain;
mod node;
pub(super) mod pods;
mod probe;

/// The pods' namespace.
pub(super) const NAMESPACE: &str = "bench";
/// Pods for which the issue gives an aim, and the most of memory that the agent may have then, in MiB.
const MEMORY: [(usize, f64); 2] = [(250, 25.0), (1000, 64.0)];
/// Pods for which an edit has an aim, and the longest that 99 in 100 may take, in milliseconds.
const EDITS: (usize, f64) = (250, 50.0);

/// What the benchmark is run with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Interleaved rounds of births.
    pub rounds: u32,
    /// ADDs at the same time.
    pub parallel: Vec<usize>,
    /// Edits that are timed, for each size of a node.
    pub edits: u32,
    /// Numbers of pods, rising.
    pub pods: Vec<usize>,
    /// Numbers of policies.
    pub policies: Vec<usize>,
    /// Sandboxes that containerd makes.
    pub sandboxes: u32,
    /// Seed of the orders and pauses.
    pub seed: u64,
}

impl Options {
    /// All of it, which takes some minutes.
    pub fn whole(seed: u64) -> Self {
        Self {
            rounds: 20,
            parallel: vec![1, 10, 50],
            edits: 200,
            pods: vec![10, 250, 1000],
            policies: vec![1, 100, 1000],
            sandboxes: 20,
            seed,
        }
    }

    /// So little that it takes less than a minute, and says whether something is far off.
    pub fn quick(seed: u64) -> Self {
        Self {
            rounds: 5,
            parallel: vec![1, 10],
            edits: 20,
            pods: vec![10, 250],
            policies: vec![1, 100],
            sandboxes: 2,
            seed,
        }
    }
}

/// The label `app` of a pod, and the name of the policy that selects it.
fn app(number: usize) -> String {
    format!("a{number:04}")
}

/// Runs the benchmark.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.pods.is_sorted(), "numbers of pods must rise");
    let mut report = Report::new("bench add", options.seed);
    let mut random = SmallRng::seed_from_u64(options.seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let mut maker = Maker::new(place, options.parallel.iter().copied().max().unwrap_or(1))?;
    if !options.parallel.is_empty() {
        births(&mut report, place, &rig, &mut maker, &mut random, &options).await?;
    }
    tokio::task::block_in_place(node::make_link)?;
    let bare = tokio::task::block_in_place(|| {
        probe::bare_notices(&place.directory.join("notices"), options.edits.max(1) as usize)
    })?;
    let bare = Times::of(&bare).context("no notices")?;
    report.note("a bare notice of a file, p50", ratio::rounded(bare.half), "ms");
    report.note("a bare notice of a file, p99", ratio::rounded(bare.most), "ms");
    for policies in &options.policies {
        let mut node = Node::start(&rig, &mut maker, *policies).await?;
        for pods in &options.pods {
            tokio::task::block_in_place(|| {
                eprintln!("bench add: {pods} pods, {policies} policies");
                size(&mut report, &mut node, (*pods, *policies), &bare, &mut random, options.edits)
            })?;
        }
        tokio::task::block_in_place(|| node.end())?;
    }
    rig.shutdown().await?;
    Ok(report)
}

/// The part that needs no more than a few pods at a time.
async fn births(
    report: &mut Report,
    place: &Place,
    rig: &Rig,
    maker: &mut Maker,
    random: &mut SmallRng,
    options: &Options,
) -> Result<()> {
    for number in 0..10 {
        rig.agent_directories().write_policy(&app(number), &node::policy(number, 10, false))?;
    }
    let agent = rig.start_agent(&[]).await?;
    let (usual, shortest) = (
        Chain::new(place, rig.agent_directories(), Kind::Usual)?,
        Chain::new(place, rig.agent_directories(), Kind::Shortest)?,
    );
    report.note("rounds", options.rounds, "");
    let mut measure = |line: &Line<'_>| {
        tokio::task::block_in_place(|| births::measure(report, line, maker, random, options.rounds))
    };
    measure(&Line { chain: &shortest, name: "shortest", parallel: &[1], is_aimed_at: false })?;
    let usual = Line { chain: &usual, name: "containerd's", parallel: &options.parallel, is_aimed_at: true };
    let longer = measure(&usual)?;
    let mut sandboxes = Vec::new();
    for number in 0..options.sandboxes {
        let spec = PodSpec::new(NAMESPACE, &format!("sandbox-{number}"), &[("app", &app(0))]);
        let begun = std::time::Instant::now();
        let pod = rig.run_pod(&spec).await?;
        sandboxes.push(begun.elapsed().as_secs_f64());
        pod.remove().await?;
    }
    if let Some(whole) = Median::of(sandboxes) {
        report.note("RunPodSandbox, Sluice in the chain", ratio::rounded(whole.value * 1e3), "ms");
        report.note("of that, what Sluice adds to ADD", ratio::rounded(100.0 * longer / whole.value), "%");
    }
    drop(agent);
    Ok(())
}

/// Times in milliseconds.
struct Times {
    half: f64,
    most: f64,
    worst: f64,
}

impl Times {
    /// The median, the 99th percentile (the least value that is not below 99 in 100 of them) and the greatest.
    fn of(took: &[Duration]) -> Option<Self> {
        let mut sorted: Vec<f64> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Self { half: at(50)?, most: at(99)?, worst: at(100)? })
    }
}

fn size(
    report: &mut Report,
    node: &mut Node<'_>,
    (pods, policies): (usize, usize),
    bare: &Times,
    random: &mut SmallRng,
    edits: u32,
) -> Result<()> {
    node.grow(pods)?;
    let label = |what: &str| format!("{what}, {pods} pods, {policies} policies");
    let (agent, maps) = node.memory()?;
    let aim = MEMORY.iter().find(|(aimed, _)| *aimed == pods).map(|(_, most)| *most);
    within(report, &label("agent's memory (PSS)"), agent, "MiB", aim);
    report.note(&label("kernel maps"), ratio::rounded(maps), "MiB");
    if let Some(took) = Times::of(&node.edits(edits, random)?) {
        report.note(&label("edit to first packet, p50"), ratio::rounded(took.half), "ms");
        within(
            report,
            &label("edit to first packet, p99"),
            took.most,
            "ms",
            (pods == EDITS.0).then_some(EDITS.1),
        );
        report.note(&label("edit to first packet, longest"), ratio::rounded(took.worst), "ms");
        report.note(&label("edit, p50"), ratio::rounded(took.half / bare.half), "× a bare notice");
    }
    let (edited, _) = node.memory()?;
    within(report, &label("agent's memory after the edits"), edited, "MiB", aim);
    Ok(())
}

/// Adds a figure that must be at most `most`, where there is an aim.
fn within(report: &mut Report, name: &str, value: f64, unit: &str, most: Option<f64>) {
    match most {
        Some(most) => {
            report.add(name, ratio::rounded(value), unit, &format!("≤ {most}"), Some(value <= most));
        }
        None => report.note(name, ratio::rounded(value), unit),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Times;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let took: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        let times = Times::of(&took).unwrap();
        assert_eq!((times.half, times.most, times.worst), (100.0, 198.0, 200.0));
        assert_eq!(Times::of(&took[..1]).map(|times| times.most), Some(1.0));
        assert!(Times::of(&[]).is_none());
    }
}
