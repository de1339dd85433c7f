//! The policy directory: reading it, trusting it, and keeping the last good of each file.
//!
//! A file that cannot be used changes nothing: what it last said stays in force, also over a restart, for which a copy
//! is kept below the state directory. Only the removal of a file removes its policies.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sluice_policy::{Policy, PolicyError, PolicySet, SetError, parse};

use super::store::{self, StoreError};
use super::trusted::{self, FileError};

/// What is wrong with a policy file or the directory.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// The directory cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not count.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not valid policy.
    #[error("{0}")]
    Policy(Box<PolicyError>),
    /// Two files define the same policy.
    #[error("{0}")]
    Set(Box<SetError>),
    /// The last good copy could not be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A policy directory and the last good of each of its files.
pub struct PolicyDirectory {
    directory: PathBuf,
    last_good_directory: PathBuf,
    last_good: BTreeMap<String, Vec<Policy>>,
    seen: Option<Fingerprint>,
}

/// Tells whether anything in the directory has changed: name, inode, size and times of each file.
type Fingerprint = Vec<(String, u64, u64, (i64, i64), (i64, i64), u32, u32)>;

/// What a look at the directory gave.
pub struct Loaded {
    /// The policies to put in force; `None` if they cannot be put together, and nothing should change.
    pub policies: Option<PolicySet>,
    /// What is wrong, for each file that is not used as it stands.
    pub errors: Vec<PolicyFileError>,
}

impl PolicyDirectory {
    /// Takes up a directory, with the copies that an earlier agent kept.
    pub fn open(directory: &Path, state_dir: &Path) -> Result<Self, PolicyFileError> {
        let last_good_directory = state_dir.join("last-good");
        fs::create_dir_all(&last_good_directory)
            .map_err(|source| PolicyFileError::Read { path: last_good_directory.clone(), source })?;
        let mut last_good = BTreeMap::new();
        for name in names(&last_good_directory)? {
            let path = last_good_directory.join(&name);
            let text = trusted::read(&path)?;
            match parse(&directory.join(&name).to_string_lossy(), &text) {
                Ok(policies) => drop(last_good.insert(name, policies)),
                Err(errors) => {
                    for error in errors {
                        tracing::error!(%error, "a policy that an earlier version kept is not valid any more");
                    }
                }
            }
        }
        Ok(Self { directory: directory.to_owned(), last_good_directory, last_good, seen: None })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Reads the directory again if anything in it is not as it was.
    pub fn load_if_changed(&mut self) -> Option<Loaded> {
        if self.seen.is_some() && self.seen == self.fingerprint() { None } else { Some(self.load()) }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        let of_file = |name: String| {
            let file = fs::symlink_metadata(self.directory.join(&name)).ok()?;
            let (modified, changed) = ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
            Some((name, file.ino(), file.len(), modified, changed, file.uid(), file.mode()))
        };
        names(&self.directory).ok()?.into_iter().map(of_file).collect()
    }

    /// Reads the directory again.
    pub fn load(&mut self) -> Loaded {
        // Before reading: what changes meanwhile differs from it, and is read again.
        self.seen = self.fingerprint();
        let mut errors = Vec::new();
        let names = match names(&self.directory) {
            Ok(names) => names,
            Err(error) => return Loaded { policies: self.before(), errors: vec![error] },
        };
        let mut next = BTreeMap::new();
        let mut texts = BTreeMap::new();
        for name in &names {
            match self.read(name) {
                Ok((policies, text)) => {
                    next.insert(name.clone(), policies);
                    texts.insert(name.clone(), text);
                }
                Err(found) => {
                    errors.extend(found);
                    if let Some(policies) = self.last_good.get(name) {
                        next.insert(name.clone(), policies.clone());
                    }
                }
            }
        }
        let policies = match PolicySet::new(next.values().flatten().cloned().collect()) {
            Ok(policies) => policies,
            Err(found) => {
                errors.extend(found.into_iter().map(|error| PolicyFileError::Set(Box::new(error))));
                return Loaded { policies: self.before(), errors };
            }
        };
        self.last_good = next;
        if let Err(error) = self.keep(&names, &texts) {
            errors.push(error.into());
        }
        Loaded { policies: Some(policies), errors }
    }

    /// What the files said when they last went together; nothing, if that is not known.
    fn before(&self) -> Option<PolicySet> {
        let before: Vec<_> = self.last_good.values().flatten().cloned().collect();
        if before.is_empty() { None } else { PolicySet::new(before).ok() }
    }

    fn read(&self, name: &str) -> Result<(Vec<Policy>, String), Vec<PolicyFileError>> {
        let path = self.directory.join(name);
        let text = trusted::read(&path).map_err(|error| vec![error.into()])?;
        match parse(&path.to_string_lossy(), &text) {
            Ok(policies) => Ok((policies, text)),
            Err(errors) => {
                Err(errors.into_iter().map(|error| PolicyFileError::Policy(Box::new(error))).collect())
            }
        }
    }

    fn keep(&self, names: &BTreeSet<String>, texts: &BTreeMap<String, String>) -> Result<(), StoreError> {
        for (name, text) in texts {
            let path = self.last_good_directory.join(name);
            if fs::read(&path).is_ok_and(|kept| kept == text.as_bytes()) {
                continue;
            }
            store::replace(&path, text.as_bytes())?;
        }
        let kept = fs::read_dir(&self.last_good_directory).into_iter().flatten().flatten();
        for path in kept.map(|entry| entry.path()) {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(name)) {
                store::remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Does a file of this name count? Hidden files do not: editors and `kubectl cp` make them for a moment.
pub fn is_policy_file(path: &Path) -> bool {
    let hidden = path.file_name().and_then(|name| name.to_str()).is_none_or(|name| name.starts_with('.'));
    !hidden
        && path
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn names(directory: &Path) -> Result<BTreeSet<String>, PolicyFileError> {
    let failed = |source| PolicyFileError::Read { path: directory.to_owned(), source };
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if is_policy_file(&path)
            && let Some(name) = path.file_name().and_then(|name| name.to_str())
        {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
