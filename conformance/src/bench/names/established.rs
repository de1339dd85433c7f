//! I10 of the design for rules by name: once a flow is judged they do not show in it.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Options;
use crate::bench::datapath::{self, ESTABLISHED, GROWTH};
use crate::bench::ratio::{self, Median};
use crate::report::Report;
use crate::rig::Place;

/// One round of one size, in nanoseconds a packet.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Sample {
    round: u32,
    names: u32,
    baseline: f64,
    control: f64,
    established: f64,
    judged: u64,
    request: f64,
}

/// Measures and adds what came of it.
pub(super) fn run(report: &mut Report, place: &Place, options: Options) -> Result<()> {
    let Options { repeats, rounds, seed } = options;
    let options = datapath::Options { repeats, rounds, seed };
    let samples = datapath::samples(place, options, &["--names"], |sample: &Sample| sample.round)?;
    let mut sizes: Vec<u32> = samples.iter().map(|sample| sample.names).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let of = |names: u32| samples.iter().filter(move |sample| sample.names == names).copied();
    // Of a packet's many repeats only the first is judged, by the name that it shows: what is timed is the kept verdict.
    let judged = samples.iter().map(|sample| sample.judged).max();
    report.equal("established: judged, at most", judged, "times in all repeats", 1);
    for names in &sizes {
        let median = |figure: fn(Sample) -> f64| Median::of(of(*names).map(figure)).context("no samples");
        ratio::held_against(
            report,
            &format!("established, rules with {names} names"),
            "× baseline",
            ESTABLISHED,
            median(|sample| sample.established / sample.baseline)?,
            median(|sample| sample.control / sample.baseline)?,
        );
    }
    let requests = of(sizes[sizes.len() - 1]).map(|sample| sample.request / sample.baseline);
    let request = Median::of(requests).context("no samples")?;
    ratio::noted(report, "a request of HTTP/1, read", "× baseline", request);
    for names in sizes.iter().filter(|names| **names > 0) {
        let growth = |figure: fn(Sample) -> f64| {
            let pairs = of(0).zip(of(*names));
            Median::of(pairs.map(|(none, some)| figure(some) / figure(none))).context("no samples")
        };
        ratio::held_against(
            report,
            &format!("established, {names} names"),
            "× without names",
            GROWTH,
            growth(|sample| sample.established)?,
            growth(|sample| sample.baseline)?,
        );
    }
    Ok(())
}
