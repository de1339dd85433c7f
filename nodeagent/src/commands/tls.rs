//! `sluice tls`: which processes use which TLS library, and whether what they write is seen.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::table;
use crate::agent::admin::{self, Answer, AskError, Question};
use crate::agent::hub::PodName;
use crate::agent::tls::TlsUse;
use crate::agent::{DEFAULT_RUN_DIR, Format};

/// The version of [`Uses`].
const SCHEMA: u32 = 1;

const HELP: &str = "\
One line for each file with a TLS library that a running process has mapped, and for each that may hold
one and was not looked at. SEEN is `yes` where its functions are probed, else why not.

What no line tells of is not seen: libraries of other kinds (Java's, NSS, statically linked ones whose
symbols are stripped).

Exit codes: 0 shown, 1 there is no such pod or nothing is observed, 3 no agent answers.

Examples:
  sluice tls                                            all pods
  sluice tls shop/web                                   one of them
  sluice tls -o json | jq -r '.uses[] | select(.probed | not) | .file' | sort -u";

/// Options of `sluice tls`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub(crate) struct TlsArgs {
    /// The pod, as NAME or NAMESPACE/NAME; all if it is left out.
    pod: Option<PodName>,
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Serialize)]
struct Uses {
    v: u32,
    uses: Vec<TlsUse>,
}

pub(crate) fn run(args: TlsArgs) -> anyhow::Result<ExitCode> {
    let uses =
        match admin::ask(&args.run_dir, &Question::Tls(args.pod)).and_then(|mut answers| answers.wait()) {
            Ok(Answer::Tls(uses)) => uses,
            Ok(_) => return Err(AskError::OutOfOrder.into()),
            Err(AskError::Refused(message)) => bail!(message),
            Err(error) => return super::no_answer(error),
        };
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&Uses { v: SCHEMA, uses })?)?,
        Format::Text if uses.is_empty() => {
            eprintln!("No process of a governed pod uses a TLS library that is known.");
        }
        Format::Text => table::write(&mut out, HEAD, &uses.iter().map(row).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::SUCCESS)
}

const HEAD: [&str; 7] = ["NAMESPACE", "POD", "CONTAINER", "PROCESS", "LIBRARY", "SEEN", "FILE"];

fn row(one: &TlsUse) -> [String; 7] {
    let or_none = |text: String| if text.is_empty() { "<none>".to_owned() } else { text };
    let container = one.container.clone().unwrap_or_default();
    [
        or_none(one.namespace.clone()),
        one.name.clone(),
        or_none(container.chars().take(12).collect()),
        format!("{}[{}]", one.comm, one.pid),
        or_none(one.libraries.join(",")),
        one.why.clone().unwrap_or_else(|| "yes".to_owned()),
        one.file.clone(),
    ]
}
