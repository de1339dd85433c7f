//! A flow as the operator writes it: in words, `pod=shop/web dst=203.0.113.7 port=443`, or as a JSON object.
//!
//! Both forms become one map, which is read with all of its faults.

use std::net::IpAddr;

use serde_json::{Map, Value};
use sluice_policy::selector::NAMESPACE_NAME_LABEL;
use sluice_policy::{Flow, FlowProtocol, Labels, Name, Names, Requested, Shown};

/// The fields in JSON.
const FIELDS: [&str; 12] = [
    "pod",
    "labels",
    "namespaceLabels",
    "dst",
    "port",
    "proto",
    "domain",
    "shown",
    "method",
    "path",
    "opaque",
    "hostNetwork",
];

const KNOWN_WORDS: &str =
    "pod, label.KEY, nslabel.KEY, dst, port, proto, domain, shown, method, path, opaque, hostNetwork";
const POD: &str = "the pod as NAMESPACE/NAME in lower case, such as shop/web";
const DESTINATION: &str = "an IPv4 or IPv6 address, such as 203.0.113.7; names are not looked up";
const PORT: &str = "a number from 0 to 65535";
const PROTOCOL: &str = "tcp, udp, sctp, icmp or a number from 0 to 255";
const DOMAIN: &str = "the name that the address was learned from, or several with commas between them";
const SHOWN: &str = "a name, or none for a flow that shows none that can be read";
const METHOD: &str =
    "the method of a request, such as GET, or none for a flow that shows none that can be read";
const PATH: &str = "the path of a request without its query, such as /v1/items; it goes with method";
/// What [`SHOWN`] and [`METHOD`] say.
const NONE: &str = "none";
const SWITCH: &str = "true or false";
const LABELS: &str = "a map of labels, such as {\"app\": \"web\"}";
const LABEL_KEY: &str = "letters, digits, `-`, `_` and `.`, if need be after a domain and `/`";
const LABEL_VALUE: &str = "at most 63 letters, digits, `-`, `_` and `.`, as text";

/// One fault of a flow.
#[derive(Debug, thiserror::Error)]
pub(super) enum FlowError {
    /// Bytes that are no text.
    #[error("the line is not UTF-8; write it as UTF-8")]
    NotText,
    /// Broken JSON.
    #[error(
        "the line is no JSON object: {0}; write {{\"pod\":\"shop/web\",\"dst\":\"203.0.113.7\",\"port\":443}}"
    )]
    Json(#[from] serde_json::Error),
    /// A word that gives no field a value.
    #[error("`{0}` is no field with a value; write FIELD=VALUE, such as port=443")]
    Word(String),
    /// A field that flows do not have.
    #[error("{field}: no such field; known here: {known}")]
    Unknown {
        /// The field.
        field: String,
        /// Those that there are.
        known: String,
    },
    /// A field given twice.
    #[error("{0}: given twice; remove one of them")]
    Twice(String),
    /// A field that must be there is not.
    #[error("{field}: missing; write {advice}")]
    Missing {
        /// The field.
        field: &'static str,
        /// What belongs there.
        advice: &'static str,
    },
    /// The value is none that the field takes.
    #[error("{field}: `{found}` does not belong here; write {advice}")]
    Value {
        /// The field.
        field: String,
        /// What is there.
        found: String,
        /// What belongs there.
        advice: &'static str,
    },
    /// A port of a protocol without.
    #[error("port: protocol {0} has no ports; remove the port, or write another proto")]
    NeedlessPort(u8),
    /// A request over another protocol.
    #[error(
        "method: HTTP goes over TCP, and the flow has protocol {0}; remove the request, or write another proto"
    )]
    NeedlessRequest(u8),
    /// The label of the namespace's name, with another value.
    #[error(
        "{label}: `{found}` is not the namespace of the pod, {namespace}; leave the label out, it is always there",
        label = NAMESPACE_NAME_LABEL
    )]
    NamespaceName {
        /// What is there.
        found: String,
        /// What the pod says.
        namespace: String,
    },
}

/// A flow with its pod. What is `None` was not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowSpec {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) labels: Option<Labels>,
    pub(super) namespace_labels: Option<Labels>,
    pub(super) host_network: Option<bool>,
    pub(super) destination: IpAddr,
    /// The number in the IP header.
    pub(super) protocol: u8,
    pub(super) port: Option<u16>,
    pub(super) opaque: bool,
    /// What the destination was learned from.
    pub(super) learned: Vec<Name>,
    /// What it shows: the first of those, if nothing was said.
    pub(super) shown: Option<Shown>,
    /// What it asks for; not known yet, if nothing was said.
    pub(super) request: Option<Requested>,
}

impl FlowSpec {
    /// `domain` as it is written.
    pub(super) fn domain(&self) -> Option<String> {
        let names: Vec<&str> = self.learned.iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| names.join(","))
    }

    /// `shown` as it is written, if anything was said of names.
    pub(super) fn shown(&self) -> Option<String> {
        let said = self.shown.is_some() || !self.learned.is_empty();
        said.then(|| match self.shows() {
            Shown::Name(name) => name.to_string(),
            Shown::Unreadable => NONE.to_owned(),
        })
    }

    /// `method` as it is written.
    pub(super) fn method(&self) -> Option<String> {
        self.request.as_ref().map(|request| match request {
            Requested::Request { method, .. } => method.clone(),
            Requested::Unreadable => NONE.to_owned(),
        })
    }

    /// `path` as it is written.
    pub(super) fn path(&self) -> Option<String> {
        match &self.request {
            Some(Requested::Request { path, .. }) => Some(path.clone()).filter(|path| !path.is_empty()),
            Some(Requested::Unreadable) | None => None,
        }
    }

    /// The flow as the evaluator knows it.
    pub(super) fn flow(&self) -> Flow {
        Flow {
            destination: self.destination,
            protocol: FlowProtocol::from_number(self.protocol, self.destination.is_ipv6()),
            port: self.port.unwrap_or(0),
            opaque: self.unreadable().is_some(),
            names: Names { learned: self.learned.clone(), shown: Some(self.shows()) },
            request: self.request.clone(),
        }
    }

    /// What the flow shows. A flow without a word about names shows none.
    fn shows(&self) -> Shown {
        let first = || self.learned.first().map_or(Shown::Unreadable, |name| Shown::Name(name.clone()));
        self.shown.clone().unwrap_or_else(first)
    }

    /// Why the packets cannot be read, if they cannot: as a rule of its own, or as the datapath takes the protocol.
    pub(super) fn unreadable(&self) -> Option<&'static str> {
        match self.protocol {
            _ if self.opaque => Some("cannot be read"),
            4 | 41 => Some("cannot be read: IP in IP"),
            44 if self.destination.is_ipv6() => Some("cannot be read: a fragment"),
            0 | 43 | 51 | 60 | 135 | 139 | 140 if self.destination.is_ipv6() => {
                Some("cannot be read: IPv6 extension headers")
            }
            _ => None,
        }
    }
}

/// Reads a flow in either form; fails with all of its faults.
pub(super) fn read(text: &str) -> Result<FlowSpec, Vec<FlowError>> {
    let mut errors = Vec::new();
    let map = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| vec![error.into()])?
    } else {
        words(text, &mut errors)
    };
    let spec = Reader { map: &map, errors: &mut errors }.flow();
    spec.filter(|_| errors.is_empty()).ok_or(errors)
}

/// Puts words into the form of JSON.
fn words(text: &str, errors: &mut Vec<FlowError>) -> Map<String, Value> {
    let mut map = Map::new();
    for word in text.split_whitespace() {
        let Some((key, value)) = word.split_once('=') else {
            errors.push(FlowError::Word(shown(word)));
            continue;
        };
        let text = || Value::String(value.to_owned());
        let before = if let Some(label) = key.strip_prefix("label.") {
            labels_of(&mut map, "labels").insert(label.to_owned(), text())
        } else if let Some(label) = key.strip_prefix("nslabel.") {
            labels_of(&mut map, "namespaceLabels").insert(label.to_owned(), text())
        } else {
            let value = match key {
                "pod" | "dst" | "domain" | "shown" | "method" | "path" => text(),
                "port" | "proto" => value.parse::<u64>().map_or_else(|_| text(), Value::from),
                "opaque" | "hostNetwork" => value.parse::<bool>().map_or_else(|_| text(), Value::from),
                _ => {
                    errors.push(FlowError::Unknown { field: shown(key), known: KNOWN_WORDS.to_owned() });
                    continue;
                }
            };
            map.insert(key.to_owned(), value)
        };
        if before.is_some() {
            errors.push(FlowError::Twice(shown(key)));
        }
    }
    map
}

fn labels_of<'m>(map: &'m mut Map<String, Value>, field: &str) -> &'m mut Map<String, Value> {
    let labels = map.entry(field).or_insert_with(|| Value::Object(Map::new()));
    labels.as_object_mut().expect("only this function writes the field")
}

/// Reads the map, and collects its faults.
struct Reader<'a> {
    map: &'a Map<String, Value>,
    errors: &'a mut Vec<FlowError>,
}

impl Reader<'_> {
    fn flow(&mut self) -> Option<FlowSpec> {
        for field in self.map.keys().filter(|field| !FIELDS.contains(&field.as_str())) {
            self.errors.push(FlowError::Unknown { field: shown(field), known: FIELDS.join(", ") });
        }
        let pod = self.need("pod", POD, |value| {
            let (namespace, name) = value.as_str()?.split_once('/')?;
            (is_name(namespace) && is_name(name)).then(|| (namespace.to_owned(), name.to_owned()))
        });
        let labels = self.labels("labels");
        let namespace_labels = self.labels("namespaceLabels");
        let address = |value: &Value| Some(value.as_str()?.parse::<IpAddr>().ok()?.to_canonical());
        let destination = self.need("dst", DESTINATION, address);
        let over_ipv6 = destination.is_some_and(|address| address.is_ipv6());
        let number = |value: &Value| protocol(value, over_ipv6);
        let protocol = if self.has("proto") { self.value("proto", PROTOCOL, number) } else { Some(6) };
        let port = self.value("port", PORT, |value| u16::try_from(value.as_u64()?).ok());
        let opaque = self.value("opaque", SWITCH, Value::as_bool).unwrap_or(false);
        let host_network = self.value("hostNetwork", SWITCH, Value::as_bool);
        let names = |value: &Value| {
            let names = value.as_str()?.split(',').map(|name| name.parse().ok());
            names.collect::<Option<Vec<Name>>>()
        };
        let learned = self.value("domain", DOMAIN, names).unwrap_or_default();
        let shown = self.value("shown", SHOWN, |value| match value.as_str()? {
            NONE => Some(Shown::Unreadable),
            name => name.parse().ok().map(Shown::Name),
        });
        let request = self.request(protocol);
        if let Some(protocol) = protocol {
            if !has_ports(protocol) && self.has("port") {
                self.errors.push(FlowError::NeedlessPort(protocol));
            } else if has_ports(protocol) && !self.has("port") && !opaque {
                self.errors.push(FlowError::Missing { field: "port", advice: PORT });
            }
        }
        let (namespace, name) = pod?;
        let claimed = namespace_labels.as_ref().and_then(|labels| labels.get(NAMESPACE_NAME_LABEL));
        if let Some(found) = claimed.filter(|found| **found != namespace) {
            let (found, namespace) = (found.clone(), namespace.clone());
            self.errors.push(FlowError::NamespaceName { found, namespace });
        }
        let (destination, protocol) = (destination?, protocol?);
        Some(FlowSpec {
            namespace,
            name,
            labels,
            namespace_labels,
            host_network,
            destination,
            protocol,
            port,
            opaque,
            learned,
            shown,
            request,
        })
    }

    fn request(&mut self, protocol: Option<u8>) -> Option<Requested> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let method = self.value("method", METHOD, |value| {
            let method = value.as_str()?;
            (!method.is_empty() && method.bytes().all(token)).then(|| method.to_owned())
        });
        let is_path = |path: &str| path == "*" || (path.starts_with('/') && !path.contains('?'));
        let path =
            self.value("path", PATH, |value| value.as_str().filter(|path| is_path(path)).map(str::to_owned));
        if (self.has("method") || self.has("path")) && protocol.is_some_and(|protocol| protocol != 6) {
            self.errors.extend(protocol.map(FlowError::NeedlessRequest));
        }
        match (method.as_deref(), path) {
            (Some(NONE), None) if !self.has("path") => Some(Requested::Unreadable),
            // CONNECT has none.
            (Some("CONNECT"), path) => {
                Some(Requested::Request { method: "CONNECT".to_owned(), path: path.unwrap_or_default() })
            }
            (Some(_), Some(path)) => Some(Requested::Request { method: method?, path }),
            (Some(_), None) if !self.has("path") => {
                self.errors.push(FlowError::Missing { field: "path", advice: PATH });
                None
            }
            (None, Some(_)) if !self.has("method") => {
                self.errors.push(FlowError::Missing { field: "method", advice: METHOD });
                None
            }
            _ => None,
        }
    }

    /// Whether the field is there; `null` is taken for its absence.
    fn has(&self, field: &str) -> bool {
        self.map.get(field).is_some_and(|value| !value.is_null())
    }

    fn need<T>(
        &mut self,
        field: &'static str,
        advice: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        if !self.has(field) {
            self.errors.push(FlowError::Missing { field, advice });
        }
        self.value(field, advice, read)
    }

    fn value<T>(
        &mut self,
        field: &str,
        advice: &'static str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.map.get(field).filter(|value| !value.is_null())?;
        let read = read(value);
        if read.is_none() {
            self.fault(field.to_owned(), value, advice);
        }
        read
    }

    fn fault(&mut self, field: String, value: &Value, advice: &'static str) {
        let found = value.as_str().map_or_else(|| shown(&value.to_string()), shown);
        self.errors.push(FlowError::Value { field, found, advice });
    }

    fn labels(&mut self, field: &str) -> Option<Labels> {
        let map = self.value(field, LABELS, |value| value.as_object().cloned())?;
        let mut labels = Labels::new();
        for (key, value) in map {
            if !is_label_key(&key) {
                self.fault(field.to_owned(), &Value::String(key), LABEL_KEY);
            } else if let Some(text) = value.as_str().filter(|text| is_label_value(text)) {
                labels.insert(key, text.to_owned());
            } else {
                self.fault(format!("{field}.{key}"), &value, LABEL_VALUE);
            }
        }
        Some(labels)
    }
}

/// The number of a protocol that is named or numbered.
fn protocol(value: &Value, over_ipv6: bool) -> Option<u8> {
    if let Some(number) = value.as_u64() {
        return u8::try_from(number).ok();
    }
    match value.as_str()?.to_ascii_lowercase().as_str() {
        "tcp" => Some(6),
        "udp" => Some(17),
        "sctp" => Some(132),
        "icmp" if over_ipv6 => Some(58),
        "icmp" => Some(1),
        "icmpv6" => Some(58),
        text => text.parse().ok(),
    }
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 132)
}

/// Whether Kubernetes could have given the name to a pod or a namespace.
fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    (1..=253).contains(&name.len()) && name.bytes().all(inner)
}

fn is_label_key(key: &str) -> bool {
    let (domain, name) = key.split_once('/').map_or((None, key), |(domain, name)| (Some(domain), name));
    !name.is_empty() && is_label_value(name) && domain.is_none_or(is_name)
}

fn is_label_value(value: &str) -> bool {
    value.len() <= 63 && value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// The first 60 characters of a text, safe for a terminal.
fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let cut = if text.chars().count() > LONGEST { "…" } else { "" };
    text.chars().take(LONGEST).flat_map(char::escape_debug).chain(cut.chars()).collect()
}

#[cfg(test)]
mod tests;
