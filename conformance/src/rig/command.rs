//! Running other programs: with their output in the error when they fail.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program to its end and returns its stdout.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, text.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with arguments separated by blanks.
pub(super) fn ip(arguments: &str) -> Result<()> {
    run("ip", arguments.split_whitespace()).map(drop)
}

/// Finds one of the project's binaries: in `SLUICE_BIN_DIR`, or next to the running one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let candidates = candidates(name)?;
    candidates
        .iter()
        .find(|path| path.is_file())
        .cloned()
        .with_context(|| format!("{name} is not built; looked for {candidates:?}"))
}

/// Finds a program of the machine.
pub fn binary_in_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin")];
    let found = std::env::split_paths(&path).chain(sbin).map(|directory| directory.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))
}

/// Finds one that runs without a shared library: an image that holds nothing else can start it.
pub fn static_binary(name: &str) -> Result<PathBuf> {
    let candidates = candidates(name)?;
    for path in candidates.iter().filter(|path| path.is_file()) {
        if is_static(&std::fs::read(path)?) {
            return Ok(path.clone());
        }
    }
    bail!(
        "no static {name} among {candidates:?}; build it with RUSTFLAGS='-C target-feature=+crt-static' \
         cargo build --release --target x86_64-unknown-linux-gnu -p {name}"
    )
}

fn candidates(name: &str) -> Result<Vec<PathBuf>> {
    let own = std::env::current_exe()?;
    let own = own.parent().context("the running binary is in no directory")?;
    let mut directories: Vec<PathBuf> = Vec::new();
    directories.extend(std::env::var_os("SLUICE_BIN_DIR").map(PathBuf::from));
    directories.push(own.to_owned());
    // The unit tests' binaries are one level deeper; a target given by name has a directory of its own.
    for target in own.ancestors().skip(1).take(2) {
        for profile in ["release", "debug"] {
            directories.push(target.join("x86_64-unknown-linux-gnu").join(profile));
        }
    }
    Ok(directories.into_iter().map(|directory| directory.join(name)).collect())
}

/// Whether a 64-bit ELF file asks for no interpreter.
fn is_static(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let number = |at: usize, length: usize| -> Option<usize> {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(elf.get(at..at + length)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    };
    let headers = || -> Option<bool> {
        let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
        for index in 0..count {
            if number(table + index * size, 4)? == PT_INTERP as usize {
                return Some(false);
            }
        }
        Some(true)
    };
    elf.starts_with(b"\x7fELF\x02") && headers().unwrap_or(false)
}

/// The last lines of a log, for an error message.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    format!("last lines of {}:\n{}", path.display(), all[all.len().saturating_sub(lines)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::{is_static, run};

    #[test]
    fn a_failing_command_says_why() {
        let error = run("sh", ["-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("broken") && error.contains('3'), "{error}");
    }

    #[test]
    fn this_test_is_linked_dynamically() {
        assert!(!is_static(&std::fs::read(std::env::current_exe().unwrap()).unwrap()));
        assert!(!is_static(b"#!/bin/sh"));
        assert!(!is_static(b"\x7fELF\x02"));
    }
}
