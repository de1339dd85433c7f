//! The CNI contract, clause by clause, against the built binary.

mod common;

use std::fs;

use common::*;
use serde_json::{Value, json};
use sluice_api::{Attachment, Call, RefusalKind};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

fn attachment() -> Attachment {
    Attachment { container_id: ID.into(), ifname: "eth0".into() }
}

#[test]
fn add_answers_with_prev_result_in_every_version() {
    let node = Node::with(done());
    for version in VERSIONS {
        let conf = node.conf(version);
        let run = run("ADD", &conf);
        assert_eq!(run.document(), conf["prevResult"], "{version}");
        // The order of the members too: some consumers compare text.
        assert_eq!(run.stdout.trim_end(), conf["prevResult"].to_string(), "{version}");
    }
}

#[test]
fn add_answers_in_the_configurations_version() {
    let node = Node::with(done());
    for previous in [json!({}), json!({"cniVersion": "0.3.1"})] {
        let conf = with(node.conf("1.0.0"), json!({"prevResult": previous}));
        assert_eq!(run("ADD", &conf).document(), json!({"cniVersion": "1.0.0"}));
    }
}

#[test]
fn add_registers_the_pod() {
    let node = Node::with(done());
    let conf = node.conf("1.0.0");
    run("ADD", &conf).document();
    let [Call::Add(add)] = &node.seen()[..] else { panic!("{:?}", node.seen()) };
    assert_eq!(add.attachment, attachment());
    assert_eq!(add.network, "pods");
    assert_eq!(add.netns, NETNS);
    let pod = &add.pod;
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("shop", "web-1", UID));
    assert!(pod.labels.is_empty());
    assert_eq!(add.ips.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.88.0.7", "fd00::7"]);
    assert_eq!(add.host_interface.as_deref(), Some("veth1234"));
    let path = node.cgroups.path.join("kubepods/burstable/pod1");
    assert_eq!((add.cgroup.path.as_str(), add.cgroup.id), (path.to_str().unwrap(), inode(&path)));
}

#[test]
fn add_without_prev_result_is_code_7() {
    let node = Node::with(done());
    for conf in [
        without(node.conf("1.0.0"), "prevResult"),
        with(node.conf("1.0.0"), json!({"prevResult": null})),
        with(node.conf("1.0.0"), json!({"prevResult": "odd"})),
    ] {
        assert!(run("ADD", &conf).error(7).contains("prevResult"));
    }
    assert_eq!(node.seen(), []);
}

#[test]
fn add_and_check_need_container_id_netns_and_ifname() {
    let node = Node::with(done());
    let conf = node.conf("1.0.0").to_string();
    for command in ["ADD", "CHECK"] {
        for name in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"] {
            for value in [None, Some("")] {
                let run = run_with(&vars_but(command, name, value), conf.as_bytes());
                assert!(run.error(4).contains(name), "{command} {name}");
            }
        }
    }
    let run = run_with(&vars_but("ADD", "CNI_CONTAINERID", Some("../../etc")), conf.as_bytes());
    assert!(run.error(4).contains("CNI_CONTAINERID"));
    let run = run_with(&vars_but("ADD", "CNI_IFNAME", Some("a/b")), conf.as_bytes());
    assert!(run.error(4).contains("CNI_IFNAME"));
    assert_eq!(node.seen(), []);
}

#[test]
fn del_succeeds_repeated_and_without_an_add_before() {
    for act in [done(), refusal(RefusalKind::Unknown)] {
        let node = Node::with(act);
        for version in VERSIONS {
            for _ in 0..2 {
                run("DEL", &node.conf(version)).silent();
            }
        }
        assert_eq!(node.seen(), vec![Call::Del(attachment()); 10]);
        assert!(!node.state().exists(), "nothing to spool");
    }
}

#[test]
fn del_succeeds_without_netns_and_prev_result() {
    let node = Node::with(done());
    let conf = without(node.conf("1.0.0"), "prevResult").to_string();
    for netns in [None, Some("")] {
        run_with(&vars_but("DEL", "CNI_NETNS", netns), conf.as_bytes()).silent();
    }
    assert_eq!(node.seen().len(), 2);
}

/// containerd/containerd#12130: a DEL that fails keeps the primary from freeing its address.
#[test]
fn del_never_fails() {
    let node = Node::without_agent();
    let conf = node.conf("1.0.0");
    run("DEL", &conf).silent();
    for version in ["0.1.0", "9.9.9", "", "1"] {
        run("DEL", &with(conf.clone(), json!({"cniVersion": version}))).silent();
    }
    for odd in [
        json!({"socket": 7, "stateDir": node.state()}),
        json!({"socket": format!("/{}", "x".repeat(200))}),
        json!({"failurePolicy": "fail", "exemptNamespaces": "x", "cgroupRoot": []}),
        json!({"stateDir": "/proc/none"}),
        json!({"cniVersion": [], "name": null, "prevResult": 1, "runtimeConfig": false}),
    ] {
        run("DEL", &with(conf.clone(), odd)).silent();
    }
    for name in ["CNI_CONTAINERID", "CNI_IFNAME"] {
        for value in [None, Some(""), Some("a/b")] {
            let run = run_with(&vars_but("DEL", name, value), conf.to_string().as_bytes());
            assert!(run.silent().stderr.contains(name));
        }
    }
}

/// cilium/cilium#22067: DEL while the agent is down.
#[test]
fn del_without_agent_is_spooled() {
    let node = Node::without_agent();
    for _ in 0..2 {
        let run = run("DEL", &node.conf("1.0.0"));
        assert!(run.silent().stderr.contains("spooled"));
    }
    let read: Attachment = serde_json::from_slice(&fs::read(node.spooled()).unwrap()).unwrap();
    assert_eq!(read, attachment());
    assert_eq!(fs::read_dir(node.spooled().parent().unwrap()).unwrap().count(), 1);

    for act in [refusal(RefusalKind::NotReady), refusal(RefusalKind::Failed), Act::CloseAtOnce] {
        let node = Node::with(act);
        run("DEL", &node.conf("1.0.0")).silent();
        assert!(node.spooled().exists());
    }
}

/// nerdctl sends a DEL before every ADD: the agent must not act on it once the ADD has come.
#[test]
fn add_takes_a_spooled_del_back() {
    let node = Node::without_agent();
    run("DEL", &node.conf("1.0.0")).silent();
    assert!(node.spooled().exists());
    node.start_agent(done());
    run("ADD", &node.conf("1.0.0")).document();
    assert!(!node.spooled().exists());
}

#[test]
fn check_passes_right_after_add() {
    let node = Node::with(done());
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        run("ADD", &node.conf(version)).document();
        run("CHECK", &node.conf(version)).silent();
    }
    assert_eq!(node.seen()[1], Call::Check(attachment()));
}

#[test]
fn check_passes_when_later_plugins_have_changed_things() {
    let node = Node::with(done());
    let mut conf = node.conf("1.0.0");
    conf["prevResult"]["interfaces"] = json!([]);
    conf["prevResult"]["ips"] = json!(null);
    run("CHECK", &conf).silent();
}

#[test]
fn check_of_an_unknown_attachment_is_code_3() {
    let node = Node::with(refusal(RefusalKind::Unknown));
    assert!(run("CHECK", &node.conf("1.0.0")).error(3).contains("the reason"));
}

#[test]
fn check_without_agent_is_code_11() {
    let node = Node::without_agent();
    assert!(run("CHECK", &node.conf("1.0.0")).error(11).contains("cni.sock"));
}

/// CRI-O calls CHECK right after ADD: what ADD let through, CHECK must let through.
#[test]
fn check_passes_what_add_let_through() {
    for node in [Node::without_agent(), Node::with(refusal(RefusalKind::NotReady))] {
        for fields in [json!({"failurePolicy": "Ignore"}), json!({"exemptNamespaces": ["x", "shop"]})] {
            let conf = with(node.conf("1.0.0"), fields);
            assert_eq!(run("ADD", &conf).document(), conf["prevResult"]);
            run("CHECK", &conf).silent();
        }
    }
}

#[test]
fn check_below_0_4_0_is_code_1() {
    let node = Node::with(done());
    for version in ["0.3.0", "0.3.1"] {
        assert!(run("CHECK", &node.conf(version)).error(1).contains("CHECK"));
    }
}

#[test]
fn gc_reads_both_keys() {
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let node = Node::with(done());
        let valid = json!({key: [{"containerID": ID, "ifname": "eth0"}]});
        gc(&with(node.conf("1.1.0"), valid)).silent();
        assert_eq!(node.seen(), [Call::Gc { network: "pods".into(), valid: vec![attachment()] }]);
    }
}

#[test]
fn gc_of_an_empty_list_forgets_all() {
    let node = Node::with(done());
    gc(&with(node.conf("1.1.0"), json!({"cni.dev/valid-attachments": []}))).silent();
    assert_eq!(node.seen(), [Call::Gc { network: "pods".into(), valid: vec![] }]);
}

#[test]
fn gc_without_a_list_does_nothing() {
    let node = Node::with(done());
    gc(&node.conf("1.1.0")).silent();
    gc(&with(node.conf("1.1.0"), json!({"cni.dev/valid-attachments": null}))).silent();
    assert_eq!(node.seen(), []);
}

#[test]
fn gc_of_a_list_that_cannot_be_read_forgets_nothing() {
    let node = Node::with(done());
    let list = json!([{"containerID": ID, "ifname": "eth0"}, {"containerID": "b"}]);
    let run = gc(&with(node.conf("1.1.0"), json!({"cni.dev/valid-attachments": list})));
    assert!(run.error(7).contains("cni.dev/valid-attachments[1]"));
    assert_eq!(node.seen(), []);
}

#[test]
fn gc_without_agent_is_code_11() {
    let node = Node::without_agent();
    gc(&with(node.conf("1.1.0"), json!({"cni.dev/valid-attachments": []}))).error(11);
}

/// GC and STATUS get no container id, netns or interface name.
fn node_vars(command: &str) -> Vec<(&'static str, String)> {
    vec![("CNI_COMMAND", command.into()), ("CNI_PATH", "/opt/cni/bin".into())]
}

fn gc(conf: &Value) -> Run {
    run_with(&node_vars("GC"), without(conf.clone(), "prevResult").to_string().as_bytes())
}

fn status(conf: &Value) -> Run {
    run_with(&node_vars("STATUS"), without(conf.clone(), "prevResult").to_string().as_bytes())
}

#[test]
fn status_of_a_ready_agent_succeeds() {
    let node = Node::with(done());
    status(&node.conf("1.1.0")).silent();
    assert_eq!(node.seen(), [Call::Status]);
}

#[test]
fn status_is_50_until_the_agent_was_ready_once() {
    for node in [
        Node::without_agent(),
        Node::with(refusal(RefusalKind::NotReady)),
        Node::with(refusal(RefusalKind::Failed)),
        Node::with(Act::Silence),
    ] {
        let run = status(&node.conf("1.1.0"));
        run.error(50);
        assert!(run.took.as_millis() < 1500, "{:?}", run.took);
        fs::create_dir(node.state()).unwrap();
        fs::write(node.state().join("ready"), "").unwrap();
        assert!(!status(&node.conf("1.1.0")).silent().stderr.is_empty());
    }
}

#[test]
fn gc_and_status_below_1_1_0_are_code_1() {
    let node = Node::with(done());
    for version in &VERSIONS[..4] {
        assert!(gc(&node.conf(version)).error(1).contains("GC"));
        assert!(status(&node.conf(version)).error(1).contains("STATUS"));
    }
}

#[test]
fn version_echoes_and_lists() {
    let vars = node_vars("VERSION");
    for version in ["0.3.1", "1.1.0", "0.1.0", "9.9.9"] {
        let stdin = json!({"cniVersion": version}).to_string();
        let reply = run_with(&vars, stdin.as_bytes()).document();
        assert_eq!(reply, json!({"cniVersion": version, "supportedVersions": VERSIONS}));
    }
    for odd in [&b""[..], b"{", b"[]", b"{\"cniVersion\": 7}"] {
        assert_eq!(run_with(&vars, odd).document()["cniVersion"], "1.1.0");
    }
}

#[test]
fn without_command_an_about_line_and_success() {
    for vars in [vec![], vec![("CNI_COMMAND", String::new())]] {
        let run = run_with(&vars, b"");
        run.silent();
        assert_eq!(run.stderr.lines().count(), 1);
        assert!(run.stderr.contains("sluice-cni") && run.stderr.contains("1.1.0"));
    }
}

#[test]
fn an_unknown_command_is_code_4() {
    for command in ["UPDATE", "add", " ADD"] {
        assert!(run_with(&node_vars(command), b"{}").error(4).contains("CNI_COMMAND"));
    }
}

#[test]
fn an_unsupported_version_is_code_1() {
    let node = Node::with(done());
    for version in ["0.1.0", "0.2.0", "1.0", "1.2.0", "2.0.0", "", "latest"] {
        for command in ["ADD", "CHECK"] {
            let run = run(command, &with(node.conf("1.0.0"), json!({"cniVersion": version})));
            assert!(run.error(1).contains("0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"));
        }
    }
    run("ADD", &without(node.conf("1.0.0"), "cniVersion")).error(1);
    run("ADD", &with(node.conf("1.0.0"), json!({"cniVersion": 1}))).error(7);
    assert_eq!(node.seen(), []);
}

#[test]
fn errors_carry_the_configurations_version() {
    let node = Node::without_agent();
    for version in VERSIONS {
        let run = run("ADD", &node.conf(version));
        run.error(11);
        assert_eq!(run.only_document()["cniVersion"], version);
    }
}

#[test]
fn runs_in_parallel_do_not_disturb_each_other() {
    let node = Node::with(done());
    let conf = node.conf("1.0.0").to_string();
    std::thread::scope(|scope| {
        for number in 0..24 {
            let conf = &conf;
            scope.spawn(move || {
                let id = format!("id{number}");
                run_with(&vars_but("ADD", "CNI_CONTAINERID", Some(&id)), conf.as_bytes()).document();
            });
        }
    });
    let mut ids: Vec<_> = node
        .seen()
        .into_iter()
        .map(|call| if let Call::Add(add) = call { add.attachment.container_id } else { panic!() })
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 24);
}
