//! `sluice-conformance`: black-box suites of Sluice, each on a node of its own that goes away with it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use sluice_conformance::bench;
use sluice_conformance::report::Report;
use sluice_conformance::rig;
use sluice_conformance::suite::{
    broken_input, cni, demo, edits, escape, first_packet, inbound, meaning, names, operate, requests, smoke,
    soak, unregistered,
};

/// Black-box suites of Sluice.
#[derive(Debug, Parser)]
#[command(version)]
struct Command {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    suite: Suite,
}

/// Options of every suite.
#[derive(Debug, Args)]
struct Common {
    /// Write the figures to this file, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of every random choice; taken from the clock unless given.
    #[arg(long, global = true)]
    seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Check the rig itself, without Sluice.
    Smoke,
    /// No denied packet leaves a pod, from its first instruction on, whatever happens to the agent.
    FirstPacket {
        /// Governed pods.
        #[arg(long, default_value_t = 100)]
        pods: u32,
        /// Pods at the same time.
        #[arg(long, default_value_t = 2)]
        parallel: u32,
    },
    /// A pod that may send nothing answers whoever asks it, and sends nothing of its own.
    Inbound,
    /// What an operator sees of the agent, and how it starts and stops.
    Operate,
    /// Bad input of every kind gives a clear error and changes nothing.
    BrokenInput,
    /// The CNI plugin, clause by clause of the specification, and accident by accident of others.
    Cni,
    /// A policy change is seen whole or not at all, by old flows too.
    Edits {
        /// Edits under traffic.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(2..))]
        flips: u32,
    },
    /// The kernel judges as the reference evaluator does, for every policy and flow.
    Meaning {
        /// Packets that the kernel's programs judge without traffic.
        #[arg(long, default_value_t = 1_000_000)]
        pairs: u64,
        /// Flows that a pod tries with real sockets.
        #[arg(long, default_value_t = 5000)]
        sockets: u32,
    },
    /// Names open what they lead to, from the first answer on, and nothing else does.
    Names {
        /// Fresh names, each asked for and connected to at once.
        #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..))]
        names: u32,
        /// Broken answers.
        #[arg(long, default_value_t = 10_000)]
        broken: u32,
    },
    /// Requests over HTTPS are told of, each once, whatever library wrote them.
    Requests {
        /// Requests of each client.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..))]
        each: u32,
        /// Requests over 50 connections.
        #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(50..))]
        load: u32,
        /// Copies of a library that a hostile pod maps.
        #[arg(long, default_value_t = 10_000)]
        copies: u32,
    },
    /// Measure, and hold the figures against their aims.
    #[command(subcommand)]
    Bench(Bench),
    /// Code in a pod, root with the runtime's default rights, gets no packet past its policy.
    Escape {
        /// Make only the attempts whose names begin so.
        #[arg(long, value_name = "NAME")]
        only: Vec<String>,
    },
    /// Pods that no CNI call tells of are found, and judged by cluster policies.
    Unregistered,
    /// Nothing leaks and nothing is lost while agent, policies and pods come and go; nothing is left in the end.
    Soak {
        /// How long, without the making of the pods and the end.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        minutes: u32,
        /// The build of the agent that takes turns with the usual one [default: the staged `sluice-rehearsal`].
        #[arg(long, env = "SLUICE_OTHER_AGENT", value_name = "FILE")]
        other_agent: Option<PathBuf>,
    },
    /// Show in a minute what Sluice does.
    Demo,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// What a packet costs in the egress program, beside the least that it could cost.
    Datapath {
        /// Packets for each figure.
        #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
        repeats: u32,
        /// Interleaved rounds.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(20..))]
        rounds: u32,
    },
    /// What it costs that requests are seen, beside an agent that does not look.
    Requests {
        /// Fewer requests, in the least number of rounds.
        #[arg(long)]
        quick: bool,
    },
    /// What names cost: packets of flows to learned addresses, questions and answers, and how long a look-up takes in a pod.
    Names {
        /// Fewer packets and questions, in the least number of rounds: about a minute.
        #[arg(long)]
        quick: bool,
    },
    /// What ADD costs, what the agent takes of memory, and how fast an edit is in the kernel.
    Add {
        /// Fewer rounds and smaller sizes: less than a minute.
        #[arg(long)]
        quick: bool,
        /// Interleaved rounds of births; with fewer than 20 none of their figures is held against its aim.
        #[arg(long)]
        rounds: Option<u32>,
        /// ADDs at the same time.
        #[arg(long, value_delimiter = ',')]
        parallel: Option<Vec<usize>>,
        /// Edits that are timed at each size.
        #[arg(long)]
        edits: Option<u32>,
        /// Numbers of pods, rising.
        #[arg(long, value_delimiter = ',')]
        pods: Option<Vec<usize>>,
        /// Numbers of policies.
        #[arg(long, value_delimiter = ',')]
        policies: Option<Vec<usize>>,
    },
}

fn run(command: &Command) -> Result<bool> {
    let seed = command.common.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let outcome = rig::isolated(|place| {
        rig::block_on(async {
            let report = match &command.suite {
                Suite::Smoke => smoke::run(place, seed).await?,
                Suite::Inbound => inbound::run(place, seed).await?,
                Suite::Operate => operate::run(place, seed).await?,
                Suite::BrokenInput => broken_input::run(place, seed).await?,
                Suite::Unregistered => unregistered::run(place, seed).await?,
                Suite::Cni => cni::run(place, seed).await?,
                Suite::Demo => demo::run(place, seed).await?,
                Suite::Escape { only } => {
                    escape::run(place, escape::Options { only: only.clone(), seed }).await?
                }
                Suite::Soak { minutes, other_agent } => {
                    let options = soak::Options { minutes: *minutes, other_agent: other_agent.clone(), seed };
                    soak::run(place, options).await?
                }
                Suite::Edits { flips } => {
                    let options = edits::Options { flips: *flips, seed };
                    edits::run(place, options).await?
                }
                Suite::Meaning { pairs, sockets } => {
                    let options = meaning::Options { pairs: *pairs, sockets: *sockets, seed };
                    meaning::run(place, options).await?
                }
                Suite::Names { names, broken } => {
                    names::run(place, names::Options { names: *names, broken: *broken, seed }).await?
                }
                Suite::Requests { each, load, copies } => {
                    let options = requests::Options { each: *each, load: *load, copies: *copies, seed };
                    requests::run(place, options).await?
                }
                Suite::Bench(Bench::Datapath { repeats, rounds }) => {
                    let options = bench::datapath::Options { repeats: *repeats, rounds: *rounds, seed };
                    bench::datapath::run(place, options)?
                }
                Suite::Bench(Bench::Requests { quick }) => {
                    use bench::requests::Options;
                    let options = if *quick { Options::quick(seed) } else { Options::whole(seed) };
                    bench::requests::run(place, options).await?
                }
                Suite::Bench(Bench::Names { quick }) => {
                    use bench::names::Options;
                    let options = if *quick { Options::quick(seed) } else { Options::whole(seed) };
                    bench::names::run(place, options).await?
                }
                Suite::Bench(Bench::Add { quick, rounds, parallel, edits, pods, policies }) => {
                    use bench::add::Options;
                    let options = if *quick { Options::quick(seed) } else { Options::whole(seed) };
                    let options = Options {
                        rounds: rounds.unwrap_or(options.rounds),
                        parallel: parallel.clone().unwrap_or(options.parallel),
                        edits: edits.unwrap_or(options.edits),
                        pods: pods.clone().unwrap_or(options.pods),
                        policies: policies.clone().unwrap_or(options.policies),
                        ..options
                    };
                    bench::add::run(place, options).await?
                }
                Suite::FirstPacket { pods, parallel } => {
                    let options = first_packet::Options { pods: *pods, parallel: *parallel, seed };
                    first_packet::run(place, options).await?
                }
            };
            Ok(serde_json::to_vec(&report)?)
        })
    })?;
    let mut report: Report = serde_json::from_slice(&outcome.output).context("the suite's report")?;
    report.equal("leftovers", outcome.leftovers, "", Vec::<String>::new());
    // The demo tells its own story; its checks are shown only if one fails.
    if !(matches!(command.suite, Suite::Demo) && report.ok()) {
        print!("{}", report.table());
    }
    if let Some(file) = &command.common.json {
        report.write(file)?;
    }
    Ok(report.ok())
}

fn main() -> ExitCode {
    rig::dispatch();
    match run(&Command::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}
