//! Files that rule the node: policies and the configuration. They count only if nobody but root could have written them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

/// The largest such file, in bytes.
pub const MAX_FILE: u64 = 4 << 20;

/// Why a file does not count.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a regular file: a symlink, a FIFO, a directory.
    #[error("{path} is not a regular file; put the file itself there, not a link to it")]
    NotRegular {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else could have written it.
    #[error(
        "{path} belongs to uid {owner} with mode {mode:03o}; it must be root's and writable by nobody else: chown root {path} && chmod go-w {path}"
    )]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// Larger than it needs to be.
    #[error("{path} has {size} bytes; it may have {MAX_FILE}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
    },
}

/// Reads a file that only root could have written.
pub fn read(path: &Path) -> Result<String, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let file =
        File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path).map_err(
            |error| match error.raw_os_error() {
                Some(libc::ELOOP) => FileError::NotRegular { path: path.to_owned() },
                _ => failed(error),
            },
        )?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular { path: path.to_owned() });
    }
    if metadata.uid() != 0 || metadata.mode() & 0o022 != 0 {
        let (owner, mode) = (metadata.uid(), metadata.mode() & 0o777);
        return Err(FileError::Untrusted { path: path.to_owned(), owner, mode });
    }
    if metadata.len() > MAX_FILE {
        return Err(FileError::TooLarge { path: path.to_owned(), size: metadata.len() });
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
