//! Files mapped as a loader maps libraries: readable and executable, and held.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

/// What is mapped of a file: the agent has to look for itself how long it is.
const LENGTH: usize = 4096;

/// Maps every file below a directory, tells how many it could, and holds them.
pub(crate) fn run(directory: &Path, lasting: Duration) -> Result<(), String> {
    let (mut mapped, mut refused) = (0_u32, 0_u32);
    walk(directory, &mut |file| match map(file) {
        Ok(()) => mapped += 1,
        Err(_) => refused += 1,
    })
    .map_err(|error| format!("{}: {error}", directory.display()))?;
    println!("{}", json!({"mapped": mapped, "refused": refused}));
    println!("held");
    std::thread::sleep(lasting);
    Ok(())
}

fn walk(directory: &Path, each: &mut impl FnMut(&Path)) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), each)?;
        } else {
            each(&entry.path());
        }
    }
    Ok(())
}

/// The mapping is never undone: it ends with the process.
fn map(file: &Path) -> io::Result<()> {
    // A pipe would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(file)?;
    let rights = libc::PROT_READ | libc::PROT_EXEC;
    // SAFETY: a new mapping, at an address that the kernel chooses, of a descriptor that is open; nothing reads it.
    let at =
        unsafe { libc::mmap(std::ptr::null_mut(), LENGTH, rights, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
