//! How long a look-up takes in a governed pod, held against one of a node without Sluice.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{Client, Clients, NAMES, ONE, Options, READ, UNREAD, rest};
use crate::bench::ratio::{self, Median};
use crate::report::Report;
use crate::rig::Agent;

/// The most that a look-up may take with Sluice.
const MOST: f64 = 1.05;
/// Questions that a client asks in a row.
const QUESTIONS: u32 = 40;
/// How often each way takes its turn in a round.
const TURNS: u32 = 5;

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
    measure(report, "a look-up in a pod", clients, random, options)?;
    agent.kill_hard()?;
    measure(report, "a look-up in a pod, agent dead", clients, random, options)
}

fn measure(
    report: &mut Report,
    what: &str,
    clients: &Clients,
    random: &mut SmallRng,
    options: Options,
) -> Result<()> {
    let mut rounds = Vec::new();
    for number in 0..options.rounds {
        if number % 5 == 0 {
            eprintln!("bench names: {what}, round {} of {}", number + 1, options.rounds);
        }
        rounds.push(round(clients, random)?);
    }
    let median = |figure: fn(&Round) -> f64| Median::of(rounds.iter().map(figure)).context("no rounds");
    ratio::held_against(
        report,
        what,
        "× without Sluice",
        MOST,
        median(|round| round.with / round.without)?,
        median(|round| round.control / round.without)?,
    );
    let unread = median(|round| round.unread / round.without)?;
    ratio::noted(report, &format!("{what}: at a port that is not read"), "× without Sluice", unread);
    let microseconds = |figure| Ok::<_, anyhow::Error>(ratio::rounded(median(figure)?.value * 1e6));
    report.note(&format!("{what}: without"), microseconds(|round| round.without)?, "µs");
    let longer = Median::of(rounds.iter().map(|round| (round.with - round.without) * 1e6));
    ratio::noted(report, &format!("{what}: longer by"), "µs", longer.context("no rounds")?);
    report.note(&format!("{what}: with"), microseconds(|round| round.with)?, "µs");
    Ok(())
}

/// All four ways, in a new random order each time.
fn round(clients: &Clients, random: &mut SmallRng) -> Result<Round> {
    let begun = Instant::now();
    let mut ways: [(usize, &Client, u16); 4] = [
        (0, &clients.without, READ),
        (1, &clients.without, READ),
        (2, &clients.with, READ),
        (3, &clients.with, UNREAD),
    ];
    let mut all: [Vec<u64>; 4] = Default::default();
    for turn in 0..TURNS {
        ways.shuffle(random);
        for (way, client, port) in ways {
            all[way].extend(client.ask(port, ONE, turn * QUESTIONS % NAMES, QUESTIONS)?.nanoseconds);
        }
    }
    rest(begun);
    let [without, control, with, unread] = all.map(|mut took| {
        took.sort_unstable();
        Duration::from_nanos(took[took.len() / 2]).as_secs_f64()
    });
    Ok(Round { without, control, with, unread })
}
