//! `sluice detach` leaves the machine as it was.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::report::Report;
use crate::rig::{Agent, KernelObjects, Rig, Snapshot};

/// How long the kernel may take to free what nobody holds any more, and the runtime to end what belonged to pods. Neither tells
/// when it has.
const ASYNCHRONOUS: Duration = Duration::from_secs(20);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// Stops the agent, takes Sluice out, and looks for what is left of it. `before` was taken before the agent first started; the
/// pods are gone.
pub(in crate::suite) async fn check(
    report: &mut Report,
    rig: &Rig,
    mut agent: Agent,
    before: &Snapshot,
) -> Result<()> {
    let objects = agent.kernel_objects()?;
    agent.terminate().await?;
    tokio::task::block_in_place(|| agent.detach())?;
    gone(report, &objects, "").await?;
    as_before(report, rig, before, "").await
}

/// Nothing of these is in the kernel any more.
pub(in crate::suite) async fn gone(report: &mut Report, objects: &KernelObjects, when: &str) -> Result<()> {
    report.some(
        &format!("detach{when}: objects in the kernel before"),
        objects.count() as u64,
        &objects.to_string(),
    );
    let left = objects.left(ASYNCHRONOUS).await?;
    report.equal(&format!("detach{when}: objects in the kernel after"), left, "", Vec::<String>::new());
    Ok(())
}

/// The machine is as it was.
pub(in crate::suite) async fn as_before(
    report: &mut Report,
    rig: &Rig,
    before: &Snapshot,
    when: &str,
) -> Result<()> {
    let deadline = Instant::now() + ASYNCHRONOUS;
    let changed = loop {
        let changed = tokio::task::block_in_place(|| rig.snapshot())?.since(before);
        if changed.is_empty() || Instant::now() > deadline {
            break changed;
        }
        tokio::time::sleep(TICK).await;
    };
    report.equal(&format!("detach{when}: what is not as it was"), changed, "", Vec::<String>::new());
    Ok(())
}
