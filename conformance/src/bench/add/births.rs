//! What ADD costs: the chain with Sluice's plugin behind it, held against the same chain without.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::app;
use super::chain::{Chain, Last, Took};
use super::pods::{Birth, Maker};
use crate::bench::ratio::{self, Median};
use crate::report::Report;

/// The most that a chain may take with Sluice in it.
const MOST: f64 = 1.1;
/// The least number of rounds by which anything is held against an aim.
const ROUNDS: u32 = 20;
/// What the ratios are of.
const OF: &str = "× the chain without";
/// Where pods come one at a time, a round takes the median of so many.
const SINGLES: usize = 5;
/// Apps among which the pods are divided; each has a policy of its own.
const APPS: usize = 10;
/// What is put last, in turn. The plain chain comes twice: the second time is the control.
const WAYS: [Last; 4] = [Last::Plain, Last::Plain, Last::Nothing, Last::Sluice];

/// One round of one size: the time of each way, in seconds.
type Round = [f64; WAYS.len()];

/// A chain, by the name that the report has for it, and how many are born by it at the same time.
pub(super) struct Line<'a> {
    pub(super) chain: &'a Chain,
    pub(super) name: &'static str,
    pub(super) parallel: &'a [usize],
    /// Whether the aim is held against it.
    pub(super) is_aimed_at: bool,
}

/// Where pods are born, with what was seen of single plugins.
struct Nursery<'a> {
    chain: &'a Chain,
    maker: &'a mut Maker,
    /// Of each ADD that had no other beside it: Sluice's plugin.
    shares: Vec<f64>,
}

/// Measures ADD with so many at the same time, and adds what came of it. Gives by how many seconds a single ADD is longer.
pub(super) fn measure(
    report: &mut Report,
    line: &Line<'_>,
    maker: &mut Maker,
    random: &mut SmallRng,
    rounds: u32,
) -> Result<f64> {
    let mut nursery = Nursery { chain: line.chain, maker, shares: Vec::new() };
    let mut seen: Vec<Vec<Round>> = vec![Vec::new(); line.parallel.len()];
    // What is slow only once: the bridge is made, files come into memory.
    for last in WAYS {
        nursery.batch(1, last)?;
    }
    for round in 0..rounds {
        if round % 5 == 0 {
            eprintln!("bench add: births, {} chain, round {} of {rounds}", line.name, round + 1);
        }
        for (size, seen) in line.parallel.iter().zip(&mut seen) {
            seen.push(nursery.round(*size, random)?);
        }
    }
    for (size, seen) in line.parallel.iter().zip(&seen) {
        let how = if *size == 1 { "one at a time".to_owned() } else { format!("{size} in parallel") };
        tell(
            report,
            &format!("ADD, {} chain, {how}", line.name),
            seen,
            line.is_aimed_at && rounds >= ROUNDS,
        )?;
    }
    nursery.single(report, line.name);
    let singles = line.parallel.iter().zip(&seen).find(|(size, _)| **size == 1).map(|(_, seen)| seen);
    let longer = singles.into_iter().flatten().map(|[plain, _, _, whole]| whole - plain);
    Ok(Median::of(longer).map_or(0.0, |median| median.value))
}

/// What the rounds of one size say.
fn tell(report: &mut Report, what: &str, seen: &[Round], is_held: bool) -> Result<()> {
    let median = |figure: fn(&Round) -> f64| Median::of(seen.iter().map(figure)).context("no rounds");
    let (with, control) = (median(|round| round[3] / round[0])?, median(|round| round[1] / round[0])?);
    if is_held {
        ratio::held_against(report, what, OF, MOST, with, control);
    } else {
        ratio::noted(report, what, OF, with);
        ratio::noted(report, &format!("{what}: A/A control"), OF, control);
    }
    let nothing = median(|round| round[2] / round[0])?;
    ratio::noted(report, &format!("{what}: a program that does nothing instead"), OF, nothing);
    let milliseconds = |seconds: f64| ratio::rounded(seconds * 1e3);
    report.note(&format!("{what}: without"), milliseconds(median(|round| round[0])?.value), "ms");
    report.note(&format!("{what}: with"), milliseconds(median(|round| round[3])?.value), "ms");
    Ok(())
}

impl Nursery<'_> {
    /// All ways in a random order.
    fn round(&mut self, parallel: usize, random: &mut SmallRng) -> Result<Round> {
        let mut ways: Vec<usize> = (0..WAYS.len()).collect();
        let mut seconds = [const { Vec::new() }; WAYS.len()];
        for _ in 0..if parallel == 1 { SINGLES } else { 1 } {
            ways.shuffle(random);
            for &way in &ways {
                seconds[way].push(self.batch(parallel, WAYS[way])?.as_secs_f64());
            }
        }
        Ok(seconds.map(|all| Median::of(all).map_or(f64::NAN, |median| median.value)))
    }

    /// Adds so many pods at the same time and removes them again; gives how long it took until all were added.
    fn batch(&mut self, parallel: usize, last: Last) -> Result<Duration> {
        let pods = (0..parallel).map(|number| self.maker.make(number, app(number % APPS)));
        let pods: Vec<Birth> = pods.collect::<Result<_>>()?;
        let chain = self.chain;
        let start = Barrier::new(parallel + 1);
        let (took, added) = thread::scope(|scope| {
            let threads: Vec<_> = pods
                .iter()
                .map(|pod| {
                    scope.spawn(|| {
                        start.wait();
                        chain.add(pod, last)
                    })
                })
                .collect();
            start.wait();
            let begun = Instant::now();
            let added: Vec<Result<Took>> =
                threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            (begun.elapsed(), added)
        });
        let added = added.into_iter().collect::<Result<Vec<Took>>>()?;
        // Where one pod is added its own time is better than that of the thread around it.
        let took = if let [first] = &added[..] {
            if last == Last::Sluice {
                self.shares.push(first.last.as_secs_f64());
            }
            first.whole
        } else {
            took
        };
        for (pod, added) in pods.into_iter().zip(added) {
            chain.del(&pod, last, &added.result)?;
            pod.bury()?;
        }
        Ok(took)
    }

    /// The plugin's own time.
    fn single(&self, report: &mut Report, chain: &str) {
        if let Some(time) = Median::of(self.shares.iter().copied()) {
            report.note(
                &format!("ADD, {chain} chain: sluice-cni and agent"),
                ratio::rounded(time.value * 1e3),
                "ms",
            );
        }
    }
}
