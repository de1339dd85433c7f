//! `sluice dns`: what a pod has learned from DNS.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;

use super::table;
use crate::agent::admin::{self, Answer, AskError, Question};
use crate::agent::hub::PodName;
use crate::agent::learned::LearnedName;
use crate::agent::{DEFAULT_RUN_DIR, Format};

const EXAMPLES: &str = "Examples:
  sluice dns shop/web                       what it learned, from whom, until when
  sluice dns shop/web -o json | jq -r '.[] | select(.expired | not) | .name' | sort -u

Exit codes: 0 shown, 1 there is no such pod, 3 no agent answers.";

/// Options of `sluice dns`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DnsArgs {
    /// The pod, as NAMESPACE/NAME; the namespace is `default` if it is left out.
    pod: PodName,
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(crate) fn run(args: DnsArgs) -> anyhow::Result<ExitCode> {
    let namespace = args.pod.namespace.unwrap_or_else(|| sluice_policy::model::DEFAULT_NAMESPACE.to_owned());
    let question = Question::Dns { namespace, name: args.pod.name };
    let names = match admin::ask(&args.run_dir, &question).and_then(|mut answers| answers.wait()) {
        Ok(Answer::Dns(names)) => names,
        Ok(_) => return Err(AskError::OutOfOrder.into()),
        Err(AskError::Refused(message)) => bail!(message),
        Err(error) => return super::no_answer(error),
    };
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&names)?)?,
        Format::Text => table::write(&mut out, HEAD, &names.iter().map(row).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 4] = ["NAME", "ADDRESS", "RESOLVER", "UNTIL"];

fn row(learned: &LearnedName) -> [String; 4] {
    let over = if learned.expired { " (over)" } else { "" };
    let until = format!("{:.0}{over}", learned.until);
    [learned.name.clone(), learned.address.to_string(), learned.resolver.to_string(), until]
}
