//! The command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::agent::{self, DEFAULT_BPFFS, DEFAULT_RUN_DIR, Format};
use crate::commands::agent::AgentArgs;
use crate::commands::dns::DnsArgs;
use crate::commands::observe::ObserveArgs;
use crate::commands::pods::PodsArgs;
use crate::commands::policy::PolicyCommand;
use crate::commands::status::StatusArgs;
use crate::commands::tls::TlsArgs;
use crate::{commands, selftest};

/// Exit code for an error that no other code describes.
pub const EXIT_ERROR: u8 = 1;

/// Per-pod egress firewall for Kubernetes and containerd nodes.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  sluice agent                          govern this node by /etc/sluice/policies
  sluice agent --output json            the same, events as JSON lines
  sluice agent --posture log            judge and tell, but let everything pass
  sluice status                         what is governed, by what, since when
  sluice pods -n shop                   the governed pods of a namespace
  sluice observe --verdict deny         follow what is denied
  sluice dns shop/web                   what a pod has learned from DNS, from whom, until when
  sluice tls shop/web                   which of its processes use TLS, and are their requests seen
  sluice policy check policies/         errors and warnings of policy files
  sluice policy test --policy web.yaml --flow 'pod=shop/web dst=203.0.113.7 port=443'
  sluice detach                         take everything of Sluice out of the kernel";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent: attach the programs, serve the CNI plugin, print events.
    ///
    /// Stopping it, or killing it, changes nothing: programs and policies stay in the kernel.
    Agent(Box<AgentArgs>),
    /// Show the agent: is it ready, what is wrong, what was lost, what it governs.
    Status(StatusArgs),
    /// Show the governed pods.
    Pods(PodsArgs),
    /// Follow the events of a running agent.
    Observe(Box<ObserveArgs>),
    /// Show what a pod has learned from DNS: name, address, who answered, until when it counts.
    Dns(DnsArgs),
    /// Show which processes use which TLS library, and whether the requests that they make are seen.
    Tls(TlsArgs),
    /// Take everything of Sluice out of the kernel: no pod is governed after it.
    ///
    /// The run directory goes as well. The policies stay, and their last good copies in the state directory.
    Detach(DetachArgs),
    /// Check policies and try them out, without a kernel, an agent or root.
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Compare this kernel's verdicts with the reference evaluator's, on random policies and packets.
    ///
    /// Touches nothing of a running agent. Exit codes: 0 no difference, 1 differences or an error.
    SelfTest(SelfTestArgs),
    /// Measure what a packet costs on this kernel, beside the least that it could cost; JSON lines of single rounds.
    ///
    /// Touches nothing of a running agent.
    BenchDatapath(BenchDatapathArgs),
    /// Read an ELF file on standard input, without any rights: for the agent.
    #[command(name = agent::tls::child::COMMAND, hide = true)]
    ElfSymbols,
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct DetachArgs {
    /// Where programs and maps are pinned.
    #[arg(long, env = "SLUICE_BPFFS", value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// The agent's run directory, whose records are removed.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

#[derive(Debug, Args)]
struct SelfTestArgs {
    /// How many packets.
    #[arg(long, default_value_t = 100_000)]
    pairs: u64,
    /// The seed, to do a run again [default: from the clock].
    #[arg(long)]
    seed: Option<u64>,
    /// Make the run's own cgroup below this one [default: where the hierarchy is mounted].
    #[arg(long, env = "SLUICE_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Compile wrongly on purpose, to see that it is found.
    #[arg(long)]
    plant_fault: bool,
    /// How the outcome is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
struct BenchDatapathArgs {
    /// How often a packet is sent for one figure.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// How many rounds.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// The seed of the order in which things are measured.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Make the run's own cgroup below this one [default: where the hierarchy is mounted].
    #[arg(long, env = "SLUICE_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Measure flows to an address that names led to, under rules by name.
    #[arg(long)]
    names: bool,
}

/// Runs the command line; the result is the process's exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    if !matches!(cli.command, Command::Agent(_)) {
        log(EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new("info")));
    }
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

/// Begins to log, to standard error.
fn log(filter: EnvFilter) {
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => commands::agent::run(*args, log),
        Command::Status(args) => commands::status::run(&args),
        Command::Pods(args) => commands::pods::run(&args),
        Command::Observe(args) => commands::observe::run(*args),
        Command::Dns(args) => commands::dns::run(args),
        Command::Tls(args) => commands::tls::run(args),
        Command::Detach(args) => commands::detach(&args.bpffs, &args.run_dir),
        Command::Policy(command) => commands::policy::run(&command),
        Command::SelfTest(args) => {
            let clock = || jiff::Timestamp::now().subsec_nanosecond().unsigned_abs().into();
            let options = selftest::Options {
                pairs: args.pairs,
                seed: args.seed.unwrap_or_else(clock),
                cgroup_root: args.cgroup_root,
                plant_fault: args.plant_fault,
            };
            commands::self_test(&options, args.output)
        }
        Command::BenchDatapath(args) => {
            let options = selftest::bench::Options {
                repeats: args.repeats,
                rounds: args.rounds,
                seed: args.seed,
                cgroup_root: args.cgroup_root,
            };
            let print = if args.names { selftest::names::print } else { selftest::bench::print };
            print(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::ElfSymbols => agent::tls::child::run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
