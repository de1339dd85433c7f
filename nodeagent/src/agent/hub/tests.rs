//! What is kept, who gets it, and who loses it.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::agent::events::{Hook, PodLine, Qos, SCHEMA};

fn line(namespace: &str, name: &str, action: Action) -> Line {
    Line {
        v: SCHEMA,
        ts: jiff::Timestamp::now(),
        kind: if action == Action::Allow { Kind::Connect } else { Kind::Deny },
        pod: Some(PodLine {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: String::new(),
            container: Some("abcdef".to_owned()),
            qos: Qos::Burstable,
            node: "node".to_owned(),
        }),
        src: None,
        sport: None,
        dst: IpAddr::V4(Ipv4Addr::LOCALHOST),
        dport: Some(443),
        proto: "tcp".to_owned(),
        domain: None,
        dns_type: None,
        dns_code: None,
        answers: None,
        method: None,
        path: None,
        request: crate::agent::events::RequestLine::default(),
        pid: None,
        comm: None,
        action,
        policy: None,
        rule: None,
        reason: "because".to_owned(),
        hook: Hook::Connect,
        repeats: 0,
    }
}

fn numbered(number: usize) -> Arc<Line> {
    Arc::new(Line { repeats: number as u64, ..line("shop", "web", Action::Deny) })
}

fn numbers(lines: &[Arc<Line>]) -> Vec<u64> {
    lines.iter().map(|line| line.repeats).collect()
}

fn pods(names: &[&str]) -> Vec<PodName> {
    names.iter().map(|name| name.parse().expect("a pod")).collect()
}

#[test]
fn every_part_of_a_filter_counts() {
    let denied = line("shop", "web", Action::Deny);
    let unknown = Line { pod: None, ..denied.clone() };
    let filter = Filter::default;
    for (name, filter, wanted) in [
        ("nothing asked", filter(), true),
        ("namespace", Filter { namespace: Some("shop".into()), ..filter() }, true),
        ("other namespace", Filter { namespace: Some("sho".into()), ..filter() }, false),
        ("pod", Filter { pods: pods(&["other", "web"]), ..filter() }, true),
        ("pod and namespace", Filter { pods: pods(&["shop/web"]), ..filter() }, true),
        ("pod of another namespace", Filter { pods: pods(&["cache/web"]), ..filter() }, false),
        ("part of a name", Filter { pods: pods(&["we"]), ..filter() }, false),
        ("verdict", Filter { verdicts: vec![Action::Audit, Action::Deny], ..filter() }, true),
        ("other verdict", Filter { verdicts: vec![Action::Allow], ..filter() }, false),
        ("kind", Filter { kinds: vec![Kind::Deny], ..filter() }, true),
        ("other kind", Filter { kinds: vec![Kind::Connect], ..filter() }, false),
        ("container", Filter { containers: vec!["abc".into()], ..filter() }, true),
        ("other container", Filter { containers: vec!["bc".into()], ..filter() }, false),
        (
            "all must hold",
            Filter { namespace: Some("shop".into()), kinds: vec![Kind::Connect], ..filter() },
            false,
        ),
    ] {
        assert_eq!(filter.wants(&denied), wanted, "{name}");
    }
    assert!(filter().wants(&unknown));
    assert!(!Filter { namespace: Some("shop".into()), ..filter() }.wants(&unknown));
    assert!(!Filter { pods: pods(&["web"]), ..filter() }.wants(&unknown));
}

#[test]
fn names_of_pods() {
    for wrong in ["", "/", "a/", "/a", "a/b/c"] {
        assert!(wrong.parse::<PodName>().is_err(), "{wrong}");
    }
    assert_eq!(pods(&["a/b"])[0].namespace.as_deref(), Some("a"));
}

#[test]
fn the_newest_are_kept() {
    let hub = Hub::default();
    for number in 0..RECENT + 10 {
        hub.publish(numbered(number));
    }
    let all = hub.subscribe(&Observe::default()).expect("an observer").recent;
    assert_eq!(all.len(), RECENT);
    assert_eq!(all[0].repeats, 10);
    let last = hub.subscribe(&Observe { last: Some(2), ..Observe::default() }).expect("an observer").recent;
    assert_eq!(numbers(&last), [RECENT as u64 + 8, RECENT as u64 + 9]);
    let since = Some(all[RECENT - 1].ts);
    let since = hub.subscribe(&Observe { since, ..Observe::default() }).expect("an observer").recent;
    assert!(!since.is_empty() && since.iter().all(|line| line.ts >= all[RECENT - 1].ts));
}

#[test]
fn the_last_are_counted_after_the_filter() {
    let hub = Hub::default();
    hub.publish(Arc::new(line("shop", "web", Action::Deny)));
    for _ in 0..5 {
        hub.publish(Arc::new(line("shop", "web", Action::Allow)));
    }
    let filter = Filter { verdicts: vec![Action::Deny], ..Filter::default() };
    let observe = Observe { filter, last: Some(3), ..Observe::default() };
    assert_eq!(hub.subscribe(&observe).expect("an observer").recent.len(), 1);
}

#[test]
fn who_follows_gets_what_comes_and_nothing_twice() {
    let hub = Hub::default();
    hub.publish(numbered(1));
    let observe = Observe { last: Some(9), follow: true, ..Observe::default() };
    let mut observer = hub.subscribe(&observe).expect("an observer");
    let mut new_only = hub.subscribe(&Observe { follow: true, ..Observe::default() }).expect("an observer");
    assert_eq!(hub.publish(numbered(2)), Fate::default());
    assert_eq!(numbers(&observer.recent), [1]);
    assert!(new_only.recent.is_empty());
    hub.close();
    for lines in [&mut observer.lines, &mut new_only.lines] {
        assert_eq!(lines.blocking_recv().map(|line| line.repeats), Some(2));
        assert!(lines.blocking_recv().is_none());
    }
    assert!(matches!(hub.subscribe(&observe), Err(ObserveError::Stopping)));
}

#[test]
fn a_slow_observer_loses_lines_and_holds_nobody_up() {
    let hub = Hub::default();
    let follow = Observe { follow: true, ..Observe::default() };
    let slow = hub.subscribe(&follow).expect("an observer");
    let mut quick = hub.subscribe(&follow).expect("an observer");
    let mut lost = 0;
    for number in 0..QUEUE + 7 {
        lost += hub.publish(numbered(number)).lost;
        assert_eq!(quick.lines.try_recv().map(|line| line.repeats), Ok(number as u64));
    }
    assert_eq!((lost, slow.lost(), slow.lost(), quick.lost()), (7, 7, 0, 0));
}

#[test]
fn what_an_observer_did_not_ask_for_is_counted() {
    let hub = Hub::default();
    let filter = Filter { namespace: Some("cache".into()), ..Filter::default() };
    let _observer = hub.subscribe(&Observe { filter, follow: true, ..Observe::default() }).expect("one");
    assert_eq!(hub.publish(numbered(1)), Fate { filtered: 1, lost: 0 });
}

#[test]
fn there_are_only_so_many_observers() {
    let hub = Hub::default();
    let follow = Observe { follow: true, ..Observe::default() };
    let mut observers: Vec<_> =
        (0..MAX_OBSERVERS).map(|_| hub.subscribe(&follow).expect("an observer")).collect();
    assert!(matches!(hub.subscribe(&follow), Err(ObserveError::TooMany)));
    assert!(hub.subscribe(&Observe::default()).is_ok(), "who does not follow takes no place");
    observers.pop();
    assert_eq!(hub.observers(), MAX_OBSERVERS - 1);
    assert!(hub.subscribe(&follow).is_ok());
}
