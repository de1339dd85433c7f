//! `cargo xtask kernels`: do the programs load and judge well on the kernels that Sluice promises to run on?
//!
//! Each kernel boots in a virtual machine with nothing but Sluice, busybox and `ip`, runs `sluice self-test`, and says
//! how much work its verifier had with each program.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use crate::binaries::{self, Profile};
use crate::setup::{self, Scope};
use crate::shell::{self, Checkout};

mod baseline;
mod initramfs;
mod matrix;
mod packages;
mod qemu;
mod unpack;
mod vm;

use baseline::Baseline;
use matrix::Matrix;
use packages::NEWEST;
use qemu::Qemu;
use vm::Question;

/// Debian's long-lived kernels from the oldest that Sluice runs on, and the newest that there is.
const SERIES: &[&str] = &["5.10", "6.1", "6.12", NEWEST];

/// What is asked of the matrix.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these kernels, such as 6.1, or `newest` [default: 5.10 6.1 6.12 newest]
    #[arg(value_name = "VERSION")]
    versions: Vec<String>,
    /// Write the report to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write conformance/kernels/steps.json anew, from what the verifiers say now
    #[arg(long)]
    update: bool,
    /// Packets that each kernel judges
    #[arg(long, default_value_t = 5000)]
    pairs: u64,
    /// For the random policies and packets [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,
    /// Stop a kernel that is not through by then
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    deadline: u64,
}

/// Runs it.
pub(crate) fn run(checkout: &Checkout, options: &Options) -> Result<ExitCode> {
    ensure!(cfg!(target_arch = "x86_64"), "the matrix boots kernels for x86_64: run it on such a machine");
    shell::step("setup", || setup::install(Scope::Run))?;
    let built = shell::step("build", || binaries::build_static(checkout, Profile::Release, &["sluice"]))?;
    let before = Baseline::load(checkout)?;
    let all = options.versions.is_empty();
    let wanted: Vec<String> =
        if all { SERIES.iter().map(ToString::to_string).collect() } else { options.versions.clone() };
    let (qemu, kernels) = shell::step("fetch", || Ok((Qemu::find_or_fetch()?, packages::kernels(&wanted)?)))?;

    let question = Question {
        pairs: options.pairs,
        seed: options.seed.unwrap_or_else(from_the_clock),
        deadline: Duration::from_secs(options.deadline),
    };
    let logs = checkout.target.join("sluice-kernels");
    fs::create_dir_all(&logs).with_context(|| format!("cannot create {}", logs.display()))?;
    let mut found = Vec::new();
    for kernel in &kernels {
        let sluice = built.join("sluice");
        let name = format!("kernel {}", kernel.series);
        let one = shell::step(&name, || {
            let archive = logs.join(format!("{}.cpio", kernel.series));
            let bytes = initramfs::make(checkout, &sluice, kernel)?;
            fs::write(&archive, bytes).with_context(|| format!("cannot write {}", archive.display()))?;
            let console = logs.join(format!("{}.log", kernel.series));
            vm::boot(&qemu, kernel, &archive, &console, &question)
        })?;
        found.push(one);
    }

    let baseline = if options.update {
        let now = baseline::updated(&found, before, all);
        now.store(checkout)?;
        now
    } else {
        before
    };
    let matrix = Matrix::judge(found, &question, &baseline, all, shell::in_ci());
    print!("\n{}", matrix.table());
    if let Some(path) = &options.json {
        matrix.write(checkout, path)?;
    }
    Ok(if matrix.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn from_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::from(now.subsec_nanos())
}
