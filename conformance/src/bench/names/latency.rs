//! How long a look-up takes in a governed pod, held against one of a node without Sluice.

use std::time::Instant;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{Client, Clients, NAMES, ONE, Options, READ, rest};
use crate::bench::ratio::{self, Median};
use crate::report::Report;
use crate::rig::Agent;

/// The most that a look-up may take with Sluice.
const MOST: f64 = 1.05;
/// Questions that a client asks in a row.
const QUESTIONS: u32 = 50;
/// How often each way takes its turn in a round.
const TURNS: u32 = 5;

/// One round: the median of a look-up in each way, in nanoseconds.
struct Round {
    without: f64,
    /// Without once more.
    control: f64,
    with: f64,
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
    let microseconds = |figure| Ok::<_, anyhow::Error>(ratio::rounded(median(figure)?.value / 1e3));
    report.note(&format!("{what}: without"), microseconds(|round| round.without)?, "µs");
    report.note(&format!("{what}: with"), microseconds(|round| round.with)?, "µs");
    Ok(())
}

/// All three ways, in a new random order each time.
fn round(clients: &Clients, random: &mut SmallRng) -> Result<Round> {
    let begun = Instant::now();
    let mut ways: [(usize, &Client); 3] = [(0, &clients.without), (1, &clients.without), (2, &clients.with)];
    let mut all: [Vec<u64>; 3] = Default::default();
    for turn in 0..TURNS {
        ways.shuffle(random);
        for (way, client) in ways {
            all[way].extend(client.ask(READ, ONE, turn * QUESTIONS % NAMES, QUESTIONS)?.nanoseconds);
        }
    }
    rest(begun);
    let [without, control, with] = all.map(|mut took| {
        took.sort_unstable();
        took[took.len() / 2] as f64
    });
    Ok(Round { without, control, with })
}
