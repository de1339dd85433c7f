//! The network configuration on stdin (CNI 1.1.0, "Plugin configuration objects" and "Deriving runtime
//! configuration"). Every field that is not the plugin's own may hold anything: other plugins own them.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::SUPPORTED_VERSIONS;
use crate::env::Verb;
use crate::labels::{self, LabelsError};

/// The longest configuration that is read, in bytes.
pub const MAX_INPUT: u64 = 4 << 20;

/// Where the marker and the spool are unless the configuration says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/run/sluice";

/// The capability that brings the pod's cgroup (containerd 1.7 and later, CRI-O 1.28 and later).
const CGROUP_PATH: &str = "cgroupPath";

/// The capability that brings the pod's annotations (containerd).
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// stdin failed.
    #[error("the network configuration could not be read from stdin: {0}")]
    Read(#[source] io::Error),
    /// stdin goes on past [`MAX_INPUT`].
    #[error("the network configuration on stdin is longer than {MAX_INPUT} bytes")]
    TooLong,
    /// stdin is not JSON.
    #[error("stdin does not hold a network configuration in JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// stdin is JSON, but no object.
    #[error("the network configuration on stdin is no JSON object")]
    NotAnObject,
    /// The version is not one of ours.
    #[error("cniVersion is {0:?}; {list} are supported", list = SUPPORTED_VERSIONS.join(", "))]
    Version(String),
    /// The verb is newer than the version.
    #[error("cniVersion is {version:?}, which has no {verb}; it came with {}", .verb.since())]
    VerbTooNew {
        /// The configuration's version.
        version: String,
        /// The verb that was called.
        verb: Verb,
    },
    /// A field that must be there is not.
    #[error("{0} is missing: {1}")]
    Missing(&'static str, &'static str),
    /// A field has a value that is not accepted.
    #[error("{field} is {value}; accepted: {accepted}")]
    Field {
        /// The field's name, with dots between levels.
        field: &'static str,
        /// What it holds, as JSON, shortened.
        value: String,
        /// What it may hold.
        accepted: &'static str,
    },
    /// The pod's labels cannot be read.
    #[error("{0}")]
    Labels(#[from] LabelsError),
}

/// What to do with an ADD while the agent cannot confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The pod does not start.
    Fail,
    /// The pod starts, ungoverned, with a warning.
    Ignore,
}

/// The configuration as it came.
#[derive(Clone, Debug, Default)]
pub struct Document(Map<String, Value>);

impl Document {
    /// Reads stdin to its end.
    pub fn read(from: impl Read) -> Result<Self, ConfError> {
        let mut bytes = Vec::new();
        from.take(MAX_INPUT + 1).read_to_end(&mut bytes).map_err(ConfError::Read)?;
        if bytes.len() as u64 > MAX_INPUT {
            return Err(ConfError::TooLong);
        }
        Self::parse(&bytes)
    }

    /// Reads the JSON text of a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfError> {
        match serde_json::from_slice(bytes).map_err(ConfError::Json)? {
            Value::Object(map) => Ok(Self(map)),
            _ => Err(ConfError::NotAnObject),
        }
    }

    /// `cniVersion`, whatever it is; `None` if it is no text.
    pub fn stated_version(&self) -> Option<&str> {
        self.0.get("cniVersion")?.as_str()
    }

    /// `cniVersion`, if it is supported and has the verb.
    pub fn version(&self, verb: Verb) -> Result<&'static str, ConfError> {
        let position = |version: &str| SUPPORTED_VERSIONS.iter().position(|supported| *supported == version);
        let stated = self.text("cniVersion", "a version as text")?.unwrap_or_default();
        let at = position(&stated).ok_or_else(|| ConfError::Version(stated.clone()))?;
        if Some(at) < position(verb.since()) {
            return Err(ConfError::VerbTooNew { version: stated, verb });
        }
        Ok(SUPPORTED_VERSIONS[at])
    }

    /// `name`, the network's, which attachments are collected by.
    pub fn network(&self) -> Result<String, ConfError> {
        match self.text("name", "the network's name as text")? {
            Some(name) if !name.is_empty() => Ok(name),
            _ => Err(ConfError::Missing("name", "the runtime takes it from the conflist's name")),
        }
    }

    /// `prevResult`, for ADD: the answer of the plugin before this one.
    pub fn prev_result(&mut self) -> Result<Map<String, Value>, ConfError> {
        match self.0.remove("prevResult") {
            Some(Value::Object(result)) => Ok(result),
            None | Some(Value::Null) => Err(ConfError::Missing(
                "prevResult",
                "sluice-cni makes no interface of its own; list it after the plugin that does",
            )),
            Some(other) => Err(field("prevResult", &other, "a result object")),
        }
    }

    /// `runtimeConfig.cgroupPath`: the pod's cgroup, relative to the cgroup root.
    pub fn cgroup_path(&self) -> Option<&str> {
        self.0.get("runtimeConfig")?.get(CGROUP_PATH)?.as_str()
    }

    /// The labels in the pod's annotations; none where the runtime passes none.
    pub fn labels(&self) -> Result<BTreeMap<String, String>, ConfError> {
        const FIELD: &str = "runtimeConfig[io.kubernetes.cri.pod-annotations]";
        let annotations = match self.0.get("runtimeConfig").and_then(|given| given.get(ANNOTATIONS)) {
            None | Some(Value::Null) => return Ok(BTreeMap::new()),
            Some(Value::Object(annotations)) => annotations,
            Some(other) => return Err(field(FIELD, other, "an object of texts")),
        };
        match annotations.get(labels::ANNOTATION) {
            None => Ok(BTreeMap::new()),
            Some(Value::String(text)) => Ok(labels::parse(text)?),
            Some(other) => Err(field(FIELD, other, "sluice.dev/labels as text, as in app=web,tier=front")),
        }
    }

    /// A field by its name; `None` if it is absent or null.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &'static str, accepted: &'static str) -> Result<Option<String>, ConfError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(field(name, other, accepted)),
        }
    }

    fn path(&self, name: &'static str) -> Result<Option<PathBuf>, ConfError> {
        const ACCEPTED: &str = "an absolute path as text";
        match self.text(name, ACCEPTED)?.map(PathBuf::from) {
            Some(path) if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) => {
                Err(field(name, &path.to_string_lossy().into(), ACCEPTED))
            }
            path => Ok(path),
        }
    }
}

/// The plugin's own fields. See the crate's documentation for their meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// `socket`.
    pub socket: PathBuf,
    /// `failurePolicy`.
    pub failure_policy: FailurePolicy,
    /// `exemptNamespaces`.
    pub exempt_namespaces: Vec<String>,
    /// `cgroupRoot`; `None` means the cgroup2 mount.
    pub cgroup_root: Option<PathBuf>,
    /// `stateDir`.
    pub state_dir: PathBuf,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            socket: PathBuf::from(sluice_api::DEFAULT_SOCKET),
            failure_policy: FailurePolicy::Fail,
            exempt_namespaces: Vec::new(),
            cgroup_root: None,
            state_dir: PathBuf::from(DEFAULT_STATE_DIR),
        }
    }
}

impl Conf {
    /// Takes the plugin's fields; a wrong one is an error that names it.
    pub fn strict(document: &Document) -> Result<Self, ConfError> {
        let default = Self::default();
        Ok(Self {
            socket: document.path("socket")?.unwrap_or(default.socket),
            failure_policy: failure_policy(document)?,
            exempt_namespaces: exempt_namespaces(document)?,
            cgroup_root: document.path("cgroupRoot")?,
            state_dir: document.path("stateDir")?.unwrap_or(default.state_dir),
        })
    }

    /// For DEL: takes what can be used and the default in place of the rest.
    pub fn lenient(document: &Document) -> Self {
        let default = Self::default();
        Self {
            socket: document.path("socket").ok().flatten().unwrap_or(default.socket),
            state_dir: document.path("stateDir").ok().flatten().unwrap_or(default.state_dir),
            ..Self::default()
        }
    }

    /// Does ADD go through for this namespace whatever the agent says?
    pub fn exempts(&self, namespace: &str) -> bool {
        self.exempt_namespaces.iter().any(|exempt| exempt == namespace)
    }
}

fn failure_policy(document: &Document) -> Result<FailurePolicy, ConfError> {
    match document.get("failurePolicy") {
        None => Ok(FailurePolicy::Fail),
        Some(Value::String(text)) if text == "Fail" => Ok(FailurePolicy::Fail),
        Some(Value::String(text)) if text == "Ignore" => Ok(FailurePolicy::Ignore),
        Some(other) => Err(field("failurePolicy", other, "\"Fail\" or \"Ignore\"")),
    }
}

fn exempt_namespaces(document: &Document) -> Result<Vec<String>, ConfError> {
    let Some(value) = document.get("exemptNamespaces") else { return Ok(Vec::new()) };
    let texts = |items: &Vec<Value>| items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
    value
        .as_array()
        .and_then(texts)
        .ok_or_else(|| field("exemptNamespaces", value, "a list of namespaces as texts"))
}

fn field(field: &'static str, value: &Value, accepted: &'static str) -> ConfError {
    let mut shown: String = value.to_string().chars().take(100).collect();
    if shown.len() < value.to_string().len() {
        shown.push('…');
    }
    ConfError::Field { field, value: shown, accepted }
}
