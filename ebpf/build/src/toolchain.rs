//! Finds a compiler and a linker for BPF.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, error, fmt, fs};

use crate::{TARGET, scrub};

/// The linker's version that `cargo xtask setup` installs.
pub const BPF_LINKER_VERSION: &str = "0.13.0";

/// The compiler of Debian's `rustc-web`, beside which `libstd-rust-web-dev-bpf` puts a compiled `core` for BPF.
pub const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The cargo of Debian's `cargo-web`.
pub const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// The clippy of Debian's `rust-web-clippy`, which only tests need.
pub const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// A way to come from Rust source to BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Debian's compiler, which has a compiled `core` for BPF.
    Debian,
    /// rustup's nightly, which compiles `core` from `rust-src` itself: aya's usual way.
    Nightly,
}

/// A complete toolchain: what [`find_toolchain`] found.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// How `core` comes about.
    pub route: Route,
    /// The compiler's version, for messages.
    pub rustc_version: String,
    /// The path of bpf-linker.
    pub linker: PathBuf,
}

impl Toolchain {
    /// `cargo build` of this toolchain, with nothing of an outer cargo in its environment.
    pub(crate) fn build(&self) -> Command {
        match self.route {
            Route::Debian => debian(DEBIAN_CARGO, "build"),
            Route::Nightly => nightly("build"),
        }
    }

    /// `cargo clippy` of this toolchain, if it has one.
    pub(crate) fn clippy(&self) -> Option<Command> {
        match self.route {
            Route::Debian => {
                // By its path: cargo would look for the subcommand in its home first, and find rustup's.
                let mut clippy =
                    Path::new(DEBIAN_CLIPPY).is_file().then(|| debian(DEBIAN_CLIPPY, "clippy"))?;
                clippy.env("CARGO", DEBIAN_CARGO);
                Some(clippy)
            }
            Route::Nightly => {
                stdout(nightly("clippy").arg("--version"))?;
                Some(nightly("clippy"))
            }
        }
    }
}

fn debian(program: &str, subcommand: &str) -> Command {
    let mut command = Command::new(program);
    // The BPF target is unstable; Debian's compiler is a stable one.
    scrub(&mut command).arg(subcommand).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
    command
}

fn nightly(subcommand: &str) -> Command {
    let mut command = Command::new("rustup");
    scrub(&mut command).args(["run", "nightly", "cargo", subcommand]).env("CARGO_UNSTABLE_BUILD_STD", "core");
    command
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = match self.route {
            Route::Debian => "Debian's rustc with its compiled core",
            Route::Nightly => "rustup's nightly with core from rust-src",
        };
        write!(f, "{core}, {}, linked by {}", self.rustc_version, self.linker.display())
    }
}

/// No route is complete. Its one line names what each lacks and what installs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What the Debian route lacks.
    pub debian: Vec<String>,
    /// What the nightly route lacks.
    pub nightly: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no toolchain compiles BPF here: Debian's lacks {}; rustup's nightly lacks {}. Run `cargo xtask setup`",
            self.debian.join(" and "),
            self.nightly.join(" and ")
        )
    }
}

impl error::Error for Missing {}

/// Finds the first complete route: Debian's, then the nightly's.
pub fn find_toolchain() -> Result<Toolchain, Missing> {
    let (debian, rustc) = debian_parts();
    let debian = match complete(Route::Debian, debian, rustc) {
        Ok(toolchain) => return Ok(toolchain),
        Err(lacks) => lacks,
    };
    let (nightly, rustc) = nightly_parts();
    match complete(Route::Nightly, nightly, rustc) {
        Ok(toolchain) => Ok(toolchain),
        Err(nightly) => Err(Missing { debian, nightly }),
    }
}

fn complete(route: Route, mut lacks: Vec<String>, rustc: Option<Rustc>) -> Result<Toolchain, Vec<String>> {
    let linker = find_linker(rustc.as_ref().and_then(|r| r.llvm_major));
    match (rustc, linker) {
        (Some(rustc), Some(linker)) if lacks.is_empty() => {
            Ok(Toolchain { route, rustc_version: rustc.version, linker })
        }
        (_, None) => {
            lacks.push("bpf-linker".to_owned());
            Err(lacks)
        }
        (_, Some(_)) => Err(lacks),
    }
}

/// What `rustc -vV` says.
struct Rustc {
    version: String,
    llvm_major: Option<u32>,
}

impl Rustc {
    fn ask(command: &mut Command) -> Option<Self> {
        let said = stdout(command.arg("-vV"))?;
        Some(Self { version: said.lines().next()?.to_owned(), llvm_major: parse_llvm_major(&said) })
    }
}

fn parse_llvm_major(said: &str) -> Option<u32> {
    said.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// The major version of the LLVM that Debian's compiler uses; bpf-linker must be built with the same.
pub fn llvm_major() -> Option<u32> {
    Rustc::ask(scrub(&mut Command::new(DEBIAN_RUSTC)))?.llvm_major
}

/// Whether Debian's compiler is there with a compiled `core` for BPF.
pub fn debian_rustc_has_bpf_core() -> bool {
    Path::new(DEBIAN_RUSTC).is_file() && has_core(Path::new("/usr/lib/rustlib"))
        || sysroot(Command::new(DEBIAN_RUSTC)).is_some_and(|root| has_core(&root.join("lib/rustlib")))
}

fn has_core(rustlib: &Path) -> bool {
    let Ok(entries) = fs::read_dir(rustlib.join(TARGET).join("lib")) else { return false };
    entries.filter_map(Result::ok).any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}

fn debian_parts() -> (Vec<String>, Option<Rustc>) {
    let mut lacks = Vec::new();
    let rustc = Rustc::ask(scrub(&mut Command::new(DEBIAN_RUSTC)));
    if rustc.is_none() || !debian_rustc_has_bpf_core() {
        lacks.push(format!("{DEBIAN_RUSTC} with a core for {TARGET}"));
    }
    if !Path::new(DEBIAN_CARGO).is_file() {
        lacks.push(DEBIAN_CARGO.to_owned());
    }
    (lacks, rustc)
}

fn nightly_parts() -> (Vec<String>, Option<Rustc>) {
    let nightly_rustc = || {
        let mut command = Command::new("rustup");
        scrub(&mut command).args(["run", "nightly", "rustc"]);
        command
    };
    let rustc = Rustc::ask(&mut nightly_rustc());
    let source = sysroot(nightly_rustc()).map(|root| root.join("lib/rustlib/src/rust/library/core"));
    let lacks = match (&rustc, source) {
        (None, _) => vec!["the toolchain itself".to_owned()],
        (Some(_), Some(source)) if source.is_dir() => Vec::new(),
        (Some(_), _) => vec!["rust-src".to_owned()],
    };
    (lacks, rustc)
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    Some(PathBuf::from(stdout(scrub(&mut rustc).args(["--print", "sysroot"]))?.trim_end()))
}

fn stdout(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()
}

/// Where `cargo xtask setup` puts the tools that it compiles: per user, outside every checkout, so that they outlive
/// `cargo clean` and serve the next clone. `None` where the user has no home.
pub fn tools_dir() -> Option<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from) {
        Some(dir) if dir.is_absolute() => dir,
        _ => env::home_dir()?.join(".cache"),
    };
    Some(cache.join("sluice/tools"))
}

/// The `cargo install --root` of the bpf-linker for one LLVM; its versions are in the path.
pub fn bpf_linker_root(llvm_major: u32) -> Option<PathBuf> {
    Some(tools_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}-llvm{llvm_major}")))
}

/// The linker that fits the compiler's LLVM where `cargo xtask setup` put it, or whichever is on `PATH`.
fn find_linker(llvm_major: Option<u32>) -> Option<PathBuf> {
    let installed = llvm_major.and_then(bpf_linker_root).map(|root| root.join("bin/bpf-linker"));
    if let Some(linker) = installed.filter(|linker| linker.is_file()) {
        return Some(linker);
    }
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join("bpf-linker")).find(|linker| linker.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_what_rustc_says() {
        assert_eq!(parse_llvm_major("rustc 1.96.0\nrelease: 1.96.0\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.96.0 (cranelift)\n"), None);
    }

    #[test]
    fn what_is_missing_fits_one_line_and_says_what_to_run() {
        let missing =
            Missing { debian: vec!["a".into(), "bpf-linker".into()], nightly: vec!["rust-src".into()] };
        let said = missing.to_string();
        assert!(!said.contains('\n'), "{said}");
        assert!(said.contains("lacks a and bpf-linker"), "{said}");
        assert!(said.contains("`cargo xtask setup`"), "{said}");
    }

    #[test]
    fn linker_of_another_llvm_has_another_place() {
        assert_ne!(bpf_linker_root(21), bpf_linker_root(22));
    }
}
