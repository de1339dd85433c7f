//! What it costs that requests are seen: loads of a pod under an agent that looks at what is written through TLS, and under one
//! that does not, in interleaved rounds.
//!
//! Each measure is a new agent of either kind; a third, of the second kind again, is the control.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::ExecSyncRequest;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::ratio::{self, Median};
use crate::report::Report;
use crate::rig::{Agent, Container, Place, PodSpec, Rig, RigOptions};
use crate::suite::requests::bed::{self, Bed};
use crate::suite::requests::server::HOST;

/// The pod's namespace.
const NAMESPACE: &str = "bench";
/// How an agent is told not to look.
const OFF: &[&str] = &["--requests", "off"];
/// A pod without TLS may take so much longer.
const PLAIN: f64 = 1.05;
/// Connections of the loads by `ab`.
const CONNECTIONS: &str = "20";

/// The agent has come to its end with a load when it takes less than this, in CPU seconds, in a rest of this length.
const IDLE: f64 = 0.002;
const REST: Duration = Duration::from_millis(50);

/// What the benchmark is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests of each load.
    pub requests: u32,
    /// Interleaved rounds.
    pub rounds: u32,
    /// Seed of the orders.
    pub seed: u64,
}

impl Options {
    /// All of it, which takes some minutes.
    pub fn whole(seed: u64) -> Self {
        Self { requests: 10_000, rounds: 30, seed }
    }

    /// The least from which anything can be said.
    pub fn quick(seed: u64) -> Self {
        Self { requests: 4_000, rounds: 20, seed }
    }
}

/// A load of a pod, which runs in a container of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// curl, one request after the other on one connection.
    Curl,
    /// ab over TLS, on many connections.
    Many,
    /// The same without TLS.
    Plain,
}

impl Load {
    const ALL: [Self; 3] = [Self::Curl, Self::Many, Self::Plain];

    fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl, one connection",
            Self::Many => "ab, 20 connections",
            Self::Plain => "ab without TLS, 20 connections",
        }
    }

    fn command(self, requests: u32) -> Vec<String> {
        let requests = requests.to_string();
        let url = match self {
            Self::Curl => format!("https://{HOST}/bench/[1-{requests}]"),
            Self::Many => format!("https://{HOST}/bench"),
            Self::Plain => format!("http://{HOST}/bench"),
        };
        let curl = ["/usr/bin/curl", "-sS", "--fail", "--http1.1", "--cacert", "/etc/ca.pem"];
        let times = ["-o", "/dev/null", "-w", "%{stderr}%{time_total}\\n"];
        let ab = ["/usr/bin/ab", "-q", "-k", "-e", "/dev/stderr", "-c", CONNECTIONS, "-n", &requests];
        let words = if self == Self::Curl { [&curl[..], &times].concat() } else { ab.to_vec() };
        words.into_iter().chain([url.as_str()]).map(str::to_owned).collect()
    }

    /// The longest that 99 in 100 requests took, in milliseconds, from what the program wrote to standard error.
    fn most(self, text: &str) -> Result<f64> {
        if self == Self::Curl {
            let mut times: Vec<f64> = text.lines().filter_map(|line| line.parse().ok()).collect();
            times.sort_by(f64::total_cmp);
            let at = (times.len() * 99).div_ceil(100).checked_sub(1).context("curl tells no times")?;
            return Ok(times[at] * 1e3);
        }
        let line = text.lines().find_map(|line| line.strip_prefix("99,"));
        Ok(line.context("ab tells no 99th percentile")?.trim().parse()?)
    }
}

/// What a load came to.
#[derive(Clone, Copy, Debug)]
struct Measure {
    /// Seconds for all requests.
    took: f64,
    /// The 99th percentile, in milliseconds.
    most: f64,
    /// CPU seconds of the agent meanwhile.
    cpu: f64,
}

/// The agents that a load runs under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Under {
    Looking = 0,
    Blind = 1,
    BlindAgain = 2,
}

/// A round: the loads, each under each agent.
type Round = [[Option<Measure>; 3]; 3];

/// Runs the benchmark.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    let mut report = Report::new("bench requests", options.seed);
    report.note("rounds", options.rounds, "");
    let mut random = SmallRng::seed_from_u64(options.seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let bed = Bed::make(&rig, place).await?;
    rig.agent_directories().write_policy("client", &bed::policy(NAMESPACE, "client"))?;
    let agent = rig.start_agent(&[]).await?;
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "client", &[("app", "client")])).await?;
    let sleep = vec!["/usr/bin/sleep".to_owned(), "36000".to_owned()];
    let container = pod.start(&bed.container("bench", sleep)).await?;
    drop_agent(agent).await?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        eprintln!("bench requests: round {number} of {}", options.rounds);
        rounds.push(round(&rig, &container, options.requests, &mut random).await?);
    }
    for load in Load::ALL {
        tell(&mut report, load, &rounds, options.requests)?;
    }
    // Removing the pod asks the chain, and so an agent.
    let agent = rig.start_agent(&[]).await?;
    pod.remove().await?;
    drop(agent);
    drop(bed);
    rig.shutdown().await?;
    Ok(report)
}

/// Stops it; what it pinned stays, so that the pod goes on being governed.
async fn drop_agent(mut agent: Agent) -> Result<()> {
    agent.terminate().await?;
    // Its drop would take everything out of the kernel.
    std::mem::forget(agent);
    Ok(())
}

async fn round(rig: &Rig, container: &Container, requests: u32, random: &mut SmallRng) -> Result<Round> {
    let mut order = [Under::Looking, Under::Blind, Under::BlindAgain];
    order.shuffle(random);
    let mut loads = Load::ALL;
    let mut round = Round::default();
    for under in order {
        let agent = rig.start_agent(if under == Under::Looking { &[] } else { OFF }).await?;
        // What is known is looked at by now: a first request waits for nothing.
        measure(rig, &agent, container, Load::Curl, 50).await?;
        loads.shuffle(random);
        for load in loads {
            let measure = measure(rig, &agent, container, load, requests).await?;
            round[load as usize][under as usize] = Some(measure);
        }
        drop_agent(agent).await?;
    }
    Ok(round)
}

async fn measure(
    rig: &Rig,
    agent: &Agent,
    container: &Container,
    load: Load,
    requests: u32,
) -> Result<Measure> {
    let request = ExecSyncRequest {
        container_id: container.id().to_owned(),
        cmd: load.command(requests),
        timeout: 300,
    };
    let pid = agent.pid().context("the agent is not running")?;
    let (cpu, begun) = (cpu(pid)?, Instant::now());
    let reply = rig.cri().exec_sync(request).await?.into_inner();
    let took = begun.elapsed();
    let errors = String::from_utf8_lossy(&reply.stderr);
    ensure!(reply.exit_code == 0, "{load:?}: exit code {}: {errors}", reply.exit_code);
    // What the agent still has to do belongs to this load, and must not slow the next.
    let mut done = self::cpu(pid)?;
    loop {
        tokio::time::sleep(REST).await;
        let now = self::cpu(pid)?;
        if now - done < IDLE {
            break;
        }
        done = now;
    }
    let cpu = done - cpu;
    Ok(Measure { took: took.as_secs_f64(), most: load.most(&errors)?, cpu })
}

/// CPU seconds of a process's threads so far.
fn cpu(pid: u32) -> Result<f64> {
    let mut sum = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let on_cpu = text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(0);
        sum += Duration::from_nanos(on_cpu);
    }
    Ok(sum.as_secs_f64())
}

fn tell(report: &mut Report, load: Load, rounds: &[Round], requests: u32) -> Result<()> {
    let of = |under: Under, value: fn(&Measure) -> f64| -> Vec<f64> {
        rounds.iter().filter_map(|round| round[load as usize][under as usize].as_ref()).map(value).collect()
    };
    let ratios = |one: &[f64], other: &[f64]| {
        Median::of(one.iter().zip(other).map(|(one, other)| one / other)).context("no rounds")
    };
    let mut compare = |name: &str, value: fn(&Measure) -> f64, most: Option<f64>| -> Result<()> {
        let [looking, blind, again] =
            [Under::Looking, Under::Blind, Under::BlindAgain].map(|under| of(under, value));
        let (ratio, control) = (ratios(&looking, &blind)?, ratios(&again, &blind)?);
        if let Some(most) = most {
            ratio::held_against(report, name, "× without", most, ratio, control);
        } else {
            ratio::noted(report, name, "× without", ratio);
            ratio::noted(report, &format!("{name}: A/A control"), "× without", control);
        }
        Ok(())
    };
    let name = load.name();
    let aim = (load == Load::Plain).then_some(PLAIN);
    compare(&format!("{name}: time for a request"), |measure| measure.took, aim)?;
    compare(&format!("{name}: p99"), |measure| measure.most, None)?;
    let median = |values: Vec<f64>| Median::of(values).map_or(0.0, |median| median.value);
    let (with, without) = (
        median(of(Under::Looking, |measure| measure.took)),
        median(of(Under::Blind, |measure| measure.took)),
    );
    let requests = f64::from(requests);
    report.note(&format!("{name}: requests a second, with"), (requests / with).round(), "");
    report.note(&format!("{name}: requests a second, without"), (requests / without).round(), "");
    let cost = (with - without) / requests * 1e6;
    report.note(&format!("{name}: cost of a request's event"), ratio::rounded(cost), "µs of the load's time");
    let cpu = median(of(Under::Looking, |measure| measure.cpu)) / requests * 1e6;
    report.note(&format!("{name}: the agent's part"), ratio::rounded(cpu), "µs of CPU for a request");
    Ok(())
}
