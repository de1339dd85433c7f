//! Compiles the kernel programs; `datapath` embeds the object.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/programs");
    match sluice_ebpf_build::build_script(&programs) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
