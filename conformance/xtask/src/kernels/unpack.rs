//! Takes a kernel and its modules out of Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

/// Takes the kernel and the modules out of a package.
pub(super) fn take_out(deb: &Path, modules: &[&str], into: &Path) -> Result<()> {
    let mut read = Command::new("dpkg-deb");
    read.arg("--fsys-tarfile").arg(deb).stdout(Stdio::piped());
    let mut reading = read.spawn().context("cannot start dpkg-deb")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--wildcards", "--no-same-owner", "-C"]).arg(into).arg("*/vmlinuz*");
    tar.args(modules.iter().map(|name| format!("*/{name}.ko*")));
    if let Some(files) = reading.stdout.take() {
        tar.stdin(files);
    }
    // It complains of each name that this package does not have; what is missing in all of them shows later.
    tar.stderr(Stdio::null()).status().context("cannot start tar")?;
    let status = reading.wait().context("cannot wait for dpkg-deb")?;
    ensure!(status.success(), "{} is damaged: remove it and try again", deb.display());
    Ok(())
}

/// Puts what was unpacked side by side, modules decompressed.
pub(super) fn flatten(modules: &[&str], folder: &Path) -> Result<()> {
    let mut files = Vec::new();
    walk(folder, &mut files)?;
    let named = |name: &str| {
        let is = |file: &&PathBuf| file.file_name().is_some_and(|n| n.to_string_lossy().starts_with(name));
        files.iter().find(is).with_context(|| format!("have no {name}"))
    };
    let put = |from: &Path, to: &str| {
        fs::rename(from, folder.join(to)).with_context(|| format!("cannot move {}", from.display()))
    };
    put(named("vmlinuz")?, "vmlinuz")?;
    for name in modules.iter().map(|name| format!("{name}.ko")) {
        let mut module = named(&name)?.clone();
        if module.extension().is_some_and(|end| end == "xz") {
            let mut unxz = Command::new("busybox");
            shell::run(unxz.arg("unxz").arg(&module))?;
            module.set_extension("");
        }
        if module.extension().is_none_or(|end| end != "ko") {
            bail!("{} is compressed in a way that is not known here", module.display());
        }
        put(&module, &name)?;
    }
    for folder in fs::read_dir(folder)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()) {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
