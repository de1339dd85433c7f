//! An attacker in a pod, root with the runtime's default rights, tries to get a packet past a policy that denies by
//! default. Nothing may arrive, neither at the far end nor on the pods' bridge, by its address or by its payload, and
//! what the datapath judged must be told. A pod without a policy makes the same attempts, to show that they are real.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::Value;

use self::list::ESCAPES;
use self::recorder::Recorder;
use self::side::{Attempt, Numbers};
use crate::report::Report;
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions};

mod list;
mod make;
mod recorder;
mod side;
mod verdict;

/// Where the pods live.
const NAMESPACE: &str = "escape";
/// How long an edit of the policy may take to show.
const EDIT_LIMIT: Duration = Duration::from_secs(15);
/// How long an event may take to come.
const EVENT_LIMIT: Duration = Duration::from_secs(10);
/// The address of the last denial, which tells that the events of all others have come.
const LAST: &str = "198.51.100.253";

/// What the suite is run with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only the attempts whose names begin so; empty: all.
    pub only: Vec<String>,
    /// Seed of the tags.
    pub seed: u64,
}

/// What the attacker may reach.
fn policy(name: &str, label: &str) -> String {
    let rules = "[{name: allowed, action: Allow, to: [{networks: [\"203.0.113.0/24\", \"2001:db8:203::/64\"]}], \
                 ports: [{port: 8080}, {port: 5353, protocol: UDP}]}]";
    super::policy(NAMESPACE, name, label, rules)
}

/// The pods that attempts are made in.
struct Pods {
    governed: Pod,
    control: Pod,
    neighbour: Pod,
}

/// The suite on its way.
struct Run<'a> {
    rig: &'a Rig,
    agent: &'a Agent,
    pods: &'a Pods,
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    let mut report = Report::new("escape", options.seed);
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    rig.agent_directories().write_policy("attacker", &policy("attacker", "attacker"))?;
    let agent = rig.start_agent(&[]).await?;
    let pods = Pods {
        governed: pod(&rig, "attacker", "attacker").await?,
        control: pod(&rig, "control", "control").await?,
        neighbour: pod(&rig, "neighbour", "neighbour").await?,
    };
    forward_in_pods()?;
    let mut recorder = Recorder::start(rig.far()).await?;
    let mut numbers = Numbers::new(SmallRng::seed_from_u64(options.seed));
    let mut attempts = Attempt::all(ESCAPES, &options.only, &mut numbers)?;
    let count = attempts.len();
    for (number, attempt) in attempts.iter_mut().enumerate() {
        eprintln!("escape: {} of {count}: {}", number + 1, attempt.name);
        let run = Run { rig: &rig, agent: &agent, pods: &pods };
        let made = run.make(attempt, &mut recorder).await;
        made.with_context(|| format!("attempt {}", attempt.name))?;
        recorder.look(rig.far()).await?;
    }
    last_event(&agent, &pods.governed).await?;
    recorder.look(rig.far()).await?;

    let mut sides: Vec<_> =
        attempts.iter_mut().flat_map(|attempt| [&mut attempt.governed, &mut attempt.control]).collect();
    side::sort(recorder.frames(), &mut sides);
    verdict::judge(&mut report, &attempts, &agent.events())?;
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    for pod in [pods.governed, pods.control, pods.neighbour] {
        pod.remove().await?;
    }
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

async fn pod(rig: &Rig, name: &str, label: &str) -> Result<Pod> {
    rig.run_pod(&PodSpec::new(NAMESPACE, name, &[("app", label)])).await
}

/// Pods inherit from the node's first network namespace whether they forward, and a Kubernetes node does: here the rig's
/// node is not the machine, so the pods are told one by one.
fn forward_in_pods() -> Result<()> {
    for entry in fs::read_dir("/run/netns")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("cni-") {
            continue;
        }
        let namespace = fs::File::open(entry.path())?;
        let thread = std::thread::spawn(move || -> Result<()> {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                fs::write(format!("/proc/sys/net/{name}"), "1")?;
            }
            // As containerd 2 does.
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647")?;
            Ok(())
        });
        thread.join().expect("no panic")?;
    }
    Ok(())
}

/// Events come in order: after the last, all are there.
async fn last_event(agent: &Agent, pod: &Pod) -> Result<()> {
    let arguments = ["connect", "--to", LAST, "--port", "9", "--proto", "udp", "--timeout-ms", "1"];
    pod.start(&ContainerSpec::new("last", arguments)).await?.succeed().await?;
    agent.wait_for_event(EVENT_LIMIT, |event| event["dst"] == LAST).await?;
    Ok(())
}

impl Run<'_> {
    /// Waits until a pod has a policy.
    async fn wait_for_policy(&self, pod: &str, policy: &str) -> Result<()> {
        let deadline = Instant::now() + EDIT_LIMIT;
        loop {
            let status: Value = serde_json::from_str(&self.agent.command(&["status", "--output", "json"])?)?;
            let pods = status["pods"].as_array().context("the status has no pods")?;
            if pods
                .iter()
                .any(|status| status["name"] == pod && status["policies"].to_string().contains(policy))
            {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the policy of {pod} does not show in the status: {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Connects to a pod from an address of the far end, and closes.
    async fn visit(&self, from: SocketAddr, to: SocketAddr) -> Result<()> {
        use std::net::TcpStream;
        use std::os::fd::AsRawFd;
        let connect = move || -> Result<()> {
            use nix::sys::socket::{
                AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
                sockopt,
            };
            let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
            let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
            bind(fd.as_raw_fd(), &SockaddrStorage::from(from))?;
            match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
                Ok(()) => {
                    let stream = TcpStream::from(fd);
                    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
                    // Until the pod has done what it wants, or has closed.
                    let _ = std::io::Read::read(&mut &stream, &mut [0; 64]);
                    Ok(())
                }
                // Nobody listens there, or the pod is busy connecting; or its own SYN, which is counted, was quicker and has
                // these very addresses and ports.
                Err(
                    nix::errno::Errno::ECONNREFUSED
                    | nix::errno::Errno::ETIMEDOUT
                    | nix::errno::Errno::EADDRNOTAVAIL,
                ) => Ok(()),
                Err(error) => bail!("connecting from {from} to {to}: {error}"),
            }
        };
        self.rig.far().call(connect).await
    }
}
