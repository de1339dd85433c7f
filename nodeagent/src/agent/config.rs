//! The agent's options: each one a flag, an environment variable and a key of the configuration file.
//!
//! A flag wins over the environment, that over the file, that over the default. A file that is not right in every part
//! is refused whole, and the agent does not start: half a configuration is nobody's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_policy::Posture;
use sluice_requests::{Asked, Limits};
use tracing_subscriber::EnvFilter;

use super::output::Format;
use super::trusted::{self, FileError};
use super::{DEFAULT_BPFFS, DEFAULT_RUN_DIR, DEFAULT_STATE_DIR, Options};
use exclude::EventSettings;
pub use exclude::Exclude;
use headers::HeaderName;

mod exclude;
mod headers;

/// Where the configuration is looked for if nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/sluice/agent.yaml";
const DEFAULT_POLICIES: &str = "/etc/sluice/policies";
/// Metrics and probes: on loopback only.
const DEFAULT_METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9470);
const DEFAULT_LOG: &str = "info";
/// Seconds.
const DEFAULT_DNS_FLOOR: u32 = 5;
const DEFAULT_DNS_GRACE: u32 = 30;

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not count.
    #[error("the configuration: {0}")]
    File(#[from] FileError),
    /// Not the YAML of a configuration.
    #[error("{path}:{line}: {message}; the agent does not start with a configuration that it cannot follow")]
    Form {
        /// The file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// What the reader said.
        message: String,
    },
    /// No filter of log lines.
    #[error("log: `{filter}` is no filter ({source}); write a level: error, warn, info, debug or trace")]
    Log {
        /// As written.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
}

/// The options that were given, in one place. `None`: not given there.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    #[arg(skip)]
    api_version: ApiVersion,
    #[arg(skip)]
    kind: Kind,
    /// Attach the programs at this cgroup v2 directory [default: where the hierarchy is mounted].
    #[arg(long, env = "SLUICE_CGROUP_ROOT", value_name = "DIR")]
    cgroup_root: Option<PathBuf>,
    /// Pin programs and maps below this directory of a BPF file system [default: /sys/fs/bpf].
    #[arg(long, env = "SLUICE_BPFFS", value_name = "DIR")]
    bpffs: Option<PathBuf>,
    /// Sockets, and what is forgotten at boot [default: /run/sluice].
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// What is kept over a boot: the last good of every policy file [default: /var/lib/sluice].
    #[arg(long, env = "SLUICE_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Policy files: *.yaml, *.yml, *.json [default: /etc/sluice/policies].
    ///
    /// They must be root's and writable by nobody else.
    #[arg(long, env = "SLUICE_POLICIES", value_name = "DIR")]
    policies: Option<PathBuf>,
    /// What is done with a verdict [default: enforce].
    #[arg(long, env = "SLUICE_POSTURE", value_enum)]
    posture: Option<PostureSetting>,
    /// How events are printed on standard output [default: text].
    #[arg(long, short, env = "SLUICE_OUTPUT", value_enum)]
    output: Option<Format>,
    /// The node's name in events [default: the host's name].
    #[arg(long, env = "SLUICE_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// Believe the answers of these resolvers only, separated by commas [default: those of the node].
    ///
    /// The node's are those of /run/systemd/resolve/resolv.conf or /etc/resolv.conf. Rules with domainNames also allow
    /// questions to them.
    #[arg(long, env = "SLUICE_RESOLVERS", value_name = "ADDRESS", value_delimiter = ',')]
    resolvers: Option<Vec<IpAddr>>,
    /// Let an address that a name led to count for at least so many seconds [default: 5].
    #[arg(long, env = "SLUICE_DNS_FLOOR", value_name = "SECONDS")]
    dns_floor: Option<u32>,
    /// Let it count so many seconds past its TTL, for clients that ask later than they should [default: 30].
    ///
    /// A JVM keeps what it was told for 30 seconds by default.
    #[arg(long, env = "SLUICE_DNS_GRACE", value_name = "SECONDS")]
    dns_grace: Option<u32>,
    /// By which name a TLS connection goes that encrypts one (ECH), or pretends to, as browsers do [default: no-name].
    #[arg(long, env = "SLUICE_ECH", value_enum)]
    ech: Option<Ech>,
    /// Serve /metrics, /readyz and /healthz here; empty for nowhere [default: 127.0.0.1:9470].
    ///
    /// Whoever reaches the address may read them: there is no password. They name neither pods nor addresses.
    #[arg(long, env = "SLUICE_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    metrics_address: Option<Listen>,
    /// What the agent says of itself on standard error: error, warn, info, debug or trace [default: info].
    #[arg(long, env = "SLUICE_LOG", value_name = "LEVEL")]
    log: Option<String>,
    /// Show the requests that pods make over TLS, by probes in the libraries that they encrypt with [default: on].
    ///
    /// Off: no process is probed, and no file of a pod is read.
    #[arg(long, env = "SLUICE_REQUESTS", value_enum)]
    requests: Option<Switch>,
    /// Tell the query of requests, too, without the values that look secret [default: false].
    #[arg(long, env = "SLUICE_REQUESTS_QUERY", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    requests_query: Option<bool>,
    /// Tell these headers of requests, too, separated by commas; the values of those that carry secrets are never told.
    #[arg(long, env = "SLUICE_REQUESTS_HEADERS", value_name = "HEADER", value_delimiter = ',')]
    requests_headers: Option<Vec<HeaderName>>,
    #[command(flatten)]
    #[serde(default)]
    events: EventSettings,
}

impl Settings {
    /// Reads a configuration file. One that is not there counts as empty unless somebody asked for it by name.
    pub fn from_file(file: Option<&Path>) -> Result<Self, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match trusted::read(path) {
            Ok(text) => Self::parse(path, &text),
            Err(FileError::Read { source, .. })
                if file.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Self::default())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error: serde_saphyr::Error| {
            ConfigError::Form {
                path: path.to_owned(),
                line: error.location().map_or(1, |location| location.line()),
                message: error.to_string(),
            }
        })
    }

    /// These, and where they say nothing, those of the file.
    #[must_use]
    pub fn over(self, file: Self) -> Self {
        Self {
            api_version: self.api_version,
            kind: self.kind,
            cgroup_root: self.cgroup_root.or(file.cgroup_root),
            bpffs: self.bpffs.or(file.bpffs),
            run_dir: self.run_dir.or(file.run_dir),
            state_dir: self.state_dir.or(file.state_dir),
            policies: self.policies.or(file.policies),
            posture: self.posture.or(file.posture),
            output: self.output.or(file.output),
            node_name: self.node_name.or(file.node_name),
            resolvers: self.resolvers.or(file.resolvers),
            dns_floor: self.dns_floor.or(file.dns_floor),
            dns_grace: self.dns_grace.or(file.dns_grace),
            ech: self.ech.or(file.ech),
            metrics_address: self.metrics_address.or(file.metrics_address),
            log: self.log.or(file.log),
            requests: self.requests.or(file.requests),
            requests_query: self.requests_query.or(file.requests_query),
            requests_headers: self.requests_headers.or(file.requests_headers),
            events: self.events.over(file.events),
        }
    }

    /// These, and where they say nothing, the defaults.
    #[must_use]
    pub fn or_default(self) -> Self {
        let host = || {
            nix::unistd::gethostname()
                .map_or_else(|_| "localhost".into(), |name| name.to_string_lossy().into_owned())
        };
        self.over(Self {
            bpffs: Some(DEFAULT_BPFFS.into()),
            run_dir: Some(DEFAULT_RUN_DIR.into()),
            state_dir: Some(DEFAULT_STATE_DIR.into()),
            policies: Some(DEFAULT_POLICIES.into()),
            posture: Some(PostureSetting::Enforce),
            output: Some(Format::Text),
            node_name: Some(host()),
            resolvers: Some(Vec::new()),
            dns_floor: Some(DEFAULT_DNS_FLOOR),
            dns_grace: Some(DEFAULT_DNS_GRACE),
            ech: Some(Ech::NoName),
            metrics_address: Some(Listen::At(DEFAULT_METRICS)),
            log: Some(DEFAULT_LOG.to_owned()),
            requests: Some(Switch::On),
            requests_query: Some(false),
            requests_headers: Some(Vec::new()),
            events: EventSettings::none(),
            ..Self::default()
        })
    }

    /// What the agent works with, and what it logs.
    pub fn resolve(self) -> Result<(Options, EnvFilter), ConfigError> {
        let all = self.or_default();
        let filter = all.log.unwrap_or_default();
        let log = EnvFilter::try_new(&filter).map_err(|source| ConfigError::Log { filter, source })?;
        let options = Options {
            cgroup_root: all.cgroup_root,
            bpffs: all.bpffs.unwrap_or_default(),
            run_dir: all.run_dir.unwrap_or_default(),
            state_dir: all.state_dir.unwrap_or_default(),
            policies: all.policies.unwrap_or_default(),
            posture: all.posture.map_or(Posture::Enforce, Posture::from),
            output: all.output.unwrap_or(Format::Text),
            node_name: all.node_name.unwrap_or_default(),
            resolvers: all.resolvers.unwrap_or_default(),
            dns_floor: Duration::from_secs(all.dns_floor.unwrap_or(DEFAULT_DNS_FLOOR).into()),
            dns_grace: Duration::from_secs(all.dns_grace.unwrap_or(DEFAULT_DNS_GRACE).into()),
            ech: all.ech.unwrap_or(Ech::NoName),
            metrics_address: match all.metrics_address {
                Some(Listen::At(address)) => Some(address),
                Some(Listen::Nowhere) | None => None,
            },
            observe_requests: all.requests != Some(Switch::Off),
            requests: Arc::new(Asked {
                query: all.requests_query.unwrap_or_default(),
                headers: all.requests_headers.into_iter().flatten().map(HeaderName::into_text).collect(),
                limits: Limits::default(),
            }),
            exclude: all.events.resolve(),
        };
        Ok((options, log))
    }
}

/// `apiVersion`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum ApiVersion {
    #[default]
    #[serde(rename = "sluice.dev/v1alpha1")]
    V1Alpha1,
}

/// `kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    #[default]
    AgentConfiguration,
}

/// `posture`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostureSetting {
    /// Judge nothing.
    Observe,
    /// Judge and tell; let everything pass.
    Log,
    /// Judge, tell, and drop what is denied.
    Enforce,
}

impl From<PostureSetting> for Posture {
    fn from(posture: PostureSetting) -> Self {
        match posture {
            PostureSetting::Observe => Self::Observe,
            PostureSetting::Log => Self::Log,
            PostureSetting::Enforce => Self::Enforce,
        }
    }
}

/// `requests`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// `ech`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ech {
    /// It shows none: the encrypted one may be any that the server has keys for.
    NoName,
    /// By the one outside: where the server has keys, another site of it may be meant.
    OuterName,
}

/// `metricsAddress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Not at all.
    Nowhere,
    /// Here.
    At(SocketAddr),
}

/// A text that is no [`Listen`].
#[derive(Debug, thiserror::Error)]
#[error(
    "metricsAddress: `{0}` is no address and port; write 127.0.0.1:9470 or [::1]:9470, or nothing to listen nowhere"
)]
pub struct ListenError(String);

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        if text.is_empty() {
            return Ok(Self::Nowhere);
        }
        text.parse().map(Self::At).map_err(|_| ListenError(text.to_owned()))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => Ok(()),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
