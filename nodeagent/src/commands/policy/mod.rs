//! `sluice policy`: policies without a kernel, an agent or root.

use std::process::ExitCode;

use clap::Subcommand;

mod check;
mod files;
mod flow;
mod judge;
mod test;
mod world;

/// The commands below `sluice policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Tell every error of policy files, and what is allowed in them but probably not meant.
    Check(check::CheckArgs),
    /// Tell what policies say of flows, by the evaluator to which the kernel programs are held.
    Test(test::TestArgs),
}

/// `sluice policy`.
pub(crate) fn run(command: &PolicyCommand) -> anyhow::Result<ExitCode> {
    match command {
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Test(args) => Ok(test::run(args)),
    }
}
