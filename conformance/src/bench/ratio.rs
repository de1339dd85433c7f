//! Ratios of interleaved rounds: the median, and how sure it is.

use crate::report::Report;

/// A median with its interval of at least 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Median {
    pub(super) value: f64,
    low: f64,
    high: f64,
}

impl Median {
    /// Of some values; `None` of none. The interval runs between two order statistics, and so assumes nothing of how the
    /// values are spread: the count of values below the true median is that of heads in as many tosses of a coin.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let value = f64::midpoint(*sorted.get(count.checked_sub(1)? / 2)?, *sorted.get(count / 2)?);
        let outside = left_out(count);
        Some(Self { value, low: sorted[outside], high: sorted[count - 1 - outside] })
    }

    /// How far the interval reaches from 1.
    fn off_one(self) -> f64 {
        (self.low - 1.0).abs().max((self.high - 1.0).abs())
    }

    fn unit(self, of: &str) -> String {
        format!("{of} [{:.3}, {:.3}]", self.low, self.high)
    }
}

/// How many of the smallest, and of the largest, of `count` values the interval leaves out.
fn left_out(count: usize) -> usize {
    let tosses = u32::try_from(count).unwrap_or(u32::MAX);
    // Chance of no heads; then of one more each time.
    let mut chance = 0.5_f64.powf(tosses.into());
    let mut tail = chance;
    let mut heads = 0;
    while tail <= 0.025 && heads < tosses / 2 {
        heads += 1;
        chance *= f64::from(tosses - heads + 1) / f64::from(heads);
        tail += chance;
    }
    heads.saturating_sub(1) as usize
}

/// Adds a ratio and its control, which are ratios of the same rounds: what should be at most `most`, beside what should be 1.
/// Where the control strays from 1 by more than the margin that is asked for, nothing can be said.
pub(super) fn held_against(
    report: &mut Report,
    name: &str,
    of: &str,
    most: f64,
    ratio: Median,
    control: Median,
) {
    let ok = (control.off_one() <= most - 1.0).then_some(ratio.value <= most);
    report.add(name, rounded(ratio.value), &ratio.unit(of), &format!("≤ {most}"), ok);
    report.note(&format!("{name}: A/A control"), rounded(control.value), &control.unit(of));
}

/// Adds a ratio that is what it is.
pub(super) fn noted(report: &mut Report, name: &str, of: &str, ratio: Median) {
    report.note(name, rounded(ratio.value), &ratio.unit(of));
}

/// To three places.
pub(super) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::{Median, held_against, left_out};
    use crate::report::Report;

    #[test]
    fn intervals_are_those_of_the_tables() {
        // As in the tables of the sign test: of 6 values the ends, of 20 the 6th and the 15th.
        for (count, out) in [(1, 0), (5, 0), (6, 0), (10, 1), (20, 5), (30, 9), (100, 39)] {
            assert_eq!(left_out(count), out, "of {count}");
        }
        let median = Median::of((1..=20).map(f64::from)).unwrap();
        assert_eq!((median.value, median.low, median.high), (10.5, 6.0, 15.0));
        assert_eq!(Median::of([]), None);
    }

    #[test]
    fn a_wide_control_says_nothing() {
        let [sharp, wide, ratio] =
            [[0.99, 1.01], [0.8, 1.3], [1.2, 1.2]].map(|ends| Median::of(ends).unwrap());
        let mut report = Report::new("test", 1);
        held_against(&mut report, "good", "", 1.25, ratio, sharp);
        held_against(&mut report, "bad", "", 1.1, ratio, sharp);
        held_against(&mut report, "open", "", 1.1, ratio, wide);
        let oks: Vec<_> =
            report.results.iter().filter(|result| !result.aim.is_empty()).map(|result| result.ok).collect();
        assert_eq!(oks, [Some(true), Some(false), None]);
    }
}
