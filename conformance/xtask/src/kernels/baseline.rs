//! `conformance/kernels/steps.json`: what the verifier made of the programs when they were last looked at.
//!
//! ```json
//! {"6.1": {"egress": {"instructions": 900, "steps": 12000}}}
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};

use super::vm::Seen;
use crate::shell::Checkout;

/// How much more than the baseline is too much, in percent.
pub(super) const MARGIN: u64 = 25;

/// What a kernel told of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effort {
    /// Instructions after the verifier's rewriting.
    pub(super) instructions: Option<u64>,
    /// Instructions that the verifier walked through; older kernels do not tell.
    pub(super) steps: Option<u64>,
}

impl Effort {
    /// Reads it out of the baseline or of a self-test's outcome.
    pub(super) fn read(value: &Value) -> Self {
        Self { instructions: value["instructions"].as_u64(), steps: value["steps"].as_u64() }
    }
}

/// Programs by name, as one kernel has them.
pub(super) type Programs = BTreeMap<String, Effort>;

/// Programs by kernel series.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Baseline(pub(super) BTreeMap<String, Programs>);

impl Baseline {
    /// Reads the committed one.
    pub(super) fn load(checkout: &Checkout) -> Result<Self> {
        let path = path(checkout);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text)
            .with_context(|| format!("{}: write it anew with `cargo xtask kernels --update`", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let kernels: Map<String, Value> = serde_json::from_str(text)?;
        let programs = |value: &Value| -> Result<Programs> {
            let programs = value.as_object().context("a kernel's entry is not an object")?;
            Ok(programs.iter().map(|(name, effort)| (name.clone(), Effort::read(effort))).collect())
        };
        let kernels = kernels.iter().map(|(series, value)| Ok((series.clone(), programs(value)?)));
        Ok(Self(kernels.collect::<Result<_>>()?))
    }

    /// What is known of a program.
    pub(super) fn effort(&self, series: &str, program: &str) -> Option<Effort> {
        self.0.get(series)?.get(program).copied()
    }

    /// Writes it, for a commit.
    pub(super) fn store(&self, checkout: &Checkout) -> Result<()> {
        let path = path(checkout);
        let mut text = self.render()?;
        text.push('\n');
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{} is written: look at its changes and commit it", path.display());
        Ok(())
    }

    fn render(&self) -> Result<String> {
        let mut series: Vec<&String> = self.0.keys().collect();
        series.sort_by_key(|series| order(series));
        let programs = |programs: &Programs| -> Map<String, Value> {
            let of = |e: &Effort| json!({"instructions": e.instructions, "steps": e.steps});
            programs.iter().map(|(name, effort)| (name.clone(), of(effort))).collect()
        };
        let kernels: Map<String, Value> =
            series.iter().map(|series| ((*series).clone(), programs(&self.0[*series]).into())).collect();
        Ok(serde_json::to_string_pretty(&kernels)?)
    }
}

/// The programs that a self-test's outcome lists.
pub(super) fn programs(outcome: &Value) -> Programs {
    let programs = outcome["programs"].as_array().into_iter().flatten();
    programs.filter_map(|one| Some((one["name"].as_str()?.to_owned(), Effort::read(one)))).collect()
}

/// What was seen in place of what `before` says of these kernels. If `all` ran, others are dropped.
pub(super) fn updated(seen: &[Seen], before: Baseline, all: bool) -> Baseline {
    let mut kernels = before.0;
    if all {
        kernels.retain(|series, _| seen.iter().any(|kernel| kernel.series == *series));
    }
    for kernel in seen {
        if let Some(outcome) = &kernel.outcome {
            kernels.insert(kernel.series.clone(), programs(outcome));
        }
    }
    Baseline(kernels)
}

/// 6.12 comes after 6.1 and 6.2.
fn order(series: &str) -> Vec<u64> {
    series.split('.').filter_map(|part| part.parse().ok()).collect()
}

/// The most that is still well.
pub(super) fn limit(baseline: u64) -> u64 {
    baseline + baseline * MARGIN / 100
}

fn path(checkout: &Checkout) -> PathBuf {
    checkout.root.join("conformance/kernels/steps.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baseline_is_read_as_it_was_written() {
        let effort = |instructions, steps| Effort { instructions: Some(instructions), steps };
        let programs = |steps| Programs::from([("egress".to_owned(), effort(900, steps))]);
        let baseline =
            Baseline([("6.12".to_owned(), programs(Some(7))), ("5.10".to_owned(), programs(None))].into());
        let text = baseline.render().expect("a text");
        assert_eq!(Baseline::parse(&text).expect("a baseline"), baseline);
        assert!(text.find("5.10") < text.find("6.12"), "{text}");
    }

    #[test]
    fn limit_is_a_quarter_above() {
        assert_eq!([limit(100), limit(3), limit(0)], [125, 3, 0]);
    }
}
