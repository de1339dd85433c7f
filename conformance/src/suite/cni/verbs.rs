//! CHECK, GC, STATUS, VERSION, and no verb at all.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::plugin::{self, Answer, Vars, vars_of_none};
use super::sandbox::Sandbox;
use super::{Run, VERSIONS, del, with};

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let found = check(run, version).await;
        run.clause(&format!("CHECK: passes right after ADD, as CRI-O calls it ({version})"), found);
    }
    let found = check_later(run).await;
    run.clause("CHECK: passes when later plugins have changed the result", found);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let found = gc(run, key).await;
        run.clause(&format!("GC: keeps the listed and forgets the others of its network ({key})"), found);
    }
    let found = gc_without_list(run).await;
    run.clause("GC: a missing list is not an empty one", found);
    let found = gc_goes_on(run).await;
    run.clause("GC: goes on past errors, and tells the first (code 103)", found);
    let found = gc_of_nonsense(run).await;
    run.clause("GC: a list that cannot be read forgets nothing (code 7)", found);
    let found = status(run).await;
    run.clause("STATUS: OK without container id, netns and ifname", found);
    let found = version(run).await;
    run.clause("VERSION: echoes cniVersion and lists supportedVersions", found);
    let found = about(run).await;
    run.clause("without CNI_COMMAND: an about line on stderr, exit status 0", found);
    Ok(())
}

async fn check(run: &Run<'_>, version: &str) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf(version, &sandbox);
    let previous = run.call("ADD", &sandbox, &conf).await?.document()?;
    run.call("CHECK", &sandbox, &with(&conf, &json!({"prevResult": previous}))).await?.is_silent()?;
    run.del(sandbox).await
}

async fn check_later(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    run.add(&sandbox).await?;
    let mut conf = run.conf("1.0.0", &sandbox);
    conf["prevResult"]["interfaces"] = json!([{"name": "other"}]);
    conf["prevResult"]["ips"] = Value::Null;
    run.call("CHECK", &sandbox, &conf).await?.is_silent()?;
    run.del(sandbox).await
}

/// A list as runtimes write it.
fn list(sandboxes: &[&Sandbox]) -> Value {
    sandboxes.iter().map(|sandbox| json!({"containerID": sandbox.id, "ifname": "eth0"})).collect()
}

async fn collect(run: &Run<'_>, any: &Sandbox, fields: &Value) -> Result<Answer> {
    run.call_with(&vars_of_none("GC"), &with(&run.conf("1.1.0", any), fields)).await
}

async fn gc(run: &Run<'_>, key: &str) -> Result<()> {
    let sandboxes = run.sandboxes(3)?;
    let [keep, forget, other] = &sandboxes[..] else { return Ok(()) };
    run.add(keep).await?;
    run.add(forget).await?;
    let elsewhere = with(&run.conf("1.0.0", other), &json!({"name": "elsewhere"}));
    run.call("ADD", other, &elsewhere).await?.passes_on(&elsewhere["prevResult"])?;
    collect(run, keep, &json!({key: list(&[keep])})).await?.is_silent()?;
    run.governed(keep).await?;
    run.not_shown(forget)?;
    run.shown(other, &other.ips).context("a pod of another network")?;
    collect(run, keep, &json!({key: []})).await?.is_silent()?;
    run.not_shown(keep).context("of an empty list")?;
    run.shown(other, &other.ips).context("a pod of another network")?;
    del::all(run, sandboxes).await
}

async fn gc_without_list(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    run.add(&sandbox).await?;
    collect(run, &sandbox, &json!({})).await?.is_silent()?;
    collect(run, &sandbox, &json!({"cni.dev/valid-attachments": null})).await?.is_silent()?;
    run.governed(&sandbox).await?;
    run.del(sandbox).await
}

/// The agent cannot write the record of the pod that it looks at first.
async fn gc_goes_on(run: &Run<'_>) -> Result<()> {
    let mut sandboxes = run.sandboxes(2)?;
    let mut ids = Vec::new();
    for sandbox in &sandboxes {
        run.add(sandbox).await?;
        ids.push(fs::metadata(&sandbox.cgroup)?.ino());
    }
    if ids[0] > ids[1] {
        sandboxes.swap(0, 1);
        ids.swap(0, 1);
    }
    let blocked = run.rig.agent_directories().run.join(format!("endpoints/{}.tmp", ids[0]));
    fs::create_dir(&blocked)?;
    let answer = collect(run, &sandboxes[0], &json!({"cni.dev/valid-attachments": []})).await;
    fs::remove_dir(&blocked)?;
    answer?.fails(103, &["endpoints"])?;
    run.not_shown(&sandboxes[1])?;
    del::all(run, sandboxes).await
}

async fn gc_of_nonsense(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    run.add(&sandbox).await?;
    for odd in [json!("x"), json!({}), json!([7]), json!([{"containerID": "a"}]), json!([{"ifname": "eth0"}])]
    {
        let fields = json!({"cni.dev/valid-attachments": odd});
        collect(run, &sandbox, &fields)
            .await?
            .fails(7, &["cni.dev/valid-attachments", "nothing was collected"])?;
    }
    run.governed(&sandbox).await?;
    run.del(sandbox).await
}

async fn status(run: &Run<'_>) -> Result<()> {
    let any = run.sandbox()?;
    // No runtime gives STATUS a previous result.
    let conf = super::without(&run.conf("1.1.0", &any), "prevResult");
    run.call_with(&vars_of_none("STATUS"), &conf).await?.is_silent()?;
    let bare = Vars::from([("CNI_COMMAND", "STATUS".to_owned())]);
    run.call_with(&bare, &conf).await?.is_silent()?;
    any.remove()
}

async fn version(run: &Run<'_>) -> Result<()> {
    let vars = vars_of_none("VERSION");
    for version in VERSIONS.into_iter().chain(["0.1.0", "9.9.9"]) {
        let answer = run.call_with(&vars, &json!({"cniVersion": version})).await?;
        answer.passes_on(&json!({"cniVersion": version, "supportedVersions": VERSIONS}))?;
    }
    for odd in [&b""[..], b"{", b"[]", b"{\"cniVersion\": 7}"] {
        let answer = plugin::call(&run.plugin, &vars, odd).await?;
        answer.passes_on(&json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}))?;
    }
    Ok(())
}

async fn about(run: &Run<'_>) -> Result<()> {
    for vars in [Vars::new(), Vars::from([("CNI_COMMAND", String::new())])] {
        let answer = plugin::call(&run.plugin, &vars, b"").await?;
        answer.is_silent()?;
        let is_one_line = answer.stderr.lines().count() == 1;
        ensure!(is_one_line && answer.stderr.contains("sluice-cni"), "{}", answer.shown());
    }
    Ok(())
}
