//! SIGTERM: who has begun to ask is answered, what has happened is told, and then the agent ends.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use sluice_api::{Add, Attachment, Call, Cgroup, Outcome, PROTOCOL_VERSION, Pod, Reply, Request, frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::follow::Observer;
use super::{LIMIT, NAMESPACE, Run, says, until};
use crate::rig::net::DESTINATIONS;

/// Longer than the agent may take to stop.
const STOP_LIMIT: u64 = 6;

/// Runs the checks. Leaves a running agent.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let socket = run.agent.directories().cni_socket();
    let cgroup = run.rig.place().cgroup_root.join("kubepods/pod-in-flight");
    fs::create_dir_all(&cgroup)?;
    let attachment = Attachment { container_id: "in-flight".to_owned(), ifname: "eth0".to_owned() };
    let add = Call::Add(Add {
        attachment: attachment.clone(),
        network: "rig".to_owned(),
        netns: "/proc/1/ns/net".to_owned(),
        cgroup: Cgroup { path: cgroup.display().to_string(), id: fs::metadata(&cgroup)?.ino() },
        pod: Pod {
            namespace: NAMESPACE.to_owned(),
            name: "in-flight".to_owned(),
            uid: String::new(),
            labels: [("app".to_owned(), "vault".to_owned())].into(),
        },
        ips: vec!["10.88.7.7".parse()?],
        host_interface: None,
    });
    let mut observer = Observer::start(run.rig, &[], 1).await?;
    let message = frame::encode(&Request { version: PROTOCOL_VERSION, call: add })?;
    let (first, rest) = message.split_at(message.len() / 2);
    let mut stream = UnixStream::connect(&socket).await?;
    stream.write_all(first).await?;
    run.denied(5000, 1).await?;

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
    let reply: Reply = frame::read(&mut answer.as_slice()).context("the reply to the ADD in flight")?;
    let outcome = match reply.outcome {
        Outcome::Done => "done".to_owned(),
        Outcome::Refused(refusal) => refusal.message,
    };
    run.report.equal("while stopping: the ADD in flight", outcome, "", "done");
    let ended = run.agent.ended(LIMIT).await?;
    let took = start.elapsed();
    run.report.equal("stopped: exit code", ended.code(), "", 0);
    let in_time = took.as_secs() < STOP_LIMIT;
    run.report.add("stopped after", took.as_millis() as u64, "ms", "the drain's limit", Some(in_time));
    let is_last = |event: &serde_json::Value| {
        event["dport"] == 5000 && event["dst"] == DESTINATIONS.forbidden[0].to_string()
    };
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
    stream
        .write_all(&frame::encode(&Request { version: PROTOCOL_VERSION, call: Call::Del(attachment) })?)
        .await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(fs::remove_dir(&cgroup)?)
}
