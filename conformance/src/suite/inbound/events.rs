//! What the agent tells of denied and of allowed flows.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, ContainerSpec, Pod};
use crate::suite::flood::{TCP_PORT, UDP_PORT};

/// How long an event may take to come.
const EVENT_LIMIT: Duration = Duration::from_secs(10);

/// One way of sending, and where it is refused.
struct Way {
    protocol: &'static str,
    port: u16,
    hook: &'static str,
}

const WAYS: [Way; 3] = [
    Way { protocol: "tcp", port: TCP_PORT, hook: "connect" },
    Way { protocol: "udp", port: UDP_PORT, hook: "sendmsg" },
    Way { protocol: "icmp", port: 0, hook: "egress" },
];

/// Lets the probe try once; what came of it: `connected`, `reply`, or the errno.
pub(in crate::suite) async fn attempt(pod: &Pod, protocol: &str, to: IpAddr, port: u16) -> Result<Value> {
    let (to, port) = (to.to_string(), port.to_string());
    let arguments = ["connect", "--to", &to, "--port", &port, "--proto", protocol];
    let container = pod.start(&ContainerSpec::new("try", arguments)).await?;
    container.succeed().await?;
    Ok(container.json()?.first().context("the probe wrote nothing")?["outcome"].clone())
}

/// Every way of sending is refused with EPERM, and told of by an event.
pub(super) async fn denials(
    report: &mut Report,
    agent: &Agent,
    pod: &Pod,
    (namespace, name): (&str, &str),
    policy: &str,
) -> Result<()> {
    for to in DESTINATIONS.forbidden {
        for way in &WAYS {
            let label = format!("IPv{} {}", if to.is_ipv6() { 6 } else { 4 }, way.protocol);
            let outcome = attempt(pod, way.protocol, to, way.port).await?;
            report.equal(&format!("denied: {label}"), outcome, "", "EPERM");
            let protocol = if to.is_ipv6() && way.protocol == "icmp" { "icmpv6" } else { way.protocol };
            let expected = json!({
                "kind": "deny",
                "action": "deny",
                "pod": {"namespace": namespace, "name": name},
                "dst": to.to_string(),
                "dport": if way.port == 0 { Value::Null } else { way.port.into() },
                "proto": protocol,
                "comm": "sluice-probe",
                "policy": policy,
                "rule": "default",
                "hook": way.hook,
            });
            expect(report, agent, &format!("event of denied: {label}"), to, protocol, &expected).await;
        }
    }
    Ok(())
}

/// What policy allows is told of with the rule that allowed it.
pub(super) async fn connects(
    report: &mut Report,
    agent: &Agent,
    pod: &Pod,
    (namespace, name): (&str, &str),
    policy: &str,
    rule: &str,
) -> Result<()> {
    for to in DESTINATIONS.allowed {
        let label = format!("IPv{} tcp", if to.is_ipv6() { 6 } else { 4 });
        let outcome = attempt(pod, "tcp", to, TCP_PORT).await?;
        report.equal(&format!("allowed: {label}"), outcome, "", "connected");
        let expected = json!({
            "kind": "connect",
            "action": "allow",
            "pod": {"namespace": namespace, "name": name},
            "dst": to.to_string(),
            "dport": TCP_PORT,
            "proto": "tcp",
            "comm": "sluice-probe",
            "policy": policy,
            "rule": rule,
            "hook": "connect",
        });
        expect(report, agent, &format!("event of allowed: {label}"), to, "tcp", &expected).await;
    }
    Ok(())
}

/// Waits for an event about this destination, and holds it against what it should say.
async fn expect(
    report: &mut Report,
    agent: &Agent,
    name: &str,
    to: IpAddr,
    protocol: &str,
    expected: &Value,
) {
    let to = to.to_string();
    let kind = &expected["kind"];
    let wanted =
        |event: &Value| event["dst"] == to.as_str() && event["proto"] == protocol && event["kind"] == *kind;
    let (text, ok) = match agent.wait_for_event(EVENT_LIMIT, wanted).await {
        Ok(event) => match differences(&event, expected) {
            wrong if wrong.is_empty() => ("as it should be".to_owned(), true),
            wrong => (wrong.join("; "), false),
        },
        Err(error) => (format!("{error:#}"), false),
    };
    report.add(name, text, "", "as it should be", Some(ok));
}

/// What is wrong with an event. A pid and a reason it must have, whatever they are.
fn differences(event: &Value, expected: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for (field, value) in expected.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => {
                for (name, value) in inner.iter().filter(|(name, value)| event[field][*name] != **value) {
                    wrong.push(format!("{field}.{name} is {}, not {value}", event[field][name]));
                }
            }
            None if event[field] != *value => {
                wrong.push(format!("{field} is {}, not {value}", event[field]));
            }
            None => {}
        }
    }
    if event["pid"].as_u64().is_none_or(|pid| pid == 0) {
        wrong.push(format!("pid is {}", event["pid"]));
    }
    if event["reason"].as_str().is_none_or(str::is_empty) {
        wrong.push(format!("reason is {}", event["reason"]));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::differences;

    #[test]
    fn an_event_is_held_against_what_it_should_say() {
        let expected = json!({"kind": "deny", "pod": {"name": "a"}, "dport": null});
        let good = json!({"kind": "deny", "pod": {"name": "a", "uid": "1"}, "pid": 7, "reason": "because"});
        assert!(differences(&good, &expected).is_empty());
        let bad = json!({"kind": "deny", "pod": {"name": "b"}, "dport": 1, "pid": 0, "reason": ""});
        assert_eq!(differences(&bad, &expected).len(), 4);
    }
}
