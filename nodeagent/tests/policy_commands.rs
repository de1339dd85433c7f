//! `sluice policy check` and `sluice policy test`, as an operator runs them.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const WEB: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  rules:
  - name: payments
    action: Allow
    to: [{networks: [203.0.113.0/24]}]
    ports: [{port: 443}]
";

const PEERS: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: peers, namespace: shop}
spec:
  podSelector: {}
  rules:
  - action: Allow
    to: [{services: [{name: redis, namespace: cache}]}]
    ports: [{port: 6379}]
  - action: Allow
    to: [{pods: {podSelector: {}, namespaceSelector: {matchLabels: {team: red}}}}]
    ports: [{port: 80}]
";

const WORLD: &str = "\
namespaces: {cache: {team: red}}
pods:
- {namespace: cache, name: redis-0, addresses: [10.1.2.3]}
- {namespace: shop, name: web, labels: {app: web}, addresses: [10.1.2.9]}
services:
- namespace: cache
  name: redis
  addresses: [10.96.0.7]
  ports: [{port: 6379, targets: ['10.1.2.3:16379']}]
";

/// A directory of files.
fn directory(files: &[(&str, &str)]) -> TempDir {
    let directory = TempDir::new().expect("a directory");
    for (name, text) in files {
        fs::write(directory.path().join(name), text).expect("a file");
    }
    directory
}

/// Runs `sluice policy …` in the directory.
fn sluice(directory: &Path, args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("policy")
        .args(args)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice starts");
    // It may end before it reads: what it says then is what the test looks at.
    let _ = child.stdin.take().expect("a pipe").write_all(stdin.as_bytes());
    child.wait_with_output().expect("sluice ends")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn out(output: &Output) -> &str {
    str::from_utf8(&output.stdout).expect("text")
}

fn err(output: &Output) -> &str {
    str::from_utf8(&output.stderr).expect("text")
}

fn json_lines(output: &Output) -> Vec<Value> {
    out(output).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

#[test]
fn check_is_silent_about_good_files() {
    let files = directory(&[("web.yaml", WEB), ("peers.yml", PEERS), ("notes.txt", "not: a policy")]);
    let output = sluice(files.path(), &["check", "."], "");
    assert_eq!((code(&output), out(&output)), (0, "2 policies, 0 errors, 0 warnings\n"), "{output:?}");
    let output = sluice(files.path(), &["check", "-", "peers.yml", "./peers.yml"], WEB);
    assert_eq!((code(&output), out(&output)), (0, "2 policies, 0 errors, 0 warnings\n"), "{output:?}");
}

#[test]
fn check_tells_all_errors_of_all_files() {
    let bad = WEB.replace("action: Allow", "action: Alow").replace("port: 443", "port: 70000");
    let files = directory(&[("a.yaml", WEB), ("bad.yaml", &bad), ("broken.json", "{"), ("twice.yaml", WEB)]);
    let output = sluice(files.path(), &["check", ".", "gone.yaml"], "");
    assert_eq!(code(&output), 1);
    let lines: Vec<&str> = out(&output).lines().collect();
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(
        lines[..2],
        [
            "error: ./bad.yaml: document 1, line 8: spec.rules[0].action: `Alow` is not known here; write Allow or Deny",
            "error: ./bad.yaml: document 1, line 10: spec.rules[0].ports[0].port: 70000 is no port; write a number from \
             1 to 65535, or leave the field out for all ports",
        ]
    );
    assert!(lines[2].starts_with("error: ./broken.json: document 1, line 1: "), "{}", lines[2]);
    assert!(lines[3].starts_with("error: gone.yaml: cannot be read: No such file"), "{}", lines[3]);
    assert_eq!(
        lines[4..],
        [
            "error: ./twice.yaml: document 1: metadata.name: EgressPolicy shop/web is defined twice, in ./a.yaml \
             (document 1) and in ./twice.yaml (document 1); rename or remove one of them",
            "1 policy, 5 errors, 0 warnings",
        ]
    );
}

#[test]
fn check_refuses_a_directory_without_policies() {
    let output = sluice(directory(&[(".hidden.yaml", WEB)]).path(), &["check", "."], "");
    assert_eq!(code(&output), 1);
    assert!(out(&output).starts_with("error: .: holds no policy file; name a directory with"), "{output:?}");
}

#[test]
fn check_warns_and_fails_for_it_only_when_strict() {
    let rules = "  - {action: Deny, to: [{networks: [203.0.113.7/32]}], ports: [{port: 443}]}\n";
    let files = directory(&[("web.yaml", &(WEB.to_owned() + rules))]);
    let expected = "warning: web.yaml: shop/web: spec.rules[1]: never matches: rule 0 before it matches all of it; move \
                    this rule up or remove it\n1 policy, 0 errors, 1 warning\n";
    for (args, exit) in [(&["check", "web.yaml"][..], 0), (&["check", "--strict", "web.yaml"], 1)] {
        let output = sluice(files.path(), args, "");
        assert_eq!((code(&output), out(&output)), (exit, expected));
    }
}

#[test]
fn check_has_a_json_form() {
    let cluster = "{\"apiVersion\": \"sluice.dev/v1alpha1\", \"kind\": \"ClusterEgressPolicy\", \
                   \"metadata\": {\"name\": \"proxy\"}, \
                   \"spec\": {\"podSelector\": {\"matchLabels\": {\"app\": \"proxy\"}}, \"rules\": [{\"action\": \"Allow\"}]}}";
    let bad = WEB.replace("Allow", "Pass");
    let files = directory(&[("cluster.json", cluster), ("bad.yaml", &bad)]);
    let output =
        sluice(files.path(), &["check", "cluster.json", "bad.yaml", "gone.yaml", "--output", "json"], "");
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_str(out(&output)).expect("JSON");
    let advice = report["errors"][1]["message"].clone();
    assert_eq!(
        report,
        json!({
            "v": 1,
            "errors": [
                {"file": "bad.yaml", "document": 1, "line": 8, "field": "spec.rules[0].action",
                 "message": "only a ClusterEgressPolicy can have this; write Allow or Deny"},
                {"file": "gone.yaml", "document": null, "line": null, "field": "", "message": advice},
            ],
            "warnings": [
                {"file": "cluster.json", "policy": "proxy", "field": "spec.podSelector",
                 "message": "grants by pod labels alone, and tenants choose those: any tenant can label a pod to get \
                             it; add a namespaceSelector"},
            ],
            "policies": 1,
        })
    );
}

#[test]
fn test_judges_flows_and_its_exit_code_says_how() {
    let files = directory(&[("web.yaml", WEB)]);
    let run = |flow: &str| sluice(files.path(), &["test", "--policy", "web.yaml", "--flow", flow], "");
    for (flow, exit, expected) in [
        (
            "proto=tcp port=443 dst=203.0.113.7 label.app=web pod=shop/web",
            0,
            "allow pod=shop/web label.app=web dst=203.0.113.7 port=443 proto=tcp (EgressPolicy shop/web, rule 0 (payments))\n",
        ),
        (
            "pod=shop/web label.app=web dst=2001:db8::1 proto=icmp",
            1,
            "deny  pod=shop/web label.app=web dst=2001:db8::1 proto=icmpv6 (EgressPolicy shop/web, default action)\n",
        ),
        (
            "pod=shop/web label.app=web dst=203.0.113.7 port=443 opaque=true",
            1,
            "deny  pod=shop/web label.app=web dst=203.0.113.7 port=443 proto=tcp opaque=true (EgressPolicy shop/web, \
             default action, cannot be read)\n",
        ),
        (
            "pod=shop/web label.app=web dst=203.0.113.7 proto=4",
            1,
            "deny  pod=shop/web label.app=web dst=203.0.113.7 proto=4 (EgressPolicy shop/web, default action, cannot \
             be read: IP in IP)\n",
        ),
        (
            "pod=shop/web label.app=web dst=192.0.2.1 port=1 hostNetwork=true",
            0,
            "allow pod=shop/web label.app=web dst=192.0.2.1 port=1 proto=tcp hostNetwork=true (no policy selects the pod)\n",
        ),
        (
            "pod=other/web label.app=web dst=192.0.2.1 port=1",
            0,
            "allow pod=other/web label.app=web dst=192.0.2.1 port=1 proto=tcp (no policy selects the pod)\n",
        ),
    ] {
        let output = run(flow);
        assert_eq!((code(&output), out(&output), err(&output)), (exit, expected, ""), "{flow}");
    }
}

#[test]
fn test_has_a_json_form_that_can_be_read_again() {
    let files = directory(&[("web.yaml", WEB)]);
    let args = ["test", "--policy", "web.yaml", "--output", "json"];
    let flows = "{\"pod\":\"shop/web\",\"labels\":{\"app\":\"web\"},\"dst\":\"203.0.113.7\",\"port\":443}\n\n\
                 pod=shop/web label.app=web nslabel.team=red dst=::ffff:192.0.2.1 proto=icmp\n\
                 pod=other/x dst=192.0.2.1 port=53 proto=udp";
    let output = sluice(files.path(), &args, flows);
    assert_eq!(code(&output), 1);
    let lines = json_lines(&output);
    assert_eq!(
        lines,
        [
            json!({"v": 1,
                "flow": {"pod": "shop/web", "labels": {"app": "web"}, "namespaceLabels": {}, "dst": "203.0.113.7",
                         "port": 443, "proto": "tcp", "opaque": false, "hostNetwork": false},
                "action": "allow", "reported": "allow", "policy": "shop/web", "rule": "payments",
                "reason": "EgressPolicy shop/web, rule 0 (payments)"}),
            json!({"v": 1,
                "flow": {"pod": "shop/web", "labels": {"app": "web"}, "namespaceLabels": {"team": "red"},
                         "dst": "192.0.2.1", "port": null, "proto": "icmp", "opaque": false, "hostNetwork": false},
                "action": "deny", "reported": "deny", "policy": "shop/web", "rule": "default",
                "reason": "EgressPolicy shop/web, default action"}),
            json!({"v": 1,
                "flow": {"pod": "other/x", "labels": {}, "namespaceLabels": {}, "dst": "192.0.2.1", "port": 53,
                         "proto": "udp", "opaque": false, "hostNetwork": false},
                "action": "allow", "reported": "allow", "policy": null, "rule": null,
                "reason": "no policy selects the pod"}),
        ]
    );
    let again: Vec<String> = lines.iter().map(|line| line["flow"].to_string()).collect();
    assert_eq!(out(&sluice(files.path(), &args, &again.join("\n"))), out(&output));
}

#[test]
fn test_tells_what_audited_policies_and_postures_change() {
    let audited = WEB.replace("spec:", "spec:\n  mode: Audit");
    let files = directory(&[("web.yaml", WEB), ("audited.yaml", &audited)]);
    let flow = "pod=shop/web label.app=web dst=192.0.2.1 port=80";
    let run = |policy: &str, posture: &str| {
        let args = ["test", "--policy", policy, "--posture", posture, "-o", "json", "--flow", flow];
        let output = sluice(files.path(), &args, "");
        (code(&output), json_lines(&output).remove(0))
    };
    for (policy, posture, reason) in
        [("audited.yaml", "enforce", "no rule matches"), ("web.yaml", "log", "posture log applies nothing")]
    {
        let (exit, line) = run(policy, posture);
        assert_eq!((exit, &line["action"], &line["reported"]), (0, &json!("allow"), &json!("deny")));
        assert_eq!((&line["policy"], &line["reason"]), (&Value::Null, &json!(reason)));
        assert_eq!((&line["reportedPolicy"], &line["reportedRule"]), (&json!("shop/web"), &json!("default")));
        assert_eq!(line["reportedReason"], "EgressPolicy shop/web, default action");
    }
    let (exit, line) = run("web.yaml", "observe");
    let reason = json!("posture observe judges nothing");
    assert_eq!((exit, &line["reported"], &line["reason"]), (0, &json!("allow"), &reason));
    assert!(line.get("reportedPolicy").is_none());
    let output = sluice(files.path(), &["test", "--policy", "audited.yaml", "--flow", flow], "");
    assert_eq!(
        out(&output),
        "allow pod=shop/web label.app=web dst=192.0.2.1 port=80 proto=tcp (no rule matches); reported: deny (EgressPolicy \
         shop/web, default action)\n"
    );
}

#[test]
fn test_resolves_peers_in_the_world() {
    let files = directory(&[("peers.yaml", PEERS), ("web.yaml", WEB), ("world.yaml", WORLD)]);
    let args = ["test", "--policy", "peers.yaml", "web.yaml", "--world", "world.yaml", "-o", "json"];
    let flows = [
        ("pod=shop/x dst=10.96.0.7 port=6379", "allow", "peers", json!("0")),
        ("pod=shop/x dst=10.1.2.3 port=16379", "allow", "peers", json!("0")),
        ("pod=shop/x dst=10.1.2.3 port=6379", "deny", "peers", json!("default")),
        ("pod=shop/x dst=10.1.2.3 port=80", "allow", "peers", json!("1")),
        // The world knows this pod's labels; a flow's own go before them.
        ("pod=shop/web dst=203.0.113.7 port=443", "allow", "web", json!("payments")),
        ("pod=shop/web label.app=other dst=203.0.113.7 port=443", "deny", "peers", json!("default")),
        // As a peer, too, a namespace has the labels that the flow gives it, and only for this flow.
        ("pod=shop/x nslabel.team=red dst=10.1.2.9 port=80", "allow", "peers", json!("1")),
        ("pod=shop/x dst=10.1.2.9 port=80", "deny", "peers", json!("default")),
    ];
    let stdin: Vec<&str> = flows.iter().map(|(flow, ..)| *flow).collect();
    let output = sluice(files.path(), &args, &stdin.join("\n"));
    assert_eq!((code(&output), err(&output)), (1, ""));
    for (line, (flow, action, policy, rule)) in json_lines(&output).iter().zip(flows) {
        assert_eq!((&line["action"], &line["rule"]), (&json!(action), &rule), "{flow}");
        assert_eq!(line["policy"], format!("shop/{policy}"), "{flow}");
    }
}

#[test]
fn test_judges_by_names() {
    let policy = "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: web, namespace: shop}\n\
                  spec: {podSelector: {}, rules: [{action: Allow, to: [{domainNames: [api.stripe.com]}]}]}\n";
    let files = directory(&[("web.yaml", policy), ("world.yaml", "resolvers: [10.96.0.10]\n")]);
    let flows = [
        ("domain=api.stripe.com", "allow", "0"),
        ("domain=other.test,API.Stripe.com. shown=api.stripe.com", "allow", "0"),
        ("domain=api.stripe.com shown=other.test", "deny", "default"),
        ("domain=api.stripe.com shown=none", "deny", "default"),
        ("", "deny", "default"),
        ("port=53 dst=10.96.0.10 proto=udp", "allow", "implied DNS"),
    ];
    let rest =
        |text: &str| if text.contains("dst=") { "" } else { "dst=203.0.113.7 port=443 " }.to_owned() + text;
    let lines: Vec<String> = flows.iter().map(|(flow, ..)| format!("pod=shop/x {}", rest(flow))).collect();
    let args = ["test", "--policy", "web.yaml", "--world", "world.yaml", "--output", "json", "--flow", "-"];
    let output = sluice(files.path(), &args, &lines.join("\n"));
    assert_eq!((code(&output), err(&output)), (1, ""));
    for (line, (flow, action, rule)) in json_lines(&output).iter().zip(flows) {
        assert_eq!((&line["action"], &line["rule"]), (&json!(action), &json!(rule)), "{flow}");
    }
    let lines = json_lines(&output);
    let asked = &lines[1]["flow"];
    assert_eq!(
        (&asked["domain"], &asked["shown"]),
        (&json!("other.test,api.stripe.com"), &json!("api.stripe.com"))
    );
}

#[test]
fn test_judges_requests_and_says_that_they_are_only_told() {
    let policy = "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: web, namespace: shop}\n\
                  spec: {podSelector: {}, rules: [{action: Allow, ports: [{port: 443}], \
                  http: [{methods: [GET], path: {value: /v1}}]}]}\n";
    let files = directory(&[("web.yaml", policy)]);
    let flows = [
        ("", "allow", "EgressPolicy shop/web, rule 0"),
        ("method=GET path=/v1/x", "allow", "EgressPolicy shop/web, rule 0"),
        (
            "method=POST path=/v1/x",
            "deny",
            "EgressPolicy shop/web, default action, by the request, which is not enforced",
        ),
        (
            "method=none",
            "deny",
            "EgressPolicy shop/web, default action, by the request, which is not enforced",
        ),
    ];
    let lines: Vec<String> =
        flows.iter().map(|(flow, ..)| format!("pod=shop/x dst=203.0.113.7 port=443 {flow}")).collect();
    let args = ["test", "--policy", "web.yaml", "--output", "json", "--flow", "-"];
    let output = sluice(files.path(), &args, &lines.join("\n"));
    assert_eq!((code(&output), err(&output)), (1, ""));
    for (line, (flow, action, reason)) in json_lines(&output).iter().zip(flows) {
        assert_eq!((&line["action"], &line["reason"]), (&json!(action), &json!(reason)), "{flow}");
    }
    let output = sluice(files.path(), &["check", "web.yaml"], "");
    assert!(out(&output).contains("spec.rules[0].http: requests are told, not enforced"), "{}", out(&output));
}

#[test]
fn test_refuses_a_bad_flow_and_goes_on() {
    let files = directory(&[("web.yaml", WEB)]);
    let flows = "pod=shop/web label.app=web dst=192.0.2.1 port=80\n\n{\"pod\":\"shop/web\"}\n{oops\n\
                 pod=shop/web label.app=web dst=203.0.113.7 port=443\n";
    let output = sluice(files.path(), &["test", "--policy", "web.yaml", "--flow", "-"], flows);
    assert_eq!(code(&output), 2);
    assert_eq!(out(&output).lines().map(|line| &line[..5]).collect::<Vec<_>>(), ["deny ", "allow"]);
    let errors: Vec<&str> = err(&output).lines().collect();
    assert_eq!(
        errors[..2],
        [
            "sluice: flow 2 (line 3): dst: missing; write an IPv4 or IPv6 address, such as 203.0.113.7; names are not \
             looked up",
            "sluice: flow 2 (line 3): port: missing; write a number from 0 to 65535",
        ]
    );
    assert!(errors[2].starts_with("sluice: flow 3 (line 4): the line is no JSON object: "), "{errors:?}");
    assert_eq!(errors.len(), 3);
}

#[test]
fn test_judges_nothing_by_bad_policies_or_a_bad_world() {
    let bad = WEB.replace("port: 443", "port: 0");
    let typo = WORLD.replacen("addresses", "adresses", 1);
    let twice = r#"{"pods": [{"namespace": "a", "name": "b"}, {"namespace": "a", "name": "b"}]}"#;
    let files = directory(&[
        ("web.yaml", WEB),
        ("bad.yaml", &bad),
        ("typo.yaml", &typo),
        ("twice.json", twice),
        ("copy.yaml", WEB),
    ]);
    let flow = "pod=shop/web label.app=web dst=203.0.113.7 port=443";
    for (args, expected) in [
        (
            &["--policy", "web.yaml", "bad.yaml"][..],
            "sluice: bad.yaml: document 1, line 10: spec.rules[0].ports",
        ),
        (
            &["--policy", "web.yaml", "copy.yaml"],
            "sluice: copy.yaml: document 1: metadata.name: EgressPolicy",
        ),
        (
            &["--policy", "web.yaml", "--world", "typo.yaml"],
            "sluice: typo.yaml is no world: unknown field `adresses`",
        ),
        (
            &["--policy", "web.yaml", "--world", "twice.json"],
            "sluice: twice.json: the pod a/b is given twice",
        ),
        (
            &["--policy", "web.yaml", "--world", "gone.json"],
            "sluice: cannot read the world gone.json: No such file",
        ),
        (&["--policy", "gone"], "sluice: gone: cannot be read: No such file"),
    ] {
        let output = sluice(files.path(), &[&["test", "--flow", flow], args].concat(), "");
        assert_eq!((code(&output), out(&output)), (2, ""), "{args:?}");
        assert!(err(&output).starts_with(expected), "{args:?}: {}", err(&output));
    }
}

#[test]
fn test_without_flows_is_an_error() {
    let files = directory(&[("web.yaml", WEB)]);
    let output = sluice(files.path(), &["test", "--policy", "web.yaml"], "\n\n");
    assert_eq!(code(&output), 2);
    assert!(err(&output).starts_with("sluice: no flows; give --flow"), "{output:?}");
    let output = sluice(files.path(), &["test", "--policy", "-"], WEB);
    assert_eq!(code(&output), 2);
    assert!(err(&output).starts_with("sluice: standard input cannot give policies and flows"), "{output:?}");
    let output = sluice(files.path(), &["test", "--flow", "pod=a/b"], "");
    assert_eq!(code(&output), 2, "no --policy");
}

#[test]
fn the_help_tells_what_is_not_modelled() {
    let output = sluice(directory(&[]).path(), &["test", "--help"], "");
    assert_eq!(code(&output), 0);
    for part in [
        "What is not modelled:",
        "Loopback, the pod's own addresses and replies",
        "\"targets\": [",
        "Exit codes:",
    ] {
        assert!(out(&output).contains(part), "{part}");
    }
}
