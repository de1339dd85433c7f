//! Agents that must not start: beside another one, or where the kernel cannot be asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use super::{Run, SHOW_LIMIT, TICK, finish, text};
use crate::rig::{self, binary};

/// Where an agent is to work.
struct Places {
    cgroup_root: PathBuf,
    bpffs: PathBuf,
    run: PathBuf,
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let before = run.status().await?;
    let directories = run.agent.directories().clone();
    let cgroup_root = run.rig.place().cgroup_root.clone();
    let ordinary = run.rig.place().directory.join("ordinary");
    fs::create_dir_all(&ordinary)?;
    let other_run = run.rig.place().directory.join("other-run");
    let shown = |path: &Path| path.display().to_string();

    let places = Places {
        cgroup_root: cgroup_root.clone(),
        bpffs: directories.bpffs.clone(),
        run: directories.run.clone(),
    };
    let words = ["another agent runs with", &shown(&directories.run), "--run-dir"];
    refused(run, "a second agent", &places, &words).await?;
    run.unchanged("a second agent", &before).await?;
    run.enforced("a second agent").await?;

    let places =
        Places { cgroup_root: ordinary.clone(), bpffs: directories.bpffs.clone(), run: other_run.clone() };
    refused(run, "cgroup root not of cgroup2", &places, &[&shown(&ordinary), "cgroup2"]).await?;
    let missing = cgroup_root.join("missing");
    let places =
        Places { cgroup_root: missing.clone(), bpffs: directories.bpffs.clone(), run: other_run.clone() };
    refused(run, "cgroup root missing", &places, &[&shown(&missing), "cgroup root"]).await?;
    let places = Places { cgroup_root: cgroup_root.clone(), bpffs: ordinary.clone(), run: other_run.clone() };
    let words = [&shown(&ordinary), "is not on a BPF file system", "mount -t bpf", "--bpffs"];
    refused(run, "bpffs that is none", &places, &words).await?;
    let left = fs::read_dir(&ordinary)?.count();
    run.report.equal("bpffs that is none: files left", left, "", 0);
    run.unchanged("agents that did not start", &before).await?;

    // The run directory is another one, but programs and maps are the first agent's.
    let places = Places { cgroup_root, bpffs: directories.bpffs, run: other_run };
    refused(run, "an agent on another's bpffs", &places, &["another agent", "--bpffs"]).await?;
    run.enforced("an agent on another's bpffs").await?;
    run.agent.restart().await?;
    damaged(run).await?;
    robbed(run).await
}

/// Somebody who is root on the host takes away what guards a pod's link. It is put back, with an alert.
async fn robbed(run: &mut Run<'_>) -> Result<()> {
    let records = fs::read_dir(run.agent.directories().run.join("endpoints"))?;
    let record = records.flatten().next().context("no pod has a record")?.path();
    let record: Value = serde_json::from_slice(&fs::read(record)?)?;
    let interface =
        record["attachments"][0][1]["hostInterface"].as_str().context("the link has no host's end")?;
    let index = record["attachments"][0][1]["guarded"].as_u64().context("the link is not guarded")?;
    // A filter in a queueing discipline of Sluice's, or a link where another's is.
    let links = fs::read_dir(run.agent.directories().bpffs.join("sluice"))?.flatten().next();
    let links = links.context("no ABI version has pins")?.path().join("links");
    let guards = || -> Result<bool> {
        let there = |side, program: &str| -> Result<bool> {
            let filters = rig::run("tc", ["filter", "show", "dev", interface, side])?;
            Ok(filters.contains(program) || links.join(format!("{program}-{index}")).exists())
        };
        Ok(there("ingress", "wire")? && there("egress", "heard")?)
    };
    run.report.equal("guard: there before", guards()?, "", true);
    for taken in [
        &["qdisc", "del", "dev", interface, "clsact"][..],
        &["filter", "del", "dev", interface, "ingress"],
        &["filter", "del", "dev", interface, "egress"],
    ] {
        let name = format!("guard taken away (tc {} {})", taken[0], taken.last().unwrap_or(&""));
        let told = || {
            Ok::<_, anyhow::Error>(
                fs::read_to_string(&run.agent.directories().log)?.matches("the guard at").count(),
            )
        };
        let before = told()?;
        rig::run("tc", taken.iter().copied())?;
        let deadline = Instant::now() + SHOW_LIMIT;
        while !(guards()? && told()? > before) && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        let (back, alert) = (guards()?, told()? > before);
        run.report.equal(&format!("{name}: it is back"), back, "", true);
        run.report.equal(&format!("{name}: alert"), alert, "", true);
    }
    run.enforced("guard taken away").await
}

/// The agent's own records of its pods cannot be read: what the kernel governs, it goes on governing.
async fn damaged(run: &mut Run<'_>) -> Result<()> {
    let before = run.status().await?;
    run.agent.kill_hard()?;
    let mut records = Vec::new();
    for entry in fs::read_dir(run.agent.directories().run.join("endpoints"))? {
        let path = entry?.path();
        records.push((path.clone(), fs::read(&path)?));
        fs::write(path, "{")?;
    }
    run.report.some("damaged records", records.len() as u64, "");
    run.agent.restart().await?;
    run.enforced("damaged records").await?;
    run.agent.kill_hard()?;
    for (path, record) in records {
        fs::write(path, record)?;
    }
    run.agent.restart().await?;
    let same = run.status().await?.lasting() == before.lasting();
    run.report.equal("records mended: status as before", same, "", true);
    Ok(())
}

async fn refused(run: &mut Run<'_>, name: &str, places: &Places, words: &[&str]) -> Result<()> {
    let mut command = Command::new(binary("sluice")?);
    command.arg("agent");
    let state = run.rig.place().directory.join("other-state");
    let policies = &run.agent.directories().policies;
    for (option, value) in [
        ("--cgroup-root", &places.cgroup_root),
        ("--bpffs", &places.bpffs),
        ("--run-dir", &places.run),
        ("--policies", policies),
        ("--state-dir", &state),
    ] {
        command.arg(option).arg(value);
    }
    let output = match finish(command, Vec::new()).await {
        Ok(output) => output,
        // It runs; it is killed by now.
        Err(error) => {
            run.good(&format!("{name}: it ends"), format!("{error:#}"));
            return Ok(());
        }
    };
    run.report.equal(&format!("{name}: exit code"), output.status.code(), "", 1);
    run.says(&format!("{name}: the error"), &text(&output.stderr), words);
    Ok(())
}
