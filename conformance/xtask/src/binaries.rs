//! Builds the binaries and puts them into one folder, from which the suites and a user run them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};

use crate::shell::{self, Checkout};

/// Binaries that run on the node, whose C library they can use.
const DYNAMIC: &[&str] = &["sluice", "sluice-conformance"];

/// The agent built with other map layouts and programs, beside the real one, to rehearse upgrade and downgrade with.
const REHEARSAL: (&str, &str) = ("sluice", "sluice-rehearsal");

/// Binaries that also run where there is no C library, or another one: the runtime's host folder, a test pod.
const STATIC: &[&str] = &["sluice-cni", "sluice-probe", "sluice-rustls-client"];

/// Cargo's profile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quick to build.
    Dev,
    /// Quick to run.
    Release,
}

impl Profile {
    fn arg(self) -> &'static str {
        match self {
            Self::Dev => "--profile=dev",
            Self::Release => "--release",
        }
    }

    fn dir(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// The folder that holds all binaries side by side.
pub(crate) fn dir(checkout: &Checkout) -> PathBuf {
    checkout.target.join("sluice")
}

/// A command that starts `sluice-conformance` and tells it where the other binaries are.
pub(crate) fn conformance(checkout: &Checkout) -> Command {
    let dir = dir(checkout);
    let mut command = Command::new(dir.join("sluice-conformance"));
    command.env("SLUICE_BIN_DIR", dir);
    shell::clean(&mut command);
    command
}

/// Builds all binaries and stages them.
pub(crate) fn build(checkout: &Checkout, profile: Profile) -> Result<()> {
    let mut cargo = checkout.cargo("build");
    cargo.args(["--bins", profile.arg()]).args(packages(DYNAMIC));
    shell::run(&mut cargo)?;

    let stage = dir(checkout);
    fs::create_dir_all(&stage).with_context(|| format!("cannot create {}", stage.display()))?;
    for name in DYNAMIC {
        put(&checkout.target.join(profile.dir()).join(name), &stage.join(name))?;
    }
    let (name, staged) = REHEARSAL;
    let mut cargo = checkout.cargo("build");
    cargo.args(["--bins", profile.arg(), "--package", name, "--features", "rehearsal"]);
    shell::run(&mut cargo)?;
    put(&checkout.target.join(profile.dir()).join(name), &stage.join(staged))?;

    let built = build_static(checkout, profile, STATIC)?;
    for name in STATIC {
        put(&built.join(name), &stage.join(name))?;
    }
    println!("binaries are in {}", stage.display());
    Ok(())
}

/// Builds binaries that need no C library around them, and says in which folder they are.
pub(crate) fn build_static(
    checkout: &Checkout,
    profile: Profile,
    names: &'static [&'static str],
) -> Result<PathBuf> {
    // With an explicit target, the flags do not reach procedural macros and build scripts, which cannot be static.
    let host = host()?;
    let mut flags = env::var_os("RUSTFLAGS").unwrap_or_default();
    flags.push(" -C target-feature=+crt-static");
    let mut cargo = checkout.cargo("build");
    cargo.args(["--bins", profile.arg(), "--target", &host]).args(packages(names)).env("RUSTFLAGS", flags);
    shell::run(&mut cargo)?;

    let folder = checkout.target.join(&host).join(profile.dir());
    for binary in names.iter().map(|name| folder.join(name)) {
        let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
        ensure!(
            !asks_for_interpreter(&bytes),
            "{} is not static: a dependency links a library of the system; find it with `ldd`",
            binary.display()
        );
    }
    Ok(folder)
}

fn packages(names: &'static [&'static str]) -> impl Iterator<Item = &'static str> {
    names.iter().flat_map(|name| ["--package", name])
}

/// The triple of this machine, as the compiler names it.
fn host() -> Result<String> {
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let output = rustc.arg("-vV").output().context("cannot start rustc: is ~/.cargo/bin on PATH?")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host: is this a Rust compiler?")?.to_owned())
}

/// Links `from` at `to`, in place of what was there; copies where a link cannot be made.
fn put(from: &Path, to: &Path) -> Result<()> {
    let say = || format!("cannot put {} at {}", from.display(), to.display());
    if to.exists() {
        // Not overwritten: it may be running.
        fs::remove_file(to).with_context(say)?;
    }
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).with_context(say)
}

/// Whether a 64-bit ELF file of this machine names a dynamic loader, and so is no static program.
fn asks_for_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: [u8; 4] = 3_u32.to_ne_bytes();
    fn half(elf: &[u8], at: usize) -> Option<usize> {
        Some(usize::from(u16::from_ne_bytes(elf.get(at..at + 2)?.try_into().ok()?)))
    }
    let headers = || {
        let start = usize::try_from(u64::from_ne_bytes(elf.get(0x20..0x28)?.try_into().ok()?)).ok()?;
        elf.get(start..start.checked_add(half(elf, 0x36)?.checked_mul(half(elf, 0x38)?)?)?)
    };
    match (headers(), half(elf, 0x36)) {
        (Some(headers), Some(size)) if size >= 4 => headers.chunks(size).any(|h| h.starts_with(&PT_INTERP)),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dynamic_program_is_seen_as_such() {
        let own = fs::read("/proc/self/exe").expect("own binary");
        assert!(asks_for_interpreter(&own));
    }

    #[test]
    fn what_is_no_program_does_not_count_as_static() {
        assert!(asks_for_interpreter(b"#!/bin/sh\n"));
        assert!(asks_for_interpreter(&[]));
    }
}
