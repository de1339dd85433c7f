//! The operator's commands.

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use sluice_api::frame::FrameError;

use crate::agent::Format;
use crate::agent::admin::{self, AskError};
use crate::agent::store;
use crate::{datapath, selftest};

pub(crate) mod agent;
pub(crate) mod dns;
pub(crate) mod observe;
pub(crate) mod pods;
pub mod policy;
pub(crate) mod status;
mod table;
pub(crate) mod tls;

/// Exit code when no agent answers.
const EXIT_NO_AGENT: u8 = 3;

/// What a command that asks the agent ends with if there is no answer.
fn no_answer(error: AskError) -> anyhow::Result<ExitCode> {
    match error {
        AskError::Unreachable { .. } | AskError::Frame(FrameError::Io(_)) => {
            eprintln!("sluice: {error}");
            Ok(ExitCode::from(EXIT_NO_AGENT))
        }
        error => Err(error.into()),
    }
}

/// `sluice self-test`.
pub fn self_test(options: &selftest::Options, format: Format) -> anyhow::Result<ExitCode> {
    let outcome = selftest::run(options)?;
    match format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&outcome)?),
        Format::Text => {
            println!(
                "{} packets under {} policy sets, {} of them denied: {} differences (seed {})",
                outcome.pairs, outcome.policy_sets, outcome.denied, outcome.differences, outcome.seed
            );
            for example in &outcome.examples {
                println!("  {example}");
            }
        }
    }
    Ok(ExitCode::from(u8::from(outcome.differences > 0)))
}

/// `sluice detach`.
pub fn detach(bpffs: &Path, run_dir: &Path) -> anyhow::Result<ExitCode> {
    if admin::ask_status(run_dir).is_ok() {
        bail!(
            "an agent runs with {}; stop it first, or it would go on without its programs",
            run_dir.display()
        );
    }
    for path in datapath::detach(bpffs)? {
        println!("removed {}", path.display());
    }
    for directory in ["endpoints", "rulesets", "spool"] {
        store::remove_directory(&run_dir.join(directory))?;
    }
    for file in ["ready", "cni.sock", "admin.sock", "agent.lock"] {
        store::remove(&run_dir.join(file))?;
    }
    store::remove_if_empty(run_dir)?;
    Ok(ExitCode::SUCCESS)
}
