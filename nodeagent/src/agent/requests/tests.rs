//! What is told of a request.

use std::sync::Arc;

use sluice_policy::{Posture, Selection, World, evaluate, parse};
use sluice_requests::{Asked, Connection, Seen};

use super::*;
use crate::agent::events::{Hook, Kind, SCHEMA};

fn line() -> Line {
    Line {
        v: SCHEMA,
        ts: jiff::Timestamp::UNIX_EPOCH,
        kind: Kind::Https,
        pod: None,
        src: None,
        sport: None,
        dst: "203.0.113.10".parse().expect("an address"),
        dport: Some(443),
        proto: "tcp".to_owned(),
        domain: Some("api.test".to_owned()),
        dns_type: None,
        dns_code: None,
        answers: None,
        method: None,
        path: None,
        request: RequestLine::default(),
        pid: Some(42),
        comm: Some("curl".to_owned()),
        action: Action::Allow,
        policy: None,
        rule: None,
        reason: "a request".to_owned(),
        hook: Hook::Library,
        repeats: 0,
    }
}

fn request(head: &str) -> Request {
    let headers = vec!["user-agent".to_owned(), "cookie".to_owned()];
    let asked = Arc::new(Asked { query: true, headers, ..Asked::default() });
    match Connection::new(asked).write(format!("{head}\r\n\r\n").as_bytes(), 0).pop() {
        Some(Seen::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// The line of a request under a policy with these rules.
fn under(rules: &str, posture: Posture, before: Line, head: &str) -> Line {
    let text = format!(
        "{{apiVersion: sluice.dev/v1alpha1, kind: EgressPolicy, metadata: {{name: p, namespace: shop}}, \
         spec: {{podSelector: {{}}, rules: [{rules}]}}}}"
    );
    let policies = parse("f.yaml", &text).expect("a policy");
    let selection = Selection::new(policies.into_iter().map(Arc::new));
    let request = request(head);
    let opening = opening(&before, &request, Some("api.test")).expect("a destination");
    let known = Flow { request: Some(requested(&request)), ..opening.clone() };
    let judge = |flow: &Flow| evaluate(&selection, &World::default(), posture, flow);
    told(before, request, Some("api.test"), Some("openssl"), Some(&(judge(&known), judge(&opening))))
}

const GET_ONLY: &str = "{name: api, action: Allow, to: [{domainNames: [api.test]}], ports: [{port: 443}], \
                        http: [{methods: [GET], path: {value: /v1}}]}";

#[test]
fn a_request_that_no_rule_allows_is_told_and_passes() {
    let get = "GET /v1/items HTTP/1.1\r\nHost: api.test";
    let allowed = under(GET_ONLY, Posture::Enforce, line(), get);
    assert_eq!(allowed.action, Action::Allow);
    assert_eq!((allowed.policy.as_deref(), allowed.rule.as_deref()), (Some("shop/p"), Some("api")));
    assert_eq!(allowed.reason, "a request");
    let post = "POST /v1/items HTTP/1.1\r\nHost: api.test";
    for posture in [Posture::Enforce, Posture::Log] {
        let denied = under(GET_ONLY, posture, line(), post);
        assert_eq!((denied.action, denied.rule.as_deref()), (Action::Audit, Some("default")));
        assert_eq!(
            denied.reason,
            "EgressPolicy shop/p, default action, by the request, which is not enforced"
        );
    }
    assert_eq!(under(GET_ONLY, Posture::Observe, line(), post).action, Action::Allow);
    // What the kernel denied stays denied.
    let stopped = Line { action: Action::Deny, reason: "stopped".to_owned(), ..line() };
    let stopped = under(GET_ONLY, Posture::Enforce, stopped, get);
    assert_eq!((stopped.action, stopped.reason.as_str(), stopped.rule), (Action::Deny, "stopped", None));
}

#[test]
fn a_request_reads_well() {
    let head =
        "GET /v1/a%0Ab?page=2&token=x HTTP/1.1\r\nHost: API.test\r\nUser-Agent: \"x\"\r\nCookie: secret";
    let line = under(GET_ONLY, Posture::Enforce, line(), head);
    let text = line.to_string();
    let (_, text) = text.split_once(' ').expect("a time");
    assert_eq!(
        text,
        "allow ? curl[42] -> tcp 203.0.113.10:443 GET api.test /v1/a%0Ab?page=2&token=REDACTED http/1.1 \
         cookie=\"REDACTED\" user-agent=\"\\\"x\\\"\" (a request)"
    );
    let json = serde_json::to_string(&line).expect("it can be written");
    for part in [r#""kind":"https""#, r#""method":"GET","path":"/v1/a%0Ab""#, r#""library":"openssl""#] {
        assert!(json.contains(part), "{json}");
    }
    assert!(!json.contains("secret"), "{json}");
    assert_eq!(serde_json::from_str::<Line>(&json).expect("it can be read"), line);
}

#[test]
fn another_name_than_tls_shows_is_told() {
    let fronted = under(GET_ONLY, Posture::Enforce, line(), "GET /v1 HTTP/1.1\r\nHost: b.test");
    assert_eq!(fronted.reason, "a request; TLS shows api.test");
}

#[test]
fn without_a_destination_nothing_is_judged() {
    let nowhere = Line { dport: None, ..line() };
    assert_eq!(opening(&nowhere, &request("GET / HTTP/1.1"), None), None);
    let told = told(nowhere, request("GET / HTTP/1.1"), None, None, None);
    assert_eq!((told.action, told.policy, told.method.as_deref()), (Action::Allow, None, Some("GET")));
}

#[test]
fn an_event_has_room_for_so_much_of_a_path() {
    let head = format!("GET {} HTTP/1.1\r\nHost: api.test", "/x".repeat(3000));
    let told = under(GET_ONLY, Posture::Enforce, line(), &head);
    assert_eq!(told.path.map(|path| path.len()), Some(MAX_TEXT + 3));
}
