//! The file system that a virtual machine starts from: an archive in cpio's form "newc", not compressed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::packages::Kernel;
use crate::shell::{self, Checkout, find_program};

/// Type and mode of a folder, of a file that is run, and of a link.
const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// The folders that the first process mounts on.
const MOUNT_POINTS: &[&str] = &["proc", "sys", "dev", "tmp", "mnt"];

/// The archive for one kernel: the first process, Sluice, busybox, `ip` with its libraries, and the modules.
pub(super) fn make(checkout: &Checkout, sluice: &Path, kernel: &Kernel) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for folder in MOUNT_POINTS {
        archive.folder(folder);
    }
    archive.copy("init", &checkout.root.join("conformance/kernels/init"))?;
    archive.copy("bin/sluice", sluice)?;
    archive.add("bin/sh", LINK, b"busybox");
    for name in ["busybox", "ip"] {
        let program = find_program(name)
            .with_context(|| format!("{name} is not installed: run `cargo xtask setup`"))?;
        archive.copy(&format!("bin/{name}"), &program)?;
        for library in libraries(&program)? {
            archive.copy(&library.to_string_lossy(), &library)?;
        }
    }
    for (index, module) in kernel.modules.iter().enumerate() {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        // In this order.
        archive.copy(&format!("modules/{index}-{name}"), module)?;
    }
    Ok(archive.finish())
}

/// The libraries that a program asks for, its loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut ldd = Command::new("ldd");
    shell::clean(&mut ldd);
    let output = ldd.arg(program).output().context("cannot start ldd: install libc-bin")?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// A cpio archive in the making.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
}

impl Archive {
    /// Adds a folder and those above it.
    fn folder(&mut self, path: &str) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.entry(path, FOLDER, &[]);
    }

    /// Adds a file as one that can be run.
    fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let data = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.add(path, PROGRAM, &data);
        Ok(())
    }

    /// Adds a file or link, and the folders above it.
    fn add(&mut self, path: &str, mode: u32, data: &[u8]) {
        let path = path.trim_start_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.entry(path, mode, data);
    }

    /// Adds an entry, once.
    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) {
        if !self.names.insert(path.to_owned()) {
            return;
        }
        let (inode, links) = (self.names.len(), 1);
        let mut head = "070701".to_owned();
        let fields = [inode, mode as usize, 0, 0, links, 0, data.len(), 0, 0, 0, 0, path.len() + 1, 0];
        for field in fields {
            // Writing to a String does not fail.
            let _ = write!(head, "{field:08x}");
        }
        self.bytes.extend_from_slice(head.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    /// Heads and data begin at multiples of four.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_has_each_entry_once_and_aligned() {
        let mut archive = Archive::default();
        archive.add("/bin/a", PROGRAM, b"abc");
        archive.add("bin/b", LINK, b"a");
        archive.folder("bin");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 4, "bin, a, b and the trailer: {text}");
        assert_eq!(bytes.len() % 4, 0);
        let data = text.find("abc").expect("the data");
        assert_eq!(data % 4, 0, "{text}");
    }
}
