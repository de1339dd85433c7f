//! An agent that cannot read the policies says so, and gets ready as soon as it can.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::{http, says, sluice, text, until};
use crate::report::Report;
use crate::rig::{Rig, binary};

/// An agent that is not waited for.
struct Unready(Child);

impl Drop for Unready {
    fn drop(&mut self) {
        // It has ended already, unless a check failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the checks.
pub(super) async fn run(rig: &Rig, report: &mut Report) -> Result<()> {
    let directories = rig.agent_directories();
    fs::remove_dir(&directories.policies)?;
    fs::write(&directories.policies, "no directory")?;
    let log = fs::OpenOptions::new().create(true).append(true).open(&directories.log)?;
    let mut command = directories.command(&binary("sluice")?, &rig.place().cgroup_root);
    // systemd's end: told when the agent answers, what it waits for, and when it stops.
    let systemd_path = rig.place().directory.join("notify");
    let systemd = UnixDatagram::bind(&systemd_path)?;
    systemd.set_nonblocking(true)?;
    command.env("NOTIFY_SOCKET", &systemd_path);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?;
    let mut agent = Unready(child);

    let answer = until("an answer of /readyz", async || Ok(http::get("/readyz").await.ok())).await?;
    report.equal("not ready: /readyz", answer.status, "", 503);
    says(report, "not ready: what /readyz says", &answer.body, &["waiting for: policies"]);
    report.equal("not ready: /healthz", http::get("/healthz").await?.status, "", 200);
    report.equal("not ready: sluice_ready", http::samples().await?.get("sluice_ready")?, "", 0);
    let status = sluice(rig, &["status", "--output", "json"]).await?;
    report.equal("not ready: exit code of status", status.status.code(), "", 1);
    let told: Value = serde_json::from_slice(&status.stdout).context("the status")?;
    says(report, "not ready: what status waits for", &told["waitingFor"].to_string(), &["policies"]);
    let marker = directories.run.join("ready");
    report.equal("not ready: marker for the plugin", marker.exists(), "", false);

    let start = Instant::now();
    fs::remove_file(&directories.policies)?;
    fs::create_dir(&directories.policies)?;
    let is_ready = async || Ok(Some(http::get("/readyz").await?).filter(|answer| answer.status == 200));
    until("/readyz to say that the agent is ready", is_ready).await?;
    report.note("ready after the directory is there", start.elapsed().as_millis() as u64, "ms");
    let is_marked = async || Ok(marker.exists().then_some(()));
    until("the marker for the plugin", is_marked).await?;
    report.equal("ready: sluice_ready", http::samples().await?.get("sluice_ready")?, "", 1);
    let status = sluice(rig, &["status"]).await?;
    report.equal("ready: exit code of status", status.status.code(), "", 0);

    kill(Pid::from_raw(i32::try_from(agent.0.id())?), Signal::SIGTERM)?;
    let ended = until("the agent's end", async || Ok(agent.0.try_wait()?)).await?;
    report.equal("SIGTERM: exit code", ended.code(), "", 0);
    report.equal("SIGTERM: ended by itself", ended.signal().is_none(), "", true);
    let mut told = Vec::new();
    let mut message = [0; 1024];
    while let Ok(length) = systemd.recv(&mut message) {
        told.extend(text(&message[..length]).lines().map(str::to_owned));
    }
    told.sort();
    let expected = ["READY=1", "STATUS=ready", "STATUS=waiting for: policies", "STOPPING=1"];
    report.equal("what systemd was told", told, "", expected.map(str::to_owned).to_vec());
    let status = sluice(rig, &["status"]).await?;
    report.equal("no agent: exit code of status", status.status.code(), "", 3);
    Ok(())
}
