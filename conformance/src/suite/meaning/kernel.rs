//! Random packets through the kernel's own programs, against the reference evaluator: `sluice self-test`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::report::Report;
use crate::rig::{Place, binary};

/// Packets of the run with a planted fault: one in a few hundred meets it.
const FAULTY_PAIRS: u64 = 20_000;

/// What the self-test answers.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    seed: u64,
    pairs: u64,
    policy_sets: u64,
    denied: u64,
    differences: u64,
    examples: Vec<String>,
}

/// Runs the self-test twice: as it is, and with a fault that it must find.
pub(super) fn run(place: &Place, pairs: u64, seed: u64, report: &mut Report) -> Result<()> {
    let sound = self_test(place, pairs, seed, false)?;
    for example in &sound.examples {
        eprintln!("meaning: {example}");
    }
    ensure!(sound.seed == seed, "the self-test ran with seed {} instead of {seed}", sound.seed);
    report.equal("kernel: packets judged", sound.pairs, "packets", pairs);
    report.some("kernel: policy sets", sound.policy_sets, "");
    report.some("kernel: packets that policy denies", sound.denied, "packets");
    report.some("kernel: packets that policy allows", sound.pairs - sound.denied, "packets");
    report.equal("kernel: differences", sound.differences, "packets", 0);
    let faulty = self_test(place, pairs.min(FAULTY_PAIRS), seed, true)?;
    report.some("kernel: differences with a planted fault", faulty.differences, "packets");
    Ok(())
}

fn self_test(place: &Place, pairs: u64, seed: u64, plant_fault: bool) -> Result<Outcome> {
    let mut command = Command::new(binary("sluice")?);
    command.args(["self-test", "--output", "json", "--pairs", &pairs.to_string()]);
    command.args(["--seed", &seed.to_string(), "--cgroup-root"]).arg(&place.cgroup_root);
    if plant_fault {
        command.arg("--plant-fault");
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("sluice self-test")?;
    // 1 means differences, which the answer tells.
    ensure!(matches!(output.status.code(), Some(0 | 1)), "{command:?}: {}", output.status);
    let answer = serde_json::from_slice(&output.stdout);
    let answer: Outcome = answer.with_context(|| format!("{command:?} gave no answer: {}", output.status))?;
    ensure!(
        output.status.success() == (answer.differences == 0),
        "{command:?}: {} with {} differences",
        output.status,
        answer.differences
    );
    Ok(answer)
}
