//! Agents that must not start: beside another one, or where the kernel cannot be asked.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use super::{Run, finish, text};
use crate::rig::binary;

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
    damaged(run).await
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
