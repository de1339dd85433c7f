//! What ADD costs: the chain with Sluice's plugin behind it, held against the same chain without.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::chain::{Chain, PLAIN, Took, WHOLE};
use super::pods::{Birth, Maker};
use super::{Options, app};
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

/// One round of one size, in seconds.
#[derive(Clone, Copy)]
struct Round {
    plain: f64,
    /// The plain chain once more.
    control: f64,
    whole: f64,
}

/// Where pods are born, with what was seen of single plugins.
struct Nursery<'a> {
    chain: &'a Chain,
    maker: &'a mut Maker,
    /// Of each ADD that had no other beside it: Sluice's plugin, and the one before it.
    shares: Vec<(f64, f64)>,
}

/// Measures ADD with so many at the same time, and adds what came of it. Gives by how many seconds a single ADD is longer.
pub(super) fn measure(
    report: &mut Report,
    chain: &Chain,
    maker: &mut Maker,
    random: &mut SmallRng,
    options: &Options,
) -> Result<f64> {
    let mut nursery = Nursery { chain, maker, shares: Vec::new() };
    let sizes = &options.parallel;
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); sizes.len()];
    // What is slow only once: the bridge is made, files come into memory.
    for count in [PLAIN, WHOLE] {
        nursery.batch(1, count)?;
    }
    for round in 0..options.rounds {
        if round % 5 == 0 {
            eprintln!("bench add: births, round {} of {}", round + 1, options.rounds);
        }
        for (size, rounds) in sizes.iter().zip(&mut rounds) {
            rounds.push(nursery.round(*size, random)?);
        }
    }
    report.note("rounds", options.rounds, "");
    for (size, rounds) in sizes.iter().zip(&rounds) {
        let median = |figure: fn(&Round) -> f64| Median::of(rounds.iter().map(figure)).context("no rounds");
        let what =
            if *size == 1 { "ADD, one at a time".to_owned() } else { format!("ADD, {size} in parallel") };
        let (with, control) =
            (median(|round| round.whole / round.plain)?, median(|round| round.control / round.plain)?);
        if options.rounds >= ROUNDS {
            ratio::held_against(report, &what, OF, MOST, with, control);
        } else {
            ratio::noted(report, &what, OF, with);
            ratio::noted(report, &format!("{what}: A/A control"), OF, control);
        }
        let milliseconds = |seconds: f64| ratio::rounded(seconds * 1e3);
        report.note(&format!("{what}: without"), milliseconds(median(|round| round.plain)?.value), "ms");
        report.note(&format!("{what}: with"), milliseconds(median(|round| round.whole)?.value), "ms");
    }
    nursery.single(report)?;
    let singles = sizes.iter().zip(&rounds).find(|(size, _)| **size == 1).map(|(_, rounds)| rounds);
    let longer = singles.into_iter().flatten().map(|round| round.whole - round.plain);
    Ok(Median::of(longer).map_or(0.0, |median| median.value))
}

impl Nursery<'_> {
    /// All three ways in a random order.
    fn round(&mut self, parallel: usize, random: &mut SmallRng) -> Result<Round> {
        let mut ways = [(0, PLAIN), (1, PLAIN), (2, WHOLE)];
        let mut seconds = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..if parallel == 1 { SINGLES } else { 1 } {
            ways.shuffle(random);
            for (way, count) in ways {
                seconds[way].push(self.batch(parallel, count)?.as_secs_f64());
            }
        }
        let [plain, control, whole] =
            seconds.map(|all| Median::of(all).map_or(f64::NAN, |median| median.value));
        Ok(Round { plain, control, whole })
    }

    /// Adds so many pods at the same time and removes them again; gives how long it took until all were added.
    fn batch(&mut self, parallel: usize, count: usize) -> Result<Duration> {
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
                        chain.add(pod, count)
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
        if let ([first], true) = (&added[..], count == WHOLE) {
            self.shares
                .push((first.plugins[WHOLE - 1].as_secs_f64(), first.plugins[PLAIN - 1].as_secs_f64()));
        }
        // Where one pod is added its own time is better than that of the thread around it.
        let took = if let [first] = &added[..] { first.whole } else { took };
        for (pod, added) in pods.into_iter().zip(added) {
            chain.del(&pod, count, &added.result)?;
            pod.bury()?;
        }
        Ok(took)
    }

    /// The plugin's own process, beside that of the plugin before it.
    fn single(&self, report: &mut Report) -> Result<()> {
        let median = |figure: fn(&(f64, f64)) -> f64| Median::of(self.shares.iter().map(figure));
        let (Some(ratio), Some(time)) = (median(|share| share.0 / share.1), median(|share| share.0)) else {
            return Ok(());
        };
        ratio::noted(report, "sluice-cni's ADD, process and agent", "× the bridge plugin's ADD", ratio);
        report.note("sluice-cni's ADD: time", ratio::rounded(time.value * 1e3), "ms");
        let version = |plugin: &str| self.chain.version(plugin).map(|took| took.as_secs_f64());
        let mut ratios = Vec::new();
        for _ in 0..self.shares.len() {
            ratios.push(version("sluice-cni")? / version("bridge")?);
        }
        if let Some(ratio) = Median::of(ratios) {
            ratio::noted(report, "sluice-cni's VERSION, process alone", "× the bridge plugin's", ratio);
        }
        Ok(())
    }
}
