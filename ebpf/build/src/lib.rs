//! Compiles Sluice's kernel programs (`ebpf/programs`) to a BPF ELF object, with whichever toolchain the machine has.
//!
//! Two routes give the same programs, see [`Route`]. [`find_toolchain`] picks the first that is complete; where none
//! is, its error names what each lacks and the command that installs it.
//!
//! The agent's build script needs no more than this:
//!
//! ```no_run
//! # use std::path::Path;
//! sluice_ebpf_build::build_script(Path::new("../ebpf/programs")).unwrap_or_else(|e| panic!("{e}"));
//! ```
//!
//! The crate has no dependencies, so that a build script and `xtask` cost little to compile.

#![forbid(unsafe_code)]

mod environment;
mod toolchain;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{env, error, fmt, fs, io};

pub use environment::scrub;
pub use toolchain::{
    BPF_LINKER_VERSION, DEBIAN_CARGO, DEBIAN_CLIPPY, DEBIAN_RUSTC, Missing, Route, Toolchain,
    bpf_linker_root, debian_rustc_has_bpf_core, find_toolchain, llvm_major, tools_dir,
};

/// The target triple of the kernel programs: 64-bit BPF, little endian.
pub const TARGET: &str = "bpfel-unknown-none";

/// The names of the program crate's binary targets, and so of the objects.
pub const OBJECTS: [&str; 2] = ["sluice", "sluice-uprobes"];

/// Why the kernel programs could not be compiled.
#[derive(Debug)]
pub enum BuildError {
    /// No route to BPF is complete on this machine: run `cargo xtask setup`.
    Missing(Missing),
    /// The folder of the programs holds no `Cargo.toml`: check the path that the caller gave.
    NoPrograms(PathBuf),
    /// A file or a command could not be opened: check that it exists and may be read or run.
    Io(PathBuf, io::Error),
    /// The inner cargo failed: its own message stands above this one.
    Cargo(ExitStatus),
    /// The inner cargo succeeded without making the object: check the names of the bin targets.
    NoObject(PathBuf),
    /// A variable that cargo sets for build scripts is not set: call this from a build script only.
    NotABuildScript(&'static str),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(missing) => missing.fmt(f),
            Self::NoPrograms(dir) => {
                write!(f, "no kernel programs in {}: expected a Cargo.toml there", dir.display())
            }
            Self::Io(path, e) => write!(f, "cannot use {}: {e}", path.display()),
            Self::Cargo(status) => write!(
                f,
                "compiling the kernel programs failed ({status}): fix what cargo says above; \
                 if it is the lock file, run `cargo update --workspace` in ebpf/programs"
            ),
            Self::NoObject(path) => write!(
                f,
                "the kernel programs compiled, but {} is not there: are the bin targets still named so?",
                path.display()
            ),
            Self::NotABuildScript(variable) => {
                write!(f, "{variable} is not set: this works in a cargo build script only")
            }
        }
    }
}

impl error::Error for BuildError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Missing(missing) => Some(missing),
            Self::Io(_, e) => Some(e),
            _ => None,
        }
    }
}

impl From<Missing> for BuildError {
    fn from(missing: Missing) -> Self {
        Self::Missing(missing)
    }
}

/// Compiles the programs in `programs_dir` and returns the directory of the [`OBJECTS`], which lies below `target_dir`.
///
/// `target_dir` must not be the target directory of a cargo that waits for this call: both would wait for its lock.
/// `features` are those of the programs' crate. One line on standard error says which route was taken.
pub fn build(programs_dir: &Path, target_dir: &Path, features: &[&str]) -> Result<PathBuf, BuildError> {
    let programs = open(programs_dir)?;
    let toolchain = find_toolchain()?;
    eprintln!("kernel programs: {toolchain}");
    let mut cargo = prepare(toolchain.build(), &toolchain, &programs, target_dir);
    run(cargo.args(["--features", &features.join(",")]))?;
    let directory = target_dir.join(TARGET).join("release");
    let missing = OBJECTS.iter().map(|object| directory.join(object)).find(|object| !object.is_file());
    missing.map_or(Ok(directory), |object| Err(BuildError::NoObject(object)))
}

/// Lints the programs in `programs_dir` with clippy for the BPF target; a warning is an error.
///
/// `Ok(false)` means that the toolchain that was found has no clippy, and nothing was linted.
pub fn lint(programs_dir: &Path, target_dir: &Path) -> Result<bool, BuildError> {
    let programs = open(programs_dir)?;
    let toolchain = find_toolchain()?;
    let Some(clippy) = toolchain.clippy() else { return Ok(false) };
    let mut clippy = prepare(clippy, &toolchain, &programs, target_dir);
    run(clippy.args(["--", "-D", "warnings"]))?;
    Ok(true)
}

fn open(programs_dir: &Path) -> Result<PathBuf, BuildError> {
    let programs = programs_dir.canonicalize().map_err(|e| BuildError::Io(programs_dir.to_path_buf(), e))?;
    if programs.join("Cargo.toml").is_file() { Ok(programs) } else { Err(BuildError::NoPrograms(programs)) }
}

/// Gives `cargo`, which already names its subcommand, what every BPF build takes.
fn prepare(mut cargo: Command, toolchain: &Toolchain, programs: &Path, target_dir: &Path) -> Command {
    cargo.current_dir(programs).args(["--release", "--target", TARGET, "--target-dir"]).arg(target_dir);
    let root = lock_dir(programs);
    if root.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", rustflags(root));
    // Not among the flags: the linker's place differs from user to user, and a changed flag compiles all again.
    cargo.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker);
    cargo
}

fn run(cargo: &mut Command) -> Result<(), BuildError> {
    let status = cargo.status().map_err(|e| BuildError::Io(cargo.get_program().into(), e))?;
    if status.success() { Ok(()) } else { Err(BuildError::Cargo(status)) }
}

/// The root of the programs' own workspace, where their lock file lies: their folder, or the one above it.
fn lock_dir(programs: &Path) -> &Path {
    [Some(programs), programs.parent()]
        .into_iter()
        .flatten()
        .find(|dir| dir.join("Cargo.lock").is_file())
        .unwrap_or(programs)
}

/// The compiler's flags, joined as `CARGO_ENCODED_RUSTFLAGS` wants them.
///
/// Paths are mapped so that the object does not depend on where the checkout, cargo's home or the user's home lie. The
/// checkout becomes relative to `root`, in which cargo runs the linker: there LLVM still finds the sources and puts
/// their lines into the BTF, and the verifier's log quotes them.
fn rustflags(root: &Path) -> OsString {
    let mut flags: Vec<OsString> = vec![
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
        // aya-ebpf lays out `pt_regs` by this; the object serves the machine that it is built for.
        format!("--cfg=bpf_target_arch=\"{}\"", host_arch()).into(),
    ];
    // The last match wins: from the widest to the narrowest.
    if let Some(home) = env::home_dir() {
        flags.push(remap(&home, "/home"));
    }
    if let Some(cargo_home) = cargo_home() {
        flags.push(remap(&cargo_home, "/cargo"));
    }
    for (up, to) in [(2, "../.."), (1, ".."), (0, ".")] {
        if let Some(dir) = root.ancestors().nth(up) {
            flags.push(remap(dir, to));
        }
    }
    flags.join::<&std::ffi::OsStr>("\u{1f}".as_ref())
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

fn cargo_home() -> Option<PathBuf> {
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(env::home_dir()?.join(".cargo")))
}

/// The architecture that the agent is built for: cargo says it to build scripts, elsewhere it is this machine's.
fn host_arch() -> String {
    env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_else(|_| env::consts::ARCH.to_owned())
}

/// All that a build script has to do: tells cargo when to run it again, compiles the programs in `programs_dir`, and
/// puts each of the [`OBJECTS`] into the script's own `OUT_DIR`, which it returns, as `<name>.bpf.o`.
///
/// The inner target directory is shared by all profiles, so that `build`, `clippy` and `test` compile the programs once.
pub fn build_script(programs_dir: &Path) -> Result<PathBuf, BuildError> {
    emit_rerun(programs_dir);
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(BuildError::NotABuildScript("OUT_DIR"))?);
    // Cargo tells a build script the features of its crate so; the agent's are the programs'.
    let rehearsal = env::var_os("CARGO_FEATURE_REHEARSAL").map(|_| "rehearsal");
    let directory = build(programs_dir, &shared_target_dir(&out), rehearsal.as_slice())?;
    for name in OBJECTS {
        let (object, copy) = (directory.join(name), out.join(format!("{name}.bpf.o")));
        let bytes = fs::read(&object).map_err(|e| BuildError::Io(object, e))?;
        // An object that did not change keeps its time, and what embeds it is not compiled again.
        if fs::read(&copy).ok().as_deref() != Some(&bytes[..]) {
            fs::write(&copy, &bytes).map_err(|e| BuildError::Io(copy, e))?;
        }
    }
    Ok(out)
}

/// `bpf` in the outer target directory, which cargo marks with `CACHEDIR.TAG`; `OUT_DIR` itself where there is no mark.
fn shared_target_dir(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .map_or_else(|| out_dir.join("bpf"), |target| target.join("bpf"))
}

/// Tells cargo to run the build script again when the programs in `programs_dir`, the structures that they share with
/// the agent or the toolchain change.
pub fn emit_rerun(programs_dir: &Path) {
    let abi = programs_dir.join("../abi");
    let parse = programs_dir.join("../parse");
    for path in [
        programs_dir.join("src"),
        programs_dir.join("Cargo.toml"),
        lock_dir(programs_dir).join("Cargo.lock"),
        abi.join("src"),
        abi.join("Cargo.toml"),
        parse.join("src"),
        parse.join("Cargo.toml"),
    ] {
        // A path that is not there would make cargo run the script each time.
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    if let Ok(toolchain) = find_toolchain() {
        println!("cargo:rerun-if-changed={}", toolchain.linker.display());
        if toolchain.route == Route::Debian {
            println!("cargo:rerun-if-changed={DEBIAN_RUSTC}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrower_paths_are_mapped_last() {
        let flags = rustflags(Path::new("/src/sluice/ebpf/programs"));
        let flags = flags.to_str().expect("UTF-8");
        let maps: Vec<_> =
            flags.split('\u{1f}').filter_map(|f| f.strip_prefix("--remap-path-prefix=/src")).collect();
        assert_eq!(maps, ["/sluice=../..", "/sluice/ebpf=..", "/sluice/ebpf/programs=."]);
    }

    #[test]
    fn folder_without_programs_is_named() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let error =
            build(&source, Path::new("/nonexistent"), &[]).expect_err("there is no Cargo.toml in src");
        assert!(matches!(&error, BuildError::NoPrograms(dir) if dir.ends_with("src")), "{error}");
    }
}
