//! `sluice observe`: what was asked for and nothing else, and a slow reader that loses lines and is told.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{NAMESPACE, Run, attempts, http, json_lines, says, text, until};
use crate::rig::net::DESTINATIONS;
use crate::rig::{PodSpec, Rig, binary};
use crate::suite::flood::{self, TCP_PORT};

/// Denials that are looked for.
const DENIALS: u16 = 3;
/// Observers that may follow at once.
const MOST: usize = 16;
/// Floods of two pods each, one after the other: far more events than wait for one observer.
const FLOODS: u32 = 4;
const ROUNDS: u32 = 1000;

const EVENTS: &str = "sluice_events_total";

/// The fields of an event, version 1.
const FIELDS: [&str; 23] = [
    "v", "ts", "kind", "pod", "src", "sport", "dst", "dport", "proto", "domain", "dns_type", "dns_code",
    "answers", "method", "path", "pid", "comm", "action", "policy", "rule", "reason", "hook", "repeats",
];

/// A running `sluice observe`.
pub(super) struct Observer {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    errors: Arc<Mutex<Vec<String>>>,
}

impl Observer {
    /// Starts it, and waits until the agent has `count` observers.
    pub(super) async fn start(rig: &Rig, arguments: &[&str], count: usize) -> Result<Self> {
        let mut command = Command::new(binary("sluice")?);
        command.arg("observe").args(arguments).arg("--run-dir").arg(&rig.agent_directories().run);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = collect(child.stdout.take().context("stdout was piped")?)?;
        let errors = collect(child.stderr.take().context("stderr was piped")?)?;
        let observer = Self { child, lines, errors };
        observers(count).await?;
        Ok(observer)
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn errors(&self) -> String {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// The destination ports of the events so far.
    fn ports(&self) -> Result<Vec<u64>> {
        Ok(json_lines(&self.lines().join("\n"))?.iter().filter_map(|line| line["dport"].as_u64()).collect())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }

    /// Events that it has, or knows that it lost.
    fn known(&self) -> u64 {
        self.lines().len() as u64 + lost_lines(&self.errors())
    }

    /// Waits for its end.
    pub(super) async fn code(&mut self) -> Result<Option<i32>> {
        let child = &mut self.child;
        Ok(until("an observer's end", async || Ok(child.try_wait()?)).await?.code())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        // It has ended already, unless a check failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(from: impl Read + Send + 'static) -> Result<Arc<Mutex<Vec<String>>>> {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let to = Arc::clone(&lines);
    std::thread::Builder::new().name("observer".to_owned()).spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            to.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
    })?;
    Ok(lines)
}

/// Waits until the agent has so many observers.
async fn observers(count: usize) -> Result<()> {
    let is_so = async || {
        let now = http::samples().await?.get("sluice_observers")?;
        Ok((now == count as u64).then_some(()))
    };
    until(&format!("{count} observers"), is_so).await
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>, seed: u64) -> Result<()> {
    filters(run).await?;
    recent(run).await?;
    ends(run).await?;
    crowd(run).await?;
    slow(run, seed).await
}

/// Who follows with a filter gets a real denial, and nothing that was not asked for.
async fn filters(run: &mut Run<'_>) -> Result<()> {
    let pod = format!("{NAMESPACE}/vault");
    let denied = ["--pod", &pod, "--verdict", "deny", "-o", "json"];
    let mut denied = Observer::start(run.rig, &denied, 1).await?;
    let other = ["-n", "elsewhere", "-o", "json"];
    let mut other = Observer::start(run.rig, &other, 2).await?;
    let connects = ["-n", NAMESPACE, "--kind", "connect", "-o", "json"];
    let mut connects = Observer::start(run.rig, &connects, 3).await?;
    for port in 0..DENIALS {
        run.denied(4000 + port, 1).await?;
    }
    attempts(&run.vault, DESTINATIONS.allowed[0], TCP_PORT, 1, "connected").await?;
    let is_there = async || {
        let all = denied.lines().len() >= usize::from(DENIALS) && !connects.lines().is_empty();
        Ok(all.then_some(()))
    };
    until("the observers' events", is_there).await?;
    for (name, observer) in
        [("denials", &mut denied), ("another namespace", &mut other), ("connections", &mut connects)]
    {
        observer.signal(Signal::SIGINT)?;
        run.report.equal(&format!("observe, {name}: exit code after Ctrl-C"), observer.code().await?, "", 0);
    }
    observers(0).await?;
    let ports: Vec<u64> = (0..u64::from(DENIALS)).map(|port| 4000 + port).collect();
    run.report.equal("observe: denials, by port", denied.ports()?, "", ports);
    run.report.equal("observe: connections, by port", connects.ports()?, "", vec![u64::from(TCP_PORT)]);
    run.report.equal("observe: of another namespace", other.lines(), "", Vec::<String>::new());

    let event: Value = serde_json::from_str(denied.lines().first().context("an event")?)?;
    let fields: BTreeSet<&str> =
        event.as_object().into_iter().flat_map(|fields| fields.keys()).map(String::as_str).collect();
    run.report.equal("observe: fields of an event", json!(fields), "", json!(BTreeSet::from(FIELDS)));
    for (field, value) in [
        ("v", json!(1)),
        ("kind", json!("deny")),
        ("action", json!("deny")),
        ("dst", json!(DESTINATIONS.forbidden[0])),
        ("proto", json!("tcp")),
        ("hook", json!("connect")),
        ("policy", json!(format!("{NAMESPACE}/vault"))),
        ("rule", json!("default")),
        ("comm", json!("sluice-probe")),
    ] {
        run.report.equal(&format!("observe: {field}"), event[field].clone(), "", value);
    }
    let same = run.agent.events().contains(&event);
    run.report.equal("observe: the same line as on the agent's standard output", same, "", true);
    Ok(())
}

/// What was before is kept for a while.
async fn recent(run: &mut Run<'_>) -> Result<()> {
    let last = ["observe", "--verdict", "deny", "--last", "2", "--no-follow", "-o", "json"];
    let output = run.sluice(&last).await?;
    run.report.equal("--last: exit code", output.status.code(), "", 0);
    let ports: Vec<Value> =
        json_lines(&text(&output.stdout))?.into_iter().map(|line| line["dport"].clone()).collect();
    let newest = u64::from(4000 + DENIALS - 1);
    run.report.equal("--last: the newest, oldest first", ports, "", json!([newest - 1, newest]));
    let since = ["observe", "--since", "1h", "--kind", "connect", "--no-follow", "-o", "json"];
    let lines = json_lines(&text(&run.sluice(&since).await?.stdout))?;
    let kinds: BTreeSet<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    run.report.equal("--since: kinds", json!(kinds), "", json!(["connect"]));
    let future = ["observe", "--since", "2200-01-01T00:00:00Z", "--no-follow"];
    run.report.equal("--since: nothing yet", text(&run.sluice(&future).await?.stdout), "", "");
    for (name, more, coloured) in
        [("--color always", &["--color", "always"][..], true), ("into a pipe", &[], false)]
    {
        let all = ["observe", "--last", "1", "--verdict", "deny", "--no-follow"].iter().chain(more);
        let shown = text(&run.sluice(&all.copied().collect::<Vec<_>>()).await?.stdout);
        eprint!("$ sluice observe, {name}\n{shown}");
        run.report.equal(&format!("colours, {name}"), shown.contains('\u{1b}'), "", coloured);
        let words = [&format!("{NAMESPACE}/vault sluice-probe["), &format!(":{newest}")[..]];
        says(&mut run.report, &format!("text, {name}"), &shown, &words);
    }
    Ok(())
}

/// An observer whose reader is gone ends, and so does one whose agent is.
async fn ends(run: &mut Run<'_>) -> Result<()> {
    let mut command = Command::new(binary("sluice")?);
    command.args(["observe", "--run-dir"]).arg(&run.rig.agent_directories().run);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    drop(child.stdout.take());
    observers(1).await?;
    run.denied(4100, 1).await?;
    let ended = until("the end of an observer without a reader", async || Ok(child.try_wait()?)).await?;
    run.report.equal("observe into a closed pipe: exit code", ended.code(), "", 0);
    observers(0).await
}

/// Only so many follow at once; the next one is told.
async fn crowd(run: &mut Run<'_>) -> Result<()> {
    let mut all = Vec::new();
    for count in 1..=MOST {
        all.push(Observer::start(run.rig, &[], count).await?);
    }
    let output = run.sluice(&["observe"]).await?;
    run.report.equal("one observer too many: exit code", output.status.code(), "", 1);
    says(
        &mut run.report,
        "one observer too many",
        &text(&output.stderr),
        &["16 observers", "end one of them"],
    );
    drop(all);
    observers(0).await
}

/// A reader that hangs loses events, is told how many, and holds up neither the agent nor other readers.
async fn slow(run: &mut Run<'_>, seed: u64) -> Result<()> {
    let second = run.rig.run_pod(&PodSpec::new(NAMESPACE, "flood", &[("app", "vault")])).await?;
    let (before, slow, quick) = quiet(run.rig).await?;
    slow.signal(Signal::SIGSTOP)?;
    for number in 0..FLOODS {
        let spec = flood::container("flood", seed.wrapping_add(number.into()), ROUNDS, 0.0, &DESTINATIONS);
        let containers = [run.vault.start(&spec).await?, second.start(&spec).await?];
        for container in containers {
            container.succeed().await?;
        }
    }
    // The quick one was not held up: it has everything while the other still hangs.
    let told = all_there(&quick, &before).await?;
    run.report.note("events while a reader hangs", told, "");
    slow.signal(Signal::SIGCONT)?;
    let told = all_there(&slow, &before).await?;
    run.report.equal("read, or told to be lost", slow.known(), "events", told);
    let (lost, of_quick) = (lost_lines(&slow.errors()), lost_lines(&quick.errors()));
    run.report.some("events that the slow reader lost", lost, "");
    let after = http::samples().await?;
    let counted = after.growth(&before, "sluice_events_lost_total{at=\"observer\"}")?;
    run.report.equal("losses counted in the metrics", counted, "", lost + of_quick);
    let in_ring = after.growth(&before, "sluice_events_lost_total{at=\"ring\"}")?;
    run.report.note("events lost in the ring buffer meanwhile", in_ring, "");
    drop((slow, quick));
    observers(0).await?;
    second.remove().await
}

/// Two observers, and the metrics of a moment since which they have seen everything.
async fn quiet(rig: &Rig) -> Result<(http::Samples, Observer, Observer)> {
    let start = async || {
        let before = http::samples().await?;
        let observers = (
            Observer::start(rig, &["-o", "json"], 1).await?,
            Observer::start(rig, &["-o", "json"], 2).await?,
        );
        if http::samples().await?.growth_of_all(&before, EVENTS)? == 0 {
            return Ok(Some((before, observers.0, observers.1)));
        }
        // An event came in between: whether they have it is not known.
        drop(observers);
        self::observers(0).await?;
        Ok(None)
    };
    until("a moment without events", start).await
}

/// Waits until an observer has, or knows that it lost, every event since `before`; says how many those are.
async fn all_there(observer: &Observer, before: &http::Samples) -> Result<u64> {
    let look = async || {
        let told = http::samples().await?.growth_of_all(before, EVENTS)?;
        Ok((observer.known() == told).then_some(told))
    };
    until("every event at an observer, or word that it is lost", look).await
}

/// How many lines an observer was told that it lost.
fn lost_lines(errors: &str) -> u64 {
    let counts = errors.lines().filter(|line| line.contains("events were lost"));
    counts.filter_map(|line| line.split(' ').nth(1)?.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::lost_lines;

    #[test]
    fn losses_add_up() {
        let errors =
            "sluice: 7 events were lost: they were not read\nsluice: 30 events were lost: again\nother";
        assert_eq!(lost_lines(errors), 37);
    }
}
