//! What the agent takes of the node: memory and open files, over its many lives and over one long one.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::report::Report;
use crate::rig::Agent;

/// Of the samples in the long life, one of so many is for warming up.
const WARM_UP: usize = 4;
/// The last third of the samples may have so much more memory than the first: of many lives, which are short and end in the
/// midst of anything, and of one long one.
const MARGINS: [f64; 2] = [1.1, 1.05];

/// The agent at one moment.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Seconds since the start of the suite.
    at: f64,
    /// Its heap. The rest comes and goes with the threads and children that read what containers map.
    kib: f64,
    /// Open files that it keeps.
    files: f64,
}

/// The samples.
pub(super) struct Gauge {
    start: Instant,
    lives: Vec<Sample>,
    calm: Vec<Sample>,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), lives: Vec::new(), calm: Vec::new() }
    }

    fn sample(&self, agent: &Agent) -> Result<Sample> {
        let pid = agent.pid().context("the agent is not running")?;
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let mut heap = maps.lines().skip_while(|line| !line.ends_with("[heap]"));
        let kib = heap.find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB"));
        let kib = kib.context("smaps has no heap")?.trim().parse()?;
        let open = fs::read_dir(format!("/proc/{pid}/fd"))?
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        let files = u32::try_from(open.filter(|file| is_kept(file)).count())?.into();
        Ok(Sample { at: self.start.elapsed().as_secs_f64(), kib, files })
    }

    /// At the end of a life.
    pub(super) fn life(&mut self, agent: &Agent) -> Result<()> {
        self.lives.push(self.sample(agent)?);
        Ok(())
    }

    /// In the long life.
    pub(super) fn calm(&mut self, agent: &Agent) -> Result<()> {
        self.calm.push(self.sample(agent)?);
        Ok(())
    }

    pub(super) fn judge(&self, report: &mut Report) {
        let warm = &self.calm[self.calm.len() / WARM_UP..];
        let [lives, life] = MARGINS;
        for (name, samples, margin) in
            [("end of a life", &self.lives[..], lives), ("in one long life", warm, life)]
        {
            let [first, last] = thirds(samples, |sample| sample.kib);
            report.note(&format!("agent's memory, {name}: samples"), samples.len(), "");
            report.note(&format!("agent's memory, {name}: last third"), last.round(), "KiB of heap, median");
            let per_minute = slope(samples) * 60.0;
            report.note(
                &format!("agent's memory, {name}: fitted growth"),
                per_minute.round(),
                "KiB a minute",
            );
            let ratio = (last / first * 1000.0).round() / 1000.0;
            let (unit, aim) = ("last third to first", format!("≤ {margin}"));
            // Too few to tell anything of.
            let ok = (samples.len() >= 9).then_some(ratio <= margin);
            report.add(&format!("agent's memory, {name}: growth"), ratio, unit, &aim, ok);
            let [first, last] = thirds(samples, |sample| sample.files);
            let ok = (samples.len() >= 9).then_some(last <= first);
            report.add(&format!("agent's open files, {name}"), last, "median", &format!("≤ {first}"), ok);
        }
    }
}

/// Is it a file that is not just being read, by the agent or by a child of it?
fn is_kept(file: &Path) -> bool {
    let name = file.to_string_lossy();
    !name.starts_with(['/', '(']) && !name.starts_with("pipe:") && !name.contains("pidfd")
}

/// The medians of the first and of the last third.
fn thirds(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> [f64; 2] {
    let third = (samples.len() / 3).max(1).min(samples.len());
    let median = |samples: &[Sample]| {
        let mut values: Vec<f64> = samples.iter().map(&of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    };
    [median(&samples[..third]), median(&samples[samples.len() - third..])]
}

/// Growth by the least squares, in KiB a second.
fn slope(samples: &[Sample]) -> f64 {
    let count: f64 = samples.iter().map(|_| 1.0).sum();
    let mean = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (at, kib) = (mean(|sample| sample.at), mean(|sample| sample.kib));
    let covariance: f64 = samples.iter().map(|sample| (sample.at - at) * (sample.kib - kib)).sum();
    let variance: f64 = samples.iter().map(|sample| (sample.at - at).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{Gauge, Sample, slope, thirds};
    use crate::report::Report;

    fn samples(growth: f64) -> Vec<Sample> {
        (0..12).map(f64::from).map(|at| Sample { at, kib: 1000.0 + growth * at, files: 9.0 }).collect()
    }

    #[test]
    fn growth_shows() {
        assert!((slope(&samples(7.0)) - 7.0).abs() < 1e-9);
        for (growth, expected) in [(0.0, [1000.0, 1000.0]), (1.0, [1002.0, 1010.0])] {
            let seen = thirds(&samples(growth), |sample| sample.kib);
            assert!(
                seen.iter().zip(expected).all(|(seen, expected)| (seen - expected).abs() < 1e-9),
                "{seen:?}"
            );
        }
    }

    #[test]
    fn a_leak_fails_and_none_does_not() {
        for (growth, ok) in [(0.0, true), (50.0, false)] {
            let gauge = Gauge { lives: samples(growth), calm: samples(growth), ..Gauge::new() };
            let mut report = Report::new("test", 1);
            gauge.judge(&mut report);
            assert_eq!(report.ok(), ok, "growth {growth}");
        }
    }
}
