//! What reading costs: a question and an answer that are read, held against the same bytes by a port that is not.
//!
//! The kernel itself keeps the time of the programs, those included that a packet is handed on to, while real sockets ask a
//! real server. Every question has a socket of its own, so that what is held against each other is a whole judgement each.

use std::net::SocketAddrV4;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{Clients, FORTY, NAMES, NEAR, NEAR_UNREAD, ONE, Options, rest};
use crate::bench::ratio::{self, Median};
use crate::report::Report;
use crate::rig::{Agent, LinkedProgram, RunTime, RunTimes};

/// Questions of one way in a round: so few that no event of a round is held back.
const QUESTIONS: u32 = 80;
/// What the ratios are of.
const OF: &str = "× the same packet unread";

/// What is asked in a round: where, and for what. The last is the third once more.
const WAYS: [(SocketAddrV4, &str); 5] =
    [(NEAR, ONE), (NEAR, FORTY), (NEAR_UNREAD, ONE), (NEAR_UNREAD, FORTY), (NEAR_UNREAD, ONE)];

/// Nanoseconds of one packet in one round.
#[derive(Clone, Copy, Default)]
struct Packet {
    question: f64,
    answer: f64,
}

/// Measures and adds what came of it.
pub(super) fn run(
    report: &mut Report,
    agent: &Agent,
    clients: &Clients,
    random: &mut SmallRng,
    options: Options,
) -> Result<()> {
    let programs = [agent.attached("egress")?, agent.attached("ingress")?];
    let _kept = RunTimes::keep()?;
    let mut rounds = Vec::new();
    for round in 0..options.rounds {
        let begun = Instant::now();
        let mut order = [0, 1, 2, 3, 4];
        order.shuffle(random);
        let mut packets = [Packet::default(); WAYS.len()];
        for way in order {
            let (server, name) = WAYS[way];
            let before = run_times(&programs)?;
            clients.with.ask(server, name, round * QUESTIONS % (NAMES - QUESTIONS), QUESTIONS)?;
            let after = run_times(&programs)?;
            packets[way] = Packet { question: one(before[0], after[0])?, answer: one(before[1], after[1])? };
        }
        rounds.push(packets);
        rest(begun);
    }
    let median = |figure: &dyn Fn(&[Packet; WAYS.len()]) -> f64| {
        Median::of(rounds.iter().map(figure)).context("no rounds")
    };
    for (what, figure) in [
        ("a question", (|packet: Packet| packet.question) as fn(Packet) -> f64),
        ("an answer", |packet: Packet| packet.answer),
    ] {
        for (way, addresses) in [(0, "1 address"), (1, "40 addresses")] {
            let ratio = median(&|packets| figure(packets[way]) / figure(packets[way + 2]))?;
            ratio::noted(report, &format!("{what}, {addresses}"), OF, ratio);
            let time = median(&|packets| figure(packets[way]))?;
            report.note(&format!("{what}, {addresses}: time"), ratio::rounded(time.value), "ns");
        }
        let control = median(&|packets| figure(packets[4]) / figure(packets[2]))?;
        ratio::noted(report, &format!("{what}: A/A control"), OF, control);
    }
    Ok(())
}

fn run_times(programs: &[LinkedProgram; 2]) -> Result<[RunTime; 2]> {
    Ok([programs[0].run_time()?, programs[1].run_time()?])
}

/// Of one packet. None but the client's may have passed.
fn one(before: RunTime, after: RunTime) -> Result<f64> {
    let runs = after.runs - before.runs;
    ensure!(runs == u64::from(QUESTIONS), "{runs} packets of {QUESTIONS} questions");
    let taken = Duration::from_nanos(after.nanoseconds - before.nanoseconds);
    Ok(taken.as_secs_f64() * 1e9 / f64::from(QUESTIONS))
}
