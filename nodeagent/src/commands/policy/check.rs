//! `sluice policy check`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use sluice_policy::{Warning, check};

use super::files::{self, Fault};
use crate::agent::Format;
use crate::agent::events::policy_name;

/// The version of [`Report`].
const SCHEMA: u32 = 1;

const HELP: &str = "\
Errors, all of them at once:
  what cannot be read, fields that are unknown or hold no valid value, and one policy that two
  documents define. The agent takes no such file: what it last said stays in force.

Warnings:
  a rule that never matches, because rules before it match all that it matches;
  a ClusterEgressPolicy that grants something by pod labels alone, or opens the way to pods by
  their labels alone: tenants choose those;
  a Deny rule with domainNames: it is best effort, for who knows an address needs no name;
  requireName where no flow can show a name;
  http: requests are told, not enforced; and an Allow rule with http that a later rule makes useless.

Files are read as the agent reads them, but for who owns them, and for links, which are followed.
Findings go to standard output, one a line.

JSON (`--output json`), one object on one line:
  {\"v\":1,
   \"errors\":[{\"file\":\"a.yaml\",\"document\":1,\"line\":7,\"field\":\"spec.rules[0].action\",\"message\":\"…\"}],
   \"warnings\":[{\"file\":\"a.yaml\",\"policy\":\"shop/web\",\"field\":\"spec.rules[2]\",\"message\":\"…\"}],
   \"policies\":3}
  `document` and `line` are null where they are not known; `policies` counts those without errors.

Exit codes:
  0 no errors; 1 errors, or warnings with --strict; 2 wrong usage

Examples:
  sluice policy check /etc/sluice/policies
  sluice policy check --strict web.yaml cache.yaml
  git show main:web.yaml | sluice policy check -";

/// What `sluice policy check` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct CheckArgs {
    /// A policy file, a directory of them (*.yaml, *.yml, *.json), or - for standard input.
    #[arg(required = true, value_name = "FILE|DIR")]
    paths: Vec<PathBuf>,
    /// Warnings too make the exit code 1.
    #[arg(long)]
    strict: bool,
    /// How the findings are printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

/// What was found.
#[derive(Serialize)]
struct Report {
    v: u32,
    errors: Vec<Fault>,
    warnings: Vec<WarningLine>,
    policies: usize,
}

#[derive(Serialize)]
struct WarningLine {
    file: String,
    policy: String,
    field: String,
    message: String,
}

impl From<Warning> for WarningLine {
    fn from(warning: Warning) -> Self {
        Self {
            file: warning.file.to_string(),
            policy: policy_name(&warning.policy),
            field: warning.field,
            message: warning.kind.to_string(),
        }
    }
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let contents = files::read(&args.paths);
    let report = Report {
        v: SCHEMA,
        errors: contents.faults,
        warnings: check(&contents.policies).into_iter().map(WarningLine::from).collect(),
        policies: contents.policies.policies().len(),
    };
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string(&report)?)?,
        Format::Text => write_text(&mut out, &report)?,
    }
    out.flush()?;
    let failed = !report.errors.is_empty() || (args.strict && !report.warnings.is_empty());
    Ok(ExitCode::from(u8::from(failed)))
}

fn write_text(out: &mut impl Write, report: &Report) -> io::Result<()> {
    for error in &report.errors {
        writeln!(out, "error: {error}")?;
    }
    for WarningLine { file, policy, field, message } in &report.warnings {
        writeln!(out, "warning: {file}: {policy}: {field}: {message}")?;
    }
    let policies = counted(report.policies, "policy", "policies");
    let errors = counted(report.errors.len(), "error", "errors");
    let warnings = counted(report.warnings.len(), "warning", "warnings");
    writeln!(out, "{policies}, {errors}, {warnings}")
}

fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
