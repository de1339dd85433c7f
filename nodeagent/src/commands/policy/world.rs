//! The file of `--world`, YAML or JSON: the pods, namespaces and Services that peers are resolved against.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sluice_policy::{Labels, PodInfo, Protocol, ServiceInfo, ServicePort, World};

/// A world for the help; a test reads it.
pub(super) const EXAMPLE: &str = r#"  {
    "namespaces": {"cache": {"team": "red"}},
    "pods": [
      {"namespace": "cache", "name": "redis-0", "labels": {"app": "redis"},
       "addresses": ["10.1.2.3"], "hostNetwork": false}
    ],
    "services": [
      {"namespace": "cache", "name": "redis", "addresses": ["10.96.0.7"],
       "ports": [{"port": 6379, "protocol": "TCP", "targets": ["10.1.2.3:16379"]}]}
    ],
    "resolvers": ["10.96.0.10"]
  }"#;

/// Why a world cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorldError {
    /// The system does not give the file.
    #[error("cannot read the world {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text is not of the form.
    #[error("{path} is no world: {source}; `sluice policy test --help` shows one")]
    Form {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        source: Box<serde_saphyr::Error>,
    },
    /// One pod or Service twice.
    #[error("{path}: the {kind} {namespace}/{name} is given twice; remove one of them")]
    Twice {
        /// The file.
        path: PathBuf,
        /// `pod` or `Service`.
        kind: &'static str,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WorldFile {
    namespaces: BTreeMap<String, Labels>,
    pods: Vec<Pod>,
    services: Vec<Service>,
    resolvers: Vec<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pod {
    namespace: String,
    name: String,
    #[serde(default)]
    labels: Labels,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    host_network: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    namespace: String,
    name: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
    #[serde(default)]
    ports: Vec<Exposed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Exposed {
    port: u16,
    #[serde(default)]
    protocol: PortProtocol,
    #[serde(default)]
    targets: Vec<SocketAddr>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum PortProtocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

/// Reads a world.
pub(super) fn read(path: &Path) -> Result<World, WorldError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| WorldError::Read { path: path.to_owned(), source })?;
    let file = decode(&text).map_err(|source| WorldError::Form { path: path.to_owned(), source })?;
    let pods = file.pods.iter().map(|pod| (&pod.namespace, &pod.name));
    let services = file.services.iter().map(|service| (&service.namespace, &service.name));
    for (kind, twice) in [("pod", twice(pods)), ("Service", twice(services))] {
        if let Some((namespace, name)) = twice {
            let (namespace, name) = (namespace.clone(), name.clone());
            return Err(WorldError::Twice { path: path.to_owned(), kind, namespace, name });
        }
    }
    Ok(file.into())
}

/// Reads YAML, of which JSON is a part.
fn decode(text: &str) -> Result<WorldFile, Box<serde_saphyr::Error>> {
    let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
    serde_saphyr::from_str_with_options(text, options).map_err(Box::new)
}

fn twice<T: Copy + Ord>(names: impl Iterator<Item = T>) -> Option<T> {
    let mut seen = BTreeSet::new();
    names.into_iter().find(|name| !seen.insert(*name))
}

impl From<WorldFile> for World {
    fn from(file: WorldFile) -> Self {
        Self {
            pods: file.pods.into_iter().map(PodInfo::from).collect(),
            namespaces: file.namespaces,
            services: file.services.into_iter().map(ServiceInfo::from).collect(),
            resolvers: file.resolvers,
            search: Vec::new(),
        }
    }
}

impl From<Pod> for PodInfo {
    fn from(pod: Pod) -> Self {
        let Pod { namespace, name, labels, addresses, host_network } = pod;
        Self { namespace, name, labels, addresses, host_network }
    }
}

impl From<Service> for ServiceInfo {
    fn from(service: Service) -> Self {
        let Service { namespace, name, addresses, ports } = service;
        Self { namespace, name, addresses, ports: ports.into_iter().map(ServicePort::from).collect() }
    }
}

impl From<Exposed> for ServicePort {
    fn from(port: Exposed) -> Self {
        let protocol = match port.protocol {
            PortProtocol::Tcp => Protocol::Tcp,
            PortProtocol::Udp => Protocol::Udp,
            PortProtocol::Sctp => Protocol::Sctp,
        };
        let targets = port.targets.into_iter().map(|target| (target.ip(), target.port())).collect();
        Self { protocol, port: port.port, targets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_help_is_a_world() {
        let world = World::from(decode(EXAMPLE).expect("a world"));
        assert_eq!(world.pods[0].labels["app"], "redis");
        assert_eq!(world.namespaces["cache"]["team"], "red");
        assert_eq!(world.resolvers, ["10.96.0.10".parse::<IpAddr>().expect("an address")]);
        assert_eq!(world.services[0].ports[0].targets, [("10.1.2.3".parse().expect("an address"), 16379)]);
    }
}
