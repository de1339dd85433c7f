use super::*;

#[test]
fn both_forms_say_the_same() {
    let words = read(
        "proto=udp label.app=web dst=2001:db8::1 nslabel.team=red port=53 opaque=true pod=shop/web-0 \
         hostNetwork=true",
    );
    let json = read(
        r#"{"pod":"shop/web-0","labels":{"app":"web"},"namespaceLabels":{"team":"red"},"dst":"2001:db8::1",
            "port":53,"proto":"UDP","opaque":true,"hostNetwork":true}"#,
    );
    let words = words.expect("a flow");
    assert_eq!(words, json.expect("a flow"));
    assert_eq!((words.protocol, words.port), (17, Some(53)));
}

#[test]
fn protocols_are_those_of_the_family() {
    for (text, protocol, opaque) in [
        ("dst=10.0.0.1 port=1", FlowProtocol::Tcp, false),
        ("dst=10.0.0.1 port=1 proto=6", FlowProtocol::Tcp, false),
        ("dst=10.0.0.1 proto=icmp", FlowProtocol::Icmp, false),
        ("dst=::ffff:10.0.0.1 proto=icmp", FlowProtocol::Icmp, false),
        ("dst=2001:db8::1 proto=icmp", FlowProtocol::Icmp, false),
        ("dst=2001:db8::1 proto=1", FlowProtocol::Other(1), false),
        ("dst=10.0.0.1 proto=47", FlowProtocol::Other(47), false),
        ("dst=10.0.0.1 proto=4", FlowProtocol::Other(4), true),
        ("dst=10.0.0.1 proto=43", FlowProtocol::Other(43), false),
        ("dst=2001:db8::1 proto=43", FlowProtocol::Other(43), true),
        ("dst=10.0.0.1 opaque=true", FlowProtocol::Tcp, true),
    ] {
        let flow = read(&format!("pod=a/b {text}")).expect(text).flow();
        assert_eq!((flow.protocol, flow.opaque), (protocol, opaque), "{text}");
    }
}

#[test]
fn a_flow_shows_the_first_name_that_it_was_learned_from() {
    let names = |text: &str| read(&format!("pod=a/b dst=10.0.0.1 port=443 {text}")).expect(text).flow().names;
    let name = |text: &str| text.parse::<Name>().expect("a name");
    let both = names("domain=A.test,b.test");
    assert_eq!(both.learned, [name("a.test"), name("b.test")]);
    assert_eq!(both.shown, Some(Shown::Name(name("a.test"))));
    assert_eq!(names("domain=a.test shown=b.test").shown, Some(Shown::Name(name("b.test"))));
    assert_eq!(names("domain=a.test shown=none").shown, Some(Shown::Unreadable));
    assert_eq!(names("").shown, Some(Shown::Unreadable));
    let errors = read("pod=a/b dst=10.0.0.1 port=443 domain=*.test shown=a..b").expect_err("no names");
    assert_eq!(errors.len(), 2, "{errors:?}");
}

#[test]
fn faults_are_told_at_once_and_with_their_fields() {
    let found = |text| {
        let errors = read(text).expect_err(text);
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        found("pod=web dst=example.com port=70000 proto=tpc opaque=yes prot=tcp 443 label.=x"),
        [
            "prot: no such field; known here: pod, label.KEY, nslabel.KEY, dst, port, proto, domain, shown, method, path, opaque, \
             hostNetwork",
            "`443` is no field with a value; write FIELD=VALUE, such as port=443",
            "pod: `web` does not belong here; write the pod as NAMESPACE/NAME in lower case, such as shop/web",
            "labels: `` does not belong here; write letters, digits, `-`, `_` and `.`, if need be after a domain \
             and `/`",
            "dst: `example.com` does not belong here; write an IPv4 or IPv6 address, such as 203.0.113.7; names \
             are not looked up",
            "proto: `tpc` does not belong here; write tcp, udp, sctp, icmp or a number from 0 to 255",
            "port: `70000` does not belong here; write a number from 0 to 65535",
            "opaque: `yes` does not belong here; write true or false",
        ]
    );
    for (text, expected) in [
        (
            "dst=10.0.0.1 port=1",
            "pod: missing; write the pod as NAMESPACE/NAME in lower case, such as shop/web",
        ),
        ("pod=a/b dst=10.0.0.1", "port: missing; write a number from 0 to 65535"),
        ("pod=a/b pod=a/c dst=10.0.0.1 port=1", "pod: given twice; remove one of them"),
        (
            "pod=a/b dst=10.0.0.1 port=1 proto=icmp",
            "port: protocol 1 has no ports; remove the port, or write another proto",
        ),
        (
            "pod=a/b dst=10.0.0.1 port=1 nslabel.kubernetes.io/metadata.name=c",
            "kubernetes.io/metadata.name: `c` is not the namespace of the pod, a; leave the label out, it is \
             always there",
        ),
        (
            r#"{"pod":"a/b","dst":"10.0.0.1","port":"443"}"#,
            "port: `443` does not belong here; write a number from 0 to 65535",
        ),
        (
            r#"{"pod":"a/b","dst":"10.0.0.1","port":1,"labels":{"a":"\u001b[2J"}}"#,
            "labels.a: `\\u{1b}[2J` does not belong here; write at most 63 letters, digits, `-`, `_` and `.`, as text",
        ),
    ] {
        assert_eq!(found(text), [expected], "{text}");
    }
}

#[test]
fn requests_are_read() {
    let request = |text: &str| {
        read(&format!("pod=a/b dst=10.0.0.1 port=443 {text}"))
            .map(|spec| (spec.request.clone(), spec.method(), spec.path()))
    };
    let some = |method: &str, path: &str| {
        Some(Requested::Request { method: method.to_owned(), path: path.to_owned() })
    };
    let words = |text: &str| request(text).expect("a flow");
    assert_eq!(words(""), (None, None, None));
    let get = (some("GET", "/v1"), Some("GET".to_owned()), Some("/v1".to_owned()));
    assert_eq!(words("method=GET path=/v1"), get);
    assert_eq!(words("method=none"), (Some(Requested::Unreadable), Some("none".to_owned()), None));
    assert_eq!(words("method=CONNECT"), (some("CONNECT", ""), Some("CONNECT".to_owned()), None));
    let faults = |text: &str| {
        let errors = request(text).expect_err("a fault");
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    for (text, expected) in [
        ("method=GET", "path: missing; write the path of a request without its query"),
        ("path=/", "method: missing; write the method of a request"),
        ("method=GET path=v1", "path: `v1` does not belong here"),
        ("method=GET path=/a?b", "path: `/a?b` does not belong here"),
        ("method=G/T path=/", "method: `G/T` does not belong here"),
        ("proto=udp method=GET path=/", "method: HTTP goes over TCP, and the flow has protocol 17"),
    ] {
        assert!(faults(text).starts_with(expected), "{text}: {}", faults(text));
    }
}
