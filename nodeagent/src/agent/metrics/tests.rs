//! The exposition keeps to the rules of `OpenMetrics` and of the house, and does not grow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use sluice_api::{Attachment, Refusal};

use super::*;
use crate::agent::events::{PodLine, Qos, SCHEMA};
use crate::agent::tls::Counts;

const MAPS: [(&str, u64); 1] = [("endpoints", 4096)];

fn metrics() -> Metrics {
    Metrics::new("enforce", jiff::Timestamp::UNIX_EPOCH, &MAPS)
}

fn line(number: u32) -> Line {
    Line {
        v: SCHEMA,
        ts: jiff::Timestamp::UNIX_EPOCH,
        kind: Kind::Deny,
        pod: Some(PodLine {
            namespace: format!("namespace-{}", number % 17),
            name: format!("pod-{number}"),
            uid: number.to_string(),
            container: None,
            qos: Qos::Guaranteed,
            node: "node".to_owned(),
        }),
        src: None,
        sport: None,
        dst: IpAddr::V4(Ipv4Addr::from(number)),
        dport: Some(number as u16),
        proto: if number.is_multiple_of(2) { "tcp".to_owned() } else { (number % 256).to_string() },
        domain: None,
        dns_type: None,
        dns_code: None,
        answers: None,
        method: None,
        path: None,
        request: crate::agent::events::RequestLine::default(),
        pid: Some(number),
        comm: Some(format!("command-{number}")),
        action: Action::Deny,
        policy: Some(format!("policy-{number}")),
        rule: None,
        reason: String::new(),
        hook: Hook::Connect,
        repeats: 2,
    }
}

const README: &str = include_str!("../../../../README.md");

/// The samples: name and labels as they stand there, and value.
fn samples(text: &str) -> BTreeMap<String, String> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            (series.to_owned(), value.to_owned())
        })
        .collect()
}

#[test]
fn the_exposition_keeps_to_the_rules() {
    let metrics = metrics();
    metrics.event(&line(6), Fate { filtered: 1, lost: 1 });
    let text = metrics.text().expect("text");
    assert!(text.ends_with("# EOF\n"), "{text}");
    let mut types = BTreeMap::new();
    let mut helped = BTreeSet::new();
    let mut units = BTreeMap::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(helped.insert(name), "{name} is described twice");
            assert!(help.len() > 15 && help.ends_with('.'), "{name}: {help}");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            types.insert(name, kind);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a unit");
            units.insert(name, unit);
        } else {
            let name = line.split(['{', ' ']).next().expect("a name");
            let of = |suffix: &str| name.strip_suffix(suffix).unwrap_or_default();
            let (family, kind) = ["_total", "_bucket", "_sum", "_count", "_info", ""]
                .into_iter()
                .find_map(|suffix| Some((of(suffix), *types.get(of(suffix))?)))
                .unwrap_or_else(|| panic!("{name} has no type"));
            assert!(family.starts_with("sluice_"), "{family}");
            assert!(helped.contains(family), "{family} has no help");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
            assert_eq!(kind == "info", name.ends_with("_info"), "{name} is a {kind}");
        }
    }
    for (name, unit) in units {
        assert!(name.ends_with(unit), "{name} is in {unit}");
    }
    for name in types.keys().filter(|name| name.contains("time") || name.contains("duration")) {
        assert!(name.ends_with("_seconds"), "{name} has no unit");
    }
}

#[test]
fn the_readme_names_every_metric_and_no_other() {
    let metrics = metrics();
    // A family that has a label is told from its first member on.
    let one = || vec![("test", 1)];
    metrics.tls.look(&Counts { refused: one(), lost: one(), unread: one(), ..Counts::default() });
    let text = metrics.text().expect("text");
    let ours: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, kind)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        })
        .collect();
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '_';
    let told: BTreeSet<String> = README
        .split('`')
        .filter(|code| code.starts_with("sluice_"))
        .map(|code| code.chars().take_while(|c| is_of_name(*c)).collect())
        .collect();
    assert_eq!(told, ours);
}

#[test]
fn what_can_happen_is_there_before_it_happens() {
    let before = samples(&metrics().text().expect("text"));
    for series in [
        "sluice_events_total{kind=\"deny\",verdict=\"audit\"}",
        "sluice_events_lost_total{at=\"ring\"}",
        "sluice_events_lost_total{at=\"stdout\"}",
        "sluice_events_lost_total{at=\"observer\"}",
        "sluice_events_filtered_total{kind=\"deny\",reason=\"excluded\"}",
        "sluice_events_over_budget_total",
        "sluice_storage_failures_total",
        "sluice_policy_missing_total",
        "sluice_questions_refused_total",
        "sluice_decisions_total{verdict=\"deny\",posture=\"enforce\"}",
        "sluice_cni_requests_total{call=\"add\",result=\"failed\"}",
        "sluice_cni_request_duration_seconds_count{call=\"add\"}",
        "sluice_endpoints{state=\"leaving\"}",
        "sluice_ready",
    ] {
        assert_eq!(before.get(series).map(String::as_str), Some("0"), "{series}: {before:?}");
    }
    assert_eq!(before["sluice_map_capacity{map=\"endpoints\"}"], "4096");
}

#[test]
fn ten_thousand_pods_make_no_series() {
    let metrics = metrics();
    let before = samples(&metrics.text().expect("text"));
    for number in 0..10_000 {
        metrics.event(&line(number), Fate { filtered: 3, lost: 1 });
        let attachment = Attachment { container_id: number.to_string(), ifname: format!("eth{number}") };
        let refusal = Refusal { kind: RefusalKind::Invalid, message: number.to_string() };
        let took = Duration::from_micros(u64::from(number) * 1000);
        metrics.request(Some(&Call::Del(attachment)), &Outcome::Refused(refusal), took);
    }
    let text = metrics.text().expect("text");
    let after = samples(&text);
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for word in ["namespace-", "pod-", "policy-", "command-", "0.0.39"] {
        assert!(!text.contains(word), "{word}");
    }
    assert_eq!(after["sluice_events_total{kind=\"deny\",verdict=\"deny\"}"], "10000");
    assert_eq!(after["sluice_denied_packets_total{hook=\"connect\",protocol=\"tcp\"}"], "15000");
    assert_eq!(after["sluice_denied_packets_total{hook=\"connect\",protocol=\"other\"}"], "15000");
    assert_eq!(after["sluice_events_filtered_total{kind=\"deny\",reason=\"observer\"}"], "30000");
    assert_eq!(after["sluice_events_lost_total{at=\"observer\"}"], "10000");
    assert_eq!(after["sluice_events_attributed_total{result=\"hit\"}"], "10000");
    assert_eq!(after["sluice_cni_requests_total{call=\"del\",result=\"invalid\"}"], "10000");
    assert_eq!(after["sluice_cni_request_duration_seconds_count{call=\"del\"}"], "10000");
}
