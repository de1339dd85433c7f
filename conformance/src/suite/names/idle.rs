//! I4 of the design, by name: a connection that waits loses its socket when an edit takes its name away, and one whose name
//! stays loses nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{NAMESPACE, Run};
use crate::rig::{Pod, Rig};

/// Names that the edit takes away, and ports at which they are shown or not.
const GOING: [&str; 4] =
    ["a.going.test:443", "b.going.test:80", "c.going.test:8080", "shared.going.test:443"];
/// Names that stay. The shared ones lead to the same address.
const STAYING: [&str; 4] =
    ["a.staying.test:443", "b.staying.test:80", "c.staying.test:8080", "shared.staying.test:443"];
/// How soon a flow that an edit denies should lose its socket.
const AIM: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const TICK: Duration = Duration::from_millis(5);

/// The policy, before the edit and after it.
pub(super) fn policy(names: &str) -> String {
    let rules = format!("[{{name: named, action: Allow, to: [{{domainNames: [{names}]}}]}}]");
    crate::suite::policy(NAMESPACE, "idle", "idle", &rules)
}

/// Both kinds of names.
pub(super) const BOTH: &str = "\"*.going.test\", \"*.staying.test\"";

impl Run<'_> {
    /// Opens the flows, edits, and sees what becomes of them.
    pub(super) async fn idle(&mut self, rig: &Rig, pod: &Pod) -> Result<()> {
        let flows: Vec<&str> = ["idle"].into_iter().chain(STAYING).chain(GOING).collect();
        let container = pod.start(&self.container("flows.py", &flows)).await?;
        container.wait_for_line("open", LIMIT).await?;
        let edited = Instant::now();
        rig.agent_directories().write_policy("idle", &policy("\"*.staying.test\""))?;
        let mut told: BTreeMap<String, (Value, Duration)> = BTreeMap::new();
        while told.len() < flows.len() - 1 {
            for line in container.json()? {
                if let Some(flow) = line["what"].as_str() {
                    told.entry(flow.to_owned()).or_insert((line["came"].clone(), edited.elapsed()));
                }
            }
            ensure!(edited.elapsed() < LIMIT, "the client does not end: {:?}", container.log()?);
            tokio::time::sleep(TICK).await;
        }
        container.succeed().await?;
        let came = |flow: &str| told.get(flow).map(|(came, _)| came.clone()).unwrap_or_default();
        for flow in GOING {
            self.report.equal(&format!("idle, its name goes: {flow}"), came(flow), "", "ECONNABORTED");
        }
        for flow in STAYING {
            self.report.equal(&format!("idle, its name stays: {flow}"), came(flow), "", "goes on");
        }
        let last = GOING.iter().filter_map(|flow| told.get(*flow)).map(|(_, after)| *after).max();
        let last = last.unwrap_or_default();
        // A busy machine may take longer: only a socket that stays is a failure.
        let ok = (last <= AIM).then_some(true);
        let aim = format!("≤ {} ms", AIM.as_millis());
        self.report.add("idle, its name goes: the last after", last.as_millis() as u64, "ms", &aim, ok);
        Ok(())
    }
}
