//! The plugin against an agent that refuses, breaks off, is slow, or answers nonsense: what no real one can be made to do.
//! The suite `cni` of the conformance tests has the rest, with a real agent.

mod common;

use std::os::fd::AsRawFd;
use std::time::Duration;

use common::*;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket};
use serde_json::{Value, json};
use sluice_api::{Call, Outcome, Refusal, RefusalKind, Request, frame};

const IN_TIME: Duration = Duration::from_millis(5900);

/// ADD fails with code 11 by default, and goes through for an exempt namespace and with failurePolicy Ignore.
#[track_caller]
fn add_is_code_11(node: &Node) -> String {
    let conf = node.conf("1.0.0");
    let failed = run("ADD", &conf);
    assert!(failed.took < IN_TIME, "{:?}", failed.took);
    failed.error(11)
}

#[track_caller]
fn add_goes_through_with_a_warning(conf: &Value) {
    let run = run("ADD", conf);
    assert_eq!(run.document(), conf["prevResult"]);
    assert!(run.stderr.contains("shop/web-1 starts ungoverned"), "{}", run.stderr);
}

fn spooled(node: &Node) -> Option<Call> {
    let request: Request = serde_json::from_slice(&std::fs::read(node.spooled()).ok()?).unwrap();
    Some(request.call)
}

#[test]
fn not_ready() {
    let node = Node::with(refusal(RefusalKind::NotReady));
    assert!(add_is_code_11(&node).contains("the reason"));
    assert_eq!(spooled(&node), None);
    for lenient in [json!({"failurePolicy": "Ignore"}), json!({"exemptNamespaces": ["shop"]})] {
        add_goes_through_with_a_warning(&with(node.conf("1.0.0"), lenient));
        // What it was asked is what it finds in the spool.
        assert_eq!(spooled(&node).as_ref(), node.seen().last());
    }
}

#[test]
fn what_del_asked_for_is_spooled_unless_it_is_done() {
    for act in [refusal(RefusalKind::NotReady), refusal(RefusalKind::Failed), Act::CloseAtOnce] {
        let node = Node::with(act);
        run("DEL", &node.conf("1.0.0")).silent();
        assert!(matches!(spooled(&node), Some(Call::Del(_))));
    }
    for act in [Act::Answer(Outcome::Done), refusal(RefusalKind::Unknown)] {
        let node = Node::with(act);
        run("DEL", &node.conf("1.0.0")).silent();
        assert_eq!(spooled(&node), None);
    }
}

#[test]
fn status_is_50_until_the_agent_was_ready_once() {
    for act in [refusal(RefusalKind::NotReady), refusal(RefusalKind::Failed), Act::Silence] {
        let node = Node::with(act);
        run("STATUS", &node.conf("1.1.0")).error(50);
        std::fs::create_dir(node.state()).unwrap();
        std::fs::write(node.state().join("ready"), "").unwrap();
        assert!(!run("STATUS", &node.conf("1.1.0")).silent().stderr.is_empty());
    }
}

#[test]
fn a_refusal_for_good_is_not_ignored() {
    for (kind, code) in [(RefusalKind::Invalid, 102), (RefusalKind::Failed, 103), (RefusalKind::Unknown, 3)] {
        let node = Node::with(refusal(kind));
        for policy in ["Fail", "Ignore"] {
            let conf = with(node.conf("1.0.0"), json!({"failurePolicy": policy}));
            assert!(run("ADD", &conf).error(code).contains("the reason"));
        }
        add_goes_through_with_a_warning(&with(node.conf("1.0.0"), json!({"exemptNamespaces": ["shop"]})));
        // It would be refused again.
        assert_eq!(spooled(&node), None);
    }
}

#[test]
fn exempt_namespaces_are_registered_all_the_same() {
    let node = Node::with(done());
    let run = run("ADD", &with(node.conf("1.0.0"), json!({"exemptNamespaces": ["shop"]})));
    run.document();
    assert_eq!((run.stderr.as_str(), node.seen().len()), ("", 1));
}

#[test]
fn killed_during_add() {
    assert!(add_is_code_11(&Node::with(Act::CloseAtOnce)).contains("closed"));
    let good = good_reply();
    for cut in [0, 3, 4, 5, good.len() - 1] {
        let node = Node::with(Act::Bytes(good[..cut].to_vec()));
        assert!(add_is_code_11(&node).contains("closed"), "{cut}");
    }
}

#[test]
fn silent() {
    assert!(add_is_code_11(&Node::with(Act::Silence)).contains("5s"));
}

#[test]
fn deaf_to_a_long_request() {
    // More than the socket's buffers take, so that the write waits.
    let node = Node::with(Act::Deaf);
    let mut conf = node.conf("1.0.0");
    conf["prevResult"]["ips"] =
        (0..60_000).map(|n| json!({"address": format!("10.{}.{}.7/32", n / 250, n % 250)})).collect();
    let run = run("ADD", &conf);
    assert!(run.error(11).contains("5s"));
    assert!(run.took < IN_TIME, "{:?}", run.took);
}

#[test]
fn trickling() {
    assert!(add_is_code_11(&Node::with(Act::Trickle(Duration::from_millis(400)))).contains("5s"));
}

#[test]
fn slow_but_in_time() {
    let node = Node::with(Act::Trickle(Duration::from_millis(40)));
    run("ADD", &node.conf("1.0.0")).document();
}

#[test]
fn a_queue_that_is_full() {
    let node = Node::without_agent();
    let address = UnixAddr::new(&node.socket()).unwrap();
    let open = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    let listener = open();
    bind(listener.as_raw_fd(), &address).unwrap();
    listen(&listener, Backlog::new(1).unwrap()).unwrap();
    let mut waiting = Vec::new();
    loop {
        let end = open();
        match connect(end.as_raw_fd(), &address) {
            Ok(()) => waiting.push(end),
            Err(error) => break assert_eq!(error, Errno::EAGAIN),
        }
    }
    assert!(add_is_code_11(&node).contains("5s"));
}

#[test]
fn an_answer_too_long() {
    for length in [0, (1_u32 << 20) + 1, u32::MAX] {
        let node = Node::with(Act::Bytes(length.to_be_bytes().to_vec()));
        assert!(add_is_code_11(&node).contains("1048576"));
    }
}

#[test]
fn an_answer_of_another_version() {
    for reply in [
        json!({"version": 2, "outcome": "done"}),
        json!({"version": 2, "outcome": {"later": 3}, "more": true}),
        json!({"version": 0, "outcome": "done"}),
    ] {
        let node = Node::with(Act::Bytes(frame::encode(&reply).unwrap()));
        assert!(add_is_code_11(&node).contains("version"));
    }
}

#[test]
fn an_answer_of_nonsense() {
    let framed = |body: &[u8]| [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat();
    for body in [&b"{"[..], b"null", b"\xff\xfe", b"{\"version\":1}", b"{\"version\":1,\"outcome\":\"dane\"}"]
    {
        add_is_code_11(&Node::with(Act::Bytes(framed(body))));
    }
}

#[test]
fn an_answer_before_the_request_was_read() {
    let refused = Refusal { kind: RefusalKind::NotReady, message: "not now".into() };
    // Whether the answer or the reset arrives first is the kernel's to say; it is code 11 in both cases.
    add_is_code_11(&Node::with(Act::AnswerUnread(Outcome::Refused(refused))));
}
