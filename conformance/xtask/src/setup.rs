//! Installs what Sluice needs, from Debian's packages and crates.io, and says what and why.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{fs, os};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_ebpf_build as ebpf;

use crate::shell::{self, find_program};

/// How much to install.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// What building, the demonstration and the suites need.
    Run,
    /// Also the clients and the server of the suite of requests.
    Clients,
    /// Also what only `cargo xtask test` needs.
    Dev,
}

/// cargo-deny's version.
const CARGO_DENY_VERSION: &str = "0.20.2";

/// How to see whether something is there, whoever installed it.
enum Probe {
    /// A program.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// Anything else.
    Other(fn() -> bool),
}

impl Probe {
    fn holds(&self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::File(path) => Path::new(path).is_file(),
            Self::Other(check) => check(),
        }
    }
}

/// Something that Debian packages.
struct Need {
    packages: &'static [&'static str],
    there: Probe,
    why: &'static str,
    scope: Scope,
}

const fn need(packages: &'static [&'static str], there: Probe, why: &'static str) -> Need {
    Need { packages, there, why, scope: Scope::Run }
}

/// A client of the suite of requests, or what it is made with.
const fn client(packages: &'static [&'static str], there: &'static str, why: &'static str) -> Need {
    Need { packages, there: Probe::File(there), why, scope: Scope::Clients }
}

/// What comes from Debian.
const NEEDS: &[Need] = &[
    need(
        &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"],
        Probe::Other(has_bpf_compiler),
        "compiles the kernel programs: a Rust compiler with a core for BPF",
    ),
    need(&["gcc", "libc6-dev"], Probe::Program("cc"), "links every Rust program"),
    need(&["protobuf-compiler"], Probe::Program("protoc"), "compiles the container runtime's interface"),
    need(
        &["containerd"],
        Probe::Program("containerd"),
        "starts the pods of the demonstration and the suites",
    ),
    need(&["runc"], Probe::Program("runc"), "runs their containers"),
    need(
        &["containernetworking-plugins"],
        Probe::File("/usr/lib/cni/bridge"),
        "gives the pods their network",
    ),
    need(&["busybox-static"], Probe::Program("busybox"), "fills their image"),
    need(
        &["iptables"],
        Probe::Program("iptables"),
        "is called by the network plugins of the chain that the benchmark of ADD measures",
    ),
    need(&["iproute2"], Probe::Program("ip"), "lays out networks for the suites"),
    need(&["knot"], Probe::File("/usr/sbin/knotd"), "serves names to the suite of domain rules"),
    need(&["bind9-dnsutils"], Probe::Program("dig"), "asks for names in it"),
    client(&["nginx-light"], "/usr/sbin/nginx", "serves requests to the suite of requests"),
    client(&["openssl"], "/usr/bin/openssl", "makes its certificates, and is a client in it"),
    client(&["curl"], "/usr/bin/curl", "is a client in it, of OpenSSL"),
    client(&["wget"], "/usr/bin/wget", "is a client in it, of GnuTLS"),
    client(
        &["python3-requests"],
        "/usr/lib/python3/dist-packages/requests/__init__.py",
        "is a client in it, of Python",
    ),
    client(
        &["python3-pycurl"],
        "/usr/lib/python3/dist-packages/pycurl.cpython-311-x86_64-linux-gnu.so",
        "is a client in it, of the libcurl of GnuTLS",
    ),
    client(&["nodejs"], "/usr/bin/node", "is a client in it, of node"),
    client(&["golang-go"], "/usr/bin/go", "compiles the client of Go (81 MB)"),
    client(&["libssl-dev"], "/usr/include/openssl/ssl.h", "compiles the clients of C"),
    client(&["apache2-utils"], "/usr/bin/ab", "is its load"),
    need(
        &["python3"],
        Probe::File("/usr/bin/python3"),
        "is its client of the C library, and its lying server",
    ),
    need(
        &["python3-pycares"],
        Probe::File("/usr/lib/python3/dist-packages/pycares/__init__.py"),
        "asks by c-ares, as Node.js does",
    ),
    need(&["musl-tools"], Probe::Program("musl-gcc"), "links a client with musl, as Alpine's are"),
    Need {
        packages: &["rust-web-clippy"],
        there: Probe::Other(has_bpf_clippy),
        why: "lints the kernel programs for their own target",
        scope: Scope::Dev,
    },
];

/// Whether either route to BPF has its compiler; the linker is a need of its own.
fn has_bpf_compiler() -> bool {
    ebpf::debian_rustc_has_bpf_core() && Path::new(ebpf::DEBIAN_CARGO).is_file()
        || ebpf::find_toolchain().is_ok()
}

fn has_bpf_clippy() -> bool {
    Path::new(ebpf::DEBIAN_CLIPPY).is_file()
        || ebpf::find_toolchain().is_ok_and(|toolchain| toolchain.route == ebpf::Route::Nightly)
}

/// Something that is missing: its name, and what it is for.
type Lack = (String, &'static str);

fn missing_packages(scope: Scope) -> Vec<&'static Need> {
    NEEDS.iter().filter(|need| need.scope <= scope).filter(|n| !n.there.holds()).collect()
}

fn missing_linker() -> Option<Lack> {
    let why = "links the kernel programs (compiled here, about a minute)";
    ebpf::find_toolchain().is_err().then(|| (format!("bpf-linker {}", ebpf::BPF_LINKER_VERSION), why))
}

fn missing_deny(scope: Scope) -> Option<Lack> {
    let why = "audits the dependencies (compiled here, about three minutes)";
    (scope == Scope::Dev && cargo_deny().is_none()).then(|| (format!("cargo-deny {CARGO_DENY_VERSION}"), why))
}

/// Lists what is missing; true if nothing is.
pub(crate) fn check(scope: Scope) -> bool {
    let packages = missing_packages(scope).into_iter().map(|need| (need.packages.join(" "), need.why));
    let lacks: Vec<Lack> = packages.chain(missing_linker()).chain(missing_deny(scope)).collect();
    if lacks.is_empty() {
        println!("nothing is missing");
        return true;
    }
    for (name, why) in &lacks {
        println!("missing: {name}: {why}");
    }
    println!("`cargo xtask setup{}` installs it", if scope == Scope::Dev { " --dev" } else { "" });
    false
}

/// Installs what is missing.
pub(crate) fn install(scope: Scope) -> Result<()> {
    let missing = missing_packages(scope);
    if !missing.is_empty() {
        let mut packages = Vec::new();
        for need in &missing {
            println!("installing {}: {}", need.packages.join(" "), need.why);
            packages.extend_from_slice(need.packages);
        }
        apt_install(&packages)?;
        if let Some(need) = missing.iter().find(|need| !need.there.holds()) {
            bail!(
                "{} was installed, but what it is for is still not to be found: {}",
                need.packages[0],
                need.why
            );
        }
    }
    if let Some((name, why)) = missing_linker() {
        println!("installing {name}: {why}");
        install_bpf_linker()?;
        ebpf::find_toolchain()?;
    }
    if let Some((name, why)) = missing_deny(scope) {
        println!("installing {name}: {why}");
        cargo_install(&["cargo-deny", "--version", CARGO_DENY_VERSION], &cargo_deny_root()?, |_| ())?;
    }
    Ok(())
}

fn apt_install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(" ");
    ensure!(
        find_program("apt-get").is_some(),
        "this is no Debian: install what is named above by its own means (Debian calls it {wanted}), then try again"
    );
    ensure!(shell::is_root(), "only root may install packages. Run as root: apt-get install {wanted}");
    let fresh = lists_are_fresh();
    if !fresh {
        apt_update();
    }
    match apt_get_install(packages) {
        // The lists may name versions that are gone by now.
        Err(_) if fresh => {
            apt_update();
            apt_get_install(packages)
        }
        done => done,
    }
}

/// Whether the package lists are there and less than a day old.
fn lists_are_fresh() -> bool {
    let Ok(entries) = fs::read_dir("/var/lib/apt/lists") else { return false };
    let lists =
        entries.filter_map(Result::ok).filter(|e| e.file_name().to_string_lossy().contains("_Packages"));
    let newest = lists.filter_map(|list| list.metadata().ok()?.modified().ok()).max();
    let touched = fs::metadata("/var/cache/apt/pkgcache.bin").and_then(|cache| cache.modified()).ok();
    newest.is_some()
        && newest.max(touched).is_some_and(|time| {
            SystemTime::now().duration_since(time).unwrap_or_default() < Duration::from_hours(24)
        })
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    shell::clean(&mut apt);
    apt
}

fn apt_update() {
    // A list of a source that is not Debian's may fail to load; what matters is whether the packages are found.
    if let Err(e) = shell::run(apt_get().args(["-q", "update"])) {
        println!("{e:#}: going on with the lists that did load");
    }
}

fn apt_get_install(packages: &[&str]) -> Result<()> {
    let mut apt = apt_get();
    // Nothing of the user's is taken away to make room.
    apt.args(["-q", "install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
    shell::run(&mut apt).context("see what apt-get says above; it needs bookworm and bookworm-security, main")
}

/// Fetches packages, and those that they need and this machine does not have, into a folder; installs nothing.
pub(crate) fn download(packages: &[&str], archives: &Path) -> Result<()> {
    let get = || {
        let mut apt = apt_get();
        apt.args(["-q", "install", "-y", "--no-install-recommends", "--download-only"]);
        // Its own user cannot write into this one's folders.
        apt.args(["-o", "APT::Sandbox::User=root", "-o"]);
        shell::run(apt.arg(format!("Dir::Cache::archives={}", archives.display())).args(packages))
    };
    let wanted = packages.join(" ");
    ensure!(
        find_program("apt-get").is_some(),
        "this is no Debian: install {wanted} by its own means, then try again"
    );
    get().or_else(|error| {
        // The lists may be missing, or name versions that are gone by now.
        ensure!(
            shell::is_root(),
            "{error:#}. Only root may fetch the lists of packages. Run as root: apt-get update"
        );
        apt_update();
        get()
    })
}

/// Compiles bpf-linker against the LLVM that Debian's compiler uses, so that the two agree on LLVM's bitcode.
fn install_bpf_linker() -> Result<()> {
    let major = ebpf::llvm_major().with_context(|| {
        format!("{} does not say which LLVM it uses: is it Debian's?", ebpf::DEBIAN_RUSTC)
    })?;
    let root = ebpf::bpf_linker_root(major).context(NO_HOME)?;
    let prefix = llvm_prefix(major, &root)?;
    let feature = format!("llvm-{major}");
    let args = [
        "bpf-linker",
        "--version",
        ebpf::BPF_LINKER_VERSION,
        "--no-default-features",
        "--features",
        &feature,
    ];
    cargo_install(&args, &root, |cargo| {
        let mut flags = std::ffi::OsString::from("-L native=");
        flags.push(prefix.join("lib"));
        cargo.env("LLVM_PREFIX", &prefix).env("RUSTFLAGS", flags);
    })
}

/// A prefix whose `lib` holds `libLLVM.so`: that of `llvm-N-dev` if it is there, else one made of a single link to the
/// library that the compiler itself came with. The headers are not needed, and half a gigabyte is saved.
fn llvm_prefix(major: u32, root: &Path) -> Result<PathBuf> {
    let dev = PathBuf::from(format!("/usr/lib/llvm-{major}"));
    if dev.join("lib/libLLVM.so").exists() {
        return Ok(dev);
    }
    let name = format!("libLLVM-{major}.so");
    let library = fs::read_dir("/usr/lib")
        .context("/usr/lib cannot be read")?
        .filter_map(|entry| Some(entry.ok()?.path().join(&name)))
        .find(|library| library.exists());
    let library = library
        .with_context(|| format!("no {name} below /usr/lib: run `apt-get install llvm-{major}-dev`"))?;
    let prefix = root.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    fs::create_dir_all(prefix.join("lib")).with_context(|| format!("cannot create {}", prefix.display()))?;
    let _ = fs::remove_file(&link);
    os::unix::fs::symlink(&library, &link).with_context(|| format!("cannot create {}", link.display()))?;
    Ok(prefix)
}

const NO_HOME: &str = "HOME is not set: set it, or XDG_CACHE_HOME, to where tools may be put";

fn cargo_install(args: &[&str], root: &Path, adapt: impl FnOnce(&mut Command)) -> Result<()> {
    let mut cargo = Command::new(shell::cargo());
    // This program's own toolchain, but none of its flags and folders.
    let toolchain = std::env::var_os("RUSTUP_TOOLCHAIN");
    ebpf::scrub(&mut cargo)
        .args(["install", "--quiet", "--locked", "--force", "--root"])
        .arg(root)
        .args(args);
    if let Some(toolchain) = toolchain {
        cargo.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    adapt(&mut cargo);
    shell::run(&mut cargo)
}

fn cargo_deny_root() -> Result<PathBuf> {
    Ok(ebpf::tools_dir().context(NO_HOME)?.join(format!("cargo-deny-{CARGO_DENY_VERSION}")))
}

/// cargo-deny, where this program put it or on `PATH`.
pub(crate) fn cargo_deny() -> Option<PathBuf> {
    let own = cargo_deny_root().ok()?.join("bin/cargo-deny");
    if own.is_file() { Some(own) } else { find_program("cargo-deny") }
}
