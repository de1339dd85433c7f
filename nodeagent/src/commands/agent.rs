//! `sluice agent`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use crate::agent;
use crate::agent::config::{DEFAULT_FILE, Settings};

const HELP: &str = "\
Every option is a flag, an environment variable and a key of the configuration file: --run-dir,
SLUICE_RUN_DIR and runDir. A flag wins over the environment, that over the file, that over the
default. The file must be root's and writable by nobody else; a fault in it is told with its line,
and the agent does not start. install/host/agent.yaml shows every key.

Events go to standard output, what the agent says of itself to standard error. SIGTERM and SIGINT
let requests in flight finish and events be written, for 5 s at most; exit code 0 then, 1 after an
error, 2 for wrong usage.

Examples:
  sluice agent                                   govern this node by /etc/sluice/policies
  sluice agent --output json --posture log       judge and tell as JSON lines, let everything pass
  sluice agent --config web.yaml --check-config  is the file right, and what would it mean?
  sluice agent --metrics-address ''              no metrics, no probes";

/// What `sluice agent` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct AgentArgs {
    /// The configuration file [default: /etc/sluice/agent.yaml, if it is there].
    #[arg(long, env = "SLUICE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Only check the configuration, and print what the agent would work with.
    #[arg(long)]
    check_config: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Runs it; `log` starts the log.
pub(crate) fn run(args: AgentArgs, log: fn(EnvFilter)) -> anyhow::Result<ExitCode> {
    let file = Settings::from_file(args.config.as_deref())?;
    let settings = args.settings.over(file);
    if args.check_config {
        let all = settings.clone().or_default();
        settings.resolve()?;
        let path = args.config.unwrap_or_else(|| DEFAULT_FILE.into());
        println!("# {} and what flags and environment say; null is found out at the start.", path.display());
        print!("{}", serde_saphyr::to_string(&all)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (options, filter) = settings.resolve()?;
    log(filter);
    agent::run(options).map(|()| ExitCode::SUCCESS)
}
