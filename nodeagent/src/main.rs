//! The binary `sluice`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodeagent::app::run()
}
