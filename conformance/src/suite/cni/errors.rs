//! Errors: on stdout, with a non-zero exit status, by the table of codes. Codes 11 and 50 are with the absent agent.

use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use super::plugin::{self, finish};
use super::{NAMESPACE, Run, VERSIONS, with, without};

/// What is wrong with the configuration: the code, the words of the error, the fields.
type Case = (i32, &'static [&'static str], Value);

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let found = versions(run).await;
    run.clause("errors: code 1 for a cniVersion that is not supported, with those that are", found);
    let found = unknown(run).await;
    run.clause("errors: code 3 for an attachment that is not known", found);
    let found = variables(run).await;
    run.clause("errors: code 4 for a missing or wrong environment variable, by its name", found);
    let found = unreadable(run).await;
    run.clause("errors: code 5 for a stdin that cannot be read, or is too long", found);
    let found = garbage(run).await;
    run.clause("errors: code 6 for a stdin that is no JSON object", found);
    let found = fields(run, &wrong_fields()).await;
    run.clause("errors: code 7 for a wrong field, with its name and what is accepted", found);
    let ordinary = run.rig.place().directory.join("ordinary");
    fs::create_dir_all(&ordinary)?;
    let found = cgroups(run, &ordinary).await;
    run.clause(
        "errors: codes 100 to 102 for a cgroup that is not there, is none, or is not the pod's",
        found,
    );
    let found = same_version(run).await;
    run.clause("errors: carry the configuration's version", found);
    Ok(())
}

async fn versions(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    let words = ["0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"];
    for version in ["0.1.0", "0.2.0", "1.0", "1.2.0", "2.0.0", "", "latest"] {
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            let conf = with(&conf, &json!({"cniVersion": version}));
            run.call(verb, &sandbox, &conf).await?.fails(1, &words)?;
        }
    }
    run.call("ADD", &sandbox, &without(&conf, "cniVersion")).await?.fails(1, &words)?;
    for (verb, version, since) in [
        ("CHECK", "0.3.0", "0.4.0"),
        ("CHECK", "0.3.1", "0.4.0"),
        ("GC", "1.0.0", "1.1.0"),
        ("STATUS", "1.0.0", "1.1.0"),
    ] {
        let conf = run.conf(version, &sandbox);
        run.call(verb, &sandbox, &conf).await?.fails(1, &[verb, since])?;
    }
    sandbox.remove()
}

async fn unknown(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let words = [&*sandbox.id, "eth0", "is not governed here"];
    run.call("CHECK", &sandbox, &run.conf("1.0.0", &sandbox)).await?.fails(3, &words)?;
    sandbox.remove()
}

async fn variables(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for verb in ["ADD", "CHECK"] {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            let mut vars = plugin::vars(verb, &sandbox);
            vars.insert(name, String::new());
            run.call_with(&vars, &conf).await?.fails(4, &[name, "is missing"])?;
            vars.remove(name);
            run.call_with(&vars, &conf).await?.fails(4, &[name, "is missing"])?;
        }
    }
    for (name, value) in [
        ("CNI_CONTAINERID", "../../etc"),
        ("CNI_CONTAINERID", "-a"),
        ("CNI_IFNAME", "a/b"),
        ("CNI_IFNAME", "sixteen-letters-"),
        ("CNI_COMMAND", "PATCH"),
        ("CNI_COMMAND", "add"),
    ] {
        let mut vars = plugin::vars("ADD", &sandbox);
        vars.insert(name, value.to_owned());
        run.call_with(&vars, &conf).await?.fails(4, &[name, value])?;
    }
    run.not_shown(&sandbox)?;
    sandbox.remove()
}

async fn unreadable(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let mut command = Command::new(&run.plugin);
    command.envs(plugin::vars("ADD", &sandbox)).stdin(Stdio::from(File::open("/")?));
    finish(command, b"").await?.fails(5, &["could not be read from stdin"])?;
    let conf = run.conf("1.0.0", &sandbox).to_string();
    let long = conf.clone() + &" ".repeat((4 << 20) + 1 - conf.len());
    let answer = plugin::call(&run.plugin, &plugin::vars("ADD", &sandbox), long.as_bytes()).await?;
    answer.fails(5, &["longer than 4194304 bytes"])?;
    sandbox.remove()
}

async fn garbage(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    for odd in [
        &b""[..],
        b"{",
        b"nonsense",
        b"[]",
        b"null",
        b"{}{}",
        b"{\"a\":\"\xff\"}",
        b"\xef\xbb\xbf{}",
        deep.as_bytes(),
    ] {
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            plugin::call(&run.plugin, &plugin::vars(verb, &sandbox), odd).await?.fails(6, &["stdin"])?;
        }
    }
    sandbox.remove()
}

fn wrong_fields() -> Vec<Case> {
    let long = format!("/{}", "x".repeat(110));
    let annotations = |text: &str| json!({"runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"sluice.dev/labels": text}}});
    vec![
        (7, &["failurePolicy", "\"Fail\" or \"Ignore\""], json!({"failurePolicy": "fail"})),
        (7, &["exemptNamespaces", "list of namespaces"], json!({"exemptNamespaces": "kube-system"})),
        (7, &["exemptNamespaces", "list of namespaces"], json!({"exemptNamespaces": ["a", 1]})),
        (7, &["socket", "absolute path"], json!({"socket": "run/cni.sock"})),
        (7, &["socket", "absolute path"], json!({"socket": "/a\0b"})),
        (7, &["socket", "107 bytes"], json!({"socket": long})),
        (7, &["cgroupRoot", "absolute path"], json!({"cgroupRoot": "sys"})),
        (7, &["stateDir", "absolute path"], json!({"stateDir": {}})),
        (7, &["name", "conflist"], json!({"name": ""})),
        (7, &["prevResult", "a result object"], json!({"prevResult": []})),
        (7, &["sluice.dev/labels", "is not key=value"], annotations("app")),
        (7, &["sluice.dev/labels", "twice"], annotations("a=1,a=2")),
        // Nothing lets a pod run of which it is not known who it is.
        (7, &["sluice.dev/labels"], {
            with(&annotations("app"), &json!({"failurePolicy": "Ignore", "exemptNamespaces": [NAMESPACE]}))
        }),
    ]
}

async fn fields(run: &Run<'_>, cases: &[Case]) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for (code, words, fields) in cases {
        run.call("ADD", &sandbox, &with(&conf, fields)).await?.fails(*code, words)?;
    }
    run.not_shown(&sandbox)?;
    sandbox.remove()
}

async fn cgroups(run: &Run<'_>, ordinary: &Path) -> Result<()> {
    let declared = |path: &str| json!({"runtimeConfig": {"cgroupPath": path}});
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    // Without the capability it would be found by its UID.
    let mut vars = plugin::vars("ADD", &sandbox);
    vars.insert(
        "CNI_ARGS",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=cni;K8S_POD_NAME=x;K8S_POD_UID=gone".to_owned(),
    );
    let cases: [Case; 7] = [
        (100, &["podx", "podgone", "kubelet.slice", "cgroupRoot"], declared("/kubepods/podx")),
        (100, &["podgone"], declared("/")),
        (100, &["podgone"], declared("/../..")),
        (100, &["podgone"], declared("kubepods/..")),
        (101, &["is not on cgroup2"], json!({"cgroupRoot": ordinary})),
        (101, &["/none", "cannot be read", "cgroupRoot"], json!({"cgroupRoot": "/none"})),
        (102, &["is not below the cgroup root", "set cgroupRoot"], {
            let root = run.rig.place().cgroup_path.clone();
            json!({"cgroupRoot": crate::rig::isolate::CGROUP_MOUNT, "runtimeConfig": {"cgroupPath": root}})
        }),
    ];
    for (code, words, fields) in &cases {
        run.call_with(&vars, &with(&conf, fields)).await?.fails(*code, words)?;
    }
    let lenient = |field: &Value| with(&with(&conf, &declared("/kubepods/podx")), field);
    let ignore = lenient(&json!({"failurePolicy": "Ignore"}));
    run.call_with(&vars, &ignore).await?.fails(100, &["podx"])?;
    let exempt = lenient(&json!({"exemptNamespaces": [NAMESPACE]}));
    run.call_with(&vars, &exempt).await?.passes_on(&conf["prevResult"])?;

    run.add(&sandbox).await?;
    for nested in [json!({"cgroupPath": "/kubepods/burstable"}), json!({"cgroupPath": "/kubepods"})] {
        let conf = with(&conf, &json!({"runtimeConfig": nested}));
        run.call_with(&vars, &conf).await?.fails(102, &["lie one in the other", &sandbox.name])?;
    }
    ensure!(run.pod_of(&sandbox.cgroup)?.is_some(), "the pod that was there is gone");
    run.del(sandbox).await
}

async fn same_version(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    for version in VERSIONS {
        let conf = without(&run.conf(version, &sandbox), "prevResult");
        let answer = run.call("ADD", &sandbox, &conf).await?;
        answer.fails(7, &["prevResult"])?;
        let stated = answer.document()?["cniVersion"].clone();
        ensure!(stated == version, "{version} is answered with {stated}");
    }
    sandbox.remove()
}
