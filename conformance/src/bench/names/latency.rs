//! How long a look-up takes in a governed pod, held against one of a node without Sluice.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{Client, Clients, NAMES, NEAR, NEAR_UNREAD, ONE, Options, READ, distant, rest};
use crate::bench::ratio::{self, Median};
use crate::report::Report;
use crate::rig::Agent;

/// The most that a look-up may take with Sluice, where the resolver is as far away as in a cluster.
const MOST: f64 = 1.05;
/// What the ratios are of.
const OF: &str = "× without Sluice";
/// Questions that a client asks in a row.
const QUESTIONS: u32 = 40;
/// How often each way takes its turn in a round.
const TURNS: u32 = 5;
/// The resolver of a cluster, and one that is at the other end of the wire: there is nothing between, and nothing that takes
/// time, so what Sluice adds shows the most.
const RESOLVERS: [(&str, SocketAddrV4); 2] =
    [("half a millisecond away", SocketAddrV4::new(distant::ADDRESS, READ)), ("on the wire", NEAR)];

/// One round: the median of a look-up in each way, in seconds.
struct Round {
    without: f64,
    /// Without once more.
    control: f64,
    with: f64,
    /// With, at a port at which nothing is read: what it costs that the socket is governed at all.
    unread: f64,
}

/// Measures and adds what came of it: with the agent, which reads the events, and without.
pub(super) fn run(
    report: &mut Report,
    agent: &mut Agent,
    clients: &Clients,
    random: &mut SmallRng,
    options: Options,
) -> Result<()> {
    for (place, resolver) in RESOLVERS {
        measure(report, &format!("a look-up, resolver {place}"), resolver, clients, random, options)?;
    }
    agent.kill_hard()?;
    for (place, resolver) in RESOLVERS {
        let what = format!("a look-up, resolver {place}, agent dead");
        measure(report, &what, resolver, clients, random, options)?;
    }
    Ok(())
}

fn measure(
    report: &mut Report,
    what: &str,
    resolver: SocketAddrV4,
    clients: &Clients,
    random: &mut SmallRng,
    options: Options,
) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        if number % 5 == 0 {
            eprintln!("bench names: {what}, round {} of {}", number + 1, options.rounds);
        }
        rounds.push(round(resolver, clients, random)?);
    }
    let median = |figure: fn(&Round) -> f64| Median::of(rounds.iter().map(figure)).context("no rounds");
    let with = median(|round| round.with / round.without)?;
    let control = median(|round| round.control / round.without)?;
    if resolver == NEAR {
        ratio::noted(report, what, OF, with);
        ratio::noted(report, &format!("{what}: A/A control"), OF, control);
        let unread = median(|round| round.unread / round.without)?;
        ratio::noted(report, &format!("{what}: at a port that is not read"), OF, unread);
    } else {
        ratio::held_against(report, what, OF, MOST, with, control);
    }
    let microseconds = |figure| Ok::<_, anyhow::Error>(ratio::rounded(median(figure)?.value * 1e6));
    report.note(&format!("{what}: without"), microseconds(|round| round.without)?, "µs");
    let longer = Median::of(rounds.iter().map(|round| (round.with - round.without) * 1e6));
    ratio::noted(report, &format!("{what}: longer by"), "µs", longer.context("no rounds")?);
    report.note(&format!("{what}: with"), microseconds(|round| round.with)?, "µs");
    Ok(())
}

/// All four ways, in a new random order each time.
fn round(resolver: SocketAddrV4, clients: &Clients, random: &mut SmallRng) -> Result<Round> {
    let begun = Instant::now();
    let mut ways: [(usize, &Client, SocketAddrV4); 4] = [
        (0, &clients.without, resolver),
        (1, &clients.without, resolver),
        (2, &clients.with, resolver),
        (3, &clients.with, NEAR_UNREAD),
    ];
    let mut all: [Vec<u64>; 4] = Default::default();
    for turn in 0..TURNS {
        ways.shuffle(random);
        for (way, client, server) in ways {
            all[way].extend(client.ask(server, ONE, turn * QUESTIONS % NAMES, QUESTIONS)?.nanoseconds);
        }
    }
    rest(begun);
    let [without, control, with, unread] = all.map(|mut took| {
        took.sort_unstable();
        Duration::from_nanos(took[took.len() / 2]).as_secs_f64()
    });
    Ok(Round { without, control, with, unread })
}
