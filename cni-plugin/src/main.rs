//! The binary `sluice-cni`: the process's environment, stdin, stdout and stderr, handed to [`sluice_cni::run`].

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Read};
use std::process::ExitCode;

use sluice_cni::{Vars, run};

fn main() -> ExitCode {
    let stdin = io::stdin();
    // Somebody who tries the binary by hand should not have to end an input that they do not know of.
    let input: Box<dyn Read> =
        if stdin.is_terminal() { Box::new(io::empty()) } else { Box::new(stdin.lock()) };
    ExitCode::from(run(&Vars::of_process(), input, &mut io::stdout(), &mut io::stderr()))
}
