//! Events: what the agent prints, and what `sluice observe` shows, one line each, as text or JSON.
//!
//! The JSON schema is [`Line`], version [`SCHEMA`]. A field is only ever added; a version changes when one changes its
//! meaning. An event names places, and what is asked of them: nothing else of what a process sent is in any field.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sluice_abi::{FlowEvent, NO_RULE, action, hook, kind, opaque, reason};
use sluice_policy::{PolicyRef, RuleRef};
use sluice_requests::Asked;

use super::node::Node;
use super::store::Record;
use crate::datapath::{Event, address_from};

mod names;
mod payloads;
mod requests;

/// The version of [`Line`].
pub const SCHEMA: u32 = 1;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A connection is being opened.
    Connect,
    /// A flow was denied, or would have been: see [`Line::action`].
    Deny,
    /// A question left, or its answer came: see [`Line::reason`].
    Dns,
    /// The first payload of a TLS flow showed a name, or none; with `proto` udp, that of QUIC, which is TLS too.
    Tls,
    /// A request of HTTP/1, in the clear.
    Http,
    /// A request was sent over TLS, and read where it was still plain.
    Https,
}

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It passed.
    Allow,
    /// It did not.
    Deny,
    /// It passed, and an audited policy would deny it.
    Audit,
}

/// Where in the datapath it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// When the process called `connect()`.
    Connect,
    /// When it sent by address.
    Sendmsg,
    /// When a packet left the pod's socket.
    Egress,
    /// When one reached it.
    Ingress,
    /// At the host's end of the pod's link.
    Wire,
    /// In the library that the process handed it to.
    Library,
}

/// The pod's class of service, as its cgroup tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Qos {
    /// In `kubepods` itself.
    Guaranteed,
    /// In `burstable`.
    Burstable,
    /// In `besteffort`.
    BestEffort,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Connect, Self::Deny, Self::Dns, Self::Tls, Self::Http, Self::Https];

    /// As JSON and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Deny => "deny",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Allow, Self::Deny, Self::Audit];

    /// As JSON and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }

    fn style(self) -> Style {
        let colour = match self {
            Self::Allow => AnsiColor::Green,
            Self::Deny => AnsiColor::Red,
            Self::Audit => AnsiColor::Yellow,
        };
        colour.on_default().bold()
    }
}

impl Hook {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Sendmsg, Self::Egress, Self::Ingress, Self::Wire, Self::Library];

    /// As JSON and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Sendmsg => "sendmsg",
            Self::Egress => "egress",
            Self::Ingress => "ingress",
            Self::Wire => "wire",
            Self::Library => "library",
        }
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// [`SCHEMA`].
    pub v: u32,
    /// When, in RFC 3339 with nanoseconds.
    pub ts: jiff::Timestamp,
    /// What happened.
    pub kind: Kind,
    /// The pod; none if it is not known any more.
    pub pod: Option<PodLine>,
    /// The pod's address, where the datapath knew it already.
    pub src: Option<IpAddr>,
    /// The pod's port, likewise.
    pub sport: Option<u16>,
    /// The destination; `0.0.0.0` without a port if that of a request is not known.
    pub dst: IpAddr,
    /// The destination's port; none for a protocol without.
    pub dport: Option<u16>,
    /// `tcp`, `udp`, `sctp`, `icmp`, `icmpv6`, or a protocol number.
    pub proto: String,
    /// The name that was asked for or shown, or that led to the destination.
    pub domain: Option<String>,
    /// The type that was asked for, as in zone files.
    pub dns_type: Option<String>,
    /// The code of a resolver's answer, as resolvers write it.
    pub dns_code: Option<String>,
    /// The first addresses of a resolver's answer.
    pub answers: Option<Vec<IpAddr>>,
    /// The method of a request.
    pub method: Option<String>,
    /// Its path, without the query.
    pub path: Option<String>,
    /// What else is told of it; its fields stand beside these.
    #[serde(flatten)]
    pub request: RequestLine,
    /// The process, where it is known.
    pub pid: Option<u32>,
    /// Its command name.
    pub comm: Option<String>,
    /// What was done: `allow`, `deny`, or `audit` for what was let through and an audited policy would deny.
    pub action: Action,
    /// The policy that decided, as `namespace/name` or `name`.
    pub policy: Option<String>,
    /// The rule in it: its name, or its place from 0; `default` for the policy's default action.
    pub rule: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// Where it was seen.
    pub hook: Hook,
    /// Packets of this flow denied since the last event about it, which had none of their own.
    pub repeats: u64,
}

/// More of a request: fields that an event has only where they are known.
///
/// All are printable ASCII. The query and the headers are there only if the configuration asks for them, and then without
/// what names a secret: `REDACTED` stands in its place. Of what else a request holds nothing is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RequestLine {
    /// The query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The headers that were asked for, by their names in lower case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headers: Option<BTreeMap<String, String>>,
    /// `http/1.1`, also for HTTP/1.0, or `h2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The protocol that the request asks to go on with, such as `websocket`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// The library in which it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub library: Option<String>,
}

/// The pod of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodLine {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The container's id, where the process could still be asked.
    pub container: Option<String>,
    /// `Guaranteed`, `Burstable` or `BestEffort`, as its cgroup tells.
    pub qos: Qos,
    /// The node.
    pub node: String,
}

/// Turns the kernel's events into lines.
pub struct Describer {
    node_name: String,
    payloads: payloads::Reader,
}

impl Describer {
    /// For a node of this name.
    pub fn new(node_name: String) -> Self {
        Self { node_name, payloads: payloads::Reader::default() }
    }

    /// Asks this of requests.
    #[must_use]
    pub fn asking(mut self, asked: Arc<Asked>) -> Self {
        self.payloads.asked = asked;
        self
    }

    /// Describes an event; none for a payload that tells nothing.
    pub fn describe(&mut self, event: &Event, node: &Node) -> Option<Line> {
        match event {
            Event::Flow(flow) => Some(self.flow(flow, node)),
            Event::Name(event) => Some(names::describe(event, self.flow(&event.flow, node))),
            Event::Payload(event) => {
                let told = self.payloads.read(event)?;
                let line = self.flow(&told.event.flow, node);
                Some(told.describe(line, node))
            }
        }
    }

    fn flow(&self, event: &FlowEvent, node: &Node) -> Line {
        let record = node.record(event.endpoint);
        let denied = event.ruling.applied == action::DENY;
        let (index, done) = match (event.kind, denied) {
            (kind::DENY, false) => (event.ruling.reported_rule, Action::Audit),
            (_, false) => (event.ruling.applied_rule, Action::Allow),
            (_, true) => (event.ruling.applied_rule, Action::Deny),
        };
        let rules = node.rules(event.policy);
        let rule = rules.and_then(|rules| rules.get(index as usize));
        let has_ports = matches!(event.protocol, 6 | 17 | 132) && event.opaque == opaque::NONE;
        let destination = address_from(event.remote);
        Line {
            v: SCHEMA,
            ts: wall_clock(event.time_ns),
            kind: kind_of(event),
            pod: record.map(|record| self.pod(record, event.pid, node)),
            src: Some(address_from(event.source)).filter(|address| !address.is_unspecified()),
            sport: (event.local_port != 0).then_some(event.local_port),
            dst: destination,
            dport: has_ports.then_some(event.remote_port),
            proto: protocol_name(event.protocol, destination),
            domain: node.domain(event),
            dns_type: None,
            dns_code: None,
            answers: None,
            method: None,
            path: None,
            request: RequestLine::default(),
            pid: (event.pid != 0).then_some(event.pid),
            comm: (event.pid != 0).then(|| text(&event.comm)),
            action: done,
            policy: rule.map(|rule| policy_name(&rule.policy)),
            rule: rule.map(rule_name),
            reason: reason(event, index, rules.is_some(), rule),
            hook: match event.hook {
                hook::CONNECT => Hook::Connect,
                hook::SENDMSG => Hook::Sendmsg,
                hook::WIRE => Hook::Wire,
                hook::INGRESS => Hook::Ingress,
                _ => Hook::Egress,
            },
            repeats: event.repeats,
        }
    }

    fn pod(&self, record: &Record, pid: u32, node: &Node) -> PodLine {
        PodLine {
            namespace: record.pod.namespace.clone(),
            name: record.pod.name.clone(),
            uid: record.pod.uid.clone(),
            container: node.cgroup_of(pid).and_then(|path| container(&path, &record.path)),
            qos: qos(&record.path),
            node: self.node_name.clone(),
        }
    }
}

/// The kind of an event.
pub fn kind_of(event: &FlowEvent) -> Kind {
    match event.kind {
        kind::CONNECT => Kind::Connect,
        kind::QUESTION | kind::ANSWER | kind::FORGOTTEN => Kind::Dns,
        kind::TLS => Kind::Tls,
        kind::HTTP => Kind::Http,
        _ => Kind::Deny,
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, Style::new(), Style::new())
    }
}

/// A line in colours.
pub struct Coloured<'a>(pub &'a Line);

impl fmt::Display for Coloured<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, Style::new().dimmed(), self.0.action.style())
    }
}

impl Line {
    /// What follows the host of a request.
    fn write_request(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.path {
            write!(f, " {path}")?;
        }
        let RequestLine { query, headers, protocol, .. } = &self.request;
        if let Some(query) = query {
            write!(f, "?{query}")?;
        }
        if let Some(protocol) = protocol {
            write!(f, " {protocol}")?;
        }
        for (name, value) in headers.iter().flatten() {
            write!(f, " {name}={value:?}")?;
        }
        Ok(())
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, faint: Style, strong: Style) -> fmt::Result {
        let pod = self.pod.as_ref().map_or("?".to_owned(), |pod| format!("{}/{}", pod.namespace, pod.name));
        write!(f, "{faint}{:.3}{faint:#} {strong}{:<5}{strong:#} {pod}", self.ts, self.action.name())?;
        if let (Some(comm), Some(pid)) = (&self.comm, self.pid) {
            write!(f, " {comm}[{pid}]")?;
        }
        write!(f, " -> {} ", self.proto)?;
        match (self.dst, self.dport) {
            (IpAddr::V6(address), Some(port)) => write!(f, "[{address}]:{port}")?,
            (address, Some(port)) => write!(f, "{address}:{port}")?,
            (address, None) => write!(f, "{address}")?,
        }
        if let Some(kind) = &self.dns_type {
            write!(f, " {kind}")?;
        }
        if let Some(method) = &self.method {
            write!(f, " {method}")?;
        }
        if let Some(domain) = &self.domain {
            write!(f, " {domain}")?;
        }
        self.write_request(f)?;
        write!(f, " {faint}({}){faint:#}", self.reason)?;
        if self.repeats > 0 {
            write!(f, " and {} more", self.repeats)?;
        }
        Ok(())
    }
}

fn reason(event: &FlowEvent, index: u32, rules_known: bool, rule: Option<&RuleRef>) -> String {
    let unreadable = match event.opaque {
        opaque::FRAGMENT => ", cannot be read: a fragment",
        opaque::IP_OPTIONS => ", cannot be read: IP options",
        opaque::EXTENSION_HEADER => ", cannot be read: IPv6 extension headers",
        opaque::ENCAPSULATED => ", cannot be read: IP in IP",
        opaque::FOREIGN_SOURCE => ", not trusted: the source is not an address of the pod",
        opaque::PACKET_SOCKET => ", not trusted: sent by a packet socket",
        opaque::NOT_IP => ", cannot be read: neither IP nor ARP",
        opaque::MALFORMED => ", cannot be read: malformed",
        _ => "",
    };
    let by = match (event.reason, rule) {
        (reason::POLICY_MISSING, _) => "its policy is not in the kernel".to_owned(),
        (reason::QUESTION, _) => {
            "a question for a name that no rule opens (dns.queries: RuleNames)".to_owned()
        }
        (_, Some(rule)) => rule.to_string(),
        (_, None) if index == NO_RULE && event.policy == 0 => "no policy selects the pod".to_owned(),
        (_, None) if index == NO_RULE => "no rule matches".to_owned(),
        (_, None) if rules_known => format!("rule {index} of compiled policy {}", event.policy),
        (_, None) => "a policy of an earlier agent".to_owned(),
    };
    let named = match event.reason {
        reason::NAME_AWAITED => ", if it shows a name that may",
        reason::NAME_SHOWN if event.ruling.applied == action::DENY => {
            ", by the name that it shows or for want of one"
        }
        _ => "",
    };
    by + unreadable + named
}

/// A policy as [`Line::policy`] names it.
pub(crate) fn policy_name(policy: &PolicyRef) -> String {
    match &policy.namespace {
        Some(namespace) => format!("{namespace}/{}", policy.name),
        None => policy.name.clone(),
    }
}

/// A rule as [`Line::rule`] names it.
pub(crate) fn rule_name(rule: &RuleRef) -> String {
    match &rule.rule {
        Some(id) => id.name.clone().unwrap_or_else(|| id.index.to_string()),
        None => "default".to_owned(),
    }
}

/// A protocol as [`Line::proto`] names it.
pub(crate) fn protocol_name(number: u8, destination: IpAddr) -> String {
    match (number, destination.is_ipv6()) {
        (6, _) => "tcp".to_owned(),
        (17, _) => "udp".to_owned(),
        (132, _) => "sctp".to_owned(),
        (1, false) => "icmp".to_owned(),
        (58, true) => "icmpv6".to_owned(),
        _ => number.to_string(),
    }
}

/// A command name, which any process may choose: printable ASCII only, so that a terminal is safe with it.
fn text(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    comm[..end]
        .iter()
        .map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { *byte as char } else { '?' })
        .collect()
}

/// The directory below the pod's, without what runtimes put around a container's id.
fn container(path: &Path, pod: &Path) -> Option<String> {
    let name = path.strip_prefix(pod).ok()?.components().next()?.as_os_str().to_str()?;
    let name = name.strip_suffix(".scope").unwrap_or(name);
    Some(name.rsplit('-').next().unwrap_or(name).to_owned())
}

fn qos(path: &Path) -> Qos {
    let path = path.to_string_lossy().to_ascii_lowercase();
    if path.contains("burstable") {
        Qos::Burstable
    } else if path.contains("besteffort") {
        Qos::BestEffort
    } else {
        Qos::Guaranteed
    }
}

/// The wall clock at a time of the boot clock.
fn wall_clock(boot_ns: u64) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    let Ok(boot_now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME) else { return now };
    let age = std::time::Duration::from(boot_now).saturating_sub(std::time::Duration::from_nanos(boot_ns));
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_cannot_write_on_the_terminal() {
        let mut comm = [0; 16];
        comm[..8].copy_from_slice(b"a\x1b[2J\n\xffb");
        assert_eq!(text(&comm), "a?[2J??b");
    }

    #[test]
    fn containers_are_named_by_their_id() {
        let pod = Path::new("/c/kubepods/burstable/pod1");
        assert_eq!(container(&pod.join("abc/nested"), pod).as_deref(), Some("abc"));
        assert_eq!(container(&pod.join("cri-containerd-abc.scope"), pod).as_deref(), Some("abc"));
        assert_eq!(container(pod, pod), None);
    }

    #[test]
    fn the_class_of_service_is_in_the_path() {
        assert_eq!(qos(Path::new("/c/kubepods.slice/kubepods-burstable.slice/x")), Qos::Burstable);
        assert_eq!(qos(Path::new("/c/kubepods/besteffort/podx")), Qos::BestEffort);
        assert_eq!(qos(Path::new("/c/kubepods/podx")), Qos::Guaranteed);
    }
}
