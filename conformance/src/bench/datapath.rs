//! I10 of the design: one cost a flow, not a packet. What a packet costs in the egress program, held against a program
//! that does one storage look-up and one array read, and how that grows with rules and pods.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ratio::{self, Median};
use crate::report::Report;
use crate::rig::{Place, binary};

/// The most that a packet of an established flow may cost.
pub(super) const ESTABLISHED: f64 = 1.5;
/// The most that it may grow between the smallest and the largest size.
pub(super) const GROWTH: f64 = 1.1;
/// The least number of rounds.
pub(super) const ROUNDS: u32 = 20;

/// What the benchmark is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets for each figure.
    pub repeats: u32,
    /// Rounds; at least 20.
    pub rounds: u32,
    /// Seed of the order within a round.
    pub seed: u64,
}

/// One round of one size, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    round: u32,
    rules: u32,
    endpoints: u32,
    baseline: f64,
    control: f64,
    established: f64,
    judged: u64,
    first: f64,
    denied: f64,
    wire: f64,
    heard: f64,
    single: f64,
    single_baseline: f64,
}

/// What is taken of a sample.
type Figure = fn(Sample) -> f64;

/// Ended with the benchmark, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Has ended unless something failed; then this is all that can be done.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the benchmark.
pub fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.rounds >= ROUNDS, "at least {ROUNDS} rounds: fewer say nothing");
    let mut report = Report::new("bench datapath", options.seed);
    let samples = samples(place, options, &[], |sample: &Sample| sample.round)?;
    judge(&mut report, &samples)?;
    Ok(report)
}

/// The lines that the command prints with these arguments too. `round` tells of which round one is.
pub(super) fn samples<T: DeserializeOwned>(
    place: &Place,
    options: Options,
    arguments: &[&str],
    round: fn(&T) -> u32,
) -> Result<Vec<T>> {
    let mut command = Command::new(binary("sluice")?);
    command.args(["bench-datapath", "--repeats", &options.repeats.to_string()]).args(arguments);
    command.args(["--rounds", &options.rounds.to_string(), "--seed", &options.seed.to_string()]);
    command.arg("--cgroup-root").arg(&place.cgroup_root);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().context("sluice bench-datapath")?);
    let output = running.0.stdout.take().context("stdout was piped")?;
    let mut samples: Vec<T> = Vec::new();
    for line in BufReader::new(output).lines() {
        let line = line?;
        let sample: T = serde_json::from_str(&line).with_context(|| format!("a sample: {line:?}"))?;
        let number = round(&sample);
        if samples.last().is_none_or(|last| round(last) != number) && number.is_multiple_of(5) {
            eprintln!("bench datapath: round {} of {}", number + 1, options.rounds);
        }
        samples.push(sample);
    }
    let status = running.0.wait()?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(samples)
}

fn judge(report: &mut Report, samples: &[Sample]) -> Result<()> {
    let mut sizes: Vec<(u32, u32)> = samples.iter().map(|sample| (sample.rules, sample.endpoints)).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of = |size: (u32, u32)| {
        samples.iter().filter(move |sample| (sample.rules, sample.endpoints) == size).copied()
    };
    let median = |size, figure: Figure| Median::of(of(size).map(figure)).context("no samples");

    report.note("rounds", of(sizes.first().copied().context("no samples")?).count(), "");
    // Of a packet's many repeats only the first is judged: what is timed is the kept verdict.
    let judged = samples.iter().map(|sample| sample.judged).max();
    report.equal("established: judged, at most", judged, "times in all repeats", 1);
    report.note("baseline", ratio::rounded(median(sizes[0], |sample| sample.baseline)?.value), "ns");
    for size in &sizes {
        let label = |what: &str| format!("{what}, {} rules, {} pods", size.0, size.1);
        ratio::held_against(
            report,
            &label("established"),
            "× baseline",
            ESTABLISHED,
            median(*size, |sample| sample.established / sample.baseline)?,
            median(*size, |sample| sample.control / sample.baseline)?,
        );
        let ways: [(&str, Figure); 5] = [
            ("judged datagram", |sample| sample.first / sample.baseline),
            ("denied packet", |sample| sample.denied / sample.baseline),
            ("frame judged at the host's end", |sample| sample.wire / sample.baseline),
            ("frame to the pod, noted", |sample| sample.heard / sample.baseline),
            ("first packet alone", |sample| sample.single / sample.single_baseline),
        ];
        for (what, figure) in ways {
            ratio::noted(report, &label(what), "× baseline", median(*size, figure)?);
        }
        report.note(
            &label("established: time"),
            ratio::rounded(median(*size, |sample| sample.established)?.value),
            "ns",
        );
    }

    let (small, large) = (sizes[0], sizes[sizes.len() - 1]);
    let growth = |figure: Figure| {
        let pairs = of(small).zip(of(large));
        Median::of(pairs.map(|(small, large)| figure(large) / figure(small))).context("no samples")
    };
    ratio::held_against(
        report,
        &format!("established, growth to {} rules, {} pods", large.0, large.1),
        "× the smallest",
        GROWTH,
        growth(|sample| sample.established)?,
        growth(|sample| sample.baseline)?,
    );
    Ok(())
}
