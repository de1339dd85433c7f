//! `sluice bench-datapath`: what a packet costs in the egress program, beside the least that it could cost.
//!
//! Everything runs by `BPF_PROG_TEST_RUN` with repeats. The kernel makes a socket for each such call and gives it to all
//! repeats, so the first repeat of a TCP packet is judged and its verdict kept with the socket, and all others find it
//! there: the counters show that, see [`Sample::judged`]. The datagrams of such a socket are judged one by one.
//!
//! A round measures everything once, in a new order, so that what the machine does meanwhile hits all alike.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::time::{ClockId, clock_gettime};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use sluice_abi::counter;
use sluice_policy::arbitrary::rng;
use sluice_policy::{
    Compiled, Flow, FlowProtocol, Names, PodInfo, PolicySet, Posture, World, compile, parse, select,
};

use super::{Scratch, baseline, packet};
use crate::agent::cgroup::Hierarchy;
use crate::datapath::{Datapath, test_run};

/// Rules in each policy.
const RULES_PER_POLICY: u32 = 100;
/// The sizes that are measured.
const RULES: [u32; 3] = [1, 100, 10_000];
/// Endpoints on the node.
const ENDPOINTS: [u32; 2] = [1, 1000];
/// Single runs whose median is the cost of a first packet with everything that it leaves behind.
const SINGLES: u32 = 1000;
/// The port that the rules open.
const PORT: u16 = 443;

/// What `sluice bench-datapath` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often a packet is sent through a program for one figure.
    pub repeats: u32,
    /// How many rounds.
    pub rounds: u32,
    /// For the order in which things are measured.
    pub seed: u64,
    /// Make the run's cgroup below this one.
    pub cgroup_root: Option<PathBuf>,
}

/// One round of one size. Durations are nanoseconds a packet.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Number of the round.
    round: u32,
    /// Rules of the pod's policies.
    rules: u32,
    /// Endpoints on the node.
    endpoints: u32,
    /// The baseline.
    baseline: f64,
    /// The baseline once more.
    control: f64,
    /// A TCP packet whose flow was judged.
    established: f64,
    /// How often that flow was judged, in all repeats.
    judged: u64,
    /// A datagram that is judged.
    first: f64,
    /// A TCP packet that is denied.
    denied: f64,
    /// A frame at the host's end of the link that has no verdict with it, and is judged there.
    wire: f64,
    /// A frame to the pod.
    heard: f64,
    /// The first packet of a connection, alone: with the making of its storage, and a cold start.
    single: u32,
    /// The baseline alone.
    single_baseline: u32,
}

/// What is measured in a round.
#[derive(Clone, Copy, Debug)]
enum Figure {
    Baseline,
    Control,
    Established,
    First,
    Denied,
    Wire,
    Heard,
    Singles,
}

const FIGURES: [Figure; 8] = [
    Figure::Baseline,
    Figure::Control,
    Figure::Established,
    Figure::First,
    Figure::Denied,
    Figure::Wire,
    Figure::Heard,
    Figure::Singles,
];

/// Programs and packets.
struct Bench {
    interface: u32,
    repeats: u32,
    egress: OwnedFd,
    baseline: OwnedFd,
    wire: OwnedFd,
    heard: OwnedFd,
    /// Of a connection that the rules allow, of one that they deny, and an allowed datagram.
    segment: Vec<u8>,
    denied: Vec<u8>,
    datagram: Vec<u8>,
}

/// Runs it and prints a JSON line for each sample.
pub fn print(options: &Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    run(options, |sample| {
        serde_json::to_writer(&mut out, sample)?;
        Ok(writeln!(out)?)
    })
}

/// Runs it and gives each sample to `tell`. The process's namespaces and cgroup are not what they were
/// afterwards: for a process that ends then.
fn run(options: &Options, mut tell: impl FnMut(&Sample) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let root = options.cgroup_root.clone().map_or_else(Hierarchy::default_root, Ok)?;
    let scratch = Scratch::make(&root)?;
    let place = scratch.place();
    // Nobody reads the events: after the first few, denied packets find the pod's budget spent, as in a flood.
    let (mut datapath, _events) = Datapath::open(&place)?;
    datapath.attach()?;
    let pod = fs::metadata(&scratch.pod)?.ino();
    datapath.set_levels(&[Hierarchy::of(&root)?.level(&scratch.pod)].into());
    datapath.set_endpoint(pod, 0, &[packet::SOURCE_V4.into()], false)?;
    datapath.guard(scratch.interface, pod)?;
    let mut rng = rng(options.seed);
    let bench = Bench {
        interface: scratch.interface,
        repeats: options.repeats,
        egress: datapath.program(&place, "egress")?,
        baseline: baseline::load_program(&place)?,
        wire: datapath.guard_program("wire")?,
        heard: datapath.guard_program("heard")?,
        segment: segment(allowed(), &mut rng),
        denied: segment(Ipv4Addr::new(198, 51, 100, 1).into(), &mut rng),
        datagram: packet::packet(&flow(allowed(), FlowProtocol::Udp), &mut rng),
    };
    let mut sizes = Vec::new();
    for rules in RULES {
        sizes.push((rules, compiled(rules)?));
    }
    for round in 0..options.rounds {
        sizes.shuffle(&mut rng);
        for (rules, compiled) in &sizes {
            let ruleset = datapath.install(compiled)?;
            let mut endpoints = ENDPOINTS;
            endpoints.shuffle(&mut rng);
            for endpoints in endpoints {
                populate(&mut datapath, endpoints, ruleset.id)?;
                let sample = Sample { round, rules: *rules, endpoints, ..Sample::EMPTY };
                tell(&bench.sample(&datapath, sample, &mut rng)?)?;
                depopulate(&mut datapath, endpoints)?;
            }
            datapath.flip(0, sluice_abi::NO_POLICY);
            datapath.retire(&ruleset)?;
        }
    }
    Ok(())
}

impl Sample {
    const EMPTY: Self = Self {
        round: 0,
        rules: 0,
        endpoints: 0,
        baseline: 0.0,
        control: 0.0,
        established: 0.0,
        judged: 0,
        first: 0.0,
        denied: 0.0,
        wire: 0.0,
        heard: 0.0,
        single: 0,
        single_baseline: 0,
    };
}

impl Bench {
    fn sample(&self, datapath: &Datapath, mut sample: Sample, rng: &mut SmallRng) -> anyhow::Result<Sample> {
        let mut figures = FIGURES;
        figures.shuffle(rng);
        for figure in figures {
            match figure {
                Figure::Baseline => sample.baseline = self.time(&self.baseline, &self.segment, true)?,
                Figure::Control => sample.control = self.time(&self.baseline, &self.segment, true)?,
                Figure::Established => {
                    let before = datapath.counters()?[counter::ALLOWED as usize];
                    sample.established = self.time(&self.egress, &self.segment, true)?;
                    sample.judged = datapath.counters()?[counter::ALLOWED as usize] - before;
                }
                Figure::First => sample.first = self.time(&self.egress, &self.datagram, true)?,
                Figure::Denied => sample.denied = self.time(&self.egress, &self.denied, false)?,
                Figure::Wire => sample.wire = self.time(&self.wire, &self.segment, true)?,
                Figure::Heard => sample.heard = self.time(&self.heard, &self.segment, true)?,
                Figure::Singles => {
                    sample.single = self.single(&self.egress)?;
                    sample.single_baseline = self.single(&self.baseline)?;
                }
            }
        }
        Ok(sample)
    }

    fn time(&self, program: &OwnedFd, packet: &[u8], passes: bool) -> anyhow::Result<f64> {
        time(program, packet, self.interface, self.repeats, passes)
    }

    fn single(&self, program: &OwnedFd) -> anyhow::Result<u32> {
        let runs = (0..SINGLES).map(|_| test_run(program.as_fd(), &self.segment, self.interface, 1));
        let mut times = runs.map(|run| Ok(run?.nanoseconds)).collect::<anyhow::Result<Vec<u32>>>()?;
        times.sort_unstable();
        Ok(times[times.len() / 2])
    }
}

/// Nanoseconds of one repeat, of this thread's own time: the kernel's figure is a whole number, and counts what
/// other threads took meanwhile. The verdict must be the one expected: another way through the program costs otherwise.
pub(super) fn time(
    program: &OwnedFd,
    packet: &[u8],
    interface: u32,
    repeats: u32,
    passes: bool,
) -> anyhow::Result<f64> {
    let start = own_time()?;
    let run = test_run(program.as_fd(), packet, interface, repeats)?;
    let taken = own_time()?.saturating_sub(start);
    // Cgroup programs drop by 0, classifiers by TC_ACT_SHOT.
    let has_passed = !matches!(run.value, 0 | 2);
    ensure!(has_passed == passes, "a packet of the benchmark was judged the wrong way: {}", run.value);
    Ok(taken.as_secs_f64() * 1e9 / f64::from(repeats))
}

/// What this thread has used of a CPU.
fn own_time() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// Makes so many endpoints, the pod among them, and puts a policy in force on all.
fn populate(datapath: &mut Datapath, endpoints: u32, policy: u32) -> anyhow::Result<()> {
    for slot in 0..endpoints {
        datapath.flip(slot, policy);
        if slot > 0 {
            let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 88, 0, 0).to_bits() + 16 + slot);
            datapath.set_endpoint(stranger(slot), slot, &[address.into()], false)?;
        }
    }
    Ok(())
}

fn depopulate(datapath: &mut Datapath, endpoints: u32) -> anyhow::Result<()> {
    for slot in 1..endpoints {
        datapath.remove_endpoint(stranger(slot))?;
    }
    Ok(())
}

/// A cgroup id that no cgroup has.
fn stranger(slot: u32) -> u64 {
    1 << 60 | u64::from(slot)
}

/// The allowed address: the network of the first rule, which every size has.
fn allowed() -> IpAddr {
    Ipv4Addr::new(10, 200, 0, 1).into()
}

fn flow(destination: IpAddr, protocol: FlowProtocol) -> Flow {
    Flow { destination, protocol, port: PORT, opaque: false, names: Names::default(), request: None }
}

/// A TCP segment in the middle of a connection.
fn segment(destination: IpAddr, rng: &mut SmallRng) -> Vec<u8> {
    /// Offset of the flags: an Ethernet and an IPv4 header before the TCP header.
    const FLAGS: usize = 14 + 20 + 13;
    const ACK: u8 = 0x10;
    let mut bytes = packet::packet(&flow(destination, FlowProtocol::Tcp), rng);
    bytes[FLAGS] = ACK;
    bytes.extend((0..64).map(|_| rng.random::<u8>()));
    let length = bytes.len() as u16 - 14;
    bytes[16..18].copy_from_slice(&length.to_be_bytes());
    bytes
}

/// So many rules in as many policies as that takes: each opens a network of its own on one port; all else is denied.
fn compiled(rules: u32) -> anyhow::Result<Compiled> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for policy in 0..rules.div_ceil(RULES_PER_POLICY) {
        write!(
            text,
            "---\napiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: bench-{policy}, namespace: bench}}\n\
             spec:\n  podSelector: {{}}\n  priority: {}\n  rules:\n",
            policy % 1000
        )?;
        let first = policy * RULES_PER_POLICY;
        for rule in first..rules.min(first + RULES_PER_POLICY) {
            let network = Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + (rule << 8));
            writeln!(
                text,
                "  - name: rule-{rule}\n    action: Allow\n    to: [{{networks: [\"{network}/24\"]}}]\n    \
                 ports: [{{port: {PORT}}}, {{port: {PORT}, protocol: UDP}}, {{port: {}, endPort: {}}}]",
                8000 + rule % 100,
                8200 + rule % 300
            )?;
        }
    }
    compiled_from(&text)
}

/// Compiles a benchmark's own policies for its pod.
pub(super) fn compiled_from(text: &str) -> anyhow::Result<Compiled> {
    let policies = parse("bench.yaml", text).map_err(|errors| {
        let first = errors.first().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("the benchmark's own policy is refused: {first}")
    })?;
    let set = PolicySet::new(policies).ok().context("the benchmark's policies do not go together")?;
    let pod = PodInfo { namespace: "bench".to_owned(), name: "pod".to_owned(), ..PodInfo::default() };
    Ok(compile(&select(&set, &pod, None), &World::default(), Posture::Enforce))
}

#[cfg(test)]
mod tests {
    use super::{RULES, allowed, compiled, flow};
    use sluice_policy::{Action, FlowProtocol};

    #[test]
    fn every_size_allows_what_is_sent() {
        for rules in RULES {
            let compiled = compiled(rules).unwrap();
            for protocol in [FlowProtocol::Tcp, FlowProtocol::Udp] {
                assert_eq!(
                    compiled.judge(&flow(allowed(), protocol)).applied,
                    Action::Allow,
                    "{rules} rules"
                );
            }
            let elsewhere = flow("198.51.100.1".parse().unwrap(), FlowProtocol::Tcp);
            assert_eq!(compiled.judge(&elsewhere).applied, Action::Deny, "{rules} rules");
        }
    }
}
