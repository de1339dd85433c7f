//! Many requests at once: each is told of, or counted as lost.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::server::HOST;
use super::{NAMESPACE, Run, TICK};
use crate::rig::PodSpec;
use crate::suite::operate::http::samples;

/// Connections at the same time.
pub(super) const CONNECTIONS: u32 = 50;
/// Counts what the agent lost.
const LOST: &str = "sluice_events_lost_total";
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
        let answered = run.bed.server.count("/load")?;
        let told = run.told("/load").len();
        let lost = usize::try_from(samples().await?.growth_of_all(&before, LOST)?)?;
        if (answered >= made as usize && told + lost >= answered) || Instant::now() > deadline {
            break (answered, told, lost);
        }
        tokio::time::sleep(TICK * 10).await;
    };
    run.report.equal("load: answered", answered, "requests", made);
    run.report.note("load: told", told, "requests");
    run.report.note("load: counted as lost", lost, "requests");
    run.report.equal("load: told and lost", told + lost, "requests", answered);
    pod.remove().await
}
