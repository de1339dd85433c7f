//! `cargo xtask`: installs what Sluice needs, builds it, demonstrates it and tests it.
//!
//! It compiles on a machine with nothing but Rust, so that it can install the rest.

#![forbid(unsafe_code)]

mod binaries;
mod kernels;
mod report;
mod setup;
mod shell;
mod skips;
mod suites;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::binaries::Profile;
use crate::setup::Scope;
use crate::shell::Checkout;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Builds, demonstrates and tests Sluice", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                                 install what is missing, build, and show Sluice at work
  cargo xtask test                                 everything that CI runs
  cargo xtask test fmt clippy                      only the steps whose names begin so
  cargo xtask conformance first-packet --pods 20   one suite, with its own options
  cargo xtask kernels 5.10 newest                  boot these kernels and try the programs there
  cargo xtask setup --check                        what is missing here, and what it is for";

#[derive(Subcommand)]
enum Task {
    /// Install what building and running Sluice needs; quick when all is there
    Setup {
        /// Only list what is missing; exit with 1 if anything is
        #[arg(long)]
        check: bool,
        /// Also what only `cargo xtask test` needs
        #[arg(long)]
        dev: bool,
    },
    /// Build all binaries into target/sluice
    Build {
        /// Optimised, as the suites and a node run them
        #[arg(long)]
        release: bool,
    },
    /// Install what is missing, build, and run the demonstration
    Demo {
        /// Options of the demonstration
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run formatters, linters, audits, unit tests and the conformance suites in their CI sizes
    Test {
        /// Run only the steps whose names begin with one of these
        steps: Vec<String>,
    },
    /// Build, then run one conformance suite (without a name: list them)
    Conformance {
        /// The suite and its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Load and try the programs on a matrix of kernels, in virtual machines
    Kernels(kernels::Options),
    /// Build, then run one benchmark (without a name: all of them)
    Bench {
        /// The benchmark and its options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    match task {
        Task::Setup { check, dev } => {
            let scope = if dev { Scope::Dev } else { Scope::Run };
            if check {
                return Ok(if setup::check(scope) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            shell::step("setup", || setup::install(scope))?;
        }
        Task::Build { release } => {
            shell::step("setup", || setup::install(Scope::Run))?;
            let profile = if release { Profile::Release } else { Profile::Dev };
            shell::step("build", || binaries::build(&checkout, profile))?;
        }
        Task::Demo { args } => return conformance(&checkout, &["demo"], &args),
        Task::Test { steps } => return test::run(&checkout, &steps),
        Task::Conformance { args } if args.is_empty() => return conformance(&checkout, &["--help"], &args),
        Task::Conformance { args } => return conformance(&checkout, &[], &args),
        Task::Bench { args } => return conformance(&checkout, &["bench"], &args),
        Task::Kernels(options) => return kernels::run(&checkout, &options),
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs, builds and becomes `sluice-conformance`.
fn conformance(checkout: &Checkout, first: &[&str], args: &[String]) -> Result<ExitCode> {
    let is_of_requests = args.iter().any(|arg| arg == "requests");
    let scope = if is_of_requests { Scope::Clients } else { Scope::Run };
    shell::step("setup", || setup::install(scope))?;
    shell::step("build", || binaries::build(checkout, Profile::Release))?;
    let mut command = binaries::conformance(checkout);
    command.args(first).args(args);
    Err(shell::exec(&mut command))
}
