//! An agent that takes connections and never answers.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{ListPodSandboxRequest, StatusRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::plugin::{Answer, vars_of_none};
use super::sandbox::Sandbox;
use super::{NAMESPACE, Run, spec, with};
use crate::rig::Rig;

/// How long containerd may take to say how it is: its own work takes milliseconds.
const STATUS_LIMIT: Duration = Duration::from_secs(4);

/// Stops the agent, or lets it go on.
pub(super) fn signal(run: &Run<'_>, signal: Signal) -> Result<()> {
    let pid = run.agent()?.pid().context("the agent runs")?;
    Ok(kill(Pid::from_raw(pid.cast_signed()), signal)?)
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let [failed, ignored, known] =
        <[Sandbox; 3]>::try_from(run.sandboxes(3)?).ok().context("three were asked for")?;
    run.add(&known).await?;
    let conf = run.conf("1.1.0", &failed);
    let ignore = with(&run.conf("1.1.0", &ignored), &json!({"failurePolicy": "Ignore"}));
    let own = run.conf("1.1.0", &known);
    let list = with(&own, &json!({"cni.dev/valid-attachments": []}));
    let newcomer = spec(NAMESPACE, "newcomer");
    let poller = vars_of_none("STATUS");
    let collector = vars_of_none("GC");

    signal(run, Signal::SIGSTOP)?;
    let (add, lenient, check, del, gc, status, pod, node) = tokio::join!(
        run.call("ADD", &failed, &conf),
        run.call("ADD", &ignored, &ignore),
        run.call("CHECK", &known, &own),
        run.call("DEL", &known, &own),
        run.call_with(&collector, &list),
        run.call_with(&poller, &own),
        run.rig.run_pod(&newcomer),
        answers(run.rig),
    );
    signal(run, Signal::SIGCONT)?;

    for (verb, answer) in [("ADD", &add), ("CHECK", &check), ("DEL", &del), ("GC", &gc), ("STATUS", &status)]
    {
        let took = answer.as_ref().map_or(0, |answer| answer.took.as_millis() as u64);
        run.report.note(&format!("{verb} beside a hung agent"), took, "ms");
    }
    let fails = |answer: Result<Answer>, late| answer.and_then(|answer| answer.fails(11, &[late]));
    let found = fails(add, "did not answer within 5s");
    run.clause("deadlines: ADD fails with code 11 within 5 s of a hung agent", found);
    let late = "did not answer within 2s";
    run.clause(
        "deadlines: CHECK and GC fail with code 11 within 2 s",
        fails(check, late).and(fails(gc, late)),
    );
    let found = del.and_then(|answer| answer.is_silent());
    run.clause("deadlines: DEL succeeds within 2 s", found);
    let found = status.and_then(|answer| answer.is_silent());
    run.clause("deadlines: STATUS answers within 1 s, and does not take the node away", found);
    let found = lenient.and_then(|answer| answer.passes_on(&ignore["prevResult"]));
    run.clause("deadlines: ADD goes through after 5 s with failurePolicy Ignore", found);

    let found = async {
        let error = match pod {
            Ok(pod) => {
                pod.remove().await?;
                "the pod was started".to_owned()
            }
            Err(error) => format!("{error:#}"),
        };
        ensure!(error.contains("did not answer within"), "{error}");
        node?;
        let pod = run.rig.run_pod(&newcomer).await.context("a pod, once the agent goes on")?;
        super::denied(&pod).await?;
        pod.remove().await
    };
    let found = found.await;
    run.clause(
        "containerd/containerd#4666 hung plugin, node NotReady: containerd goes on, and starts pods after",
        found,
    );

    let found = run.until("the spool to be empty", || Ok(run.spooled()?.is_empty())).await;
    run.clause("spool: read while the agent runs", found);
    let found = run.governed(&ignored).await;
    run.clause("spool: a pod that passed a hung agent is governed when it goes on", found);
    let found = run.not_shown(&failed).and_then(|()| run.not_shown(&known));
    run.clause(
        "a request whose sender has given up is not carried out: an ADD that failed governs nothing",
        found,
    );
    for sandbox in [failed, ignored, known] {
        run.del(sandbox).await?;
    }
    Ok(())
}

/// Asks containerd how it is, for as long as the plugin hangs.
async fn answers(rig: &Rig) -> Result<()> {
    for _ in 0..4 {
        let asked = async {
            let status = rig.cri().status(StatusRequest { verbose: false }).await?.into_inner().status;
            let conditions = status.unwrap_or_default().conditions;
            ensure!(conditions.iter().all(|condition| condition.status), "containerd says {conditions:?}");
            rig.cri().list_pod_sandbox(ListPodSandboxRequest { filter: None }).await?;
            Ok(())
        };
        tokio::time::timeout(STATUS_LIMIT, asked).await.context("containerd does not answer")??;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
