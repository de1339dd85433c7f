//! Reading policy files as the operator names them: files, directories, standard input.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sluice_policy::{Policy, PolicyError, PolicySet, SetError, parse};

use crate::agent::policies::is_policy_file;
use crate::agent::trusted::MAX_FILE;

/// The path that means standard input.
pub(super) const STDIN: &str = "-";

/// One fault of a policy file, with its place as far as it is known.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Fault {
    /// The file, as the operator named it; `-` for standard input.
    file: String,
    /// The document in it, from 1; none if the fault is the file's.
    document: Option<usize>,
    /// The line, from 1.
    line: Option<u64>,
    /// The path of the field; empty for the document itself.
    field: String,
    /// What is wrong and what to write instead.
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Why a file gives no text.
#[derive(Debug, thiserror::Error)]
enum FileError {
    /// The system does not give it.
    #[error("cannot be read: {0}; name a file or a directory that this user may read")]
    Read(#[from] io::Error),
    /// The file of a directory is a directory, a FIFO or a device.
    #[error("is not a regular file; remove it or rename it")]
    NotRegular,
    /// More than the agent takes.
    #[error("is larger than {MAX_FILE} bytes, which is the most that the agent reads; split it")]
    TooLarge,
    /// A directory that governs nothing.
    #[error("holds no policy file; name a directory with *.yaml, *.yml or *.json")]
    NoPolicyFile,
}

/// What the named files hold.
pub(super) struct Contents {
    /// The policies of the files without faults. Of a policy that is defined twice, the first.
    pub(super) policies: PolicySet,
    /// Every fault of every file.
    pub(super) faults: Vec<Fault>,
}

/// Reads all of them; one that cannot be read does not hide the faults of the others.
pub(super) fn read(paths: &[PathBuf]) -> Contents {
    let mut policies = Vec::new();
    let mut faults = Vec::new();
    for file in expand(paths, &mut faults) {
        match text(&file) {
            Ok(text) => match parse(&file.path.to_string_lossy(), &text) {
                Ok(found) => policies.extend(found.into_iter().map(Arc::new)),
                Err(errors) => faults.extend(errors.into_iter().map(Fault::from)),
            },
            Err(error) => faults.push(Fault::of_file(&file.path, &error)),
        }
    }
    Contents { policies: without_duplicates(policies, &mut faults), faults }
}

/// Whether standard input is among the paths.
pub(super) fn reads_stdin(paths: &[PathBuf]) -> bool {
    paths.iter().any(|path| path.as_os_str() == STDIN)
}

/// A file to read.
struct Candidate {
    path: PathBuf,
    /// Found in a directory, not named: a FIFO there would block, and is not meant.
    listed: bool,
}

/// The files that are meant, each once, those of a directory by name.
fn expand(paths: &[PathBuf], faults: &mut Vec<Fault>) -> Vec<Candidate> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN || !path.is_dir() {
            files.push(Candidate { path: path.clone(), listed: false });
            continue;
        }
        match listed(path) {
            Ok(found) if found.is_empty() => faults.push(Fault::of_file(path, &FileError::NoPolicyFile)),
            Ok(found) => files.extend(found.into_iter().map(|path| Candidate { path, listed: true })),
            Err(error) => faults.push(Fault::of_file(path, &error)),
        }
    }
    let mut seen = HashSet::new();
    files.retain(|file| seen.insert(fs::canonicalize(&file.path).unwrap_or_else(|_| file.path.clone())));
    files
}

fn listed(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_policy_file(&path) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn text(file: &Candidate) -> Result<String, FileError> {
    let mut text = String::new();
    if file.path.as_os_str() == STDIN {
        io::stdin().lock().take(MAX_FILE + 1).read_to_string(&mut text)?;
    } else {
        if file.listed && !fs::metadata(&file.path)?.is_file() {
            return Err(FileError::NotRegular);
        }
        File::open(&file.path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    }
    if text.len() as u64 > MAX_FILE { Err(FileError::TooLarge) } else { Ok(text) }
}

fn without_duplicates(mut policies: Vec<Arc<Policy>>, faults: &mut Vec<Fault>) -> PolicySet {
    let errors = match PolicySet::from_shared(policies.clone()) {
        Ok(set) => return set,
        Err(errors) => errors,
    };
    for error in errors {
        let SetError::Duplicate { second, .. } = &error;
        policies.retain(|policy| policy.source != *second);
        faults.push(Fault {
            file: second.file.to_string(),
            document: Some(second.document),
            line: None,
            field: "metadata.name".to_owned(),
            message: error.to_string(),
        });
    }
    // Each error named the document that defines a policy again, so none is left.
    PolicySet::from_shared(policies).unwrap_or_default()
}

impl Fault {
    fn of_file(path: &Path, error: &FileError) -> Self {
        Self {
            file: path.to_string_lossy().into_owned(),
            document: None,
            line: None,
            field: String::new(),
            message: error.to_string(),
        }
    }
}

impl From<PolicyError> for Fault {
    fn from(error: PolicyError) -> Self {
        let message = error.problem.to_string();
        Self {
            file: error.file,
            document: Some(error.document),
            line: error.line,
            field: error.field,
            message,
        }
    }
}
