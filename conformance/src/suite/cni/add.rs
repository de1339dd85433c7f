//! ADD.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::plugin::{self, call};
use super::sandbox::Sandbox;
use super::{Run, VERSIONS, denied, spec, with, without};
use crate::rig::net::DESTINATIONS;

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    for version in VERSIONS {
        let found = passes_on(run, version).await;
        run.clause(
            &format!("ADD: stdout is exactly one JSON document equal to prevResult ({version})"),
            found,
        );
    }
    let found = answers_in_the_version(run).await;
    run.clause(
        "istio/istio#32137 forced cniVersion breaks the primary: answers in the configuration's",
        found,
    );
    let found = governs(run).await;
    run.clause(
        "aws/aws-network-policy-agent#83 first packets precede policy: denied as soon as ADD returns",
        found,
    );
    let found = governs_containers(run).await;
    run.clause("ADD: containerd starts no process of the pod before it has returned", found);
    let found = without_prev_result(run).await;
    run.clause("ADD: code 7 without prevResult, and the error says where to list the plugin", found);
    let found = odd_fields(run).await;
    run.clause("ADD: unknown keys, args null, an SCTP port mapping are left alone", found);
    let found = ids(run).await;
    run.clause("ADD: container ids of every form that the specification allows", found);
    let found = huge(run).await;
    run.clause("ADD: a prevResult of a megabyte is passed on whole", found);
    let found = twice(run).await;
    run.clause("istio/istio#27771 entry doubled: two entries in a chain do what one does", found);
    let found = interfaces(run).await;
    run.clause("ADD: attachments are keyed by container id and interface, each deleted by itself", found);
    let found = addresses(run).await;
    run.clause("ADD: the pod's addresses are those of interfaces in its namespace, or of none", found);
    Ok(())
}

async fn passes_on(run: &Run<'_>, version: &str) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf(version, &sandbox);
    run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
    run.shown(&sandbox, &sandbox.ips)?;
    run.del(sandbox).await
}

async fn answers_in_the_version(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    for version in VERSIONS {
        let mut conf = run.conf(version, &sandbox);
        conf["prevResult"]["cniVersion"] = "0.3.1".into();
        let document = run.call("ADD", &sandbox, &conf).await?.document()?;
        ensure!(document["cniVersion"] == version, "{version} is answered with {}", document["cniVersion"]);
    }
    run.del(sandbox).await
}

async fn governs(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let before = sandbox.connect(&run.probe, DESTINATIONS.forbidden[0]).await?;
    ensure!(before == "connected", "the control, before ADD, comes to {before}");
    run.add(&sandbox).await?;
    run.governed(&sandbox).await?;
    run.del(sandbox).await
}

async fn governs_containers(run: &Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&spec(super::NAMESPACE, "first")).await?;
    denied(&pod).await?;
    pod.remove().await
}

async fn without_prev_result(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for none in [without(&conf, "prevResult"), with(&conf, &json!({"prevResult": null}))] {
        let words = ["prevResult is missing", "list it after the plugin that does"];
        run.call("ADD", &sandbox, &none).await?.fails(7, &words)?;
    }
    run.not_shown(&sandbox)
}

async fn odd_fields(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("0.3.1", &sandbox);
    for odd in [
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "sctp"}]}}),
        json!({"args": null, "dns": null, "ipam": null, "runtimeConfig": null, "capabilities": null}),
        json!({"args": 1, "dns": [], "ipam": "x", "type": 5, "ipMasq": "yes", "disableCheck": "true"}),
        json!({"runtimeConfig": {"mac": "00", "bandwidth": {"ingressRate": -1}, "cgroupPath": 7, "ips": "x"}}),
        json!({"socketx": 1, "log_level": "debug", "kubernetes": {"kubeconfig": "/x"}}),
        json!({"failurePolicy": null, "exemptNamespaces": null, "cni.dev/valid-attachments": 3}),
    ] {
        let conf = with(&conf, &odd);
        let answer = run.call("ADD", &sandbox, &conf).await?;
        answer.passes_on(&conf["prevResult"]).with_context(|| odd.to_string())?;
        run.shown(&sandbox, &sandbox.ips)?;
    }
    run.del(sandbox).await
}

async fn ids(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for id in ["C0FFEE", "a", "0.a_B-c"] {
        let mut vars = plugin::vars("ADD", &sandbox);
        vars.insert("CNI_CONTAINERID", id.to_owned());
        run.call_with(&vars, &conf).await?.passes_on(&conf["prevResult"])?;
        vars.insert("CNI_COMMAND", "CHECK".to_owned());
        run.call_with(&vars, &conf).await?.is_silent()?;
        vars.insert("CNI_COMMAND", "DEL".to_owned());
        run.call_with(&vars, &conf).await?.is_silent()?;
        run.not_shown(&sandbox)?;
    }
    sandbox.remove()
}

async fn huge(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let mut conf = run.conf("1.0.0", &sandbox);
    let route =
        |number: u32| json!({"dst": format!("10.{}.{}.0/24", number / 250, number % 250), "mtu": 1400});
    conf["prevResult"]["routes"] = (0..30_000).map(route).collect();
    ensure!(conf.to_string().len() > 1 << 20, "it is shorter than a megabyte");
    run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
    run.governed(&sandbox).await?;
    run.del(sandbox).await
}

async fn twice(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    let first = run.call("ADD", &sandbox, &conf).await?.document()?;
    let before = run.pod_of(&sandbox.cgroup)?;
    let second = with(&conf, &json!({"prevResult": first}));
    run.call("ADD", &sandbox, &second).await?.passes_on(&first)?;
    ensure!(run.pod_of(&sandbox.cgroup)? == before, "the pod is shown otherwise");
    run.governed(&sandbox).await?;
    run.call("DEL", &sandbox, &conf).await?.is_silent()?;
    run.del(sandbox).await
}

/// As with multus: every network of a pod has a chain of its own.
async fn interfaces(run: &Run<'_>) -> Result<()> {
    let [one, other] = <[Sandbox; 2]>::try_from(run.sandboxes(2)?).ok().context("two were asked for")?;
    // The second pod's link stands for the first pod's second interface.
    let first = run.conf("1.0.0", &one);
    let mut second = with(&first, &json!({"name": "net1", "prevResult": other.result("1.0.0")}));
    second["prevResult"]["interfaces"][1] = json!({"name": "net1", "sandbox": one.netns});
    let mut vars = plugin::vars("ADD", &one);
    run.call_with(&vars, &first).await?.passes_on(&first["prevResult"])?;
    vars.insert("CNI_IFNAME", "net1".to_owned());
    run.call_with(&vars, &second).await?.passes_on(&second["prevResult"])?;
    let all = [one.ips, other.ips].concat();
    run.shown(&one, &all)?;
    vars.insert("CNI_COMMAND", "DEL".to_owned());
    run.call_with(&vars, &second).await?.is_silent()?;
    run.governed(&one).await?;
    run.call("DEL", &one, &first).await?.is_silent()?;
    run.not_shown(&one)?;
    one.remove()?;
    other.remove()
}

async fn addresses(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let mut conf = run.conf("1.0.0", &sandbox);
    let [ip4, ip6] = sandbox.ips;
    conf["prevResult"]["ips"] = json!([
        {"address": "10.89.254.1/24", "interface": 0},
        {"address": format!("{ip4}/24"), "interface": 1},
        {"address": format!("{ip6}/64")},
        {"address": "10.89.254.3/24", "interface": 7},
    ]);
    let answer = call(&run.plugin, &plugin::vars("ADD", &sandbox), conf.to_string().as_bytes()).await?;
    answer.passes_on(&conf["prevResult"])?;
    run.shown(&sandbox, &sandbox.ips)?;
    conf["prevResult"]["ips"] = Value::Array(Vec::new());
    let other = run.sandbox()?;
    let none = with(&run.conf("1.0.0", &other), &json!({"prevResult": conf["prevResult"]}));
    run.call("ADD", &other, &none).await?.fails(102, &["no address of the pod", "must come after"])?;
    other.remove()?;
    run.del(sandbox).await
}
