//! What was seen, against what should be.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::cast::{Cast, Past, Role};
use super::counter;
use super::director::Counts;
use super::ledger::Told;
use super::long::Clients;
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, is_wire};
use crate::rig::{Count, Key};
use crate::suite::flood::{Arrivals, Line};

/// Lines of a whole flood.
const WAYS: usize = 16;

/// What happened how often.
pub(super) fn schedule(report: &mut Report, counts: &Counts, lasted: Duration) {
    report.note("lasted", lasted.as_secs(), "s");
    for (name, count) in [
        ("agent killed", counts.kills),
        ("agent stopped", counts.stops),
        ("agent killed before it was ready", counts.interrupted),
        ("upgrades", counts.upgrades),
        ("downgrades", counts.downgrades),
        ("edits that keep what is allowed", counts.edits),
        ("policies lifted and put back", counts.flips),
        ("pods removed and made", counts.renewed),
        ("containers started again", counts.restarted),
        ("pods refused without an agent", counts.refused),
    ] {
        report.some(name, count, "");
    }
    report.equal("pods made without an agent", counts.admitted, "", 0);
    report.note("pods made as the agent died", counts.survived, "");
    report.some("control: arrived while the policy was lifted", counts.lifted, "packets");
    report.equal("control: lifted, and nothing arrived", counts.blind, "times", 0);
}

/// What the kernel counted since the first agent, or since the last that changed the layout of the counters.
pub(super) fn counters(report: &mut Report, status: &Value) {
    for name in ["eventsLost", "eventsOverBudget", "storageFailed", "policyMissing"] {
        report.equal(&format!("counted: {name}"), counter(status, name), "", 0);
    }
    report.note("counted: denied", counter(status, "denied"), "packets");
}

/// What arrived and should not have, while Sluice was there.
pub(super) fn leaks(
    report: &mut Report,
    cast: &Cast<'_>,
    clients: &Clients,
    counts: HashMap<Key, Count>,
    while_denied: u64,
) {
    let of = |role: Role| -> HashSet<IpAddr> { cast.ips(role).into_iter().collect() };
    let answers = clients.client.sort(&counts, &cast.ips(Role::Server), &[]);
    let arrivals = Arrivals::new(counts);
    let steady = arrivals.elsewhere(&of(Role::Steady), &DESTINATIONS.allowed);
    let both = [DESTINATIONS.allowed, DESTINATIONS.forbidden].concat();
    let flip = arrivals.elsewhere(&of(Role::Flip), &both);
    for example in [&steady.1, &flip.1, &answers.examples].into_iter().flatten().take(16) {
        eprintln!("soak: leaked: {example}");
    }
    report.equal("leaked", steady.0 + flip.0 + answers.own + while_denied, "packets", 0);
    report.equal("answers to datagrams", answers.datagrams, "packets", clients.client.queries_sent());
    report.equal("answers to echo requests", answers.echoes, "packets", clients.client.pings_sent());
    let known: HashSet<IpAddr> = cast.past.values().flat_map(|past| past.ips.clone()).collect();
    // The pod of the account has its own report; it sent nothing that arrived.
    let strangers = arrivals.from_strangers(|source| known.contains(&source) || is_wire(source));
    report.equal("strangers", strangers, "", Vec::<String>::new());
}

/// What clients of the servers met.
pub(super) fn clients(report: &mut Report, clients: &Clients) {
    for failure in clients.failures.iter().take(16) {
        eprintln!("soak: {failure}");
    }
    report.some("asked of the servers", clients.asked, "times");
    report.equal("not answered", clients.failures.len(), "times", 0);
}

/// What the pods tell of their sending.
pub(super) fn lines(
    report: &mut Report,
    cast: &Cast<'_>,
    counts: HashMap<Key, Count>,
    told: &Told,
    happened: &Counts,
    freed: &str,
) {
    let arrivals = Arrivals::new(counts);
    let mut attempted = [0, 0];
    let mut silent = Vec::new();
    let (mut lost, mut errors) = (0, BTreeMap::<String, u64>::new());
    for (name, past) in &cast.past {
        silent.extend(silent_ways(past).into_iter().map(|way| format!("{name}: {way}")));
        for line in &past.lines {
            let allowed = past.role.allows(line);
            attempted[usize::from(allowed)] += line.attempted;
            if !allowed {
                continue;
            }
            let missing = missing(line, arrivals.of_line(line, &past.ips, &DESTINATIONS));
            if missing > 0 {
                eprintln!("soak: falsely denied: {missing} of {name} {line:?}");
            }
            lost += missing;
            for (errno, count) in &line.errors {
                *errors.entry(errno.clone()).or_default() += count;
            }
        }
    }
    report.note("pods in all", cast.past.len(), "");
    report.note("containers in all", cast.containers, "");
    report.some("attempted", attempted[0], "packets to the forbidden");
    report.some("attempted_allowed", attempted[1], "packets to the allowed");
    report.equal("attempted_by: not by every pod in every way", silent, "", Vec::<String>::new());
    report.equal("false_denials", lost, "packets", 0);
    report.equal("errors of allowed sends", format!("{errors:?}"), "", "{}");
    denials(report, cast, told, happened, freed);
}

/// Every forbidden attempt of the pods that were denied to the end failed at once, and was told of. The one pod that went on when
/// Sluice was gone is not among them.
fn denials(report: &mut Report, cast: &Cast<'_>, told: &Told, happened: &Counts, freed: &str) {
    let denied_to_the_end = |name: &str, past: &Past| past.role != Role::Flip && name != freed;
    let (mut tried, mut refused) = (0, 0);
    for (name, past) in cast.past.iter().filter(|(name, past)| denied_to_the_end(name, past)) {
        for line in past.lines.iter().filter(|line| !past.role.allows(line)) {
            let eperm = line.errors.get("EPERM").copied().unwrap_or(0);
            if eperm != line.attempted {
                eprintln!("soak: not refused: {name} {line:?}");
            }
            tried += line.attempted;
            refused += eperm;
        }
    }
    report.equal("forbidden, and refused with EPERM", refused, "packets", tried);
    let told_of = told.of(|name| cast.past.get(name).is_some_and(|past| denied_to_the_end(name, past)));
    let untold = tried.saturating_sub(told_of);
    let deaths = happened.kills + happened.stops + happened.interrupted;
    report.note("forbidden, and told of", told_of, &format!("packets, over {deaths} deaths of the agent"));
    report.note("forbidden, and not told of", untold, "packets");
    report.note("told: lines", told.lines, "");
    // An agent that is killed may leave half a line.
    let broken = told.broken.len() as u64;
    let aim = format!("≤ {deaths}, one for each death");
    report.add("told: lines cut off", broken, "", &aim, Some(broken <= deaths));
}

/// Ways in which a pod sent nothing at all.
fn silent_ways(past: &Past) -> Vec<String> {
    let mut attempted = BTreeMap::<String, u64>::new();
    for line in &past.lines {
        *attempted.entry(line.label()).or_default() += line.attempted;
    }
    let mut silent: Vec<String> =
        attempted.iter().filter(|(_, count)| **count == 0).map(|(way, _)| way.clone()).collect();
    if attempted.len() != WAYS {
        silent.push(format!("{} ways of {WAYS}", attempted.len()));
    }
    silent
}

/// How much of an allowed line did not get through: refused, lost, or not connected.
fn missing(line: &Line, arrived: u64) -> u64 {
    // Connections carry no tag: one that came about has arrived.
    let through = if line.protocol == "tcp" { line.ok } else { line.ok.min(arrived) };
    line.attempted.saturating_sub(through)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::cast::{Past, Role};
    use super::{missing, silent_ways};
    use crate::suite::flood::Line;

    fn line(family: u8, protocol: &str, destination: &str) -> Line {
        Line {
            tag: 1,
            family,
            protocol: protocol.to_owned(),
            destination: destination.to_owned(),
            attempted: 10,
            ok: 9,
            errors: BTreeMap::new(),
            replies: 0,
        }
    }

    #[test]
    fn what_was_allowed_must_arrive() {
        assert_eq!(missing(&line(4, "udp", "allowed"), 9), 1);
        assert_eq!(missing(&line(4, "udp", "allowed"), 5), 5);
        assert_eq!(missing(&line(4, "tcp", "allowed"), 0), 1);
    }

    #[test]
    fn a_pod_that_is_silent_in_one_way_is_found() {
        let every = |destination: &'static str| {
            [4, 6].into_iter().flat_map(move |family| {
                ["udp", "udp-connected", "tcp", "icmp"].map(|way| line(family, way, destination))
            })
        };
        let mut past = Past {
            role: Role::Steady,
            ips: Vec::new(),
            lines: every("allowed").chain(every("forbidden")).collect(),
        };
        assert_eq!(silent_ways(&past), Vec::<String>::new());
        past.lines[3].attempted = 0;
        assert_eq!(silent_ways(&past), ["IPv4 icmp to allowed"]);
        past.lines.pop();
        assert_eq!(silent_ways(&past).len(), 2);
    }
}
