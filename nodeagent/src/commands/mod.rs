//! The operator's commands.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use crate::agent::Format;
use crate::agent::admin::{self, Answer, AskError, Question, Status};
use crate::agent::store;
use crate::{datapath, selftest};

pub mod dns;
pub mod policy;

/// Exit code of `status` when the agent runs, but the policy directory has errors or a pod is not known any more.
const EXIT_NOT_WELL: u8 = 1;
/// Exit code of `status` when no agent answers.
const EXIT_NO_AGENT: u8 = 3;

/// `sluice status`.
pub fn status(run_dir: &Path, format: Format) -> anyhow::Result<ExitCode> {
    let status = match admin::ask(run_dir, &Question::Status) {
        Ok(Answer::Status(status)) => status,
        Ok(Answer::Refused(refusal)) => bail!(refusal.message),
        Ok(Answer::Dns(_)) => bail!("the agent answered another question; is it of another version?"),
        Err(error @ AskError::Unreachable { .. }) => {
            eprintln!("sluice: {error}");
            return Ok(ExitCode::from(EXIT_NO_AGENT));
        }
        Err(error) => return Err(error.into()),
    };
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
        Format::Text => write_status(&mut out, &status)?,
    }
    let is_well = status.policy_errors.is_empty() && status.orphans.is_empty();
    Ok(ExitCode::from(if is_well { 0 } else { EXIT_NOT_WELL }))
}

fn write_status(out: &mut impl Write, status: &Status) -> io::Result<()> {
    writeln!(out, "agent {} since {:.0}, posture {}", status.version, status.started, status.posture)?;
    writeln!(out, "attached at {}, ABI {}", status.cgroup_root.display(), status.abi)?;
    let counters = &status.counters;
    writeln!(
        out,
        "{} flows allowed, {} packets denied, {} replies; {} events lost, {} over budget",
        counters.allowed,
        counters.denied,
        counters.replies,
        counters.events_lost,
        counters.events_over_budget
    )?;
    for feature in status.features.iter().filter(|feature| !feature.present) {
        writeln!(out, "this kernel has not {}: {}", feature.name, feature.without)?;
    }
    for error in &status.policy_errors {
        writeln!(out, "ERROR {error}")?;
    }
    for orphan in &status.orphans {
        writeln!(
            out,
            "ERROR {} is governed, but its pod is not known any more; restart it",
            orphan.display()
        )?;
    }
    writeln!(out, "\n{} policies", status.policies.len())?;
    for policy in &status.policies {
        writeln!(out, "  {policy}")?;
    }
    writeln!(out, "\n{} pods", status.pods.len())?;
    for pod in &status.pods {
        let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
        let by = if pod.policies.is_empty() { "no policy".to_owned() } else { pod.policies.join(", ") };
        let leaving = if pod.leaving { ", leaving" } else { "" };
        let found = if pod.found { ", found without a CNI call" } else { "" };
        let open = if pod.host_network {
            ", in the host's network"
        } else if pod.guarded {
            ""
        } else {
            ", link not guarded"
        };
        let (namespace, name, since) = (&pod.namespace, &pod.name, pod.since);
        writeln!(out, "  {namespace}/{name} {} since {since:.0}: {by}{found}{leaving}{open}", ips.join(","))?;
    }
    Ok(())
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
    if admin::ask(run_dir, &Question::Status).is_ok() {
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
    Ok(ExitCode::SUCCESS)
}
