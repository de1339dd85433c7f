//! A configuration that is not right in every part stops the agent before it has touched anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::Result;
use tokio::process::Command;

use super::{finish, says, text};
use crate::report::Report;
use crate::rig::{Rig, binary};

const HEAD: &str = "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfiguration\n";

/// Runs the checks.
pub(super) async fn run(rig: &Rig, report: &mut Report) -> Result<()> {
    let directory = rig.place().directory.join("configurations");
    fs::create_dir_all(&directory)?;
    let file = directory.join("agent.yaml");
    for (name, body, words) in [
        ("unknown key", "postur: log\n", &["agent.yaml:3:", "unknown field `postur`", "posture"][..]),
        ("unknown value", "output: text\nposture: Enforce\n", &["agent.yaml:4:", "observe, log, enforce"]),
        ("address", "metricsAddress: everywhere\n", &["agent.yaml:3:", "metricsAddress", "127.0.0.1:9470"]),
        (
            "network",
            "events: {exclude: {networks: [10.0.0.1/8]}}\n",
            &["agent.yaml:3:", "events.exclude.networks", "write 10.0.0.0/8"],
        ),
        (
            "name",
            "events: {exclude: {domains: ['*']}}\n",
            &["agent.yaml:3:", "events.exclude.domains", "write `*.` before a domain"],
        ),
        ("no YAML", "]\n", &["agent.yaml:3:"]),
    ] {
        write(&file, &format!("{HEAD}{body}"), 0o644)?;
        refused(rig, report, &format!("configuration, {name}"), &file, words).await?;
    }
    write(&file, "kind: EgressPolicy\n", 0o644)?;
    refused(rig, report, "configuration, of another kind", &file, &["agent.yaml:1:"]).await?;
    write(&file, HEAD, 0o666)?;
    refused(rig, report, "configuration, writable by others", &file, &["chmod go-w", "mode 666"]).await?;
    let link = directory.join("link.yaml");
    symlink(&file, &link)?;
    refused(rig, report, "configuration, a link", &link, &["is not a regular file"]).await?;
    let missing = directory.join("missing.yaml");
    refused(rig, report, "configuration, missing", &missing, &["cannot read", "missing.yaml"]).await?;
    let pinned = rig.agent_directories().bpffs.join("sluice").exists();
    report.equal("configuration: wrong ones leave the kernel alone", !pinned, "", true);

    write(&file, &format!("{HEAD}posture: log\nnodeName: of-file\n"), 0o644)?;
    for (name, variable, flag, posture) in [
        ("the file", None, None, "posture: log"),
        ("the environment", Some("observe"), None, "posture: observe"),
        ("a flag", Some("observe"), Some("enforce"), "posture: enforce"),
    ] {
        let mut command = Command::new(binary("sluice")?);
        command.args(["agent", "--check-config", "--config"]).arg(&file);
        command.envs(variable.map(|value| ("SLUICE_POSTURE", value)));
        command.args(flag.map(|value| format!("--posture={value}")));
        let output = finish(command).await?;
        report.equal(&format!("configuration, by {name}: exit code"), output.status.code(), "", 0);
        let words = [posture, "nodeName: of-file", "127.0.0.1:9470"];
        says(report, &format!("configuration, by {name}"), &text(&output.stdout), &words);
    }
    Ok(())
}

fn write(path: &Path, body: &str, mode: u32) -> Result<()> {
    fs::write(path, body)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The agent does not start, and says why.
async fn refused(rig: &Rig, report: &mut Report, name: &str, file: &Path, words: &[&str]) -> Result<()> {
    let mut command = rig.agent_directories().command(&binary("sluice")?, &rig.place().cgroup_root);
    command.arg("--config").arg(file);
    let output = finish(Command::from(command)).await?;
    report.equal(&format!("{name}: exit code"), output.status.code(), "", 1);
    says(report, name, &text(&output.stderr), words);
    Ok(())
}
