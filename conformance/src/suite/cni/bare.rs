//! The binary on a host that has nothing of what it was built with, and its streams.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};
use tokio::process::Command;

use super::plugin::{self, finish};
use super::{Run, with};
use crate::rig::static_binary;

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let found = static_binary("sluice-cni").and_then(|path| {
        let is_the_one = fs::read(path)? == fs::read(&run.plugin)?;
        ensure!(is_the_one, "the chain has another binary than the static one");
        Ok(())
    });
    run.clause("kmesh-net/kmesh#988 host glibc too old: the binary names no dynamic loader", found);
    let found = alone(run).await;
    run.clause(
        "kmesh-net/kmesh#988, istio/istio#57438 expired token: works without any library, file or credential",
        found,
    );
    let found = streams(run).await;
    run.clause("aws/amazon-vpc-cni-k8s#1248 logs on stdout: only on stderr, whatever asks for more", found);
    Ok(())
}

/// Makes part of the node visible below another root directory.
fn bind(root: &Path, path: &Path) -> Result<()> {
    let at = root.join(path.strip_prefix("/")?);
    fs::create_dir_all(&at)?;
    mount(Some(path), &at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {}", path.display()))
}

/// A root directory that holds the binary, `/proc`, the cgroups and the agent's socket.
async fn alone(run: &Run<'_>) -> Result<()> {
    let root = run.rig.place().directory.join("bare");
    let agent = run.rig.agent_directories().run.clone();
    for path in [PathBuf::from("/proc"), crate::rig::isolate::CGROUP_MOUNT.into(), agent] {
        bind(&root, &path)?;
    }
    fs::copy(&run.plugin, root.join("sluice-cni"))?;
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for (verb, document) in [("ADD", Some(&conf["prevResult"])), ("CHECK", None), ("DEL", None)] {
        let mut command = Command::new("chroot");
        command.arg(&root).arg("/sluice-cni").env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(plugin::vars(verb, &sandbox)).stdin(Stdio::piped());
        let answer = finish(command, conf.to_string().as_bytes()).await?;
        match document {
            Some(document) => {
                answer.passes_on(document)?;
                run.governed(&sandbox).await?;
            }
            None => answer.is_silent()?,
        }
    }
    run.not_shown(&sandbox)?;
    sandbox.remove()
}

async fn streams(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let away: Value = json!({"socket": "/nowhere/cni.sock", "failurePolicy": "Ignore"});
    let conf = with(&run.conf("1.0.0", &sandbox), &away);
    let mut command = Command::new(&run.plugin);
    command.envs(plugin::vars("ADD", &sandbox)).stdin(Stdio::piped());
    for name in ["RUST_LOG", "SLUICE_LOG", "CNI_LOG", "LOG_LEVEL"] {
        command.env(name, "trace");
    }
    let answer = finish(command, conf.to_string().as_bytes()).await?;
    answer.passes_on(&conf["prevResult"])?;
    ensure!(answer.stderr.contains("starts ungoverned"), "no warning on stderr: {}", answer.shown());
    run.call("DEL", &sandbox, &conf).await?.is_silent()?;
    // It was asked of an agent elsewhere; the spool is this one's.
    run.until("the spool to be empty", || Ok(run.spooled()?.is_empty())).await?;
    sandbox.remove()
}
