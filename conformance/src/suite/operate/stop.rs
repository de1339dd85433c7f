//! SIGTERM: who has begun to ask is answered, what has happened is told, and then the agent ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::follow::Observer;
use super::{LIMIT, NAMESPACE, Run, says, until};
use crate::rig::net::DESTINATIONS;

/// More than the time after which a pod has a new budget of events.
const BUDGET: Duration = Duration::from_millis(1100);

/// Runs the checks. Leaves a running agent.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let socket = run.agent.directories().cni_socket();
    let cgroup = run.rig.place().cgroup_root.join("kubepods/pod-in-flight");
    fs::create_dir_all(&cgroup)?;
    let attachment = json!({"containerId": "in-flight", "ifname": "eth0"});
    let add = json!({
        "attachment": attachment,
        "network": "rig",
        "netns": "/proc/1/ns/net",
        "cgroup": {"path": cgroup, "id": fs::metadata(&cgroup)?.ino()},
        "pod": {"namespace": NAMESPACE, "name": "in-flight", "uid": "", "labels": {"app": "vault"}},
        "ips": ["10.88.7.7"],
        "hostInterface": null,
    });
    let mut observer = Observer::start(run.rig, &[], 1).await?;
    // The floods before have used up what the pod may have told of it in a second.
    tokio::time::sleep(BUDGET).await;
    run.denied(5000, 1).await?;
    let message = message(&json!({"add": add}));
    let (first, rest) = message.split_at(message.len() / 2);
    let mut stream = UnixStream::connect(&socket).await?;
    stream.write_all(first).await?;

    let start = Instant::now();
    run.agent.signal(Signal::SIGTERM)?;
    until("the socket's end", async || Ok((!socket.exists()).then_some(()))).await?;
    let newcomer = UnixStream::connect(&socket).await.is_err();
    run.report.equal(
        "while stopping: a new request",
        if newcomer { "refused" } else { "taken" },
        "",
        "refused",
    );
    stream.write_all(rest).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let reply: Value = serde_json::from_slice(answer.get(4..).context("no reply to the ADD in flight")?)?;
    run.report.equal("while stopping: the ADD in flight", reply["outcome"].clone(), "", "done");
    let ended = run.agent.ended(LIMIT).await?;
    run.report.note("stopped after", start.elapsed().as_millis() as u64, "ms");
    run.report.equal("stopped: exit code", ended.code(), "", 0);
    let is_last =
        |event: &Value| event["dport"] == 5000 && event["dst"] == DESTINATIONS.forbidden[0].to_string();
    let told = run.agent.wait_for_event(LIMIT, is_last).await.is_ok();
    run.report.equal("stopped: the last event was told", told, "", true);
    run.report.equal("stopped: exit code of an observer", observer.code().await?, "", 3);
    says(
        &mut run.report,
        "stopped: what the observer is told",
        &observer.errors(),
        &["the agent has stopped"],
    );

    run.agent.restart().await?;
    let pods = String::from_utf8(run.sluice(&["pods", "-n", NAMESPACE]).await?.stdout)?;
    says(&mut run.report, "started again: pods", &pods, &["in-flight", "vault"]);
    let mut stream = UnixStream::connect(&socket).await?;
    stream.write_all(&self::message(&json!({"del": attachment}))).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(fs::remove_dir(&cgroup)?)
}

/// A request of the plugin: its length, then its text.
fn message(call: &Value) -> Vec<u8> {
    let text = json!({"version": 1, "call": call}).to_string();
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}
