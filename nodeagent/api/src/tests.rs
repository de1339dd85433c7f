use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::frame::{FrameError, MAX_MESSAGE};

fn attachment() -> Attachment {
    Attachment { container_id: "c0ffee".into(), ifname: "eth0".into() }
}

fn add() -> Add {
    Add {
        attachment: attachment(),
        network: "pods".into(),
        netns: "/var/run/netns/a".into(),
        cgroup: Cgroup { path: "/sys/fs/cgroup/kubepods/pod1".into(), id: u64::MAX },
        pod: Pod {
            namespace: "shop".into(),
            name: "web".into(),
            uid: "1".into(),
            labels: BTreeMap::from([("app".into(), "web".into())]),
        },
        ips: vec![Ipv4Addr::new(10, 0, 0, 7).into(), Ipv6Addr::LOCALHOST.into()],
        host_interface: Some("veth1".into()),
    }
}

fn calls() -> Vec<Call> {
    vec![
        Call::Add(add()),
        Call::Del(attachment()),
        Call::Check(attachment()),
        Call::Gc { network: "pods".into(), valid: vec![attachment()] },
        Call::Status,
    ]
}

/// The agent of one release and the plugin of another meet during an upgrade, so the bytes are a contract.
#[test]
fn the_wire_form_is_pinned() {
    let wire = |call| serde_json::to_value(Request { version: PROTOCOL_VERSION, call }).unwrap();
    let key = json!({"containerId": "c0ffee", "ifname": "eth0"});
    assert_eq!(
        wire(Call::Add(add())),
        json!({"version": 1, "call": {"add": {
            "attachment": key,
            "network": "pods",
            "netns": "/var/run/netns/a",
            "cgroup": {"path": "/sys/fs/cgroup/kubepods/pod1", "id": u64::MAX},
            "pod": {"namespace": "shop", "name": "web", "uid": "1", "labels": {"app": "web"}},
            "ips": ["10.0.0.7", "::1"],
            "hostInterface": "veth1",
        }}})
    );
    assert_eq!(wire(Call::Del(attachment())), json!({"version": 1, "call": {"del": key}}));
    assert_eq!(wire(Call::Check(attachment())), json!({"version": 1, "call": {"check": key}}));
    assert_eq!(
        wire(Call::Gc { network: "pods".into(), valid: vec![attachment()] }),
        json!({"version": 1, "call": {"gc": {"network": "pods", "valid": [key]}}})
    );
    assert_eq!(wire(Call::Status), json!({"version": 1, "call": "status"}));

    let refused = Refusal { kind: RefusalKind::NotReady, message: "loading".into() };
    assert_eq!(
        serde_json::to_value(Reply { version: 1, outcome: Outcome::Refused(refused) }).unwrap(),
        json!({"version": 1, "outcome": {"refused": {"kind": "notReady", "message": "loading"}}})
    );
    assert_eq!(
        serde_json::to_value(Reply { version: 1, outcome: Outcome::Done }).unwrap(),
        json!({"version": 1, "outcome": "done"})
    );
}

#[test]
fn every_call_survives_the_frame() {
    for call in calls() {
        let request = Request { version: PROTOCOL_VERSION, call };
        let bytes = frame::encode(&request).unwrap();
        assert_eq!(frame::read::<Request>(&mut bytes.as_slice()).unwrap(), request);
    }
}

#[test]
fn write_and_encode_agree() {
    let mut written = Vec::new();
    frame::write(&mut written, &add()).unwrap();
    assert_eq!(written, frame::encode(&add()).unwrap());
}

#[test]
fn unknown_fields_and_calls_are_refused() {
    for body in [
        r#"{"version":1,"call":"status","extra":1}"#,
        r#"{"version":1,"call":"reload"}"#,
        r#"{"version":1,"call":{"del":{"containerId":"a","ifname":"b","netns":"c"}}}"#,
        r#"{"version":1}"#,
        r#"{"version":-1,"call":"status"}"#,
        "[]",
        "{}{}",
    ] {
        assert!(matches!(frame::decode::<Request>(body.as_bytes()), Err(FrameError::Json(_))), "{body}");
    }
}

#[test]
fn a_stated_version_is_read_from_what_cannot_be_decoded() {
    let newer = br#"{"version":2,"outcome":{"later":{"seconds":3}},"hint":true}"#;
    assert!(frame::decode::<Reply>(newer).is_err());
    assert_eq!(frame::stated_version(newer), Some(2));
    assert_eq!(frame::stated_version(b"{}"), None);
    assert_eq!(frame::stated_version(b"nonsense"), None);
}

#[test]
fn lengths_outside_the_limits_are_refused_before_anything_is_allocated() {
    let header = |length: usize| u32::try_from(length).unwrap().to_be_bytes();
    assert!(matches!(frame::body_length(header(0)), Err(FrameError::Length(0))));
    assert_eq!(frame::body_length(header(1)).unwrap(), 1);
    assert_eq!(frame::body_length(header(MAX_MESSAGE)).unwrap(), MAX_MESSAGE);
    assert!(matches!(frame::body_length(header(MAX_MESSAGE + 1)), Err(FrameError::Length(_))));
    assert!(matches!(frame::body_length([0xff; 4]), Err(FrameError::Length(_))));

    let long = "x".repeat(MAX_MESSAGE);
    assert!(matches!(frame::encode(&long), Err(FrameError::Length(_))));
    let longest = "x".repeat(MAX_MESSAGE - 2);
    assert_eq!(frame::encode(&longest).unwrap().len(), 4 + MAX_MESSAGE);
}

#[test]
fn a_cut_message_is_an_end_of_file() {
    let bytes = frame::encode(&Call::Status).unwrap();
    for cut in 0..bytes.len() {
        match frame::read::<Call>(&mut &bytes[..cut]) {
            Err(FrameError::Io(error)) => assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof),
            other => panic!("{cut} bytes: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = frame::read::<Request>(&mut bytes.as_slice());
        let _ = frame::decode::<Reply>(&bytes);
        let _ = frame::stated_version(&bytes);
    }

    #[test]
    fn no_damage_to_a_good_message_panics(at in 0..400_usize, byte in any::<u8>(), which in 0..5_usize) {
        let call = calls().swap_remove(which);
        let mut bytes = frame::encode(&Request { version: PROTOCOL_VERSION, call }).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = frame::read::<Request>(&mut bytes.as_slice());
    }

    #[test]
    fn text_survives(id in ".*", name in ".*", uid in ".*", key in ".*", value in ".*") {
        let mut sent = add();
        sent.attachment.container_id = id;
        sent.pod.name = name;
        sent.pod.uid = uid;
        sent.pod.labels.insert(key, value);
        let bytes = frame::encode(&sent).unwrap();
        prop_assert_eq!(frame::read::<Add>(&mut bytes.as_slice()).unwrap(), sent);
    }
}
