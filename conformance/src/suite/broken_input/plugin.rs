//! The plugin, called as containerd calls it, with something wrong in each call.

use std::net::IpAddr;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use tokio::process::Command;

use super::{Cgroup, GOOD, Run, finish, text};
use crate::rig::isolate::CGROUP_MOUNT;
use crate::rig::{binary, leftovers};

/// The pod that the calls are about.
const CONTAINER_ID: &str = "0badc0de";

/// What the plugin answered.
pub(super) struct Answer {
    pub(super) status: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// The environment of an ADD.
pub(super) fn variables() -> Vec<(&'static str, &'static str)> {
    vec![
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", CONTAINER_ID),
        ("CNI_NETNS", "/run/netns/nowhere"),
        ("CNI_IFNAME", "eth0"),
        ("CNI_PATH", "/nowhere"),
        ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=broken;K8S_POD_NAME=plugin"),
    ]
}

/// The configuration of an ADD, for a pod with this cgroup.
pub(super) fn configuration(run: &Run<'_>, cgroup: &Path) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "rig",
        "type": "sluice-cni",
        "socket": run.agent.directories().cni_socket(),
        "cgroupRoot": CGROUP_MOUNT,
        "stateDir": run.agent.directories().run,
        "prevResult": {
            "cniVersion": "1.0.0",
            "ips": [{"address": "10.88.9.9/16"}, {"address": "fd00:10:88::99/64"}],
        },
        "runtimeConfig": {
            "cgroupPath": cgroup.strip_prefix(CGROUP_MOUNT).unwrap_or(cgroup),
            "io.kubernetes.cri.pod-annotations": {"sluice.dev/labels": "app=victim"},
        },
    })
}

/// Calls the plugin.
pub(super) async fn call(variables: &[(&str, &str)], input: Vec<u8>) -> Result<Answer> {
    let mut command = Command::new(binary("sluice-cni")?);
    command.env_clear().envs(variables.iter().copied());
    let output = finish(command, input).await?;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    Ok(Answer { status: output.status.code(), stdout, stderr })
}

/// Holds an answer against the error that it should be.
pub(super) fn judge(run: &mut Run<'_>, name: &str, answer: &Answer, code: i32, words: &[&str]) {
    let stdout = answer.stdout.as_str();
    let mut wrong = Vec::new();
    match serde_json::from_str::<Value>(stdout) {
        Ok(document) => {
            let details = document["details"].as_str().unwrap_or_default();
            let missing = words.iter().filter(|word| !details.contains(**word));
            wrong.extend(missing.map(|word| format!("the details do not say {word:?}")));
            if document["code"] != code {
                wrong.push(format!("the code is not {code}"));
            }
            if !document["cniVersion"].is_string() || !document["msg"].is_string() {
                wrong.push("cniVersion or msg is missing".to_owned());
            }
        }
        Err(error) => wrong.push(format!("stdout is not one JSON document: {error}")),
    }
    if answer.status != Some(1) {
        wrong.push(format!("the exit status is {:?}, not 1", answer.status));
    }
    let found = if wrong.is_empty() {
        GOOD.to_owned()
    } else {
        format!("{}; stdout {stdout:?}, stderr {:?}", wrong.join("; "), answer.stderr)
    };
    run.good(name, found);
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let before = run.status().await?;
    let below = run.rig.place().cgroup_root.join("kubepods/burstable");
    let cgroup = Cgroup::create(below.join("pod-of-the-plugin"))?;
    let good = configuration(run, cgroup.path());

    let mut none = good.clone();
    none["prevResult"] = Value::Null;
    wrong(run, "plugin: no prevResult", &none, 7, &["prevResult is missing", "list it after the plugin"])
        .await?;
    let answer = call(&variables(), b"\x00garbage{".to_vec()).await?;
    judge(run, "plugin: garbage on stdin", &answer, 6, &["stdin", "JSON"]);
    let answer = call(&variables(), Vec::new()).await?;
    judge(run, "plugin: nothing on stdin", &answer, 6, &["stdin", "JSON"]);
    for missing in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
        let mut variables = variables();
        variables.retain(|(name, _)| *name != missing);
        let answer = call(&variables, good.to_string().into_bytes()).await?;
        judge(run, &format!("plugin: no {missing}"), &answer, 4, &[missing, "is missing"]);
    }
    let mut unknown = variables();
    unknown[0].1 = "PATCH";
    let answer = call(&unknown, good.to_string().into_bytes()).await?;
    judge(run, "plugin: unknown CNI_COMMAND", &answer, 4, &["CNI_COMMAND", "PATCH", "ADD, DEL"]);
    let gone = configuration(run, &below.join("pod-of-nobody"));
    let words = ["pod-of-nobody", "check cgroupRoot"];
    wrong(run, "plugin: no such cgroup", &gone, 100, &words).await?;

    let outside =
        Path::new(CGROUP_MOUNT).join(format!("{}{}-outside", leftovers::PREFIX, std::process::id()));
    let outside = Cgroup::create(outside)?;
    let beyond = configuration(run, outside.path());
    let words = ["is not below the cgroup root", "set cgroupRoot"];
    wrong(run, "plugin: cgroup outside of the root", &beyond, 102, &words).await?;
    drop(outside);
    let root = configuration(run, &run.rig.place().cgroup_root);
    wrong(run, "plugin: the root itself", &root, 102, &["is not below the cgroup root"]).await?;

    let nested = Cgroup::create(run.victim.cgroup().join("nested"))?;
    let inside = configuration(run, nested.path());
    let words = ["lie one in the other", "broken/victim"];
    wrong(run, "plugin: cgroup inside of a pod's", &inside, 102, &words).await?;
    drop(nested);
    let around = configuration(run, &below);
    wrong(run, "plugin: cgroup around a pod's", &around, 102, &words).await?;

    let mut labels = good.clone();
    labels["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]["sluice.dev/labels"] = "app".into();
    let words = ["sluice.dev/labels", "is not key=value", "app=web,tier=front"];
    wrong(run, "plugin: broken labels", &labels, 7, &words).await?;
    let mut policy = good.clone();
    policy["failurePolicy"] = "Maybe".into();
    wrong(run, "plugin: unknown failurePolicy", &policy, 7, &["failurePolicy", "Fail", "Ignore"]).await?;
    run.unchanged("plugin", &before).await?;

    let answer = call(&variables(), good.to_string().into_bytes()).await?;
    let passed = serde_json::from_str::<Value>(&answer.stdout).unwrap_or_default();
    let ips: Vec<IpAddr> = passed["ips"].as_array().into_iter().flatten().filter_map(address).collect();
    run.report.equal("plugin: the same without a fault", answer.status, "", 0);
    run.report.equal("plugin: and passes the result on", ips.len(), "", 2);
    let mut delete = variables();
    delete[0].1 = "DEL";
    let answer = call(&delete, good.to_string().into_bytes()).await?;
    run.report.equal("plugin: and its DEL", answer.status, "", 0);
    run.unchanged("plugin: ADD and DEL", &before).await
}

async fn wrong(run: &mut Run<'_>, name: &str, input: &Value, code: i32, words: &[&str]) -> Result<()> {
    let answer = call(&variables(), input.to_string().into_bytes()).await?;
    judge(run, name, &answer, code, words);
    Ok(())
}

fn address(entry: &Value) -> Option<IpAddr> {
    entry["address"].as_str()?.split_once('/')?.0.parse().ok()
}
