//! The machine emulator: the system's, or one fetched for the matrix alone.

use std::path::PathBuf;
use std::process::Command;
use std::{ffi, fs};

use anyhow::{Context as _, Result, ensure};

use super::packages::{cache, create};
use crate::setup;
use crate::shell::{self, find_program};

/// The machine emulator.
pub(super) struct Qemu {
    program: PathBuf,
    /// Where it was unpacked; `None` if the system has it.
    root: Option<PathBuf>,
}

impl Qemu {
    const NAME: &str = "qemu-system-x86_64";

    /// Finds it, or fetches it: next to other versions of `qemu-utils` it cannot be installed.
    pub(super) fn find_or_fetch() -> Result<Self> {
        if let Some(program) = find_program(Self::NAME) {
            return Ok(Self { program, root: None });
        }
        let root = cache()?.join("qemu");
        let program = root.join("usr/bin").join(Self::NAME);
        // Made last: with it, all is there.
        let done = root.join("complete");
        if !done.exists() {
            let archives = root.join("debs");
            println!("fetching qemu-system-x86 into {}: boots the kernels (17 MB)", root.display());
            create(&archives.join("partial"))?;
            setup::download(&["qemu-system-x86"], &archives)?;
            let files =
                fs::read_dir(&archives).with_context(|| format!("cannot read {}", archives.display()))?;
            let files = files.filter_map(|entry| Some(entry.ok()?.path()));
            for deb in files.filter(|file| file.extension().is_some_and(|end| end == "deb")) {
                let mut unpack = Command::new("dpkg-deb");
                shell::run(unpack.arg("-x").arg(&deb).arg(&root))?;
            }
            fs::remove_dir_all(&archives).with_context(|| format!("cannot remove {}", archives.display()))?;
            ensure!(program.is_file(), "no {} in the package qemu-system-x86", program.display());
            fs::write(&done, "").with_context(|| format!("cannot write {}", done.display()))?;
        }
        Ok(Self { program, root: Some(root) })
    }

    /// A command that starts it.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        shell::clean(&mut command);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|lib| root.join(lib));
            let libraries = libraries.map(PathBuf::into_os_string).join(ffi::OsStr::new(":"));
            command.env("LD_LIBRARY_PATH", libraries);
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }
}
