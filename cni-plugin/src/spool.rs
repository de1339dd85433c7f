//! DELs that the agent missed. It reads them when it starts.
//!
//! `<stateDir>/spool/del-<container id>-<ifname>.json` holds the [`Attachment`] as JSON. A file appears whole: it is
//! written under a name that begins with `.` and renamed.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sluice_api::Attachment;

/// The directory below the state directory.
pub const DIRECTORY: &str = "spool";

/// The most files that are spooled: the directory is on tmpfs, which is the node's memory.
pub const MOST: usize = 16_384;

/// Why a DEL was not spooled.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory or the file could not be written.
    #[error("{path} could not be written: {source}; check that the state directory is there and writable")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The spool is full.
    #[error("{0} holds {MOST} files already; start the agent, or empty it if Sluice is gone from this node")]
    Full(PathBuf),
}

/// Writes a DEL down. Repeating it changes nothing.
pub fn write(state_dir: &Path, attachment: &Attachment) -> Result<(), SpoolError> {
    let directory = state_dir.join(DIRECTORY);
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| SpoolError::Write { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed(&directory))?;
    if fs::read_dir(&directory).map_err(failed(&directory))?.take(MOST).count() == MOST {
        return Err(SpoolError::Full(directory));
    }

    let place = file(state_dir, attachment);
    let draft = directory.join(format!(".draft-{}", std::process::id()));
    let text = serde_json::to_vec(attachment).map_err(|error| failed(&place)(error.into()))?;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut opened| opened.write_all(&text))
        .and_then(|()| fs::rename(&draft, &place))
        .map_err(|source| {
            // Best effort: a draft is never read.
            let _ = fs::remove_file(&draft);
            SpoolError::Write { path: place, source }
        })
}

/// Takes a DEL back, because the attachment is being added again: the agent must not act on it at its next start.
pub fn take_back(state_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    match fs::remove_file(file(state_dir, attachment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a DEL is written. The two parts hold no `/`: see [`crate::Vars::attachment`].
pub fn file(state_dir: &Path, attachment: &Attachment) -> PathBuf {
    state_dir.join(DIRECTORY).join(format!("del-{}-{}.json", attachment.container_id, attachment.ifname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_once_whole_and_taken_back() {
        let state = tempfile::tempdir().unwrap();
        let attachment = Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() };
        take_back(state.path(), &attachment).unwrap();
        for _ in 0..2 {
            write(state.path(), &attachment).unwrap();
        }
        let names: Vec<_> =
            fs::read_dir(state.path().join(DIRECTORY)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names, [file(state.path(), &attachment)]);
        let read: Attachment = serde_json::from_slice(&fs::read(&names[0]).unwrap()).unwrap();
        assert_eq!(read, attachment);
        take_back(state.path(), &attachment).unwrap();
        take_back(state.path(), &attachment).unwrap();
        assert!(!names[0].exists());
    }

    #[test]
    fn a_full_spool_takes_no_more() {
        let state = tempfile::tempdir().unwrap();
        let attachment = |id: String| Attachment { container_id: id, ifname: "eth0".into() };
        write(state.path(), &attachment("first".into())).unwrap();
        for number in 1..MOST {
            fs::write(file(state.path(), &attachment(number.to_string())), "").unwrap();
        }
        assert!(matches!(write(state.path(), &attachment("last".into())), Err(SpoolError::Full(_))));
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_an_error() {
        let attachment = Attachment { container_id: "a".into(), ifname: "b".into() };
        assert!(matches!(write(Path::new("/proc/none"), &attachment), Err(SpoolError::Write { .. })));
        let long = Attachment { container_id: "a".repeat(300), ifname: "b".into() };
        let state = tempfile::tempdir().unwrap();
        assert!(matches!(write(state.path(), &long), Err(SpoolError::Write { .. })));
        assert_eq!(fs::read_dir(state.path().join(DIRECTORY)).unwrap().count(), 0);
    }
}
