//! Rules, their peers, ports and requests.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::KubeSchema;
use kube::core::Rule as Cel;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Cel::new(
        "!has(self.requireName) || (has(self.to) && self.to.exists(peer, has(peer.domainNames)))"
    )
    .message("requireName asks for a name; it goes with domainNames")
    .field_path(".requireName"),
    validation = Cel::new(
        "!has(self.http) || !has(self.ports) || self.ports.all(port, !has(port.protocol) || port.protocol == 'TCP')"
    )
    .message("http is TCP; remove the ports of another protocol, or put them into a rule of their own")
    .field_path(".ports")
)]
pub struct EgressRule {
    /// For events and for you.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub name: Option<String>,
    /// Allow, Deny, or, in a ClusterEgressPolicy, Pass: the tier says nothing more.
    pub action: Action,
    /// Any of these peers. Absent: anywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub to: Option<Vec<Peer>>,
    /// Any of these ports. Absent: any protocol and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub ports: Option<Vec<Port>>,
    /// Any of these requests. Absent: any. What is asked of HTTPS is told, not applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub http: Option<Vec<Http>>,
    /// Whether domainNames match a flow only if it shows such a name (TLS SNI, HTTP Host). Absent: on TCP 80 and 443.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub require_name: Option<bool>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Action {
    /// The flow may go.
    Allow,
    /// It may not.
    Deny,
    /// The tier says nothing, its default included.
    Pass,
}

/// Where to. Exactly one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Cel::new(
        "[has(self.networks), has(self.pods), has(self.namespaces), has(self.services), has(self.domainNames)]\
         .filter(is, is).size() == 1"
    )
    .message("a peer is of exactly one kind: networks, pods, namespaces, services or domainNames"),
    validation = Cel::new("!has(self.except) || has(self.networks)")
        .message("except cuts out of networks; it goes with them")
        .field_path(".except")
)]
pub struct Peer {
    /// Addresses in CIDR notation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1000),
        inner(length(max = 49), pattern(r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$"))
    )]
    pub networks: Option<Vec<String>>,
    /// What is cut out of these networks; each a smaller part of one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 1000),
        inner(length(max = 49), pattern(r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$"))
    )]
    pub except: Option<Vec<String>>,
    /// The addresses of pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<PodPeer>,
    /// The addresses of all pods of these namespaces; in a ClusterEgressPolicy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Services: their addresses, and the pods behind them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 100))]
    pub services: Option<Vec<ServicePeer>>,
    /// Names, or `*.` before a domain for every name below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain_names: Option<DomainNames>,
}

/// Names: `a.b` is that name, `*.b` every name below b at any depth.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DomainNames(
    // Names that are not ASCII go through IDNA in the agent, which is stricter than this.
    #[schemars(
        length(min = 1, max = 250),
        inner(length(max = 251), pattern(r"^(\*\.)?[^*./:\s]+(\.[^*./:\s]+)*\.?$"))
    )]
    pub Vec<String>,
);

/// Pods.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodPeer {
    /// Which; {} for all.
    pub pod_selector: LabelSelector,
    /// In which namespaces. Absent: the policy's own, for a ClusterEgressPolicy all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct ServicePeer {
    /// Its name.
    #[schemars(length(min = 1, max = 253), pattern(r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// Its namespace. Absent: the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub namespace: Option<String>,
}

/// One port, a range of them, or a protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Cel::new("!has(self.endPort) || has(self.port)")
        .message("endPort ends a range that port begins")
        .field_path(".endPort"),
    validation = Cel::new("!has(self.endPort) || !has(self.port) || self.endPort >= self.port")
        .message("endPort must not be below port")
        .field_path(".endPort"),
    validation = Cel::new("!has(self.protocol) || self.protocol != 'ICMP' || (!has(self.port) && !has(self.endPort))")
        .message("ICMP has no ports; remove port and endPort")
        .field_path(".port")
)]
pub struct Port {
    /// The port, or the first of a range. Absent: all of the protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<u16>,
    /// The last of the range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<u16>,
    /// TCP, UDP, SCTP or ICMP.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP on IPv4, ICMPv6 on IPv6.
    Icmp,
}

/// Requests: any of the methods, and the path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Cel::new("has(self.methods) || has(self.path)")
        .message("say which requests: methods, path or both")
)]
pub struct Http {
    /// Methods. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 9))]
    pub methods: Option<Vec<Method>>,
    /// The path. Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<HttpPath>,
}

/// A method, as the Gateway API lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// RFC 9110, section 9.3.1.
    Get,
    /// Section 9.3.2.
    Head,
    /// Section 9.3.3.
    Post,
    /// Section 9.3.4.
    Put,
    /// Section 9.3.5.
    Delete,
    /// Section 9.3.6.
    Connect,
    /// Section 9.3.7.
    Options,
    /// Section 9.3.8.
    Trace,
    /// RFC 5789.
    Patch,
}

/// A path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
pub struct HttpPath {
    /// PathPrefix goes by whole elements: /v1 is for /v1 and /v1/x, not for /v10.
    #[serde(rename = "type", default)]
    pub kind: PathType,
    /// The path or prefix.
    #[schemars(length(min = 1, max = 1024), pattern("^/"))]
    pub value: String,
}

/// How a path is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathType {
    /// By whole elements.
    #[default]
    PathPrefix,
    /// Whole.
    Exact,
}
