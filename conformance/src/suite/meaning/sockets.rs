//! Real sockets in a pod, against `sluice policy test`: what each flow says to its process, and whether it arrives.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::Mount;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::generate::{self, Flow, LABELS, NAMESPACE};
use super::names;
use crate::report::Report;
use crate::rig::decode::{ICMP, ICMPV6, SCTP, TCP, UDP};
use crate::rig::net::FAR_ADDRESS;
use crate::rig::{Agent, Container, ContainerSpec, Count, Key, Place, Pod, PodSpec, Rig, RigOptions, binary};
use crate::suite::edits::force;
use crate::suite::names::server::Servers;

/// Flows under one set of policies.
const FLOWS_PER_SET: u32 = 100;
/// Ports with a server at the far end; at the others a connection is refused there.
pub(super) const SERVED: [u16; 3] = [80, 443, 8080];
/// Flows whose policies say the opposite of what the agent is given.
const FAULTY_FLOWS: u32 = 300;
/// Differences that are printed.
const SHOWN: usize = 10;
pub(super) const POD: &str = "subject";
/// The policies that `sluice policy test` reads.
const ASKED: &str = "asked.yaml";

/// What came of it.
#[derive(Default)]
struct Tally {
    sets: u32,
    flows: u32,
    denied: u32,
    /// Allowed until they showed a name.
    cut: u32,
    /// Allowed by the name that they showed, and otherwise not.
    passed: u32,
    differences: u32,
}

/// What should come of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Expected {
    /// Whether its first packet may go.
    opens: bool,
    /// Whether what it shows may.
    goes_on: bool,
    /// Whether it may go if it shows no name.
    unnamed: bool,
}

/// Runs that many flows.
pub(super) async fn run(place: &Place, flows: u32, seed: u64, report: &mut Report) -> Result<()> {
    let options = RigOptions { tcp_ports: SERVED.to_vec(), ..RigOptions::with_sluice() };
    let rig = Rig::new(place, options).await?;
    let lists = place.directory.join("flows");
    fs::create_dir_all(&lists)?;
    let servers = Servers::knot(&rig, &lists, &names::zone(), &[53]).await?;
    let resolver = format!("--resolvers={FAR_ADDRESS}");
    let agent = rig.start_agent(&[&resolver, "--dns-floor=86400"]).await?;
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, POD, &LABELS)).await?;
    names::learn(&agent, &pod, report).await?;
    let mut sockets = Sockets {
        rig: &rig,
        agent: &agent,
        pod: &pod,
        lists,
        random: SmallRng::seed_from_u64(seed),
        tally: Tally::default(),
    };
    while sockets.tally.flows < flows {
        sockets.set((flows - sockets.tally.flows).min(FLOWS_PER_SET), false).await?;
        if sockets.tally.sets.is_multiple_of(10) {
            eprintln!("meaning: {} of {flows} flows", sockets.tally.flows);
        }
    }
    let tally = std::mem::take(&mut sockets.tally);
    // Under another name than any before: the names tell when a set is in force.
    sockets.tally.sets = tally.sets;
    while sockets.tally.flows < FAULTY_FLOWS {
        sockets.set(FLOWS_PER_SET, true).await?;
    }
    let faulty = sockets.tally.differences;
    report.note("sockets: policy sets", tally.sets, "");
    report.equal("sockets: flows tried", tally.flows, "flows", flows);
    report.some("sockets: flows that policy denies", tally.denied.into(), "flows");
    report.some("sockets: flows that policy allows", (tally.flows - tally.denied).into(), "flows");
    report.some("sockets: flows that are cut by what they show", tally.cut.into(), "flows");
    report.some("sockets: flows that what they show lets pass", tally.passed.into(), "flows");
    report.equal("sockets: differences", tally.differences, "flows", 0);
    report.some("sockets: differences with a planted fault", faulty.into(), "flows");
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    pod.remove().await?;
    drop(agent);
    drop(servers);
    rig.shutdown().await
}

struct Sockets<'a> {
    rig: &'a Rig,
    agent: &'a Agent,
    pod: &'a Pod,
    /// Holds the lists of flows, for the pod to see.
    lists: PathBuf,
    random: SmallRng,
    tally: Tally,
}

impl Sockets<'_> {
    /// Puts one set of policies in force and tries so many flows. With a fault, the agent is given another set than the one
    /// that is asked about.
    async fn set(&mut self, count: u32, plant_fault: bool) -> Result<()> {
        let marker = format!("marker-{:06}", self.tally.sets);
        let text = generate::policies(&mut self.random, &marker);
        let given = if plant_fault { turned_round(&text) } else { text.clone() };
        fs::write(self.lists.join(ASKED), &text)?;
        self.agent.directories().write_policy("meaning", &given)?;
        let flows: Vec<(Flow, u64)> =
            (0..count).map(|_| (generate::flow(&mut self.random), self.random.random())).collect();
        let expected = tokio::task::block_in_place(|| self.expected(&flows))?;
        if let Err(error) = force::wait(self.agent, &marker, 1).await {
            return Err(error.context(text));
        }

        let before = self.arrivals().await?;
        let container = self.start(&flows).await?;
        container.succeed().await?;
        let after = self.arrivals().await?;
        let outcomes = container.json()?;
        ensure!(outcomes.len() == flows.len(), "{} of {} flows were tried", outcomes.len(), flows.len());

        let mut untagged: HashMap<Key, (u64, Vec<usize>)> = HashMap::new();
        let mut wrong = Vec::new();
        for (index, (((flow, tag), expected), outcome)) in
            flows.iter().zip(&expected).zip(&outcomes).enumerate()
        {
            let said = outcome["outcome"].as_str().unwrap_or_default();
            let allowed = expected.opens;
            let good: &[&str] = match (allowed, flow.way, flow.shows) {
                (false, _, _) => &["EPERM"],
                (true, "tcp", None) => &["connected", "refused"],
                (true, "tcp", Some(_)) if expected.goes_on => &["answered"],
                (true, "tcp", Some(_)) => &["cut"],
                (true, _, _) => &["sent"],
            };
            if !good.contains(&said) {
                wrong.push((index, format!("its process saw {said:?}")));
            }
            let key = self.key(flow, *tag)?;
            if key.tag == 0 {
                let (wanted, who) = untagged.entry(key).or_default();
                *wanted += u64::from(allowed);
                who.push(index);
            } else {
                let arrived = came(&before, &after, &key);
                if arrived != u64::from(allowed) {
                    wrong.push((index, format!("{arrived} arrived")));
                }
            }
        }
        // What carries no tag is counted by destination; flows of one set with the same destination share a verdict.
        for (key, (wanted, who)) in untagged {
            let arrived = came(&before, &after, &key);
            if arrived != wanted {
                wrong.extend(who.first().map(|index| (*index, format!("{arrived} of {wanted} arrived"))));
            }
        }
        wrong.sort();
        for (index, what) in &wrong {
            if !plant_fault && (self.tally.differences as usize) < SHOWN {
                eprintln!(
                    "meaning: {:?}, {:?}: {what}; policies:\n{text}",
                    flows[*index].0, expected[*index]
                );
            }
            self.tally.differences += 1;
        }
        self.tally.sets += 1;
        self.tally.flows += count;
        let count = |is: fn(&&Expected) -> bool| expected.iter().filter(is).count() as u32;
        self.tally.denied += count(|flow| !flow.opens);
        self.tally.cut += count(|flow| flow.opens && !flow.goes_on);
        self.tally.passed += count(|flow| flow.goes_on && !flow.unnamed);
        Ok(())
    }

    /// What `sluice policy test` says of each flow.
    fn expected(&self, flows: &[(Flow, u64)]) -> Result<Vec<Expected>> {
        let labels: HashMap<&str, &str> = LABELS.into_iter().collect();
        let mut lines = String::new();
        let mut asked = Vec::new();
        for (flow, _) in flows {
            let mut line = json!({
                "pod": format!("{NAMESPACE}/{POD}"),
                "labels": labels,
                "dst": flow.to.to_string(),
                "proto": flow.protocol(),
            });
            if flow.has_port() {
                line["port"] = flow.port.into();
            }
            // Each name by which it might go on, and none, and what it shows: a connection opens if any of them may.
            let learned = names::of(flow.to);
            if !learned.is_empty() {
                line["domain"] = learned.join(",").into();
            }
            let shown: Vec<&str> = learned.into_iter().chain([names::NONE]).chain(flow.shows).collect();
            for name in &shown {
                line["shown"] = (*name).into();
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
            asked.push(shown.len() - usize::from(flow.shows.is_some()));
        }
        let answer = ask(&self.lists.join(ASKED), &lines)?;
        let mut verdicts = answer.lines().map(|line| {
            let verdict: Value =
                serde_json::from_str(line).with_context(|| format!("a verdict: {line:?}"))?;
            match verdict["action"].as_str() {
                Some("allow") => Ok(true),
                Some("deny") => Ok(false),
                _ => Err(anyhow::anyhow!("a verdict without an action: {line}")),
            }
        });
        let mut next = || verdicts.next().context("a verdict is missing")?;
        let mut all = Vec::new();
        for ((flow, _), names) in flows.iter().zip(asked) {
            let by_name = (0..names).map(|_| next()).collect::<Result<Vec<bool>>>()?;
            let opens = by_name.contains(&true);
            let goes_on = if flow.shows.is_some() { next()? && opens } else { opens };
            all.push(Expected { opens, goes_on, unnamed: by_name[names - 1] });
        }
        ensure!(verdicts.next().is_none(), "more verdicts than flows");
        Ok(all)
    }

    /// Starts the probe with the flows.
    async fn start(&self, flows: &[(Flow, u64)]) -> Result<Container> {
        let lines: Vec<String> = flows
            .iter()
            .map(|(flow, tag)| {
                let shows = flow.shows.unwrap_or_default();
                format!("{} {} {} {tag} {shows}\n", flow.way, flow.to, flow.port)
            })
            .collect();
        fs::write(self.lists.join("list"), lines.concat())?;
        let mounts = vec![Mount {
            container_path: "/flows".to_owned(),
            host_path: self.lists.display().to_string(),
            readonly: true,
            ..Mount::default()
        }];
        let spec =
            ContainerSpec { mounts, ..ContainerSpec::new("tries", ["tries", "--file", "/flows/list"]) };
        self.pod.start(&spec).await
    }

    /// Everything that has arrived.
    async fn arrivals(&self) -> Result<HashMap<Key, Count>> {
        self.rig.far().settle().await?;
        Ok(self.rig.far().counts())
    }

    /// What a flow is counted by at the far end.
    fn key(&self, flow: &Flow, tag: u64) -> Result<Key> {
        let source: IpAddr = if flow.to.is_ipv6() { self.pod.ipv6()? } else { self.pod.ipv4()? };
        let (protocol, port, tag) = match (flow.protocol(), flow.to.is_ipv6()) {
            ("tcp", _) => (TCP, flow.port, 0),
            ("udp", _) => (UDP, flow.port, tag),
            ("sctp", _) => (SCTP, flow.port, 0),
            ("icmp", false) => (ICMP, 8, tag),
            ("icmp", true) => (ICMPV6, 128, tag),
            (number, _) => (number.parse().context("a protocol's number")?, 0, 0),
        };
        Ok(Key { source, destination: flow.to, protocol, port, tag, kind: 0 })
    }
}

/// The same policies, which allow what these deny.
fn turned_round(text: &str) -> String {
    let swap = |line: &str| match line.trim() {
        "action: Allow" => line.replace("Allow", "Deny"),
        "action: Deny" => line.replace("Deny", "Allow"),
        _ => line.to_owned(),
    };
    text.lines().map(|line| swap(line) + "\n").collect()
}

/// How much came between two counts: connections by their first segments, all else by frames.
fn came(before: &HashMap<Key, Count>, after: &HashMap<Key, Count>, key: &Key) -> u64 {
    let of = |counts: &HashMap<Key, Count>| {
        counts
            .get(key)
            .map_or(0, |count| if key.protocol == TCP { count.attempts.len() as u64 } else { count.frames })
    };
    of(after) - of(before)
}

/// `sluice policy test`, with flows on its standard input.
fn ask(policies: &Path, lines: &str) -> Result<String> {
    let mut command = Command::new(binary("sluice")?);
    command.args(["policy", "test", "--output", "json", "--policy"]).arg(policies);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("sluice policy test")?;
    let mut input = child.stdin.take().context("stdin was piped")?;
    let output = std::thread::scope(|scope| {
        // From a thread: neither side may wait for the other with a full pipe.
        let writer = scope.spawn(move || input.write_all(lines.as_bytes()));
        let output = child.wait_with_output();
        writer.join().expect("no panic")?;
        output
    })?;
    // 1 means that a flow is denied.
    ensure!(matches!(output.status.code(), Some(0 | 1)), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).context("verdicts in UTF-8")
}
