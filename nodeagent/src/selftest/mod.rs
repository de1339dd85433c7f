//! `sluice self-test`: does this kernel, with these programs, judge as the policy says?
//!
//! Random policies are compiled into maps of their own, random packets run through the real egress program by
//! `BPF_PROG_TEST_RUN`, and each verdict is compared with the reference evaluator's. Nothing of a running agent is
//! touched: cgroup, pins, namespaces and maps are this run's own and go with it.
//!
//! The kernel gives a test packet a socket of the calling process's cgroup (`bpf_prog_test_run_skb` in `net/bpf/test_run.c`,
//! through `sk_alloc`), so the process moves into a cgroup that is registered as a pod's.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use rand::Rng;
use rand::rngs::SmallRng;
use sluice_policy::arbitrary::{Case, Size, random_case, random_flow, rng};
use sluice_policy::{
    Action, Compiled, Flow, FlowProtocol, PolicySet, Posture, RuleAction, Selection, compile, evaluate,
    select,
};

use crate::agent::cgroup::Hierarchy;
use crate::datapath::{Datapath, Events, LoadedProgram, Place, Uprobes, test_run};

mod baseline;
pub mod bench;
pub mod names;
mod packet;

/// Packets that are judged under one set of policies before the next is made.
const FLOWS_PER_POLICY: u64 = 200;
/// Differences that are printed; a broken compiler makes thousands.
const SHOWN: usize = 5;

/// What `sluice self-test` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many packets.
    pub pairs: u64,
    /// For the random policies and packets.
    pub seed: u64,
    /// Make the run's cgroup below this one.
    pub cgroup_root: Option<PathBuf>,
    /// Compile each policy set wrongly on purpose, to show that a fault is found.
    pub plant_fault: bool,
}

/// What came of it.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// For doing it again.
    pub seed: u64,
    /// Packets judged.
    pub pairs: u64,
    /// Policy sets compiled.
    pub policy_sets: u64,
    /// Packets that the evaluator denies.
    pub denied: u64,
    /// Packets about which kernel and evaluator differ.
    pub differences: u64,
    /// The first few of them, described.
    pub examples: Vec<String>,
    /// What the verifier made of the programs.
    pub programs: Vec<LoadedProgram>,
}

/// Runs it. The process's namespaces and cgroup are not what they were afterwards: for a process that ends then.
pub fn run(options: &Options) -> anyhow::Result<Outcome> {
    let root = options.cgroup_root.clone().map_or_else(Hierarchy::default_root, Ok)?;
    let scratch = Scratch::make(&root)?;
    let (mut datapath, _events): (Datapath, Events) = Datapath::open(&scratch.place())?;
    datapath.attach()?;
    let pod = fs::metadata(&scratch.pod)?.ino();
    datapath.set_levels(&[Hierarchy::of(&root)?.level(&scratch.pod)].into());
    datapath.set_endpoint(pod, 0, &[], false)?;
    // Twice, as a restart does: the second exchanges what the first attached.
    datapath.attach()?;
    datapath.guard(scratch.interface, pod)?;
    datapath.guard(scratch.interface, pod)?;
    let program = datapath.program(&scratch.place(), "egress")?;

    let mut rng = rng(options.seed);
    let (pairs, seed) = (options.pairs, options.seed);
    let (probes, _plaintexts) = Uprobes::open(&scratch.place())?;
    let mut outcome = Outcome {
        seed,
        pairs: 0,
        policy_sets: 0,
        denied: 0,
        differences: 0,
        examples: Vec::new(),
        programs: [datapath.programs(), probes.programs()].concat(),
    };
    while outcome.pairs < pairs {
        let case = random_case(&mut rng, Size::SMALL);
        let Ok(set) = PolicySet::new(case.policies.clone()) else { continue };
        let selection = select(&set, &case.pod, case.world.namespaces.get(&case.pod.namespace));
        let mut compiled = compile(&selection, &case.world, Posture::Enforce);
        if options.plant_fault {
            plant_fault(&mut compiled);
        }
        let ruleset = datapath.install(&compiled)?;
        datapath.flip(0, ruleset.id);
        outcome.policy_sets += 1;
        for _ in 0..FLOWS_PER_POLICY.min(pairs - outcome.pairs) {
            let flow = random_flow(&mut rng, &case.policies, &case.world);
            // Of one that has run out and one that has not, the first must count for nothing.
            let until = if rng.random_bool(0.9) { u64::MAX } else { 1 };
            datapath.plant_learned(pod, flow.destination.to_canonical(), &flow.names.learned, until)?;
            let flow = if until == 1 { without_names(flow) } else { flow };
            compare(
                &program,
                scratch.interface,
                &case,
                &selection,
                &canonical(flow),
                &mut rng,
                &mut outcome,
            )?;
        }
        datapath.retire(&ruleset)?;
        if outcome.policy_sets.is_multiple_of(500) {
            tracing::info!(pairs = outcome.pairs, of = pairs, differences = outcome.differences, "self-test");
        }
    }
    Ok(outcome)
}

fn compare(
    program: &impl AsFd,
    interface: u32,
    case: &Case,
    selection: &Selection,
    flow: &Flow,
    rng: &mut SmallRng,
    outcome: &mut Outcome,
) -> anyhow::Result<()> {
    let judgement = evaluate(selection, &case.world, Posture::Enforce, flow);
    let bytes = packet::packet(flow, rng);
    let passed = test_run(program.as_fd(), &bytes, interface, 1)?.value != 0;
    outcome.pairs += 1;
    outcome.denied += u64::from(judgement.applied.action == Action::Deny);
    if passed != (judgement.applied.action == Action::Allow) {
        outcome.differences += 1;
        if outcome.examples.len() < SHOWN {
            let kernel = if passed { "Allow" } else { "Deny" };
            outcome.examples.push(format!(
                "{flow:?}: kernel {kernel}, evaluator {:?}; packet {bytes:02x?}",
                judgement.applied
            ));
        }
    }
    Ok(())
}

/// A flow as a packet can show it: protocols that are opaque by themselves have no plain form.
fn canonical(mut flow: Flow) -> Flow {
    if let FlowProtocol::Other(number) = flow.protocol {
        let over_ipv6 = flow.destination.to_canonical().is_ipv6();
        let always_opaque = matches!(number, 4 | 41)
            || (over_ipv6 && matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140));
        flow.opaque |= always_opaque;
    }
    flow
}

/// The flow when nothing is known of its names.
fn without_names(mut flow: Flow) -> Flow {
    flow.names.learned.clear();
    flow
}

/// Turns round what the first list says of its first class, as a compiler with a bug might.
fn plant_fault(compiled: &mut Compiled) {
    for steps in &mut compiled.steps {
        for first in steps.shown.iter_mut().chain(&mut steps.unread).chain(&mut steps.learned).flatten() {
            first.action = match first.action {
                RuleAction::Allow => RuleAction::Deny,
                RuleAction::Deny | RuleAction::Pass => RuleAction::Allow,
            };
        }
    }
    for entry in compiled.lists.iter_mut().filter_map(|list| list.entries.first_mut()) {
        entry.ruling.applied = match entry.ruling.applied {
            Action::Allow => Action::Deny,
            Action::Deny => Action::Allow,
        };
    }
}

/// The run's own cgroup, mount namespace and network namespace.
struct Scratch {
    root: PathBuf,
    pod: PathBuf,
    home: PathBuf,
    bpffs: PathBuf,
    interface: u32,
}

impl Scratch {
    fn make(above: &Path) -> anyhow::Result<Self> {
        let hierarchy = Hierarchy::of(above)?;
        let home = hierarchy.of_process(std::process::id()).context("no cgroup of this process")?;
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)
            .context("cannot unshare; are you root?")?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
            .context("cannot make the mounts private")?;
        let bpffs = PathBuf::from("/mnt");
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .context("cannot mount a bpffs")?;

        // A packet that leaves by loopback is free, so the packets need another interface: any device but the first.
        let added = std::process::Command::new("ip")
            .args(["link", "add", "test0", "type", "veth", "peer", "name", "test1"])
            .status();
        if !added.context("cannot run `ip`; install iproute2")?.success() {
            bail!("cannot make a veth pair; load the module `veth`");
        }
        let interface = if_nametoindex("test0")?;

        let root = above.join(format!("sluice-self-test-{}", std::process::id()));
        let pod = root.join("pod");
        fs::create_dir_all(&pod).with_context(|| format!("cannot make the cgroup {}", pod.display()))?;
        let scratch = Self { root, pod, home, bpffs, interface };
        enter(&scratch.pod)?;
        Ok(scratch)
    }

    fn place(&self) -> Place {
        Place { cgroup_root: self.root.clone(), bpffs: self.bpffs.clone() }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Links and maps go with the bpffs, which goes with the mount namespace.
        let left = enter(&self.home)
            .and_then(|()| Ok(fs::remove_dir(&self.pod)?))
            .and_then(|()| Ok(fs::remove_dir(&self.root)?));
        if let Err(error) = left {
            tracing::error!("the cgroup {} is left behind: {error:#}", self.root.display());
        }
    }
}

fn enter(cgroup: &Path) -> anyhow::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
        .with_context(|| format!("cannot enter the cgroup {}", cgroup.display()))
}
