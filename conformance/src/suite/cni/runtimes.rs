//! The habits of containerd 1.6 to 2.x, CRI-O and nerdctl.

use std::fs;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::plugin::{self, vars_of_none};
use super::sandbox::Sandbox;
use super::{Run, with, without};

/// Where pods' cgroups are: both drivers, each class, and Kubernetes in a container.
const LAYOUTS: [&str; 10] = [
    "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0ab1_22cd.slice",
    "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0ab1_22cd.slice",
    "kubepods.slice/kubepods-pod0ab1_22cd.slice",
    "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0ab1_22cd.slice",
    "kubepods/burstable/pod0ab1-22cd",
    "kubepods/besteffort/pod0ab1-22cd",
    "kubepods/pod0ab1-22cd",
    "kubelet/kubepods/pod0ab1-22cd",
    "k3s/agent/kubepods/besteffort/pod0ab1-22cd",
    "site.slice/site-kubepods.slice/site-kubepods-pod0ab1_22cd.slice",
];

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let found = by_uid(run).await;
    run.clause("containerd 1.6: the cgroup is found by the pod's UID, in every layout", found);
    let found = declared(run).await;
    run.clause("containerd 1.7 and later, CRI-O 1.28 and later: cgroupPath comes before the UID", found);
    let found = polled(run).await;
    run.clause("containerd 2.1: STATUS over and over, beside ADDs", found);
    let found = crio(run).await;
    run.clause("CRI-O: slice:prefix:name, CHECK right after ADD, the cached conflist on DEL", found);
    let found = nerdctl(run).await;
    run.clause("nerdctl: DEL before ADD, /proc/<pid>/ns/net, no K8S arguments, the process's cgroup", found);
    let found = static_pod(run).await;
    run.clause(
        "k8snetworkplumbingwg/multus-cni#773 static pod UID: the cgroup has the manifest's hash",
        found,
    );
    Ok(())
}

fn with_uid(verb: &str, sandbox: &Sandbox, uid: &str) -> plugin::Vars {
    let mut vars = plugin::vars(verb, sandbox);
    let own = vars.get("CNI_ARGS").map_or_else(String::new, |text| text.replace(&sandbox.uid, uid));
    vars.insert("CNI_ARGS", own);
    vars
}

/// ADD finds this cgroup; the pod is gone after DEL.
async fn finds(run: &Run<'_>, sandbox: &Sandbox, uid: &str, conf: &Value, place: &str) -> Result<()> {
    let path = run.rig.place().cgroup_root.join(place);
    fs::create_dir_all(&path)?;
    run.call_with(&with_uid("ADD", sandbox, uid), conf).await?.passes_on(&conf["prevResult"])?;
    ensure!(run.pod_of(&path)?.is_some(), "not found at {place}: {:?}", run.pods()?);
    run.call_with(&with_uid("CHECK", sandbox, uid), conf).await?.is_silent()?;
    run.call_with(&with_uid("DEL", sandbox, uid), conf).await?.is_silent()?;
    Ok(fs::remove_dir(path)?)
}

async fn by_uid(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("0.4.0", &sandbox);
    for place in LAYOUTS {
        for given in [json!(null), json!({"cgroupPath": "/not/there"})] {
            let conf = with(&conf, &json!({"runtimeConfig": given}));
            finds(run, &sandbox, "0ab1-22cd", &conf, place).await.with_context(|| place.to_owned())?;
        }
    }
    sandbox.remove()
}

async fn declared(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    for path in ["a.slice/a-b.slice/a-b-pod1.slice", "/a.slice/a-b.slice/a-b-pod1.slice", "a-b-pod1.slice"] {
        let conf = with(&run.conf("1.0.0", &sandbox), &json!({"runtimeConfig": {"cgroupPath": path}}));
        finds(run, &sandbox, &sandbox.uid, &conf, "a.slice/a-b.slice/a-b-pod1.slice").await?;
    }
    // Without cgroupRoot it is where the hierarchy is mounted.
    let path = format!("{}/a.slice", run.rig.place().cgroup_path);
    let conf = with(&run.conf("1.0.0", &sandbox), &json!({"runtimeConfig": {"cgroupPath": path}}));
    fs::remove_dir(run.rig.place().cgroup_root.join("a.slice/a-b.slice"))?;
    finds(run, &sandbox, &sandbox.uid, &without(&conf, "cgroupRoot"), "a.slice").await?;
    sandbox.remove()
}

async fn polled(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.1.0", &sandbox);
    let polls = async {
        for _ in 0..20 {
            run.call_with(&vars_of_none("STATUS"), &without(&conf, "prevResult")).await?.is_silent()?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let adds = async {
        for _ in 0..5 {
            run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
            run.call("DEL", &sandbox, &conf).await?.is_silent()?;
        }
        Ok(())
    };
    tokio::try_join!(polls, adds)?;
    sandbox.remove()
}

async fn crio(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let place = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podcafe_01.slice";
    let path = run.rig.place().cgroup_root.join(place);
    fs::create_dir_all(&path)?;
    let declared = "kubepods-burstable-podcafe_01.slice:crio:c0ffee";
    let conf = with(&run.conf("1.0.0", &sandbox), &json!({"runtimeConfig": {"cgroupPath": declared}}));
    run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
    run.call("CHECK", &sandbox, &conf).await?.is_silent()?;
    ensure!(run.pod_of(&path)?.is_some(), "not found: {:?}", run.pods()?);
    // The list has been rewritten since; the DEL has that of the ADD's time, and an older field.
    let mut cached = with(&conf, &json!({"logLevel": "debug", "failurePolicy": "Maybe"}));
    for field in ["capabilities", "runtimeConfig", "cgroupRoot"] {
        cached = without(&cached, field);
    }
    run.call("DEL", &sandbox, &cached).await?.is_silent()?;
    ensure!(run.pod_of(&path)?.is_none(), "the pod is governed after DEL");
    fs::remove_dir(path)?;
    sandbox.remove()
}

/// A hook of the OCI runtime calls: the container's process is there already, and waits.
async fn nerdctl(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let mut process = tokio::process::Command::new("sh")
        .args(["-c", "echo 0 > \"$0/cgroup.procs\" && exec nsenter \"--net=$1\" sleep 60"])
        .arg(&sandbox.cgroup)
        .arg(&sandbox.netns)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pid = process.id().context("it runs")?;
    let comm = format!("/proc/{pid}/comm");
    run.until("the process to be in its namespace", || Ok(fs::read_to_string(&comm)? == "sleep\n")).await?;

    let netns = format!("/proc/{pid}/ns/net");
    let mut vars = plugin::vars("DEL", &sandbox);
    vars.insert("CNI_NETNS", netns.clone());
    vars.insert("CNI_ARGS", String::new());
    let mut conf = without(&run.conf("1.0.0", &sandbox), "runtimeConfig");
    conf["prevResult"]["interfaces"][1]["sandbox"] = netns.into();
    run.call_with(&vars, &without(&conf, "prevResult")).await?.is_silent()?;
    vars.insert("CNI_COMMAND", "ADD".to_owned());
    run.call_with(&vars, &conf).await?.passes_on(&conf["prevResult"])?;
    let pod = run.pod_of(&sandbox.cgroup)?.context("the process's cgroup is not governed")?;
    ensure!(pod["namespace"] == "default" && pod["name"] == sandbox.id.as_str(), "shown as {pod}");
    run.governed(&sandbox).await?;
    // A container in the cgroup of whoever calls has none of its own; one that has no process has none at all.
    let mut other = vars.clone();
    other.insert("CNI_NETNS", format!("/proc/{}/ns/net", std::process::id()));
    run.call_with(&other, &conf).await?.fails(101, &["of the pod's own"])?;
    other.insert("CNI_NETNS", "/proc/4294967295/ns/net".to_owned());
    run.call_with(&other, &conf).await?.fails(100, &["/proc/4294967295/cgroup"])?;
    process.kill().await?;
    // The process is gone, and with it the path to its namespace.
    vars.insert("CNI_COMMAND", "DEL".to_owned());
    run.call_with(&vars, &conf).await?.is_silent()?;
    run.not_shown(&sandbox)?;
    sandbox.remove()
}

async fn static_pod(run: &Run<'_>) -> Result<()> {
    const HASH: &str = "d41d8cd98f00b204e9800998ecf8427e";
    let place = format!("kubepods/burstable/pod{HASH}");
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    let by_hash = with(&conf, &json!({"runtimeConfig": null}));
    finds(run, &sandbox, HASH, &by_hash, &place).await.context("the runtime says the hash")?;
    // The mirror pod's UID at the API leads to no cgroup.
    let by_path = with(&conf, &json!({"runtimeConfig": {"cgroupPath": format!("/{place}")}}));
    let api = "11111111-2222-4333-8444-555555555555";
    finds(run, &sandbox, api, &by_path, &place).await.context("the runtime says the API's UID")?;
    sandbox.remove()
}
