//! Where things are, and how commands are run.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::{Context as _, Error, Result, ensure};

/// The checkout that `cargo xtask` was started in.
pub(crate) struct Checkout {
    /// Its root, where the workspace's manifest lies.
    pub(crate) root: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
}

impl Checkout {
    /// Finds the checkout by this package's manifest, which cargo names in the environment.
    pub(crate) fn find() -> Result<Self> {
        let manifest = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.ancestors().nth(2).map(Path::to_path_buf).unwrap_or_default();
        ensure!(
            root.join("conformance/xtask").is_dir(),
            "no checkout of Sluice around {}: start this as `cargo xtask`, inside one",
            manifest.display()
        );
        let target = match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
            // Cargo takes a relative one from the current folder.
            Some(dir) => {
                env::current_dir().context("the current folder is gone: change to another")?.join(dir)
            }
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The folder of the kernel programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.root.join("ebpf/programs")
    }

    /// A cargo command at the root of the checkout, without what the cargo that runs this program has set.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = Command::new(cargo());
        cargo.current_dir(&self.root).arg(subcommand).env("CARGO_TARGET_DIR", &self.target);
        clean(&mut cargo);
        cargo
    }
}

/// The cargo that runs this program, or the one on `PATH`.
pub(crate) fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Takes away what `cargo run` adds to the environment of the program that it runs.
pub(crate) fn clean(command: &mut Command) {
    command.env_remove("LD_LIBRARY_PATH");
    for (name, _) in env::vars_os() {
        let added = name
            .to_str()
            .is_some_and(|name| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|p| name.starts_with(p)));
        if added {
            command.env_remove(&name);
        }
    }
}

/// Runs a command to its end; its output goes where this program's goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", show(command)))?;
    ensure!(status.success(), "{} failed ({status})", show(command));
    Ok(())
}

/// Becomes the command. Returns only if that fails.
pub(crate) fn exec(command: &mut Command) -> Error {
    Error::new(command.exec()).context(format!("cannot start {}", show(command)))
}

/// The command as one would type it, without its environment.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name).chain(command.get_args()).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Runs one step of a task between two lines that name it and say how long it took.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("==> {name}");
    let start = Instant::now();
    let done = work();
    let said = if done.is_ok() { "done" } else { "failed" };
    println!("==> {name}: {said} in {}", seconds(start.elapsed()));
    done.with_context(|| name.to_owned())
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// The program of that name on `PATH` or in the system's own folders, which are not on every user's `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|program| program.is_file())
}

/// Whether this process runs as root: who owns its entry below `/proc`.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether this runs in CI, by the variable that CI systems set.
pub(crate) fn in_ci() -> bool {
    env::var("CI").is_ok_and(|ci| !matches!(ci.as_str(), "" | "0" | "false"))
}
