//! Compiles the kernel programs; `datapath` embeds the object.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Asked for when it runs: two checkouts that share a target directory share the compiled script.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    let programs = Path::new(&manifest).join("../ebpf/programs");
    match sluice_ebpf_build::build_script(&programs) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
