//! What policies say of a flow, and how that is written.

use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use sluice_policy::{Action, Flow, Labels, PodInfo, PolicySet, Posture, Ruling, World, evaluate, select};

use super::flow::FlowSpec;
use crate::agent::events::{policy_name, protocol_name, rule_name};

/// The version of [`Line`].
const SCHEMA: u32 = 1;

/// What is asked about flows.
pub(super) struct Judge {
    pub(super) policies: PolicySet,
    pub(super) world: World,
    pub(super) posture: Posture,
}

/// The answer about one flow. Policy, rule and reason are written as the agent's events write them.
#[derive(Serialize)]
pub(super) struct Line {
    v: u32,
    flow: FlowLine,
    action: &'static str,
    reported: &'static str,
    policy: Option<String>,
    rule: Option<String>,
    reason: String,
    #[serde(flatten)]
    differing: Option<Reported>,
}

/// The flow, with all that was known about its pod. It can be read again.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FlowLine {
    pod: String,
    labels: Labels,
    namespace_labels: Labels,
    dst: IpAddr,
    port: Option<u16>,
    proto: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shown: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    opaque: bool,
    host_network: bool,
}

/// The ruling that counts audited policies too, where it is another.
#[derive(Serialize)]
struct Reported {
    #[serde(rename = "reportedPolicy")]
    policy: Option<String>,
    #[serde(rename = "reportedRule")]
    rule: Option<String>,
    #[serde(rename = "reportedReason")]
    reason: String,
}

impl Judge {
    /// Judges a flow. What it says about its pod and namespace goes before what the world says.
    pub(super) fn judge(&mut self, spec: &FlowSpec) -> Line {
        let given = spec.namespace_labels.as_ref();
        let before = given.map(|labels| self.world.namespaces.insert(spec.namespace.clone(), labels.clone()));
        let line = self.in_this_world(spec);
        match before {
            Some(Some(labels)) => drop(self.world.namespaces.insert(spec.namespace.clone(), labels)),
            Some(None) => drop(self.world.namespaces.remove(&spec.namespace)),
            None => {}
        }
        line
    }

    fn in_this_world(&self, spec: &FlowSpec) -> Line {
        let same = |pod: &&PodInfo| pod.namespace == spec.namespace && pod.name == spec.name;
        let known = self.world.pods.iter().find(same);
        let labels = spec.labels.clone().or_else(|| known.map(|pod| pod.labels.clone())).unwrap_or_default();
        let pod = PodInfo {
            namespace: spec.namespace.clone(),
            name: spec.name.clone(),
            labels,
            addresses: Vec::new(),
            host_network: spec.host_network.unwrap_or_else(|| known.is_some_and(|pod| pod.host_network)),
        };
        let namespace_labels = self.world.namespaces.get(&spec.namespace);
        let selection = select(&self.policies, &pod, namespace_labels);
        let judgement = evaluate(&selection, &self.world, self.posture, &spec.flow());
        // What is denied for its request alone passes the kernel.
        let opening = Flow { request: None, ..spec.flow() };
        let opened = evaluate(&selection, &self.world, self.posture, &opening);
        let reason = |ruling: &Ruling, opened: &Ruling, unheard: &str| {
            let by_request = opened.action == Action::Allow && ruling.action == Action::Deny;
            let told = if by_request { ", by the request, which is not enforced" } else { "" };
            let by = match &ruling.by {
                Some(rule) => rule.to_string(),
                None if self.posture == Posture::Observe => "posture observe judges nothing".to_owned(),
                None if selection.is_empty() => "no policy selects the pod".to_owned(),
                None => unheard.to_owned(),
            };
            spec.unreadable().map_or_else(|| format!("{by}{told}"), |why| format!("{by}, {why}"))
        };
        let unheard =
            if self.posture == Posture::Log { "posture log applies nothing" } else { "no rule matches" };
        let (applied, reported) = (&judgement.applied, &judgement.reported);
        Line {
            v: SCHEMA,
            flow: FlowLine {
                pod: format!("{}/{}", pod.namespace, pod.name),
                labels: pod.labels,
                namespace_labels: namespace_labels.cloned().unwrap_or_default(),
                dst: spec.destination,
                port: spec.port,
                proto: protocol_name(spec.protocol, spec.destination),
                domain: spec.domain(),
                shown: spec.shown(),
                method: spec.method(),
                path: spec.path(),
                opaque: spec.opaque,
                host_network: pod.host_network,
            },
            action: action(applied),
            reported: action(reported),
            policy: policy(applied),
            rule: rule(applied),
            reason: reason(applied, &opened.applied, unheard),
            differing: (applied != reported).then(|| Reported {
                policy: policy(reported),
                rule: rule(reported),
                reason: reason(reported, &opened.reported, "no rule matches"),
            }),
        }
    }
}

impl Line {
    /// Whether the flow is denied, posture and modes taken into account.
    pub(super) fn is_denied(&self) -> bool {
        self.action == DENY
    }
}

const DENY: &str = "deny";

fn action(ruling: &Ruling) -> &'static str {
    match ruling.action {
        Action::Allow => "allow",
        Action::Deny => DENY,
    }
}

fn policy(ruling: &Ruling) -> Option<String> {
    ruling.by.as_ref().map(|by| policy_name(&by.policy))
}

fn rule(ruling: &Ruling) -> Option<String> {
    ruling.by.as_ref().map(rule_name)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<5} {} ({})", self.action, self.flow, self.reason)?;
        if let Some(Reported { reason, .. }) = &self.differing {
            write!(f, "; reported: {} ({reason})", self.reported)?;
        }
        Ok(())
    }
}

/// In the words in which flows are given.
impl fmt::Display for FlowLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod={}", self.pod)?;
        for (key, value) in &self.labels {
            write!(f, " label.{key}={value}")?;
        }
        for (key, value) in &self.namespace_labels {
            write!(f, " nslabel.{key}={value}")?;
        }
        write!(f, " dst={}", self.dst)?;
        if let Some(port) = self.port {
            write!(f, " port={port}")?;
        }
        write!(f, " proto={}", self.proto)?;
        for (field, name) in
            [("domain", &self.domain), ("shown", &self.shown), ("method", &self.method), ("path", &self.path)]
        {
            if let Some(name) = name {
                write!(f, " {field}={name}")?;
            }
        }
        for (set, word) in [(self.opaque, "opaque"), (self.host_network, "hostNetwork")] {
            if set {
                write!(f, " {word}=true")?;
            }
        }
        Ok(())
    }
}
