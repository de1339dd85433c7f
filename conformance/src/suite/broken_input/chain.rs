//! ADD while something is wrong with the pod or with the agent: it fails, and nothing of the pod stays.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use k8s_cri::v1::ListPodSandboxRequest;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::Rng;

use super::plugin::{call, configuration, judge, variables};
use super::{Cgroup, Run, SHOW_LIMIT, Status, TICK, pod, verdicts};
use crate::rig::PodSpec;

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let before = run.status().await?;
    let mut spec = pod("mislabelled");
    spec.annotations.insert("sluice.dev/labels".to_owned(), "app".to_owned());
    refused(run, "broken labels", &spec, &["sluice.dev/labels", "is not key=value"]).await?;
    run.unchanged("broken labels", &before).await?;

    eprintln!("broken-input: the chain: the agent is dead");
    run.agent.kill_hard()?;
    refused(run, "agent dead", &pod("orphan"), &["no agent listens on", "running?"]).await?;
    run.enforced("agent dead").await?;
    run.agent.restart().await?;
    recovered(run, "agent dead, restarted", &before).await?;
    // containerd sends a DEL after an ADD that failed.
    let spooled = fs::read_dir(run.agent.directories().run.join("spool")).map_or(0, Iterator::count);
    run.report.equal("agent dead, restarted: spooled DELs left", spooled, "", 0);
    let newcomer = run.rig.run_pod(&pod("orphan")).await?;
    let found = verdicts(&newcomer, run.random.random()).await?;
    run.good("agent dead, restarted: the pod starts, governed", found);
    newcomer.remove().await?;

    eprintln!("broken-input: the chain: the agent dies during an ADD");
    dies(run).await?;
    recovered(run, "agent killed during ADD, restarted", &before).await
}

async fn recovered(run: &mut Run<'_>, when: &str, before: &Status) -> Result<()> {
    let same = run.status().await?.lasting() == before.lasting();
    run.report.equal(&format!("{when}: status as before"), same, "", true);
    Ok(())
}

/// A pod that must not start, and of which nothing stays.
async fn refused(run: &mut Run<'_>, name: &str, spec: &PodSpec, words: &[&str]) -> Result<()> {
    let before = (sandboxes(run).await?, leases(run)?);
    let error = match run.rig.run_pod(spec).await {
        Err(error) => format!("{error:#}"),
        Ok(pod) => {
            pod.remove().await?;
            "the pod was started".to_owned()
        }
    };
    run.says(&format!("{name}: the pod does not start"), &error, words);
    let after = (sandboxes(run).await?, leases(run)?);
    run.report.equal(&format!("{name}: sandboxes left"), after.0.difference(&before.0).count(), "", 0);
    run.report.equal(&format!("{name}: addresses left"), after.1.difference(&before.1).count(), "", 0);
    Ok(())
}

async fn sandboxes(run: &Run<'_>) -> Result<BTreeSet<String>> {
    let listed = run.rig.cri().list_pod_sandbox(ListPodSandboxRequest { filter: None }).await?;
    Ok(listed.into_inner().items.into_iter().map(|sandbox| sandbox.id).collect())
}

/// The addresses that host-local has given away: one file for each.
fn leases(run: &Run<'_>) -> Result<BTreeSet<IpAddr>> {
    let directory = run.rig.place().directory.join("ipam/rig");
    let entries = fs::read_dir(&directory).with_context(|| directory.display().to_string())?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(names.collect())
}

/// The agent takes the connection, stops, and is killed before it has answered.
async fn dies(run: &mut Run<'_>) -> Result<()> {
    let cgroup = Cgroup::create(run.rig.place().cgroup_root.join("kubepods/burstable/pod-in-between"))?;
    let input = configuration(run, cgroup.path()).to_string().into_bytes();
    let pid = run.agent.pid().context("the agent runs")?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP)?;
    let add = tokio::spawn(async move { call(&variables(), input).await });
    let connected = until_connected(run).await;
    run.agent.kill_hard()?;
    connected?;
    let answer = add.await??;
    let words = ["the agent closed the connection", "did it restart?"];
    judge(run, "agent killed during ADD", &answer, 11, &words);
    run.enforced("agent killed during ADD").await?;
    run.agent.restart().await
}

/// Waits until somebody's connection to the stopped agent waits to be accepted.
async fn until_connected(run: &Run<'_>) -> Result<()> {
    let socket = run.agent.directories().cni_socket().display().to_string();
    let deadline = Instant::now() + SHOW_LIMIT;
    loop {
        // Number, references, protocol, flags (00010000 for a listener), type, state, inode, path.
        let sockets = fs::read_to_string("/proc/net/unix")?;
        let mut lines = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        if lines.any(|fields| fields.get(7) == Some(&socket.as_str()) && fields[3] == "00000000") {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("the plugin does not connect to {socket}: {sockets}");
        }
        tokio::time::sleep(TICK).await;
    }
}
