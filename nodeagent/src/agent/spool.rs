//! What the plugin left while no agent answered: carried out at the start, and then for as long as the agent runs, for
//! the plugin may have given up in the very moment in which the agent came back.
//!
//! See [`sluice_api::spool`] for the form, and for the order in which plugin and agent touch a file. What is read is
//! held against the node as it is now, as if it had just been asked: a cgroup that is another by now is refused.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use sluice_api::spool::{DIRECTORY, LONGEST, MOST, REFUSED, file_name};
use sluice_api::{Call, PROTOCOL_VERSION, Refusal, RefusalKind, Request};

use super::Shared;
use super::node::{Node, NodeError};

/// How often the directory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// The most files that are set aside; what is more is removed.
const MOST_REFUSED: usize = 64;
/// The name under which a file is taken away.
const TAKEN: &str = ".taken";

/// Why a spooled request was not carried out.
#[derive(Debug, thiserror::Error)]
enum SpoolError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no file.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is longer than the plugin writes.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// It holds no request.
    #[error("it holds no request: {0}; do plugin and agent come from one release?")]
    Json(#[from] serde_json::Error),
    /// Another protocol's.
    #[error("it speaks version {0} of the protocol, this agent {PROTOCOL_VERSION}; restart the pod")]
    Version(u32),
    /// It is about nothing that is spooled, or about another attachment than its name says.
    #[error("it is not the ADD or DEL that its name announces")]
    Misnamed,
    /// The node did not do it.
    #[error(transparent)]
    Node(#[from] NodeError),
}

impl SpoolError {
    /// Would the same file be carried out later?
    fn is_passing(&self) -> bool {
        match self {
            Self::Node(error) => {
                matches!(Refusal::from(error).kind, RefusalKind::NotReady | RefusalKind::Failed)
            }
            Self::Io(_)
            | Self::NotAFile
            | Self::TooLong
            | Self::Json(_)
            | Self::Version(_)
            | Self::Misnamed => false,
        }
    }
}

/// The directory, and what was told of it.
pub(super) struct Spool {
    directory: PathBuf,
    /// What keeps a file there, told once.
    told: BTreeMap<PathBuf, String>,
}

impl Spool {
    /// The spool of a run directory. It may not be there.
    pub(super) fn new(run_dir: &Path) -> Self {
        Self { directory: run_dir.join(DIRECTORY), told: BTreeMap::new() }
    }

    /// Carries out what is spooled. What cannot be done now stays; what never can is set aside.
    pub(super) fn replay(&mut self, shared: &Shared) {
        let files = match self.files() {
            Ok(files) => files,
            Err(error) => {
                return self.tell(&self.directory.clone(), "the spool cannot be read", &error.to_string());
            }
        };
        self.told.retain(|path, _| files.contains(path));
        // What leaves goes first: a sandbox that was made again has the cgroup of the one before.
        for is_add in [false, true] {
            for path in &files {
                self.carry_out(path, is_add, &mut shared.node());
            }
        }
    }

    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let is_request = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
        Ok(entries.flatten().map(|entry| entry.path()).filter(is_request).take(MOST).collect())
    }

    fn carry_out(&mut self, path: &Path, is_add: bool, node: &mut Node) {
        let file = match open(path) {
            Ok(file) => file,
            // Taken back, or carried out in the round before this one.
            Err(SpoolError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.set_aside(path, &error),
        };
        let done = match read(path, &file) {
            Ok(call) if matches!(call, Call::Add(_)) != is_add => return,
            Ok(Call::Add(add)) => node.add(&add).map_err(SpoolError::from),
            Ok(Call::Del(attachment)) => node.del(&attachment).map_err(SpoolError::from),
            Ok(_) => Err(SpoolError::Misnamed),
            Err(error) => Err(error),
        };
        match done {
            Ok(()) => {
                let verb = if is_add { "ADD" } else { "DEL" };
                tracing::info!(file = %path.display(), "a spooled {verb} was carried out");
                if let Err(error) = self.take_away(path, &file) {
                    self.tell(
                        path,
                        "a spooled request was carried out, but cannot be removed",
                        &error.to_string(),
                    );
                }
            }
            Err(error) if error.is_passing() => {
                self.tell(path, "a spooled request cannot be carried out yet", &error.to_string());
            }
            Err(error) => self.set_aside(path, &error),
        }
    }

    /// Removes what was read. If the plugin has put something newer in its place meanwhile, that stays.
    fn take_away(&self, path: &Path, read: &File) -> io::Result<()> {
        let taken = self.directory.join(TAKEN);
        match fs::rename(path, &taken) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        if fs::symlink_metadata(&taken)?.ino() != read.metadata()?.ino() {
            // Fails only if there is something newer still.
            let _ = fs::hard_link(&taken, path);
        }
        fs::remove_file(taken)
    }

    fn set_aside(&mut self, path: &Path, error: &SpoolError) {
        let refused = self.directory.join(REFUSED);
        let is_full = fs::read_dir(&refused).is_ok_and(|entries| entries.count() >= MOST_REFUSED);
        let done = if is_full {
            fs::remove_file(path)
        } else {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&refused)
                .and_then(|()| fs::rename(path, refused.join(path.file_name().unwrap_or_default())))
        };
        match done {
            Ok(()) => {
                tracing::error!(%error, file = %path.display(), "a spooled request is refused; it is in {}", refused.display());
            }
            Err(also) => {
                self.tell(
                    path,
                    "a spooled request is refused, and cannot be set aside",
                    &format!("{error}; {also}"),
                );
            }
        }
    }

    /// Tells what is wrong with a file, unless it was the same the last time.
    fn tell(&mut self, path: &Path, what: &str, error: &str) {
        if self.told.get(path).is_none_or(|told| told != error) {
            tracing::error!(error, file = %path.display(), "{what}");
            self.told.insert(path.to_owned(), error.to_owned());
        }
    }
}

/// Looks at the spool for good.
pub(super) async fn run(mut spool: Spool, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(LOOK);
    loop {
        ticks.tick().await;
        spool.replay(&shared);
    }
}

/// Opens a file, without following a link or waiting for a pipe's other end.
fn open(path: &Path) -> Result<File, SpoolError> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Err(SpoolError::NotAFile),
        other => other?,
    };
    if file.metadata()?.is_file() { Ok(file) } else { Err(SpoolError::NotAFile) }
}

fn read(path: &Path, file: &File) -> Result<Call, SpoolError> {
    let mut text = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(SpoolError::TooLong);
    }
    if let Some(version) =
        sluice_api::frame::stated_version(&text).filter(|version| *version != PROTOCOL_VERSION)
    {
        return Err(SpoolError::Version(version));
    }
    let call = serde_json::from_slice::<Request>(&text)?.call;
    let attachment = match &call {
        Call::Add(add) => &add.attachment,
        Call::Del(attachment) => attachment,
        _ => return Err(SpoolError::Misnamed),
    };
    if path.file_name().is_some_and(|name| name == file_name(attachment).as_str()) {
        Ok(call)
    } else {
        Err(SpoolError::Misnamed)
    }
}

#[cfg(test)]
mod tests {
    use sluice_api::Attachment;

    use super::*;

    fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn del(id: &str) -> String {
        let call = Call::Del(Attachment { container_id: id.into(), ifname: "eth0".into() });
        serde_json::to_string(&Request { version: PROTOCOL_VERSION, call }).unwrap()
    }

    #[test]
    fn what_was_put_there_meanwhile_stays() {
        let run = tempfile::tempdir().unwrap();
        let spool = Spool::new(run.path());
        fs::create_dir(&spool.directory).unwrap();
        let path = file(&spool.directory, "a:eth0.json", &del("a"));
        let opened = open(&path).unwrap();
        spool.take_away(&path, &opened).unwrap();
        spool.take_away(&path, &opened).unwrap();
        assert!(!path.exists());

        let path = file(&spool.directory, "a:eth0.json", "older");
        let opened = open(&path).unwrap();
        fs::rename(file(&spool.directory, ".draft", "newer"), &path).unwrap();
        spool.take_away(&path, &opened).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "newer");
        assert_eq!(fs::read_dir(&spool.directory).unwrap().count(), 1);
    }

    #[test]
    fn only_the_request_of_its_name_is_read() {
        let run = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &str| {
            let path = file(run.path(), name, text);
            read(&path, &open(&path).unwrap())
        };
        assert!(matches!(read("a:eth0.json", &del("a")), Ok(Call::Del(_))));
        assert!(matches!(read("b:eth0.json", &del("a")), Err(SpoolError::Misnamed)));
        assert!(matches!(read("c.json", r#"{"version":1,"call":"status"}"#), Err(SpoolError::Misnamed)));
        assert!(matches!(read("d.json", r#"{"version":2,"call":"new"}"#), Err(SpoolError::Version(2))));
        assert!(matches!(read("e.json", "{"), Err(SpoolError::Json(_))));
        assert!(matches!(read("f.json", &" ".repeat(LONGEST as usize + 1)), Err(SpoolError::TooLong)));
    }

    #[test]
    fn links_directories_and_pipes_are_no_files() {
        let run = tempfile::tempdir().unwrap();
        let at = |name: &str| run.path().join(name);
        std::os::unix::fs::symlink(file(run.path(), "real", ""), at("link")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        nix::unistd::mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        for name in ["link", "directory", "pipe"] {
            assert!(matches!(open(&at(name)), Err(SpoolError::NotAFile)), "{name}");
        }
        assert!(matches!(open(&at("none")), Err(SpoolError::Io(_))));
    }

    #[test]
    fn no_more_than_some_are_set_aside() {
        let run = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(run.path());
        fs::create_dir(&spool.directory).unwrap();
        for number in 0..MOST_REFUSED + 3 {
            let path = file(&spool.directory, &format!("{number}.json"), "");
            spool.set_aside(&path, &SpoolError::Misnamed);
            assert!(!path.exists());
        }
        assert_eq!(fs::read_dir(spool.directory.join(REFUSED)).unwrap().count(), MOST_REFUSED);
        assert!(spool.files().unwrap().is_empty());
    }
}
