//! Requests that the agent missed, left for it to carry out: see [`sluice_api::spool`] for the form.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sluice_api::spool::{DIRECTORY, LONGEST, MOST, file_name};
use sluice_api::{Attachment, Call, PROTOCOL_VERSION, Request};

/// Why a request was not spooled.
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
    /// The request is too long to be kept.
    #[error("the request has {0} bytes, and at most {LONGEST} are spooled; give the pod fewer labels")]
    TooLong(usize),
}

/// Writes down what was asked about an attachment, in place of what was asked before. Repeating it changes nothing.
pub fn write(state_dir: &Path, attachment: &Attachment, call: Call) -> Result<(), SpoolError> {
    let directory = state_dir.join(DIRECTORY);
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| SpoolError::Write { path, source }
    };
    let place = file(state_dir, attachment);
    let request = Request { version: PROTOCOL_VERSION, call };
    let text = serde_json::to_vec(&request).map_err(|error| failed(&place)(error.into()))?;
    if text.len() as u64 > LONGEST {
        return Err(SpoolError::TooLong(text.len()));
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed(&directory))?;
    if fs::read_dir(&directory).map_err(failed(&directory))?.take(MOST).count() == MOST {
        return Err(SpoolError::Full(directory));
    }

    let draft = directory.join(format!(".draft-{}", std::process::id()));
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut opened| opened.write_all(&text).and_then(|()| opened.sync_all()))
        .and_then(|()| fs::rename(&draft, &place))
        .map_err(|source| {
            // Best effort: a draft is never read.
            let _ = fs::remove_file(&draft);
            SpoolError::Write { path: place, source }
        })
}

/// Takes back what was spooled for an attachment, because something newer is about to be asked.
pub fn take_back(state_dir: &Path, attachment: &Attachment) -> io::Result<()> {
    match fs::remove_file(file(state_dir, attachment)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Where a request is written. The parts of an attachment hold no `/`: see [`crate::Vars::attachment`].
pub fn file(state_dir: &Path, attachment: &Attachment) -> PathBuf {
    state_dir.join(DIRECTORY).join(file_name(attachment))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(id: &str) -> Attachment {
        Attachment { container_id: id.into(), ifname: "eth0".into() }
    }

    fn write_del(state_dir: &Path, attachment: &Attachment) -> Result<(), SpoolError> {
        write(state_dir, attachment, Call::Del(attachment.clone()))
    }

    #[test]
    fn the_last_request_of_an_attachment_is_kept_whole_and_taken_back() {
        let state = tempfile::tempdir().unwrap();
        let attachment = attachment("c0ffee");
        take_back(state.path(), &attachment).unwrap();
        write(state.path(), &attachment, Call::Check(attachment.clone())).unwrap();
        for _ in 0..2 {
            write_del(state.path(), &attachment).unwrap();
        }
        let names: Vec<_> =
            fs::read_dir(state.path().join(DIRECTORY)).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names, [file(state.path(), &attachment)]);
        let read: Request = serde_json::from_slice(&fs::read(&names[0]).unwrap()).unwrap();
        assert_eq!(read, Request { version: PROTOCOL_VERSION, call: Call::Del(attachment.clone()) });
        take_back(state.path(), &attachment).unwrap();
        take_back(state.path(), &attachment).unwrap();
        assert!(!names[0].exists());
    }

    #[test]
    fn no_two_attachments_share_a_file() {
        let other = Attachment { container_id: "a".into(), ifname: "b-c".into() };
        let one = Attachment { container_id: "a-b".into(), ifname: "c".into() };
        assert_ne!(file_name(&one), file_name(&other));
    }

    #[test]
    fn a_full_spool_takes_no_more() {
        let state = tempfile::tempdir().unwrap();
        write_del(state.path(), &attachment("first")).unwrap();
        for number in 1..MOST {
            fs::write(file(state.path(), &attachment(&number.to_string())), "").unwrap();
        }
        assert!(matches!(write_del(state.path(), &attachment("last")), Err(SpoolError::Full(_))));
    }

    #[test]
    fn a_request_too_long_is_not_kept() {
        let state = tempfile::tempdir().unwrap();
        let valid = vec![attachment("c0ffee"); 4096];
        let call = Call::Gc { network: "pods".into(), valid };
        assert!(matches!(write(state.path(), &attachment("a"), call), Err(SpoolError::TooLong(_))));
        assert!(!state.path().join(DIRECTORY).exists());
    }

    #[test]
    fn a_state_directory_that_cannot_be_is_an_error() {
        let none = write_del(Path::new("/proc/none"), &attachment("a"));
        assert!(matches!(none, Err(SpoolError::Write { .. })));
        let state = tempfile::tempdir().unwrap();
        let long = write_del(state.path(), &attachment(&"a".repeat(300)));
        assert!(matches!(long, Err(SpoolError::Write { .. })));
        assert_eq!(fs::read_dir(state.path().join(DIRECTORY)).unwrap().count(), 0);
    }
}
