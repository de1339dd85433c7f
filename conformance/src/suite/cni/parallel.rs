//! A hundred pods at once.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use super::plugin::{self, Answer};
use super::sandbox::Sandbox;
use super::{Run, VERSIONS};

/// How many.
const PODS: u32 = 100;
/// Every how many-th of them is tried with a connection.
const SAMPLE: usize = 10;
/// The maps that grow with the pods.
const MAPS: [&str; 4] = ["ENDPOINTS", "LINKS", "ADDRESSES", "PORTS"];

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    // No pod is there. What those before had goes with a delay.
    run.until("the kernel's maps to be empty", || is_empty(run)).await?;
    let sandboxes = run.sandboxes(PODS)?;
    let answers = all(run, "ADD", &sandboxes).await;
    let slowest = answers.iter().flatten().map(|answer| answer.took).max().unwrap_or_default();
    run.report.note(&format!("the slowest of {PODS} ADDs at once"), slowest.as_millis() as u64, "ms");
    let found = answers.and_then(|answers| {
        let results = sandboxes.iter().zip(0..).map(|(sandbox, number)| sandbox.result(version(number)));
        answers.iter().zip(results).try_for_each(|(answer, result)| answer.passes_on(&result))
    });
    run.clause(&format!("parallel: {PODS} ADDs at once, each answered with its own result"), found);
    let found = sandboxes.iter().try_for_each(|sandbox| run.shown(sandbox, &sandbox.ips));
    run.clause(&format!("parallel: all {PODS} pods are governed, with their own addresses"), found);
    let mut found = Ok(());
    for sandbox in sandboxes.iter().step_by(SAMPLE) {
        found = found.and(run.governed(sandbox).await);
    }
    run.clause("parallel: a sample of them gets what the policy says", found);
    let answers = all(run, "DEL", &sandboxes).await;
    let found = answers.and_then(|answers| answers.iter().try_for_each(Answer::is_silent));
    run.clause(&format!("parallel: {PODS} DELs at once"), found);
    for sandbox in sandboxes {
        sandbox.remove()?;
    }
    let found = run.until("the kernel's maps to be empty", || is_empty(run)).await;
    let found = found.with_context(|| format!("entries of {MAPS:?}: {:?}", entries(run)));
    run.clause("parallel: the kernel's maps are as before: empty", found);
    Ok(())
}

fn version(number: usize) -> &'static str {
    VERSIONS[number % VERSIONS.len()]
}

/// Calls the plugin for all of them at the same time.
async fn all(run: &Run<'_>, verb: &str, sandboxes: &[Sandbox]) -> Result<Vec<Answer>> {
    let mut calls = JoinSet::new();
    for (number, sandbox) in sandboxes.iter().enumerate() {
        let (binary, vars) = (run.plugin.clone(), plugin::vars(verb, sandbox));
        let input = run.conf(version(number), sandbox).to_string();
        calls.spawn(async move { Ok((number, plugin::call(&binary, &vars, input.as_bytes()).await?)) });
    }
    let answers: BTreeMap<usize, Answer> = calls.join_all().await.into_iter().collect::<Result<_>>()?;
    ensure!(answers.len() == sandboxes.len(), "{} of {} answered", answers.len(), sandboxes.len());
    Ok(answers.into_values().collect())
}

fn is_empty(run: &Run<'_>) -> Result<bool> {
    Ok(entries(run)?.iter().all(|entries| *entries == 0))
}

/// Entries of each map.
fn entries(run: &Run<'_>) -> Result<[usize; MAPS.len()]> {
    run.agent()?.map_entries(MAPS)
}
