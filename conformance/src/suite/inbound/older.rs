//! A pod that is older than Sluice: everything of Sluice is taken away from under it, put there again, and the plugin is
//! called for the pod as it runs.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Run;
use crate::rig::Agent;
use crate::rig::binary;
use crate::rig::isolate::CGROUP_MOUNT;

impl Run<'_> {
    /// Takes Sluice away and puts it there again, under the pod.
    pub(super) async fn install_again(&mut self, agent: &mut Agent) -> Result<()> {
        let (attachment, link) = self.record(agent)?;
        agent.kill_hard()?;
        let bpffs = agent.directories().bpffs.display().to_string();
        agent.command(&["detach", "--bpffs", &bpffs])?;
        let left =
            fs::read_dir(&agent.directories().bpffs)?.flatten().any(|entry| entry.file_name() == "sluice");
        self.report.equal("pins left after detach", left, "", false);
        agent.restart().await?;
        let names = |agent: &Agent| -> Result<Vec<Value>> {
            let status: Value = serde_json::from_str(&agent.command(&["status", "--output", "json"])?)?;
            let pods = status["pods"].as_array().context("the status has no pods")?;
            Ok(pods.iter().map(|pod| pod["name"].clone()).collect())
        };
        // Nobody has told of it yet: it is found by its cgroup.
        let found = format!("pod{}", self.pod.uid());
        self.report.equal("found after detach", names(agent)?, "", vec![found]);
        self.add(agent, &attachment, &link).await?;
        self.report.equal("governed again", names(agent)?, "", vec!["server"]);
        Ok(())
    }

    /// The pod's attachment and what came with it, as the agent keeps them.
    fn record(&self, agent: &Agent) -> Result<(Value, Value)> {
        let directory = agent.directories().run.join("endpoints");
        for entry in fs::read_dir(&directory)?.flatten() {
            let record: Value = serde_json::from_slice(&fs::read(entry.path())?)?;
            if record["pod"]["uid"] == self.pod.uid() {
                let pair = record["attachments"][0].as_array().context("the record has no attachment")?;
                ensure!(pair.len() == 2, "an attachment is a pair of key and link: {record}");
                return Ok((pair[0].clone(), pair[1].clone()));
            }
        }
        anyhow::bail!("{} has no record of the pod", directory.display())
    }

    /// Calls the plugin as a runtime would have when the pod was made.
    async fn add(&self, agent: &Agent, attachment: &Value, link: &Value) -> Result<()> {
        let word =
            |value: &Value| value.as_str().map(str::to_owned).context("a string is missing in the record");
        let netns = word(&link["netns"])?;
        let ips = link["ips"].as_array().context("the record has no addresses")?;
        let address = |ip: &Value| {
            let ip = ip.as_str().unwrap_or_default();
            json!({"address": format!("{ip}/{}", if ip.contains(':') { 64 } else { 16 }), "interface": 1})
        };
        let cgroup = self.pod.cgroup();
        let configuration = json!({
            "cniVersion": "1.0.0",
            "name": word(&link["network"])?,
            "type": "sluice-cni",
            "socket": agent.directories().cni_socket(),
            "cgroupRoot": CGROUP_MOUNT,
            "stateDir": agent.directories().run,
            "prevResult": {
                "cniVersion": "1.0.0",
                "interfaces": [
                    {"name": word(&link["hostInterface"])?},
                    {"name": word(&attachment["ifname"])?, "sandbox": netns},
                ],
                "ips": ips.iter().map(address).collect::<Vec<Value>>(),
            },
            "runtimeConfig": {
                "cgroupPath": cgroup.strip_prefix(CGROUP_MOUNT).unwrap_or(cgroup),
                "io.kubernetes.cri.pod-annotations": {"sluice.dev/labels": "app=server"},
            },
        });
        let uid = self.pod.uid();
        let mut plugin = Command::new(binary("sluice-cni")?)
            .env_clear()
            .env("CNI_COMMAND", "ADD")
            .env("CNI_CONTAINERID", word(&attachment["containerId"])?)
            .env("CNI_NETNS", &netns)
            .env("CNI_IFNAME", word(&attachment["ifname"])?)
            .env("CNI_PATH", "/nowhere")
            .env(
                "CNI_ARGS",
                format!("K8S_POD_NAMESPACE={};K8S_POD_NAME=server;K8S_POD_UID={uid}", super::NAMESPACE),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = plugin.stdin.take().context("stdin was piped")?;
        stdin.write_all(configuration.to_string().as_bytes()).await?;
        drop(stdin);
        let output = plugin.wait_with_output().await?;
        ensure!(output.status.success(), "ADD failed: {}", String::from_utf8_lossy(&output.stdout));
        Ok(())
    }
}
