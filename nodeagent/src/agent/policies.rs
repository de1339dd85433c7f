//! The policy directory: reading it, trusting it, and keeping the last good of each file.
//!
//! A file that cannot be used changes nothing: what it last said stays in force, also over a restart, for which a copy
//! is kept below the state directory. Only the removal of a file removes its policies.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_policy::{Policy, PolicyError, PolicySet, SetError, parse};

use super::store::{self, StoreError};
use super::trusted::{self, FileError};

/// A file that changed more recently than this may change again without its times telling: they go by the kernel's tick.
const TICK: Duration = Duration::from_millis(100);

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
    last_good: BTreeMap<String, Vec<Arc<Policy>>>,
    /// The directory when it was last read.
    seen: Option<Fingerprint>,
    /// The files that were good then, as they were.
    read: Fingerprint,
    /// The files of which a copy is kept.
    kept: Option<BTreeSet<String>>,
}

/// Tells whether anything in the directory has changed.
type Fingerprint = BTreeMap<String, Stat>;

/// What tells whether a file has changed.
#[derive(Clone, PartialEq, Eq)]
struct Stat {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    owner: u32,
    mode: u32,
    /// So long unchanged when it was looked at that any change since would show.
    settled: bool,
}

impl Stat {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::symlink_metadata(path).ok()?;
        let changed = (file.ctime(), file.ctime_nsec());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        let since = Duration::new(changed.0.try_into().ok()?, changed.1.try_into().ok()?);
        Some(Self {
            inode: file.ino(),
            size: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed,
            owner: file.uid(),
            mode: file.mode(),
            settled: now.checked_sub(since).is_some_and(|age| age > TICK),
        })
    }

    /// Is the file as it was at this look?
    fn is_still(&self, now: &Self) -> bool {
        self.settled && Self { settled: true, ..now.clone() } == *self
    }
}

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
                Ok(policies) => {
                    last_good.insert(name, policies.into_iter().map(Arc::new).collect());
                }
                Err(errors) => {
                    for error in errors {
                        tracing::error!(%error, "a policy that an earlier version kept is not valid any more");
                    }
                }
            }
        }
        Ok(Self {
            directory: directory.to_owned(),
            last_good_directory,
            last_good,
            seen: None,
            read: Fingerprint::new(),
            kept: None,
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// Is a file gone that was there at the last look? Whoever replaces a file by removing it first is about to make it.
    pub fn lacks_a_file(&self) -> bool {
        self.seen.iter().flat_map(BTreeMap::keys).any(|name| !self.directory.join(name).exists())
    }

    /// Reads the directory again if anything in it is not as it was.
    pub fn load_if_changed(&mut self) -> Option<Loaded> {
        let now = self.fingerprint();
        let is_as_before = match (&self.seen, &now) {
            (Some(seen), Some(now)) => {
                seen.len() == now.len()
                    && seen.iter().zip(now).all(|(before, now)| before.0 == now.0 && before.1.is_still(now.1))
            }
            _ => false,
        };
        if is_as_before { None } else { Some(self.load_as(now)) }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        let of_file = |name: String| {
            let stat = Stat::of(&self.directory.join(&name))?;
            Some((name, stat))
        };
        names(&self.directory).ok()?.into_iter().map(of_file).collect()
    }

    /// Reads the directory again.
    pub fn load(&mut self) -> Loaded {
        let now = self.fingerprint();
        self.load_as(now)
    }

    /// Reads the files that are not as they were. `now` was taken before: what changes meanwhile differs from it, and is
    /// read again.
    fn load_as(&mut self, now: Option<Fingerprint>) -> Loaded {
        self.seen = now;
        let mut errors = Vec::new();
        let names = match names(&self.directory) {
            Ok(names) => names,
            Err(error) => return Loaded { policies: self.before(), errors: vec![error] },
        };
        let mut next = BTreeMap::new();
        let mut texts = BTreeMap::new();
        let mut read = Fingerprint::new();
        for name in &names {
            let stat = self.seen.as_ref().and_then(|seen| seen.get(name));
            let before = self.last_good.get(name);
            let unchanged = stat.zip(self.read.get(name)).is_some_and(|(now, read)| read.is_still(now));
            let good = match before.filter(|_| unchanged) {
                Some(before) => Some(before.clone()),
                None => match self.read(name) {
                    Ok((policies, text)) => {
                        texts.insert(name.clone(), text);
                        Some(share(policies, before.map_or(&[], Vec::as_slice)))
                    }
                    Err(found) => {
                        errors.extend(found);
                        next.extend(before.map(|before| (name.clone(), before.clone())));
                        None
                    }
                },
            };
            if let Some(policies) = good {
                read.extend(stat.map(|stat| (name.clone(), stat.clone())));
                next.insert(name.clone(), policies);
            }
        }
        let policies = match PolicySet::from_shared(next.values().flatten().cloned().collect()) {
            Ok(policies) => policies,
            Err(found) => {
                errors.extend(found.into_iter().map(|error| PolicyFileError::Set(Box::new(error))));
                return Loaded { policies: self.before(), errors };
            }
        };
        (self.last_good, self.read) = (next, read);
        if let Err(error) = self.keep(names, &texts) {
            errors.push(error.into());
        }
        Loaded { policies: Some(policies), errors }
    }

    /// What the files said when they last went together; nothing, if that is not known.
    fn before(&self) -> Option<PolicySet> {
        let before: Vec<_> = self.last_good.values().flatten().cloned().collect();
        if before.is_empty() { None } else { PolicySet::from_shared(before).ok() }
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

    fn keep(&mut self, names: BTreeSet<String>, texts: &BTreeMap<String, String>) -> Result<(), StoreError> {
        for (name, text) in texts {
            let path = self.last_good_directory.join(name);
            if fs::read(&path).is_ok_and(|kept| kept == text.as_bytes()) {
                continue;
            }
            store::replace(&path, text.as_bytes())?;
        }
        if self.kept.as_ref() == Some(&names) {
            return Ok(());
        }
        let kept = fs::read_dir(&self.last_good_directory).into_iter().flatten().flatten();
        for path in kept.map(|entry| entry.path()) {
            if !path.file_name().and_then(|name| name.to_str()).is_some_and(|name| names.contains(name)) {
                store::remove(&path)?;
            }
        }
        self.kept = Some(names);
        Ok(())
    }
}

/// Policies of a file, those that are as they were before in their old places in memory: what is at the same place needs not
/// be compiled again.
fn share(policies: Vec<Policy>, before: &[Arc<Policy>]) -> Vec<Arc<Policy>> {
    let before: HashMap<usize, &Arc<Policy>> =
        before.iter().map(|policy| (policy.source.document, policy)).collect();
    let old = |policy: &Policy| before.get(&policy.source.document).filter(|old| ****old == *policy);
    policies
        .into_iter()
        .map(|policy| old(&policy).map_or_else(|| Arc::new(policy), |old| Arc::clone(old)))
        .collect()
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
