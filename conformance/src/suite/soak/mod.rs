//! I2 of the design: no gap in life. Twenty pods send without a pause, to where they may and to where they may not, in every way
//! that they have, while the agent is killed, stopped, exchanged for another build and back, policies are edited, pods and
//! containers come and go. Nothing leaks, nothing that is allowed is lost, and in the end nothing of Sluice is left.
//!
//! The run has a rough part, a calm one in which one agent lives long enough for its memory to be looked at, and an end: all is
//! counted, Sluice is detached from under pods that still send, and detached again when they are gone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use serde_json::Value;

use self::cast::{Cast, Role};
use self::director::{Counts, Director};
use self::gauge::Gauge;
use self::ledger::Told;
use self::long::{Clients, Streams};
use super::detached;
use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, KernelObjects, Place, Pod, Rig, RigOptions, Snapshot, binary};

mod cast;
mod director;
mod gauge;
mod judge;
mod ledger;
mod long;
mod policies;

/// Where the pods live.
const NAMESPACE: &str = "soak";
/// The pods.
const PODS: [(Role, usize); 3] = [(Role::Server, SERVERS), (Role::Steady, 14), (Role::Flip, 3)];
/// Pods that serve.
const SERVERS: usize = 3;
/// Steady pods with flows that live through everything.
const STREAMING: usize = 2;
/// Of the time, so much is rough.
const ROUGH: f64 = 0.6;
/// The build that the agent is exchanged for, as it is staged.
const OTHER: &str = "sluice-rehearsal";
/// How long what is not used any more may stay in the maps.
const RETIRE_LIMIT: Duration = Duration::from_secs(30);
/// How long what was denied may take to arrive once Sluice is gone.
const FREE_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// What the suite is run with.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long, without the making of the pods and the end.
    pub minutes: u32,
    /// The build that the agent is exchanged for.
    pub other_agent: Option<PathBuf>,
    /// Seed of the schedule and of the tags.
    pub seed: u64,
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    let mut report = Report::new("soak", options.seed);
    let mut random = SmallRng::seed_from_u64(options.seed);
    let other = options.other_agent.map_or_else(|| binary(OTHER), Ok)?;
    let builds = [binary("sluice")?, other];
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let before = rig.snapshot()?;
    let directories = rig.agent_directories();
    policies::write_steady(directories, 0)?;
    policies::write_flip(directories, 0, false)?;
    policies::write_server(directories)?;
    let mut agent = rig.start_agent(&[]).await?;
    compare_builds(&mut report, &mut agent, &builds).await?;

    let mut told = Told::default();
    let mut cast = Cast::new(&rig);
    let mut lasting = Lasting::make(&rig, &mut cast, &mut random).await?;
    let baseline = agent.map_entries(MAPS)?;
    let stay = cast.members.len();
    for (role, count) in PODS {
        while cast.of(role).count() < count {
            cast.make(role, random.next_u64()).await?;
        }
    }
    eprintln!("soak: {} pods send; maps {baseline:?}", cast.members.len());
    report.note("pods at a time", cast.members.len(), "");

    let start = Instant::now();
    let director = Director::new(&rig, &mut agent, &mut cast, &mut random, &mut told, builds);
    let whole = Duration::from_mins(options.minutes.into());
    let (counts, gauge, mut objects) = play(director, &mut lasting.clients, start, whole).await?;
    judge::schedule(&mut report, &counts, start.elapsed());
    let spec = cast.spec(Role::Server);
    ledger::exact(&mut report, &rig, &agent, &mut told, &spec, random.next_u64()).await?;

    eprintln!("soak: the end");
    while cast.members.len() > stay {
        cast.remove(cast.members.len() - 1).await?;
    }
    // One goes on sending.
    for index in 0..stay - 1 {
        cast.stop(index).await?;
    }
    let entries = wait_for_entries(&agent, baseline).await?;
    report.equal("map entries in the end", format!("{entries:?}"), "", format!("{baseline:?}"));
    judge::counters(&mut report, &policies::status(&agent)?);
    gauge.judge(&mut report);

    objects.extend(agent.kernel_objects()?);
    agent.terminate().await?;
    rig.far().settle().await?;
    judge::leaks(&mut report, &cast, &lasting.clients, rig.far().counts(), counts.leaked);
    let freed = &cast.members.last().context("no pod is left")?;
    let freed_name = freed.name.clone();
    free(&mut report, &rig, &agent, &freed.pod, &mut lasting, (&before, &objects)).await?;
    for (pod, streams) in lasting.streams {
        streams.judge(rig.far(), &pod, &mut report).await?;
    }
    while let Some(index) = cast.members.len().checked_sub(1) {
        cast.remove(index).await?;
    }
    rig.far().settle().await?;
    judge::lines(&mut report, &cast, rig.far().counts(), &told, &counts, &freed_name);

    // The runtime has told the plugin of the pods' end, and it has spooled that for an agent which does not come.
    let spooled = std::fs::read_dir(agent.directories().run.join("spool")).map_or(0, Iterator::count);
    report.equal("detach: DELs spooled since", spooled, "", stay);
    tokio::task::block_in_place(|| agent.detach())?;
    detached::as_before(&mut report, &rig, &before, "").await?;
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    drop((cast, agent));
    rig.shutdown().await?;
    Ok(report)
}

/// What lives through everything, in pods that are the first to come and the last to go.
struct Lasting {
    streams: Vec<(String, Streams)>,
    clients: Clients,
}

impl Lasting {
    async fn make(rig: &Rig, cast: &mut Cast<'_>, random: &mut SmallRng) -> Result<Self> {
        for role in std::iter::repeat_n(Role::Server, SERVERS).chain([Role::Steady; STREAMING]) {
            cast.make(role, random.next_u64()).await?;
        }
        let mut streams = Vec::new();
        for (member, number) in cast.of(Role::Steady).zip(0..) {
            streams.push((member.name.clone(), Streams::open(rig, &member.pod, number).await?));
        }
        let clients = Clients::open(rig, cast.of(Role::Server).map(|member| &member.pod)).await?;
        Ok(Self { streams, clients })
    }

    /// What of the streams has arrived so far.
    fn received(&self) -> u64 {
        self.streams.iter().map(|(_, streams)| streams.received()).sum()
    }
}

/// Plays the schedule, while clients ask the servers.
async fn play(
    mut director: Director<'_, '_>,
    clients: &mut Clients,
    start: Instant,
    whole: Duration,
) -> Result<(Counts, Gauge, KernelObjects)> {
    let done = AtomicBool::new(false);
    let far = director.rig.far();
    let (played, ()) = tokio::join!(
        async {
            let played = async {
                director.rough(start + whole.mul_f64(ROUGH)).await?;
                director.calm(start + whole).await
            };
            let played = played.await;
            done.store(true, Ordering::Relaxed);
            played
        },
        async {
            while !done.load(Ordering::Relaxed) {
                clients.round(far).await;
            }
        }
    );
    played?;
    director.finish()
}

/// Detaches Sluice from under pods of which one sends, and whose flows are open. The agent has ended.
async fn free(
    report: &mut Report,
    rig: &Rig,
    agent: &Agent,
    sender: &Pod,
    lasting: &mut Lasting,
    (before, objects): (&Snapshot, &KernelObjects),
) -> Result<()> {
    let denied = || {
        let forbidden = DESTINATIONS.forbidden;
        rig.far().sum(|key| sender.ips().contains(&key.source) && forbidden.contains(&key.destination)).0
    };
    let (denied_before, streamed_before) = (denied(), lasting.received());
    tokio::task::block_in_place(|| agent.detach())?;
    detached::gone(report, objects, " under pods").await?;
    let changed = rig.snapshot()?.sluices_own().since(&before.sluices_own());
    report.equal("detach under pods: what of Sluice is left", changed, "", Vec::<String>::new());
    let deadline = Instant::now() + FREE_LIMIT;
    while (denied() == denied_before || lasting.received() == streamed_before) && Instant::now() < deadline {
        tokio::time::sleep(TICK).await;
    }
    report.some("detach under pods: denied until then, arrived", denied() - denied_before, "packets");
    let streamed = lasting.received() - streamed_before;
    report.some("detach under pods: streams went on", streamed, "bytes and datagrams");
    lasting.clients.ask();
    judge::clients(report, &lasting.clients);
    Ok(())
}

/// Starts each build once, to see that they are not the same. In the end the first one runs.
async fn compare_builds(report: &mut Report, agent: &mut Agent, builds: &[PathBuf; 2]) -> Result<()> {
    let mut layouts = Vec::new();
    for build in [&builds[0], &builds[1], &builds[0]] {
        agent.terminate().await?;
        agent.set_binary(build.clone());
        agent.restart().await?;
        layouts.push(agent.layouts()?);
    }
    ensure!(layouts[0] == layouts[2], "one build has two layouts: {layouts:?}");
    let changed = layouts[1].difference(&layouts[0]).count() as u64;
    report.some("maps that the other build lays out in another way", changed, "maps");
    Ok(())
}

/// The maps that hold what is in force. Those that only remember what was seen let go of the oldest.
const MAPS: [&str; 4] = ["ENDPOINTS", "LINKS", "ADDRESSES", "PORTS"];

async fn wait_for_entries(agent: &Agent, wanted: [usize; MAPS.len()]) -> Result<[usize; MAPS.len()]> {
    let deadline = Instant::now() + RETIRE_LIMIT;
    loop {
        let entries = agent.map_entries(MAPS)?;
        if entries == wanted || Instant::now() > deadline {
            return Ok(entries);
        }
        tokio::time::sleep(TICK).await;
    }
}

/// A number in the status.
fn counter(status: &Value, name: &str) -> Value {
    status["counters"][name].clone()
}
