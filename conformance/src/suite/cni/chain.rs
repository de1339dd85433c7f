//! The real chain: containerd, the bridge plugin, and this one behind it.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::StopPodSandboxRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::hung::signal;
use super::{NAMESPACE, Run, SHOW_LIMIT, TICK, denied, spec};

/// What the primary plugin holds for pods: addresses given away, and ends of links on the node.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    leases: BTreeSet<IpAddr>,
    links: BTreeSet<String>,
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let before = held(run)?;
    let found = agent_dead(run).await.and_then(|()| same(run, &before));
    run.clause("containerd/containerd#12130 failing DEL leaks IPs: freed while the agent is dead", found);
    let found = spool_broken(run).await.and_then(|()| same(run, &before));
    run.clause(
        "containernetworking/cni#924 DEL stops at an error: ours goes on, with the spool broken too",
        found,
    );
    let found = agent_killed(run).await.and_then(|()| same(run, &before));
    run.clause("chain: the agent killed during ADD: the pod does not start, and nothing of it stays", found);
    let found = add_killed(run).await.and_then(|()| same(run, &before));
    run.clause("chain: the plugin killed during ADD: the pod does not start, and nothing of it stays", found);
    let found = del_killed(run).await.and_then(|()| same(run, &before));
    run.clause(
        "chain: DEL runs ours first; killed in the middle of it, the next DEL frees everything",
        found,
    );
    let found = starts(run).await;
    run.clause("chain: pods start, governed, after all of that", found);
    Ok(())
}

/// The addresses that host-local has given away, one file for each; and the links on the bridge.
fn held(run: &Run<'_>) -> Result<Held> {
    let directory = run.rig.place().directory.join("ipam/rig");
    let leases = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let leases = leases.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let links = fs::read_dir(format!("/sys/class/net/{}/brif", crate::rig::net::BRIDGE))?;
    let links = links.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    Ok(Held { leases, links })
}

fn same(run: &Run<'_>, before: &Held) -> Result<()> {
    let now = held(run)?;
    ensure!(now == *before, "held now {now:?}, before {before:?}");
    let pods = run.pods()?;
    ensure!(pods.is_empty(), "still governed: {pods:?}");
    Ok(())
}

async fn agent_dead(run: &mut Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&spec(NAMESPACE, "orphan")).await?;
    run.agent_mut()?.kill_hard()?;
    let removed = pod.remove().await;
    let held = held(run)?;
    run.agent_mut()?.restart().await?;
    removed?;
    ensure!(held.leases.is_empty(), "leases while the agent is dead: {:?}", held.leases);
    Ok(())
}

/// The plugin can neither ask nor write down. Only the kernel's own end of the pod tells the agent then.
async fn spool_broken(run: &mut Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&spec(NAMESPACE, "unwritable")).await?;
    run.agent_mut()?.kill_hard()?;
    let spool = run.rig.agent_directories().run.join("spool");
    let _ = fs::remove_dir_all(&spool);
    fs::write(&spool, "")?;
    let removed = pod.remove().await;
    fs::remove_file(&spool)?;
    run.agent_mut()?.restart().await?;
    removed
}

/// A pod starts, and somebody interferes while the plugin waits for a stopped agent.
async fn interfered(run: &mut Run<'_>, name: &str, kill_agent: bool) -> Result<String> {
    signal(run, Signal::SIGSTOP)?;
    let (rig, spec) = (run.rig, spec(NAMESPACE, name));
    let socket = rig.agent_directories().cni_socket();
    let (pod, killed) = tokio::join!(rig.run_pod(&spec), async {
        let plugin = running_plugin(socket).await;
        if kill_agent {
            plugin?;
            run.agent_mut()?.kill_hard()
        } else {
            // First the plugin: an agent that went on would answer it.
            let killed = plugin.and_then(|pid| Ok(kill(pid, Signal::SIGKILL)?));
            signal(run, Signal::SIGCONT)?;
            killed
        }
    });
    if kill_agent {
        run.agent_mut()?.restart().await?;
    }
    killed?;
    match pod {
        Ok(pod) => {
            pod.remove().await?;
            Ok("the pod was started".to_owned())
        }
        Err(error) => Ok(format!("{error:#}")),
    }
}

async fn agent_killed(run: &mut Run<'_>) -> Result<()> {
    let error = interfered(run, "in-between", true).await?;
    ensure!(error.contains("the agent closed the connection"), "{error}");
    Ok(())
}

async fn add_killed(run: &mut Run<'_>) -> Result<()> {
    let error = interfered(run, "cut-short", false).await?;
    ensure!(error.contains("sluice-cni") && error.contains("killed"), "{error}");
    Ok(())
}

async fn del_killed(run: &mut Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&spec(NAMESPACE, "half-deleted")).await?;
    signal(run, Signal::SIGSTOP)?;
    let request = StopPodSandboxRequest { pod_sandbox_id: pod.id().to_owned() };
    let (mut client, socket) = (run.rig.cri(), run.rig.agent_directories().cni_socket());
    let (stopped, killed) = tokio::join!(client.stop_pod_sandbox(request), async {
        let plugin = running_plugin(socket).await;
        let held = held(run);
        let killed = plugin.and_then(|pid| Ok(kill(pid, Signal::SIGKILL)?));
        signal(run, Signal::SIGCONT)?;
        killed?;
        held
    });
    ensure!(killed?.leases.contains(&pod.ipv4()?), "the primary's DEL ran before ours");
    ensure!(stopped.is_err(), "containerd took the killed plugin for a success");
    pod.remove().await
}

async fn starts(run: &Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&spec(NAMESPACE, "last")).await?;
    denied(&pod).await?;
    pod.remove().await
}

/// Waits until containerd's plugin has connected to the stopped agent, and so waits for an answer.
async fn running_plugin(socket: PathBuf) -> Result<Pid> {
    let socket = socket.display().to_string();
    let search = async {
        loop {
            // Number, references, protocol, flags (00010000 for a listener), type, state, inode, path.
            let sockets = fs::read_to_string("/proc/net/unix")?;
            let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            if lines.any(|fields| fields.get(7) == Some(&&*socket) && fields[3] == "00000000")
                && let Some(pid) = process("sluice-cni")?
            {
                return Ok(pid);
            }
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::time::timeout(SHOW_LIMIT, search).await.context("no plugin connects to the agent")?
}

/// The process of that name.
fn process(name: &str) -> Result<Option<Pid>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_named =
        |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    Ok(pids.find(is_named).map(Pid::from_raw))
}
