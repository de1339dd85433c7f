//! What rules by name cost: a packet of a flow to a learned address, a question and an answer that are read, and a look-up
//! as a pod sees it.
//!
//! A real Knot answers at the far end. The pods are made by the shortest chain: one governed, one of a chain without Sluice
//! whose processes are in no cgroup that programs are attached at.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Deserialize;

use super::add::chain::{Chain, Kind, Last};
use super::add::pods::{Birth, Maker};
use super::{add, datapath};
use crate::report::Report;
use crate::rig::net::FAR_ADDRESS;
use crate::rig::{Agent, Place, Rig, RigOptions, static_binary};
use crate::suite::names::server::Servers;

mod cost;
mod distant;
mod established;
mod latency;

use distant::Distant;

/// The port that resolvers are asked at, and one at which the same server answers and nothing is read.
const READ: u16 = 53;
const UNREAD: u16 = 54;
const NEAR: SocketAddrV4 = SocketAddrV4::new(FAR_ADDRESS, READ);
const NEAR_UNREAD: SocketAddrV4 = SocketAddrV4::new(FAR_ADDRESS, UNREAD);
/// Names that each lead to an address of its own.
const ONE: &str = "n#.one.test";
/// How many there are.
const NAMES: u32 = 250;
/// A name that leads to 40 addresses.
const FORTY: &str = "forty.test";
/// The kernel gives at most so many events of a pod in a second: rounds last as long, and ask so little that none is held
/// back, for what an event costs is part of what a question costs.
const SECOND: Duration = Duration::from_millis(1100);
/// The app of the governed pod.
const APP: &str = "names";

/// What the benchmark is run with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Packets of an established flow, for each figure.
    pub repeats: u32,
    /// Interleaved rounds; at least 20.
    pub rounds: u32,
    /// Seed of the orders.
    pub seed: u64,
}

impl Options {
    /// All of it, which takes some minutes.
    pub fn whole(seed: u64) -> Self {
        Self { repeats: 1_000_000, rounds: 60, seed }
    }

    /// The least from which anything can be said.
    pub fn quick(seed: u64) -> Self {
        Self { repeats: 200_000, rounds: datapath::ROUNDS, seed }
    }
}

/// Runs the benchmark.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    ensure!(options.rounds >= datapath::ROUNDS, "at least {} rounds: fewer say nothing", datapath::ROUNDS);
    let mut report = Report::new("bench names", options.seed);
    report.note("rounds", options.rounds, "");
    eprintln!("bench names: packets of established flows");
    tokio::task::block_in_place(|| established::run(&mut report, place, options))?;

    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let directory = place.directory.join("bench-names");
    fs::create_dir_all(&directory)?;
    let servers = Servers::knot(&rig, &directory, &zone(), &[READ, UNREAD]).await?;
    rig.agent_directories().write_policy(APP, &policy())?;
    let distant = Distant::start(&rig).await?;
    let resolvers = format!("--resolvers={FAR_ADDRESS},{}", distant::ADDRESS);
    let mut agent = rig.start_agent(&[&resolvers]).await?;
    tokio::task::block_in_place(|| clients(&mut report, &rig, &mut agent, options))?;
    drop(distant);
    drop(servers);
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

/// What needs pods.
fn clients(report: &mut Report, rig: &Rig, agent: &mut Agent, options: Options) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(options.seed);
    let mut maker = Maker::new(rig.place(), 2)?;
    let chain = Chain::new(rig.place(), rig.agent_directories(), Kind::Shortest)?;
    let probe = static_binary("sluice-probe")?;
    let (governed, plain) = (maker.make(0, APP.to_owned())?, maker.make(1, APP.to_owned())?);
    let with = chain.add(&governed, Last::Sluice)?;
    let without = chain.add(&plain, Last::Plain)?;
    let client = |pod: &Birth, cgroup| Client { netns: pod.netns.clone(), cgroup, probe: probe.clone() };
    let client =
        Clients { with: client(&governed, Some(governed.directory.clone())), without: client(&plain, None) };
    eprintln!("bench names: questions and answers");
    cost::run(report, agent, &client, &mut random, options)?;
    eprintln!("bench names: look-ups");
    latency::run(report, agent, &client, &mut random, options)?;
    chain.del(&governed, Last::Sluice, &with.result)?;
    chain.del(&plain, Last::Plain, &without.result)?;
    governed.bury()?;
    plain.bury()
}

/// The two pods.
struct Clients {
    with: Client,
    without: Client,
}

/// Where a pod's processes run.
struct Client {
    netns: PathBuf,
    cgroup: Option<PathBuf>,
    probe: PathBuf,
}

/// What the probe tells of its questions.
#[derive(Deserialize)]
struct Asked {
    /// How long each took.
    nanoseconds: Vec<u64>,
    /// Addresses that came.
    addresses: u64,
}

impl Client {
    /// Asks so many questions, one after the other.
    fn ask(&self, server: SocketAddrV4, name: &str, first: u32, count: u32) -> Result<Asked> {
        let mut command = match &self.cgroup {
            Some(cgroup) => {
                let mut command = Command::new("sh");
                command.args(["-c", "echo 0 > \"$0\" && exec \"$@\""]).arg(cgroup.join("cgroup.procs"));
                command.arg("ip");
                command
            }
            None => Command::new("ip"),
        };
        let netns = self.netns.file_name().context("a namespace with a name")?;
        command.args(["netns", "exec"]).arg(netns).arg(&self.probe);
        command.args([
            "ask",
            "--server",
            &server.ip().to_string(),
            "--port",
            &server.port().to_string(),
            "--name",
            name,
        ]);
        command.args(["--first", &first.to_string(), "--count", &count.to_string()]);
        let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
        let asked: Asked = serde_json::from_slice(&output.stdout).context("what the probe tells")?;
        let each = if name == FORTY { 40 } else { 1 };
        ensure!(asked.addresses == u64::from(count) * each, "{} addresses came", asked.addresses);
        Ok(asked)
    }
}

/// Lets a round be over.
fn rest(begun: Instant) {
    std::thread::sleep(SECOND.saturating_sub(begun.elapsed()));
}

/// What there is to be asked.
fn zone() -> String {
    let mut zone =
        "$ORIGIN test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.2\n".to_owned();
    for index in 0..NAMES {
        // Writing to a String does not fail.
        let _ = writeln!(zone, "n{index}.one A 203.0.113.{index}");
    }
    for index in 0..40 {
        let _ = writeln!(zone, "forty A 198.51.100.{index}");
    }
    zone
}

fn policy() -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {APP}, namespace: {namespace}}}
spec:
  podSelector: {{matchLabels: {{app: {APP}}}}}
  rules:
  - {{action: Allow, to: [{{domainNames: [\"*.one.test\", {FORTY}]}}]}}
  - {{action: Allow, to: [{{networks: [{FAR_ADDRESS}/32]}}], ports: [{{port: {UNREAD}, protocol: UDP}}]}}
",
        namespace = add::NAMESPACE
    )
}
