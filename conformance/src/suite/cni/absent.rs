//! No agent answers: since boot, or for a while. What the plugin leaves in the spool is carried out when one is back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;

use super::plugin::vars_of_none;
use super::sandbox::Sandbox;
use super::{EXEMPT, NAMESPACE, Run, denied, spec, with};

/// The node has just booted: nothing of Sluice is in `/run`. Starts the agent for the first time.
pub(super) async fn since_boot(run: &mut Run<'_>) -> Result<()> {
    let status = run.call_with(&vars_of_none("STATUS"), &run.conf("1.1.0", &run.sandbox()?)).await;
    let found = status.and_then(|status| status.fails(50, &["has not been ready since boot"]));
    run.clause("STATUS: code 50 until the agent has been ready once since boot", found);
    let found = refused(run).await;
    run.clause("ADD: code 11 while no agent answers, and the error says what to look at", found);

    let own = run.rig.run_pod(&spec(EXEMPT, "own-agent")).await;
    let found = own.as_ref().map(|_| ()).map_err(|error| anyhow::anyhow!("{error:#}"));
    run.clause("istio/istio#60668 plugin blocks its own agent after reboot: an exempt pod starts", found);
    let moved = moved(run).await;
    let planted = plant(run);
    let found = private(run);
    run.clause("spool: for root only", found);

    run.agent = Some(run.rig.start_agent(&[]).await?);
    if let Ok(own) = own {
        let shown = run.pod_of(own.cgroup())?.context("`sluice status` does not show the pod");
        let found = match shown {
            Ok(_) => denied(&own).await,
            Err(error) => Err(error),
        };
        run.clause("spool: an exempt pod is governed as soon as the agent is back", found);
        own.remove().await?;
    }
    let found = planted.and_then(|count| set_aside(run, count, moved.as_ref().map(|sandbox| &*sandbox.id)));
    run.clause("spool: what is no request of the plugin's is set aside, with an error in the log", found);
    let found =
        moved.as_ref().map_err(|error| anyhow::anyhow!("{error:#}")).and_then(|pod| run.not_shown(pod));
    run.clause("spool: the pod's cgroup is verified anew: one made again under its name is another", found);
    Ok(())
}

async fn refused(run: &Run<'_>) -> Result<()> {
    let sandbox = run.sandbox()?;
    let conf = run.conf("1.0.0", &sandbox);
    run.call("ADD", &sandbox, &conf).await?.fails(11, &["no agent listens on", "cni.sock", "running?"])
}

/// A pod that was let through, and whose cgroup is another by the time that the agent is there.
async fn moved(run: &Run<'_>) -> Result<Sandbox> {
    let sandbox = run.sandbox()?;
    let conf = with(&run.conf("1.0.0", &sandbox), &json!({"failurePolicy": "Ignore"}));
    run.call("ADD", &sandbox, &conf).await?.passes_on(&conf["prevResult"])?;
    fs::remove_dir(&sandbox.cgroup)?;
    // The next directory would have the next number anyway; another one in between makes sure of it.
    fs::create_dir(sandbox.cgroup.with_extension("other"))?;
    fs::create_dir(&sandbox.cgroup)?;
    Ok(sandbox)
}

/// Puts into the spool what does not belong there; how many.
fn plant(run: &Run<'_>) -> Result<usize> {
    let spool = run.rig.agent_directories().run.join("spool");
    let del = json!({"version": 1, "call": {"del": {"containerId": "a", "ifname": "eth0"}}}).to_string();
    let texts = [
        ("garbage:eth0.json", "\0{".to_owned()),
        ("empty:eth0.json", String::new()),
        ("deep:eth0.json", "[".repeat(60_000)),
        ("long:eth0.json", " ".repeat(70_000)),
        ("newer:eth0.json", json!({"version": 99, "call": {"later": 3}}).to_string()),
        ("status:eth0.json", json!({"version": 1, "call": "status"}).to_string()),
        ("b:eth0.json", del),
    ];
    for (name, text) in &texts {
        fs::write(spool.join(name), text)?;
    }
    mkfifo(&spool.join("pipe:eth0.json"), Mode::S_IRWXU)?;
    std::os::unix::fs::symlink("/etc/passwd", spool.join("link:eth0.json"))?;
    fs::create_dir(spool.join("directory:eth0.json"))?;
    Ok(texts.len() + 3)
}

fn private(run: &Run<'_>) -> Result<()> {
    let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o7777);
    let spool = run.rig.agent_directories().run.join("spool");
    ensure!(mode(&spool)? == 0o700, "the directory has mode {:o}", mode(&spool)?);
    let own = run.spooled()?.into_iter().find(|path| path.display().to_string().contains("C0FFEE"));
    let own = own.context("the plugin has spooled nothing")?;
    ensure!(mode(&own)? == 0o600, "the file has mode {:o}", mode(&own)?);
    Ok(())
}

/// All that was planted, and the ADD of the pod that was moved.
fn set_aside(run: &Run<'_>, planted: usize, moved: Result<&str, &anyhow::Error>) -> Result<()> {
    let directories = run.rig.agent_directories();
    run.none_spooled()?;
    let aside = fs::read_dir(directories.run.join("spool/refused"))?.count();
    ensure!(aside == planted + usize::from(moved.is_ok()), "{aside} set aside, {planted} planted");
    let log = fs::read_to_string(&directories.log)?;
    let told = log.lines().filter(|line| line.contains("a spooled request is refused")).count();
    ensure!(told == aside, "{aside} set aside, {told} told of");
    Ok(())
}

/// The agent was there, and is away.
pub(super) async fn later(run: &mut Run<'_>) -> Result<()> {
    let [ignored, exempt, deleted, again, known] =
        <[Sandbox; 5]>::try_from(run.sandboxes(5)?).ok().context("five were asked for")?;
    for sandbox in [&again, &known] {
        run.add(sandbox).await?;
    }
    run.agent_mut()?.kill_hard()?;
    let conf = |sandbox: &Sandbox| with(&run.conf("1.1.0", sandbox), &json!({"failurePolicy": "Ignore"}));
    let [ignore, forget, renew] = [&ignored, &deleted, &again].map(conf);
    let exempted = with(&run.conf("1.1.0", &exempt), &json!({"exemptNamespaces": ["x", NAMESPACE]}));

    let found = async {
        let status = run.call_with(&vars_of_none("STATUS"), &run.conf("1.1.0", &known)).await?;
        status.is_silent()?;
        ensure!(status.stderr.contains("cannot be added now"), "it does not warn: {}", status.shown());
        Ok(())
    };
    let found = found.await;
    run.clause("STATUS: OK while an agent that was ready is away", found);

    let found = async {
        let answer = run.call("ADD", &ignored, &ignore).await?;
        answer.passes_on(&ignore["prevResult"])?;
        ensure!(answer.stderr.contains("starts ungoverned; spooled"), "it does not warn: {}", answer.shown());
        run.call("ADD", &exempt, &exempted).await?.passes_on(&exempted["prevResult"])
    };
    let found = found.await;
    run.clause("ADD: goes through with a warning where failurePolicy or exemptNamespaces say so", found);
    let found = async {
        run.call("CHECK", &ignored, &ignore).await?.is_silent()?;
        run.call("CHECK", &exempt, &exempted).await?.is_silent()
    };
    let found = found.await;
    run.clause("CHECK: passes what ADD let through", found);

    let dels = async {
        run.call("DEL", &known, &run.conf("1.0.0", &known)).await?.is_silent()?;
        // Let through and deleted; deleted and added again, as nerdctl does with every restart.
        run.call("ADD", &deleted, &forget).await?.passes_on(&forget["prevResult"])?;
        run.call("DEL", &deleted, &forget).await?.is_silent()?;
        run.call("DEL", &again, &renew).await?.is_silent()?;
        run.call("ADD", &again, &renew).await?.passes_on(&renew["prevResult"])
    };
    let dels = dels.await;
    run.agent_mut()?.restart().await?;
    let found = dels.and_then(|()| run.not_shown(&known));
    run.clause("cilium/cilium#22067 DEL with the agent down: carried out when it is back", found);
    let found = run.not_shown(&deleted);
    run.clause("spool: a DEL takes the place of the ADD before it", found);
    let found = run.governed(&again).await;
    run.clause("spool: an ADD takes the place of the DEL before it", found);
    let found = async {
        run.governed(&ignored).await?;
        run.governed(&exempt).await
    };
    let found = found.await;
    run.clause("spool: what was let through is governed as soon as the agent is back", found);
    let found = run.none_spooled();
    run.clause("spool: empty when all is carried out", found);
    for sandbox in [ignored, exempt, deleted, again, known] {
        run.del(sandbox).await?;
    }
    Ok(())
}
