//! What must outlive the agent: the endpoints, and the names of the rules that the kernel's verdicts refer to.
//!
//! ```text
//! <run-dir>/endpoints/<cgroup id>.json    one governed pod
//! <run-dir>/rulesets/<policy id>.json     the rules of a compiled policy, in the order of their numbers
//! ```
//!
//! On tmpfs: after a boot there are neither pods nor maps. A file is written beside its place and renamed into it, so
//! that it is never seen half.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sluice_api::{Attachment, Pod};

/// Why something could not be kept or found again.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path} is damaged: {source}; remove it, and restart the pod that it names")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// A governed pod, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The pod-level cgroup id.
    pub cgroup: u64,
    /// Its path.
    pub path: PathBuf,
    /// Its slot in the kernel.
    pub slot: u32,
    /// Who it is.
    pub pod: Pod,
    /// Since when it is governed.
    pub since: jiff::Timestamp,
    /// No CNI call told of it: it was found by its cgroup.
    #[serde(default)]
    pub found: bool,
    /// It is in the host's network namespace, whose addresses and links are not its own.
    #[serde(default)]
    pub host_network: bool,
    /// The CNI attachments that it came with.
    #[serde(with = "pairs")]
    pub attachments: BTreeMap<Attachment, Link>,
}

/// What an attachment brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// The name of the network configuration.
    pub network: String,
    /// The network namespace.
    pub netns: String,
    /// Addresses of the pod.
    pub ips: Vec<IpAddr>,
    /// The host's end.
    pub host_interface: Option<String>,
    /// Its index, if it is watched for what the cgroup hooks do not see.
    pub guarded: Option<u32>,
}

/// A directory of records.
pub struct Store {
    endpoints: PathBuf,
    rulesets: PathBuf,
}

impl Store {
    /// Opens or makes the directories.
    pub fn open(run_dir: &Path) -> Result<Self, StoreError> {
        let store = Self { endpoints: run_dir.join("endpoints"), rulesets: run_dir.join("rulesets") };
        for directory in [&store.endpoints, &store.rulesets] {
            fs::create_dir_all(directory).map_err(failed("create", directory))?;
        }
        Ok(store)
    }

    /// Keeps an endpoint.
    pub fn put(&self, record: &Record) -> Result<(), StoreError> {
        write(&self.endpoint(record.cgroup), record)
    }

    /// Forgets an endpoint.
    pub fn remove(&self, cgroup: u64) -> Result<(), StoreError> {
        remove(&self.endpoint(cgroup))
    }

    /// Every endpoint that is kept, and what is wrong with those that cannot be read.
    pub fn load(&self) -> Result<(Vec<Record>, Vec<StoreError>), StoreError> {
        let mut records = Vec::new();
        let mut damaged = Vec::new();
        for path in files(&self.endpoints)? {
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => damaged.push(error),
            }
        }
        Ok((records, damaged))
    }

    /// Keeps the names of a compiled policy's rules.
    pub fn put_rules<T: Serialize + ?Sized>(&self, policy: u32, rules: &T) -> Result<(), StoreError> {
        write(&self.ruleset(policy), rules)
    }

    /// The names of a compiled policy's rules.
    pub fn rules<T: DeserializeOwned>(&self, policy: u32) -> Result<T, StoreError> {
        read(&self.ruleset(policy))
    }

    /// Forgets a compiled policy.
    pub fn remove_rules(&self, policy: u32) -> Result<(), StoreError> {
        remove(&self.ruleset(policy))
    }

    /// Every compiled policy that is kept.
    pub fn kept_rules(&self) -> Result<Vec<u32>, StoreError> {
        let number = |path: PathBuf| path.file_stem()?.to_str()?.parse().ok();
        Ok(files(&self.rulesets)?.into_iter().filter_map(number).collect())
    }

    fn endpoint(&self, cgroup: u64) -> PathBuf {
        self.endpoints.join(format!("{cgroup}.json"))
    }

    fn ruleset(&self, policy: u32) -> PathBuf {
        self.rulesets.join(format!("{policy}.json"))
    }
}

/// Writes a file beside its place and renames it into it.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let beside = path.with_extension("tmp");
    fs::write(&beside, bytes).map_err(failed("write", &beside))?;
    fs::rename(&beside, path).map_err(failed("replace", path))
}

/// Removes a file; one that is not there is no error.
pub fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory and what is in it; one that is not there is no error.
pub fn remove_directory(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn write<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), StoreError> {
    let bytes =
        serde_json::to_vec(value).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })?;
    replace(path, &bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, StoreError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| StoreError::Damaged { path: path.to_owned(), source })
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let is_record = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_record).collect())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}

/// JSON has no maps with structs as keys.
mod pairs {
    use super::{Attachment, BTreeMap, Link};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        map: &BTreeMap<Attachment, Link>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<Attachment, Link>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}
