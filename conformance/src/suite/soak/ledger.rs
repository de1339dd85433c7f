//! I8 of the design: nothing is denied in silence. What a pod tried in vain is held against what the agent told of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use super::cast::Role;
use crate::report::Report;
use crate::rig::{Agent, ContainerSpec, PodSpec, Rig};
use crate::suite::flood::{self, Line, TCP_PORT, UDP_PORT};

/// Rounds of the pod whose account is made exactly, and the seconds that they are followed by.
const ROUNDS: u32 = 50;
const SECONDS: f64 = 3.0;
/// An event stands for the denied packets of at most this long.
const EVENT_EVERY: Duration = Duration::from_secs(1);
/// How long events may be under way.
const LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// What the agents told of denied packets.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// By the pod's name, destination and protocol: those of an event's own, and those that it stands for.
    denied: BTreeMap<(String, String, String), u64>,
    /// All lines.
    pub(super) lines: u64,
    /// Lines that are not an event.
    pub(super) broken: Vec<String>,
}

impl Told {
    /// Takes in what the agent has written since the last call.
    pub(super) fn take(&mut self, agent: &Agent) {
        for event in agent.take_events() {
            self.add(&event);
        }
    }

    fn add(&mut self, event: &Value) {
        self.lines += 1;
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match (event["kind"].as_str(), event["repeats"].as_u64()) {
            (Some("deny"), Some(repeats)) => {
                let key = (word(&event["pod"]["name"]), word(&event["dst"]), word(&event["proto"]));
                *self.denied.entry(key).or_default() += 1 + repeats;
            }
            (Some(_), Some(_)) => {}
            // What an agent was writing when it was killed is cut off.
            _ => self.broken.push(event.to_string()),
        }
    }

    /// How many denied packets of these pods were told of.
    pub(super) fn of(&self, pods: impl Fn(&str) -> bool) -> u64 {
        self.denied.iter().filter(|((pod, ..), _)| pods(pod)).map(|(_, count)| count).sum()
    }

    fn accounts(&self, pod: &str) -> BTreeMap<(String, String), u64> {
        let of_pod = self.denied.iter().filter(|((name, ..), _)| name == pod);
        of_pod.map(|((_, to, protocol), count)| ((to.clone(), protocol.clone()), *count)).collect()
    }
}

/// A pod that may send nothing tries everything. While the agent lives, what it tells comes to exactly what was tried.
pub(super) async fn exact(
    report: &mut Report,
    rig: &Rig,
    agent: &Agent,
    told: &mut Told,
    spec: &PodSpec,
    tag: u64,
) -> Result<()> {
    let destinations = Role::Server.destinations();
    let pod = rig.run_pod(spec).await?;
    let flood = pod.start(&flood::container("flood", tag, ROUNDS, SECONDS, &destinations)).await?;
    let mut tried: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in flood::report(&flood).await? {
        let to = line.address(&destinations);
        *tried.entry((to.to_string(), protocol(&line).to_owned())).or_default() += line.attempted;
    }
    // What has repeated since the last event is told with the next one, which comes no sooner.
    tokio::time::sleep(EVENT_EVERY).await;
    for ((to, protocol), count) in &mut tried {
        let (way, port) = match protocol.as_str() {
            "tcp" => ("tcp", TCP_PORT),
            "udp" => ("udp", UDP_PORT),
            _ => ("icmp", 0),
        };
        let port = port.to_string();
        let arguments = ["connect", "--to", to, "--port", &port, "--proto", way];
        let container = pod.start(&ContainerSpec::new("again", arguments)).await?;
        container.succeed().await?;
        container.json()?.first().context("the probe wrote nothing")?;
        *count += 1;
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        told.take(agent);
        if told.accounts(&spec.name) == tried || Instant::now() > deadline {
            break;
        }
        tokio::time::sleep(TICK).await;
    }
    let accounts = told.accounts(&spec.name);
    if accounts != tried {
        eprintln!("soak: tried {tried:?}, told of {accounts:?}");
    }
    report.some("one pod's denied packets, agent alive: tried", tried.values().sum(), "packets");
    report.equal(
        "one pod's denied packets, agent alive: told of",
        accounts.values().sum::<u64>(),
        "packets",
        tried.values().sum::<u64>(),
    );
    report.equal("accounts by destination and protocol that differ", differing(&tried, &accounts), "", 0);
    rig.far().settle().await?;
    pod.remove().await
}

fn differing<K: Ord>(tried: &BTreeMap<K, u64>, told: &BTreeMap<K, u64>) -> usize {
    let keys: std::collections::BTreeSet<&K> = tried.keys().chain(told.keys()).collect();
    keys.into_iter().filter(|key| tried.get(key) != told.get(key)).count()
}

/// As events name it.
fn protocol(line: &Line) -> &'static str {
    match (line.protocol.as_str(), line.family) {
        ("tcp", _) => "tcp",
        ("icmp", 4) => "icmp",
        ("icmp", _) => "icmpv6",
        _ => "udp",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::{Told, differing};

    #[test]
    fn an_event_counts_for_itself_and_its_repeats() {
        let mut told = Told::default();
        let deny = |repeats| json!({"kind": "deny", "pod": {"name": "a"}, "dst": "::1", "proto": "udp", "repeats": repeats});
        told.add(&deny(0));
        told.add(&deny(4));
        told.add(&json!({"kind": "connect", "pod": {"name": "a"}, "repeats": 0}));
        told.add(&Value::String("{\"kind\": \"de".to_owned()));
        assert_eq!((told.lines, told.of(|pod| pod == "a"), told.broken.len()), (4, 6, 1));
        assert_eq!(told.accounts("a"), BTreeMap::from([(("::1".to_owned(), "udp".to_owned()), 6)]));
    }

    #[test]
    fn an_account_that_only_one_side_has_differs() {
        assert_eq!(differing(&BTreeMap::from([(1, 2), (2, 2)]), &BTreeMap::from([(1, 2), (3, 1)])), 2);
    }
}
