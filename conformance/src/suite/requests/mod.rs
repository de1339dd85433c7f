//! Requests over HTTPS, as real clients make them and a real server answers them: the agent tells of each, once, and of
//! nothing else.
//!
//! The truth is the server's access log. Each part of the suite asks for paths of its own, so that what belongs to it is
//! told by the path alone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use self::server::{ADDRESS, Request};
use crate::report::Report;
use crate::rig::{Agent, Place, Pod, PodSpec, Rig, RigOptions};

pub(crate) mod bed;
mod brief;
mod cells;
mod clients;
mod end;
mod hostile;
mod known;
mod load;
mod outside;
pub(crate) mod programs;
mod rules;
mod secrets;
pub(crate) mod server;
mod traps;

use bed::Bed;

/// Where the pods live.
const NAMESPACE: &str = "requests";
/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How often something is looked at that cannot be waited for.
const TICK: Duration = Duration::from_millis(20);

/// Everything that can be asked for of a request: none of it may tell a secret.
const ASKED: &[&str] =
    &["--requests-query=true", "--requests-headers=authorization,cookie,x-api-key,user-agent"];

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests of each client.
    pub each: u32,
    /// Requests over 50 connections.
    pub load: u32,
    /// Copies of a library that a hostile pod maps.
    pub copies: u32,
    /// Seed of the report; nothing here is random.
    pub seed: u64,
}

/// The suite on its way.
struct Run<'a> {
    rig: &'a Rig,
    bed: &'a Bed,
    agent: Agent,
    pod: Pod,
    report: Report,
    options: Options,
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let bed = Bed::make(&rig, place).await?;
    rig.agent_directories().write_policy("client", &bed::policy(NAMESPACE, "client"))?;
    let before = rig.snapshot()?;
    let agent = rig.start_agent(ASKED).await?;
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "client", &[("app", "client")])).await?;
    let report = Report::new("requests", options.seed);
    let mut run = Run { rig: &rig, bed: &bed, agent, pod, report, options };

    eprintln!("requests: libraries");
    let keeper = known::run(&mut run).await?;
    eprintln!("requests: clients");
    cells::run(&mut run).await?;
    eprintln!("requests: clients that live briefly");
    brief::run(&mut run).await?;
    eprintln!("requests: secrets");
    secrets::run(&mut run).await?;
    keeper.stop(Duration::ZERO).await?;
    eprintln!("requests: rules");
    rules::run(&mut run).await?;
    eprintln!("requests: processes that no policy governs");
    outside::run(&mut run).await?;
    eprintln!("requests: a hostile image");
    hostile::run(&mut run).await?;
    eprintln!("requests: {} over {} connections", options.load, load::CONNECTIONS);
    load::run(&mut run).await?;
    eprintln!("requests: the end");
    let report = end::run(run, &before).await?;
    drop(bed);
    rig.shutdown().await?;
    Ok(report)
}

/// Whose requests they should be.
#[derive(Clone, Copy)]
struct Whose<'a> {
    pod: &'a str,
    comm: &'a str,
    library: &'a str,
}

impl Run<'_> {
    /// The events of requests whose paths begin so, as they are now.
    fn told(&self, prefix: &str) -> Vec<Value> {
        let mut events = self.agent.events();
        events.retain(|event| is_request(event, prefix));
        events
    }

    /// Waits until the server has answered as many; what it has then.
    async fn answered(&self, prefix: &str, made: usize) -> Result<Vec<Request>> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let answered = self.bed.server.answered(prefix)?;
            if answered.len() >= made || Instant::now() > deadline {
                return Ok(answered);
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Waits until as many are told of; what is told then.
    async fn heard(&self, prefix: &str, made: usize) -> Vec<Value> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let told = self.told(prefix);
            if told.len() >= made || Instant::now() > deadline {
                return told;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// The server has answered as many as were made, and the agent tells of each of these: method, host, path, protocol,
    /// destination, pod and process.
    async fn compare(&mut self, name: &str, prefix: &str, made: u32, whose: &Whose<'_>) -> Result<()> {
        let made = made as usize;
        let answered = self.answered(prefix, made).await?;
        let told = self.heard(prefix, answered.len()).await;
        let aim = format!("{made} of {made}");
        let mut seen: Vec<Request> = told.iter().map(request).collect();
        seen.sort();
        let strange = told.iter().find_map(|event| wrong(event, whose));
        let value = if answered.len() != made {
            format!("the server answered {} of {made}", answered.len())
        } else if let Some(what) = strange {
            what
        } else if seen == answered {
            format!("{made} of {made}")
        } else {
            difference(&seen, &answered)
        };
        self.report.equal(name, value, "seen", aim);
        Ok(())
    }
}

/// Whether it is a request over HTTPS with such a path.
fn is_request(event: &Value, prefix: &str) -> bool {
    event["kind"] == "https" && event["path"].as_str().is_some_and(|path| path.starts_with(prefix))
}

fn request(event: &Value) -> Request {
    let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    Request {
        method: field("method"),
        host: field("domain"),
        path: field("path"),
        protocol: field("protocol"),
    }
}

/// What is wrong with an event beside its request.
fn wrong(event: &Value, whose: &Whose<'_>) -> Option<String> {
    let pid = event["pid"].as_u64().unwrap_or_default();
    let address = ADDRESS.to_string();
    [
        ("pod", &event["pod"]["name"], Value::from(whose.pod)),
        ("namespace", &event["pod"]["namespace"], NAMESPACE.into()),
        ("comm", &event["comm"], whose.comm.into()),
        ("library", &event["library"], whose.library.into()),
        ("dst", &event["dst"], address.into()),
        ("dport", &event["dport"], 443.into()),
        ("proto", &event["proto"], "tcp".into()),
        ("pid", &Value::from(pid > 0), true.into()),
    ]
    .into_iter()
    .find(|(_, found, wanted)| *found != wanted)
    .map(|(name, found, wanted)| format!("{name} is {found} instead of {wanted}"))
}

/// What is told too little, and too much.
fn difference(seen: &[Request], answered: &[Request]) -> String {
    let without = |of: &[Request], those: &[Request]| -> Vec<String> {
        let mut rest = those.to_vec();
        let extra = of.iter().filter(|one| match rest.iter().position(|other| other == *one) {
            Some(at) => {
                rest.swap_remove(at);
                false
            }
            None => true,
        });
        extra.map(|one| format!("{} {}{} by {}", one.method, one.host, one.path, one.protocol)).collect()
    };
    let (missing, extra) = (without(answered, seen), without(seen, answered));
    let some = |list: &[String]| match list {
        [] => String::new(),
        [first, ..] => format!(", such as {first}"),
    };
    format!(
        "{} of {}: {} missing{}, {} too many{}",
        seen.len(),
        answered.len(),
        missing.len(),
        some(&missing),
        extra.len(),
        some(&extra)
    )
}

/// Reads what a command of `sluice` says as JSON.
fn json(said: &str) -> Result<Value> {
    serde_json::from_str(said).with_context(|| format!("no JSON: {said:?}"))
}

#[cfg(test)]
mod tests {
    use super::difference;
    use super::server::Request;

    #[test]
    fn differences_are_counted_with_repeats() {
        let request = |path: &str| Request {
            method: "GET".to_owned(),
            host: "a".to_owned(),
            path: path.to_owned(),
            protocol: "h2".to_owned(),
        };
        let (one, two) = (request("/1"), request("/2"));
        let said = difference(&[one.clone(), one.clone()], &[one, two]);
        assert_eq!(said, "2 of 2: 1 missing, such as GET a/2 by h2, 1 too many, such as GET a/1 by h2");
    }
}
