//! The programs that are made for the suite: clients of a static OpenSSL, of Go and of rustls, and what Python and node run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::rig::{binary_in_path, run, static_binary};

/// Where pods see them.
pub(crate) const MOUNTED: &str = "/clients";

/// How large a body is that is sent: far more than is copied of a write, and less than what nginx refuses.
const UPLOAD: usize = 600_000;

/// Makes all of them in `directory`.
pub(crate) fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for (name, text) in [
        ("client.c", include_str!("client.c")),
        ("client.go", include_str!("client.go")),
        ("client.js", include_str!("client.js")),
        ("client.py", include_str!("client.py")),
    ] {
        fs::write(directory.join(name), text)?;
    }
    fs::write(directory.join("upload"), vec![b'x'; UPLOAD])?;
    compile_c(directory, "openssl-dynamic", &["-lssl"])?;
    compile_c(directory, "openssl-static", &["-static", "-lssl", "-lcrypto"])?;
    compile_c(directory, "openssl-stripped", &["-s", "-static", "-lssl", "-lcrypto"])?;
    compile_go(directory, "go-client", "")?;
    compile_go(directory, "go-stripped", "-s -w")?;
    let rustls = directory.join("rustls-client");
    fs::copy(static_binary("sluice-rustls-client")?, rustls).context("copying the client of rustls")?;
    Ok(())
}

fn compile_c(directory: &Path, name: &str, how: &[&str]) -> Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    let (source, program) = (at("client.c"), at(name));
    run("cc", ["-O2", "-o", &program, &source].iter().chain(how)).map(drop)
}

fn compile_go(directory: &Path, name: &str, flags: &str) -> Result<()> {
    let mut command = Command::new(binary_in_path("go")?);
    command
        .args(["build", "-ldflags", flags, "-o"])
        .arg(directory.join(name))
        .arg(directory.join("client.go"));
    command.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", directory.join("go-cache"));
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A copy of a program or library that nobody has run yet: a file of its own.
pub(crate) fn fresh(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(to.to_owned())
}
