//! Reading a file that may be anybody's, in a process that may do nothing else.
//!
//! The child is this program again, with the file as its standard input: nobody's user and groups, no capability, and limits
//! on memory and processor time. It says what it found in one line of JSON. One that is not done in time is killed.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use object::ReadCache;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::elf::{self, ElfError, Place};

/// The hidden command that the child is.
pub(crate) const COMMAND: &str = "elf-symbols";

/// How long a file may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// Processor time that a child has, in seconds.
const PROCESSOR: u64 = 3;
/// Memory that a child has. The symbols of a large browser take some 100 MiB.
const MEMORY: u64 = 512 << 20;
/// Bytes of an answer.
const MAX_ANSWER: usize = 4096;
/// The user and the group `nobody`.
const NOBODY: u32 = 65534;

/// What a child says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Said {
    Places(Vec<Place>),
    NoElf(String),
    OldGo,
}

/// Why a file is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExamineError {
    /// There is no child.
    #[error("cannot start a process to read it: {0}")]
    Start(io::Error),
    /// It took too long.
    #[error("reading it took longer than {DEADLINE:?}")]
    Deadline,
    /// The child was ended by its limits, or by what it read.
    #[error("the process that read it ended: it is too large, or faulty")]
    Ended,
    /// No ELF file.
    #[error("{0}")]
    NoElf(String),
    /// Built by an old Go.
    #[error("{}", ElfError::OldGo)]
    OldGo,
}

/// Asks a child what is in a file.
pub(super) async fn examine(file: OwnedFd) -> Result<Vec<Place>, ExamineError> {
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::from(file)).stdout(Stdio::piped()).stderr(Stdio::null());
    let child = command.spawn().map_err(ExamineError::Start)?;
    let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await;
    let output = output.map_err(|_| ExamineError::Deadline)?.map_err(ExamineError::Start)?;
    if !output.status.success() || output.stdout.len() > MAX_ANSWER {
        return Err(ExamineError::Ended);
    }
    match serde_json::from_slice(&output.stdout) {
        Ok(Said::Places(places)) => Ok(places),
        // Words of a process that read what anybody wrote.
        Ok(Said::NoElf(message)) => Err(ExamineError::NoElf(
            message.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(128).collect(),
        )),
        Ok(Said::OldGo) => Err(ExamineError::OldGo),
        Err(_) => Err(ExamineError::Ended),
    }
}

/// The child.
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    give_up_rights()?;
    let file = standard_input()?;
    let said = match elf::places(&ReadCache::new(file)) {
        Ok(places) => Said::Places(places),
        Err(ElfError::Form(error)) => Said::NoElf(error.to_string()),
        Err(ElfError::OldGo) => Said::OldGo,
    };
    io::stdout().write_all(&serde_json::to_vec(&said)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Standard input without the lock and the buffer around it.
fn standard_input() -> io::Result<File> {
    use std::os::fd::AsFd;
    io::stdin().as_fd().try_clone_to_owned().map(File::from)
}

fn give_up_rights() -> anyhow::Result<()> {
    for (resource, limit) in [
        (Resource::RLIMIT_AS, MEMORY),
        (Resource::RLIMIT_CPU, PROCESSOR),
        (Resource::RLIMIT_FSIZE, 0),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_NPROC, 0),
    ] {
        setrlimit(resource, limit, limit)?;
    }
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[])?;
    setresgid(group, group, group)?;
    // Its capabilities go with the user.
    setresuid(user, user, user)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}
