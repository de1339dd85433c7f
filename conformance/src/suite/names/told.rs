//! Flows to ports 80 and 443 are told of, whatever the policy says: with the names that they show, and HTTP with its
//! requests.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::{LIMIT, NAMESPACE, Run};
use crate::rig::{Agent, Pod};

/// A client's first datagram, of RFC 9001, appendix A.2: in it is the name example.com.
const INITIAL: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../nodeagent/src/agent/quic/rfc9001.hex"));
/// An address that rules allow by its network.
const ADDRESS: &str = "203.0.113.90";

/// What the policy of the pods with a policy says: nothing of names.
pub(super) fn policy() -> String {
    let rules = format!("[{{name: network, action: Allow, to: [{{networks: [\"{ADDRESS}/32\"]}}]}}]");
    crate::suite::policy(NAMESPACE, "told", "told", &rules)
}

impl Run<'_> {
    /// What one pod does, and what is told of it. `tag` tells its names from those of others.
    pub(super) async fn told(&mut self, agent: &Agent, pod: &Pod, tag: &str) -> Result<()> {
        let passed = [
            "TLS",
            "TLS in segments",
            "TLS without a name",
            "no HTTP",
            "TLS elsewhere",
            "a request",
            "a second",
            "no request",
            "a third",
            "a request in segments",
        ];
        let wanted: Vec<(&str, Value)> = passed.map(|what| (what, true.into())).to_vec();
        let told = self.script(pod, "flows.py", &["told", tag, ADDRESS]).await?.into_iter().collect();
        self.compare("flows", &format!("{tag}: "), &told, &wanted);
        let of = |event: &Value, kind: &str, name: &str| event["kind"] == kind && event["domain"] == name;
        for name in [format!("tls-{tag}.example"), format!("pieces-{tag}.example")] {
            let event = agent.wait_for_event(LIMIT, |event| of(event, "tls", &name)).await?;
            let what = format!("{tag}: event of {name}");
            self.report.equal(&what, event["reason"].clone(), "", "it shows this name");
        }
        // The last of them: what was done before it has been told.
        let parts = format!("parts-{tag}.example");
        agent.wait_for_event(LIMIT, |event| of(event, "http", &parts)).await?;
        let of_pod: Vec<Value> =
            agent.events().into_iter().filter(|event| event["pod"]["uid"] == pod.uid()).collect();
        let requests: Vec<Value> = of_pod
            .iter()
            .filter(|event| event["kind"] == "http")
            .map(|event| json!([event["method"], event["domain"], event["path"]]))
            .collect();
        let wanted = json!([
            [null, null, null],
            ["GET", format!("http-{tag}.example"), "/first"],
            ["POST", format!("other-{tag}.example"), "/second"],
            ["DELETE", format!("http-{tag}.example"), "/third"],
            ["PUT", parts, "/pieces"],
        ]);
        self.report.equal(&format!("{tag}: requests"), Value::from(requests), "", wanted);
        let nameless: Vec<Value> = of_pod
            .iter()
            .filter(|event| {
                matches!(event["kind"].as_str(), Some("tls" | "http")) && event["domain"].is_null()
            })
            .map(|event| json!([event["dport"], event["reason"]]))
            .collect();
        let wanted = json!([[443, "it shows no name"], [80, "its name cannot be read"]]);
        self.report.equal(&format!("{tag}: without a name"), Value::from(nameless), "", wanted);
        self.quic(agent, pod, tag).await?;
        let elsewhere =
            of_pod.iter().filter(|event| event["kind"] == "tls" && event["dport"] == 8080).count();
        self.report.equal(&format!("{tag}: read where no rule asks for it"), elsewhere, "", 0);
        Ok(())
    }

    /// The name in a client's first datagram of QUIC.
    async fn quic(&mut self, agent: &Agent, pod: &Pod, tag: &str) -> Result<()> {
        let digits: String = INITIAL.split_whitespace().collect();
        let told: BTreeMap<String, Value> =
            self.script(pod, "flows.py", &["quic", &digits, ADDRESS]).await?.into_iter().collect();
        for what in ["connected", "unconnected"] {
            let port = told.get(what).cloned().unwrap_or_default();
            let is_of =
                |event: &Value| event["kind"] == "tls" && event["proto"] == "udp" && event["sport"] == port;
            let event = agent.wait_for_event(LIMIT, is_of).await?;
            self.report.equal(&format!("{tag}: QUIC, {what}"), event["domain"].clone(), "", "example.com");
            let events = agent.events().iter().filter(|event| is_of(event)).count();
            self.report.equal(&format!("{tag}: QUIC, {what}: told"), events, "times", 1);
        }
        Ok(())
    }

    /// Hellos that encrypt a name, or pretend to, where a rule asks for one.
    pub(super) async fn ech(&mut self, pod: &Pod, outer: bool) -> Result<()> {
        let told: BTreeMap<String, Value> =
            self.script(pod, "flows.py", &["ech", "pay.web.test"]).await?.into_iter().collect();
        let who = if outer { "ECH, by its outer name: " } else { "ECH: " };
        let right = if outer { "passed" } else { "cut" };
        let wanted = [("right name outside", right), ("wrong name outside", "cut"), ("none outside", "cut")];
        let wanted: Vec<(&str, Value)> = wanted.map(|(what, came)| (what, came.into())).to_vec();
        self.compare("hellos", who, &told, &wanted);
        Ok(())
    }
}
