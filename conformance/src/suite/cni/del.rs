//! DEL: in the chain it runs first, and an error of it would keep the plugins before it from freeing what they hold.

use std::fs;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::plugin;
use super::sandbox::Sandbox;
use super::{Run, VERSIONS, with, without};

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let found = repeated(run).await;
    run.clause("DEL: succeeds when repeated, in every version", found);
    let found = unknown(run).await;
    run.clause("DEL: succeeds without an ADD before", found);
    let found = netns(run).await;
    run.clause("DEL: succeeds with an empty NETNS, and with none", found);
    let found = without_result(run).await;
    run.clause("DEL: succeeds without prevResult", found);
    let found = nonsense(run).await;
    run.clause("DEL: never fails, whatever the configuration, the variables and the agent say", found);
    let found = uninstalled(run).await;
    run.clause("istio/istio.io#16748 uninstall leaves an entry, pods stuck Terminating: DEL succeeds", found);
    Ok(())
}

async fn repeated(run: &Run<'_>) -> Result<()> {
    for version in VERSIONS {
        let sandbox = run.sandbox()?;
        let conf = run.conf(version, &sandbox);
        run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
        for _ in 0..3 {
            run.call("DEL", &sandbox, &conf).await?.is_silent()?;
            run.not_shown(&sandbox)?;
        }
        sandbox.remove()?;
    }
    run.none_spooled()
}

async fn unknown(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    for version in VERSIONS {
        run.call("DEL", &sandbox, &run.conf(version, &sandbox)).await?.is_silent()?;
    }
    sandbox.remove()?;
    run.none_spooled()
}

async fn netns(run: &Run<'_>) -> Result<()> {
    for value in [Some(String::new()), None] {
        let sandbox = run.sandbox()?;
        run.add(&sandbox).await?;
        let mut vars = plugin::vars("DEL", &sandbox);
        vars.remove("CNI_NETNS");
        vars.extend(value.map(|value| ("CNI_NETNS", value)));
        run.call_with(&vars, &run.conf("1.0.0", &sandbox)).await?.is_silent()?;
        run.not_shown(&sandbox)?;
        sandbox.remove()?;
    }
    Ok(())
}

async fn without_result(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    run.add(&sandbox).await?;
    let conf = without(&run.conf("0.3.1", &sandbox), "prevResult");
    run.call("DEL", &sandbox, &conf).await?.is_silent()?;
    run.not_shown(&sandbox)?;
    sandbox.remove()
}

async fn nonsense(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    for odd in [
        json!({"cniVersion": "0.1.0"}),
        json!({"cniVersion": "9.9.9"}),
        json!({"cniVersion": []}),
        json!({"name": null, "prevResult": 1, "runtimeConfig": false}),
        json!({"socket": 7}),
        json!({"socket": format!("/{}", "x".repeat(200))}),
        json!({"failurePolicy": "fail", "exemptNamespaces": "x", "cgroupRoot": []}),
        json!({"socket": "/nowhere", "stateDir": "/proc/none"}),
    ] {
        let answer = run.call("DEL", &sandbox, &with(&conf, &odd)).await?;
        answer.is_silent().with_context(|| odd.to_string())?;
    }
    for odd in [&b""[..], b"{", b"\0", b"[]"] {
        plugin::call(&run.plugin, &plugin::vars("DEL", &sandbox), odd).await?.is_silent()?;
    }
    for name in ["CNI_CONTAINERID", "CNI_IFNAME"] {
        for value in [None, Some(""), Some("a/b")] {
            let mut vars = plugin::vars("DEL", &sandbox);
            vars.remove(name);
            vars.extend(value.map(|value| (name, value.to_owned())));
            let answer = run.call_with(&vars, &conf).await?;
            answer.is_silent()?;
            ensure!(answer.stderr.contains(name), "stderr does not name {name}: {}", answer.shown());
        }
    }
    sandbox.remove()
}

/// Nothing of Sluice is there but the plugin's binary: no agent, no directory, no program.
async fn uninstalled(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let gone = run.rig.place().directory.join("uninstalled");
    let conf = with(
        &run.conf("1.0.0", &sandbox),
        &json!({"socket": gone.join("cni.sock"), "stateDir": gone, "cgroupRoot": gone}),
    );
    for _ in 0..2 {
        run.call("DEL", &sandbox, &conf).await?.is_silent()?;
    }
    fs::remove_dir_all(&gone).context("the spool that the plugin made")?;
    sandbox.remove()
}

/// Ends pods, one after the other.
pub(super) async fn all(run: &Run<'_>, sandboxes: Vec<Sandbox>) -> Result<()> {
    for sandbox in sandboxes {
        run.del(sandbox).await?;
    }
    Ok(())
}
