//! `sluice status`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::table;
use crate::agent::admin::{self, Status};
use crate::agent::{DEFAULT_RUN_DIR, Format};

/// Exit code when the agent runs, but something asks for attention.
const EXIT_NOT_WELL: u8 = 1;

const HELP: &str = "\
Exit codes:
  0 ready, and nothing to do
  1 running, but not ready yet, or with errors in the policy directory, or with something that does
    not work as configured, or with pods that are governed and not known any more
  2 wrong usage
  3 no agent answers; the kernel goes on with what it has

Counters of the kernel outlive the agent; those of events that were excluded, not printed or not
observed begin with it.

Examples:
  sluice status
  sluice status -o json | jq '.pods[] | select(.guarded | not)'";

/// What `sluice status` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct StatusArgs {
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let status = match admin::ask_status(&args.run_dir) {
        Ok(status) => status,
        Err(error) => return super::no_answer(error),
    };
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&status)?)?,
        Format::Text => write_text(&mut out, &status)?,
    }
    Ok(ExitCode::from(if is_well(&status) { 0 } else { EXIT_NOT_WELL }))
}

fn is_well(status: &Status) -> bool {
    status.waiting_for.is_empty()
        && status.policy_errors.is_empty()
        && status.errors.is_empty()
        && status.orphans.is_empty()
}

fn write_text(out: &mut impl Write, status: &Status) -> io::Result<()> {
    let ready = match status.ready_since {
        Some(since) => format!("ready since {since:.0}"),
        None => format!("not ready, waiting for: {}", status.waiting_for.join(", ")),
    };
    writeln!(out, "agent {} {ready}, started {:.0}", status.version, status.started)?;
    writeln!(
        out,
        "posture {}, attached at {}, ABI {}",
        status.posture,
        status.cgroup_root.display(),
        status.abi
    )?;
    let counters = &status.counters;
    writeln!(
        out,
        "{} flows allowed, {} packets denied, {} replies",
        counters.allowed, counters.denied, counters.replies
    )?;
    let losses = [
        ("lost, the ring buffer was full", counters.events_lost),
        ("held back, one pod gave too many", counters.events_over_budget),
        ("not printed, the reader was too slow", counters.events_not_printed),
        ("not shown to an observer that was too slow", counters.events_not_observed),
        ("of excluded networks and names", counters.events_excluded),
    ];
    for (what, count) in losses.into_iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{count} events {what}")?;
    }
    if counters.storage_failed > 0 {
        writeln!(out, "{} verdicts not kept with their socket", counters.storage_failed)?;
    }
    if counters.policy_missing > 0 {
        writeln!(out, "{} packets denied for want of their policy", counters.policy_missing)?;
    }
    let names = &counters.names;
    let of_names = [
        ("addresses learned from DNS", names.learned),
        ("answers had more names of an address, or addresses, than a pod can hold", names.learned_full),
        ("addresses of answers refused: no name may open them", names.addresses_refused),
        ("DNS messages could not be read", names.dns_unreadable),
        ("answers were to nobody's question", names.dns_unasked),
        ("questions refused: no rule could open the name", names.questions_refused),
        ("first payloads had a name that could not be read", names.names_unreadable),
    ];
    for (what, count) in of_names.into_iter().filter(|(_, count)| *count > 0) {
        writeln!(out, "{count} {what}")?;
    }
    for feature in status.features.iter().filter(|feature| !feature.present) {
        writeln!(out, "this kernel has not {}: {}", feature.name, feature.without)?;
    }
    for text in &status.not_enforced {
        writeln!(out, "not enforced: {text}")?;
    }
    for error in status.policy_errors.iter().chain(&status.errors) {
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
    if status.pods.is_empty() {
        return Ok(());
    }
    let rows: Vec<_> = status.pods.iter().map(super::pods::row).collect();
    table::write(out, super::pods::HEAD, &rows)
}
