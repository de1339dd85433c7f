//! What is told of a request.

use std::sync::Arc;

use sluice_policy::{Selection, World, evaluate, parse};
use sluice_requests::{Asked, Connection};

use super::*;

fn facts() -> Facts {
    let mut comm = [0; 16];
    comm[..4].copy_from_slice(b"curl");
    Facts {
        endpoint: 7,
        pid: 42,
        comm,
        time_ns: 5 * SECOND_NS,
        source: None,
        destination: Some("203.0.113.10:443".parse().expect("an address")),
        name: Some("api.test".to_owned()),
        library: Some("openssl"),
    }
}

fn request(head: &str) -> Request {
    let asked = Asked {
        query: true,
        headers: vec!["user-agent".to_owned(), "cookie".to_owned()],
        ..Asked::default()
    };
    let mut seen = Connection::new(Arc::new(asked)).write(format!("{head}\r\n\r\n").as_bytes(), 0);
    match seen.pop() {
        Some(Seen::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// What the policy's rules make of a request.
fn judged(rules: &str, posture: sluice_policy::Posture, request: &Request) -> Judged {
    let text = format!(
        "{{apiVersion: sluice.dev/v1alpha1, kind: EgressPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{podSelector: {{}}, rules: [{rules}]}}}}"
    );
    let policies = parse("f.yaml", &text).expect("a policy");
    let selection = Selection::new(policies.into_iter().map(Arc::new));
    let opening = opening(&facts(), request, "203.0.113.10:443".parse().expect("an address"));
    let known = Flow { request: Some(requested(request)), ..opening.clone() };
    let judge = |flow: &Flow| evaluate(&selection, &World::default(), posture, flow);
    Judged::new(judge(&known), &judge(&opening), true)
}

fn told(rules: &str, head: &str) -> Line {
    let request = request(head);
    let judged = judged(rules, sluice_policy::Posture::Enforce, &request);
    line(&facts(), request, Some(&judged))
}

const GET_ONLY: &str = "{name: api, action: Allow, to: [{domainNames: [api.test]}], ports: [{port: 443}], http: [{methods: [GET], path: {value: /v1}}]}";

#[test]
fn a_request_that_no_rule_allows_is_told_and_passes() {
    let allowed = told(GET_ONLY, "GET /v1/items HTTP/1.1\r\nHost: api.test");
    assert_eq!((allowed.action, allowed.kind), (Action::Allow, Kind::Https));
    assert_eq!((allowed.policy.as_deref(), allowed.rule.as_deref()), (Some("shop/p"), Some("api")));
    let denied = told(GET_ONLY, "POST /v1/items HTTP/1.1\r\nHost: api.test");
    assert_eq!(denied.action, Action::Audit);
    assert_eq!(denied.rule.as_deref(), Some("default"));
    assert_eq!(denied.reason, "EgressPolicy shop/p, default action, by the request, which is not enforced");
    // The log posture applies nothing, and tells the same.
    let request = request("POST /v1/items HTTP/1.1\r\nHost: api.test");
    let logged = judged(GET_ONLY, sluice_policy::Posture::Log, &request);
    assert_eq!(line(&facts(), request, Some(&logged)).action, Action::Audit);
}

#[test]
fn a_request_reads_well() {
    let line = told(
        GET_ONLY,
        "GET /v1/a%0Ab?page=2&token=x HTTP/1.1\r\nHost: API.test\r\nUser-Agent: \"x\"\r\nCookie: secret",
    );
    let text = line.to_string();
    let (_, text) = text.split_once(' ').expect("a time");
    assert_eq!(
        text,
        "allow ? curl[42] -> tcp 203.0.113.10:443 GET api.test/v1/a%0Ab?page=2&token=REDACTED http/1.1 \
         cookie=\"REDACTED\" user-agent=\"\\\"x\\\"\" (EgressPolicy shop/p, rule 0 (api))"
    );
    let json = serde_json::to_string(&line).expect("it can be written");
    assert!(
        json.contains(r#""kind":"https""#) && json.contains(r#""method":"GET","path":"/v1/a%0Ab""#),
        "{json}"
    );
    assert!(json.contains(r#""library":"openssl""#) && json.contains(r#""hook":"library""#), "{json}");
    assert!(!json.contains("secret"), "{json}");
    assert_eq!(serde_json::from_str::<Line>(&json).expect("it can be read"), line);
}

#[test]
fn what_cannot_be_judged_says_so() {
    let nowhere = Facts { destination: None, library: None, ..facts() };
    let head = "GET / HTTP/1.1\r\nHost: b.test";
    let told = line(&nowhere, request(head), None);
    assert_eq!((told.action, told.kind, told.dport), (Action::Allow, Kind::Http, None));
    assert!(told.dst.is_unspecified());
    assert_eq!(told.reason, "not judged: its destination is not known; TLS shows api.test");
    assert_eq!(
        line(&facts(), request("GET / HTTP/1.1"), None).reason,
        "not judged: its pod is not governed any more"
    );
    assert_eq!(line(&facts(), request("GET / HTTP/1.1"), None).domain.as_deref(), Some("api.test"));
}

#[test]
fn an_event_has_room_for_so_much_of_a_path() {
    let path = "/x".repeat(3000);
    let told = told(GET_ONLY, &format!("GET {path} HTTP/1.1\r\nHost: api.test"));
    assert_eq!(told.request.path.map(|path| path.len()), Some(MAX_TEXT + 3));
}

/// Of many requests at once each pod gives as many events as it may, and the others are counted by whoever asks.
#[test]
fn a_pod_gives_so_many_events_in_a_second() {
    let mut budgets = Budgets::default();
    let at = |endpoint, time_ns| Facts { endpoint, time_ns, ..facts() };
    let given = (0..100_000).filter(|number| budgets.take(&at(7, SECOND_NS + number * 10_000))).count();
    assert_eq!(given, 1000);
    assert!(budgets.take(&at(8, SECOND_NS)));
    assert!(budgets.take(&at(7, 2 * SECOND_NS)));
    // A clock that is behind takes nothing back.
    assert!(budgets.take(&at(7, SECOND_NS)));
    for endpoint in 0..10_000 {
        assert!(budgets.take(&at(endpoint, 4 * SECOND_NS)));
        assert!(budgets.0.len() <= MAX_BUDGETS);
    }
}
