//! Many requests at once: each is told of, or counted as lost.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::server::HOST;
use super::{NAMESPACE, Run, TICK};
use crate::rig::PodSpec;
use crate::suite::operate::http::samples;

/// Connections at the same time.
pub(super) const CONNECTIONS: u32 = 50;
/// What counts requests that gave no event: before they were read, when they were read, and when they were told.
const LOST: [&str; 4] = [
    "sluice_plaintext_lost_total",
    "sluice_requests_unread_total",
    "sluice_events_over_budget_total",
    "sluice_events_lost_total",
];
/// How long the agent may take to come to its end.
const LIMIT: Duration = Duration::from_mins(1);

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let pod = run.rig.run_pod(&PodSpec::new(NAMESPACE, "load", &[("app", "client")])).await?;
    let made = run.options.load;
    let before = samples().await?;
    let url = format!("https://{HOST}/load");
    let (connections, requests) = (CONNECTIONS.to_string(), made.to_string());
    let command =
        ["/usr/bin/ab", "-q", "-k", "-c", &connections, "-n", &requests, &url].map(str::to_owned).to_vec();
    let begun = Instant::now();
    pod.start(&run.bed.container("load", command)).await?.succeed().await?;
    let took = begun.elapsed().as_secs_f64();
    run.report.note("load: requests a second", (f64::from(made) / took).round(), "");
    let deadline = Instant::now() + LIMIT;
    let (answered, told, lost) = loop {
        let answered = run.bed.server.count("/load")? as u64;
        let told = run.told("/load").len() as u64;
        let now = samples().await?;
        let mut lost = Vec::new();
        for name in LOST {
            lost.push((name, now.growth_of_all(&before, name)?));
        }
        let sum = lost.iter().map(|(_, lost)| lost).sum::<u64>();
        if (answered >= u64::from(made) && told + sum >= answered) || Instant::now() > deadline {
            break (answered, told, lost);
        }
        tokio::time::sleep(TICK * 10).await;
    };
    run.report.equal("load: answered", answered, "requests", made);
    run.report.note("load: told", told, "requests");
    for (name, lost) in &lost {
        run.report.note(&format!("load: {name}"), *lost, "requests");
    }
    let sum = lost.iter().map(|(_, lost)| lost).sum::<u64>();
    run.report.equal("load: told and counted as lost", told + sum, "requests", answered);
    pod.remove().await
}
