//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use sluice_policy::Posture;
use tracing_subscriber::EnvFilter;

use crate::agent::{self, Format};
use crate::commands::policy::PolicyCommand;
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
  sluice dns shop/web                   what a pod has learned from DNS, from whom, until when
  sluice policy check policies/         errors and warnings of policy files
  sluice policy test --policy web.yaml --flow 'pod=shop/web dst=203.0.113.7 port=443'
  sluice detach                         take everything of Sluice out of the kernel";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node agent: attach the programs, serve the CNI plugin, print events.
    ///
    /// Stopping it, or killing it, changes nothing: programs and policies stay in the kernel.
    Agent(Box<AgentArgs>),
    /// Show what the agent governs.
    ///
    /// Exit codes: 0 ready, 1 running with errors in the policy directory or with pods that are not known any more, 3 no
    /// agent answers.
    Status(StatusArgs),
    /// Show what a pod has learned from DNS: name, address, who answered, until when it counts.
    Dns(DnsArgs),
    /// Take everything of Sluice out of the kernel: no pod is governed after it.
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
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct AgentArgs {
    /// Attach the programs at this cgroup v2 directory [default: where the hierarchy is mounted].
    #[arg(long, env = "SLUICE_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Pin programs and maps below this directory of a BPF file system.
    #[arg(long, env = "SLUICE_BPFFS", value_name = "DIR", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Sockets, and what is forgotten at boot.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// What is kept over a boot: the last good of every policy file.
    #[arg(long, env = "SLUICE_STATE_DIR", value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Policy files: *.yaml, *.yml, *.json. They must be root's and writable by nobody else.
    #[arg(long, env = "SLUICE_POLICIES", value_name = "DIR", default_value = "/etc/sluice/policies")]
    policies: PathBuf,
    /// What is done with a verdict.
    #[arg(long, env = "SLUICE_POSTURE", value_enum, default_value_t = PostureArg::Enforce)]
    posture: PostureArg,
    /// Believe the answers of these resolvers, to whom rules with domainNames also allow questions; addresses with commas
    /// between them [default: those of /run/systemd/resolve/resolv.conf or /etc/resolv.conf].
    #[arg(long, env = "SLUICE_RESOLVERS", value_name = "ADDRESS", value_delimiter = ',')]
    resolvers: Vec<IpAddr>,
    /// Let an address that a name led to count for at least so many seconds.
    #[arg(long, env = "SLUICE_DNS_FLOOR", value_name = "SECONDS", default_value_t = 5)]
    dns_floor: u32,
    /// Let it count so many seconds past its TTL, for clients that ask later than they should; a JVM keeps what it was
    /// told for 30 seconds by default.
    #[arg(long, env = "SLUICE_DNS_GRACE", value_name = "SECONDS", default_value_t = 30)]
    dns_grace: u32,
    /// How events are printed on standard output.
    #[arg(long, short, env = "SLUICE_OUTPUT", value_enum, default_value_t = Format::Text)]
    output: Format,
    /// The node's name in events [default: the host's name].
    #[arg(long, env = "SLUICE_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Debug, Args)]
struct DnsArgs {
    /// The pod, as namespace/name.
    pod: String,
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How it is printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
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
}

const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
const DEFAULT_RUN_DIR: &str = "/run/sluice";
const DEFAULT_STATE_DIR: &str = "/var/lib/sluice";

/// `--posture`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PostureArg {
    /// Judge nothing.
    Observe,
    /// Judge and tell; let everything pass.
    Log,
    /// Judge, tell, and drop what is denied.
    Enforce,
}

impl From<PostureArg> for Posture {
    fn from(posture: PostureArg) -> Self {
        match posture {
            PostureArg::Observe => Self::Observe,
            PostureArg::Log => Self::Log,
            PostureArg::Enforce => Self::Enforce,
        }
    }
}

/// Runs the command line; the result is the process's exit code.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new("info")))
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match dispatch(cli.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            ExitCode::from(EXIT_ERROR)
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Agent(args) => agent::run(options(*args)).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => commands::status(&args.run_dir, args.output),
        Command::Dns(args) => commands::dns::show(&args.run_dir, &args.pod, args.output),
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
            selftest::bench::print(&options).map(|()| ExitCode::SUCCESS)
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "sluice", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn options(args: AgentArgs) -> agent::Options {
    let host = || {
        nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into())
    };
    agent::Options {
        cgroup_root: args.cgroup_root,
        bpffs: args.bpffs,
        run_dir: args.run_dir,
        state_dir: args.state_dir,
        policies: args.policies,
        posture: args.posture.into(),
        output: args.output,
        dns_floor: std::time::Duration::from_secs(args.dns_floor.into()),
        dns_grace: std::time::Duration::from_secs(args.dns_grace.into()),
        resolvers: args.resolvers,
        node_name: args.node_name.unwrap_or_else(host),
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
