//! Odd and broken input, the pod's cgroup and its labels, panics.

mod common;

use std::fs;
use std::io::{self, Read};
use std::process::{Child, Command};

use common::*;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sluice_api::{Add, Call};
use sluice_cni::Vars;
use sluice_cni::conf::{Conf, Document};
use sluice_cni::env::PodArgs;

fn registered(node: &Node) -> Add {
    match node.seen().pop() {
        Some(Call::Add(add)) => add,
        other => panic!("{other:?}"),
    }
}

#[test]
fn garbage_on_stdin_is_code_6() {
    for odd in
        [&b""[..], b"{", b"nonsense", b"[]", b"null", b"7", b"{}{}", b"{\"a\":\"\xff\"}", b"\xef\xbb\xbf{}"]
    {
        for command in ["ADD", "CHECK", "GC", "STATUS"] {
            run_with(&pod_vars(command), odd).error(6);
        }
    }
    let deep = "[".repeat(100_000);
    run_with(&pod_vars("ADD"), format!("{{\"a\":{deep}").as_bytes()).error(6);
}

#[test]
fn too_long_a_stdin_is_code_5() {
    let node = Node::with(done());
    let conf = node.conf("1.0.0").to_string();
    let limit = 4 << 20;
    let fits = conf.clone() + &" ".repeat(limit - conf.len());
    run_with(&pod_vars("ADD"), fits.as_bytes()).document();
    assert!(run_with(&pod_vars("ADD"), (fits + " ").as_bytes()).error(5).contains("4194304"));
}

#[test]
fn odd_fields_of_others_are_left_alone() {
    let node = Node::with(done());
    for odd in [
        json!({"runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "sctp"}]}}),
        json!({"args": null, "dns": null, "ipam": null, "runtimeConfig": null, "capabilities": null}),
        json!({"args": 1, "dns": [], "ipam": "x", "type": 5, "ipMasq": "yes", "disableCheck": "true"}),
        json!({"runtimeConfig": {"mac": "00", "bandwidth": {"ingressRate": -1}, "cgroupPath": 7, "ips": "x"}}),
        json!({"socketx": 1, "log_level": "debug", "kubernetes": {"kubeconfig": "/x"}}),
        json!({"failurePolicy": null, "exemptNamespaces": null, "cni.dev/valid-attachments": 3}),
    ] {
        // The pod's cgroup is found by its UID where the capability is overwritten.
        node.cgroups.make(&format!("kubepods/pod{UID}"));
        let conf = with(node.conf("0.3.1"), odd);
        assert_eq!(run("ADD", &conf).document(), conf["prevResult"], "{conf}");
    }
}

#[test]
fn an_upper_case_container_id() {
    let node = Node::with(done());
    let vars = vars_but("ADD", "CNI_CONTAINERID", Some("C0FFEE_1.a-b"));
    run_with(&vars, node.conf("0.4.0").to_string().as_bytes()).document();
    assert_eq!(registered(&node).attachment.container_id, "C0FFEE_1.a-b");
}

#[test]
fn odd_values_of_ours_are_code_7_and_named() {
    let node = Node::with(done());
    for (name, value, accepted) in [
        ("failurePolicy", json!("fail"), "\"Fail\" or \"Ignore\""),
        ("failurePolicy", json!(true), "\"Fail\" or \"Ignore\""),
        ("exemptNamespaces", json!("kube-system"), "list"),
        ("exemptNamespaces", json!(["a", 1]), "list"),
        ("socket", json!("run/cni.sock"), "absolute"),
        ("socket", json!(7), "absolute"),
        ("socket", json!("/a\0b"), "absolute"),
        ("socket", json!(format!("/{}", "x".repeat(110))), "107 bytes"),
        ("cgroupRoot", json!("sys"), "absolute"),
        ("stateDir", json!({}), "absolute"),
        ("name", json!(["a"]), "text"),
        ("name", json!(""), "conflist"),
    ] {
        let details = run("ADD", &with(node.conf("1.0.0"), json!({name: value}))).error(7);
        assert!(details.contains(name) && details.contains(accepted), "{details}");
    }
    assert_eq!(node.seen(), []);
}

#[test]
fn labels_come_from_the_annotation() {
    const CAPABILITY: &str = "io.kubernetes.cri.pod-annotations";
    let node = Node::with(done());
    let conf = |annotations: Value| {
        let mut conf = node.conf("1.0.0");
        conf["runtimeConfig"][CAPABILITY] = annotations;
        conf
    };
    run("ADD", &conf(json!({"sluice.dev/labels": "app=web,tier=front", "other": "x"}))).document();
    let labels: Vec<_> =
        registered(&node).pod.labels.into_iter().map(|(key, value)| key + "=" + &value).collect();
    assert_eq!(labels, ["app=web", "tier=front"]);
    for none in [json!(null), json!({}), json!({"sluice.dev/labels": ""}), json!({"other": 7})] {
        run("ADD", &conf(none)).document();
        assert!(registered(&node).pod.labels.is_empty());
    }
    let before = node.seen().len();
    for odd in [
        json!({"sluice.dev/labels": "app"}),
        json!({"sluice.dev/labels": "app=web,app=x"}),
        json!({"sluice.dev/labels": {"app": "web"}}),
        json!(["sluice.dev/labels"]),
    ] {
        // Not even an exempt namespace or failurePolicy Ignore lets such a pod run.
        let lenient = json!({"failurePolicy": "Ignore", "exemptNamespaces": ["shop"]});
        assert!(run("ADD", &with(conf(odd), lenient)).error(7).contains("labels"));
    }
    assert_eq!(node.seen().len(), before);
}

#[test]
fn a_container_without_kubernetes() {
    let node = Node::with(done());
    for args in
        [None, Some(""), Some("IgnoreUnknown=1"), Some("nonsense;=;K8S_POD_NAME=;K8S_POD_NAMESPACE=x")]
    {
        run_with(&vars_but("ADD", "CNI_ARGS", args), node.conf("1.0.0").to_string().as_bytes()).document();
        let pod = registered(&node).pod;
        assert_eq!(
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()),
            ("default", ID, ""),
            "{args:?}"
        );
    }
}

#[test]
fn the_cgroup_by_uid_in_every_layout() {
    for place in [
        "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0ab1_22cd.slice",
        "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0ab1_22cd.slice",
        "kubepods.slice/kubepods-pod0ab1_22cd.slice",
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0ab1_22cd.slice",
        "kubepods/burstable/pod0ab1-22cd",
        "kubepods/besteffort/pod0ab1-22cd",
        "kubepods/pod0ab1-22cd",
        "kubelet/kubepods/pod0ab1-22cd",
        "k3s/agent/kubepods/besteffort/pod0ab1-22cd",
        "site.slice/site-kubepods.slice/site-kubepods-pod0ab1_22cd.slice",
    ] {
        let node = Node::with(done());
        let path = node.cgroups.make(place);
        node.cgroups.make("kubepods/burstable/podother");
        for declared in [None, Some("/not/there")] {
            let mut conf = node.conf_without_cgroup("1.0.0");
            conf["runtimeConfig"] = json!({"cgroupPath": declared});
            run("ADD", &conf).document();
            assert_eq!(registered(&node).cgroup.id, inode(&path), "{place}");
        }
    }
}

#[test]
fn the_cgroup_declared_comes_first() {
    let node = Node::with(done());
    node.cgroups.make(&format!("kubepods/pod{UID}"));
    let path = node.cgroups.make("a.slice/a-b.slice/a-b-pod1.slice");
    for declared in ["a.slice/a-b.slice/a-b-pod1.slice", "a-b-pod1.slice", "a-b-pod1.slice:crio:c0ffee"] {
        let mut conf = node.conf_without_cgroup("1.0.0");
        conf["runtimeConfig"] = json!({"cgroupPath": declared});
        run("ADD", &conf).document();
        assert_eq!(registered(&node).cgroup.id, inode(&path), "{declared}");
    }
}

#[test]
fn the_cgroup_root_is_found_in_mountinfo() {
    let node = Node::with(done());
    let path = node.cgroups.make("pod");
    let mut conf = without(node.conf_without_cgroup("1.0.0"), "cgroupRoot");
    conf["runtimeConfig"] = json!({"cgroupPath": path.strip_prefix(cgroup2_mount()).unwrap()});
    run("ADD", &conf).document();
    let cgroup = registered(&node).cgroup;
    assert_eq!((cgroup.path.as_str(), cgroup.id), (path.to_str().unwrap(), inode(&path)));
}

/// A process in a cgroup, killed with the test.
struct Container(Child);

impl Container {
    fn in_cgroup(cgroup: &std::path::Path) -> Self {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(cgroup.join("cgroup.procs"), child.id().to_string()).unwrap();
        Self(child)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nerdctl: a hook of the runtime calls, and the namespace is a process's.
#[test]
fn the_cgroup_of_the_process_that_netns_names() {
    let node = Node::with(done());
    let path = node.cgroups.make("default/c0ffee");
    let container = Container::in_cgroup(&path);
    let add = |pid: u32| {
        let mut vars = vars_but("ADD", "CNI_NETNS", Some(&format!("/proc/{pid}/ns/net")));
        vars.retain(|(name, _)| *name != "CNI_ARGS");
        run_with(&vars, node.conf_without_cgroup("1.0.0").to_string().as_bytes())
    };
    add(container.0.id()).document();
    assert_eq!(registered(&node).cgroup.id, inode(&path));

    // A container in the cgroup that the plugin itself is in, or outside the root, has none of its own.
    assert!(add(std::process::id()).error(101).contains("pod's own"));
    assert!(add(u32::MAX).error(100).contains("/proc/4294967295/cgroup"));
}

#[test]
fn a_missing_cgroup_is_code_100_and_says_where_it_was_sought() {
    let node = Node::with(done());
    let mut conf = node.conf_without_cgroup("1.0.0");
    conf["runtimeConfig"] = json!({"cgroupPath": "/kubepods/podx"});
    let details = run("ADD", &conf).error(100);
    for place in ["/kubepods/podx", "/kubepods/pod0ab1-22cd", "kubelet.slice", "search", "cgroupRoot"] {
        assert!(details.contains(place), "{place}: {details}");
    }
    run_with(&vars_but("ADD", "CNI_ARGS", None), node.conf_without_cgroup("1.0.0").to_string().as_bytes())
        .error(100);
    assert_eq!(node.seen(), []);
    let ignore = with(conf.clone(), json!({"failurePolicy": "Ignore"}));
    run("ADD", &ignore).error(100);
    run("ADD", &with(conf, json!({"exemptNamespaces": ["shop"]}))).document();
}

#[test]
fn a_cgroup_that_would_govern_the_node_is_refused() {
    let node = Node::with(done());
    for declared in ["/", "", "..", "/../..", "kubepods/..", "."] {
        let mut conf = node.conf_without_cgroup("1.0.0");
        conf["runtimeConfig"] = json!({"cgroupPath": declared});
        run("ADD", &conf).error(100);
    }
    let elsewhere = with(node.conf("1.0.0"), json!({"cgroupRoot": node.directory.path()}));
    assert!(run("ADD", &elsewhere).error(101).contains("cgroup2"));
    run("ADD", &with(node.conf("1.0.0"), json!({"cgroupRoot": "/none"}))).error(101);
    assert_eq!(node.seen(), []);
}

/// A stdin that is a defect.
struct Defect;

impl Read for Defect {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        panic!("a defect, for the test")
    }
}

/// Exit statuses have eight bits: a code of 256 or more must not come out as success.
#[test]
fn a_panic_is_an_error_reply_with_status_1() {
    let go = |command: &str| {
        let vars: Vars = pod_vars(command).into_iter().collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = sluice_cni::run(&vars, Defect, &mut stdout, &mut stderr);
        (status, String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    for command in ["ADD", "CHECK", "GC", "STATUS", "VERSION"] {
        let (status, stdout, _) = go(command);
        let reply: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((status, &reply["code"]), (1, &json!(999)), "{command}");
        assert!(reply["details"].as_str().unwrap().contains("a defect, for the test"));
    }
    let (status, stdout, stderr) = go("DEL");
    assert_eq!((status, stdout.as_str()), (0, ""));
    assert!(stderr.contains("a defect, for the test"));
}

#[test]
fn a_stdout_that_is_gone_is_a_failure() {
    struct Gone;
    impl io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let vars: Vars = [("CNI_COMMAND", "VERSION")].into_iter().collect();
    let mut stderr = Vec::new();
    assert_eq!(sluice_cni::run(&vars, io::empty(), &mut Gone, &mut stderr), 1);
    assert!(!stderr.is_empty());
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        Just(json!("10.0.0.7/24")),
        Just(json!(NETNS)),
        Just(json!("1.1.0")),
    ];
    let key = prop_oneof![
        ".{0,8}",
        proptest::sample::select(vec![
            "cniVersion",
            "name",
            "prevResult",
            "interfaces",
            "ips",
            "interface",
            "address",
            "sandbox",
            "runtimeConfig",
            "cgroupPath",
            "io.kubernetes.cri.pod-annotations",
            "sluice.dev/labels",
            "failurePolicy",
            "exemptNamespaces",
            "cni.dev/valid-attachments",
            "containerID",
            "ifname",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|pairs| Value::from(pairs.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

proptest! {
    #[test]
    fn cni_args_never_panic_and_are_found(
        noise in ".*", namespace in "[a-z0-9.-]{1,20}", name in "[a-z0-9.-]{1,20}", uid in "[a-z0-9-]{1,36}",
    ) {
        PodArgs::parse(&noise);
        let text = format!(
            "{};K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};;K8S_POD_UID={uid}",
            noise.replace("K8S", "")
        );
        prop_assert_eq!(PodArgs::parse(&text), PodArgs { namespace, name, uid });
    }

    #[test]
    fn no_configuration_panics(value in json_value(), bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Document::parse(&bytes);
        if let Ok(mut document) = Document::parse(value.to_string().as_bytes()) {
            let _ = Conf::strict(&document);
            let _ = Conf::lenient(&document);
            let _ = document.labels();
            let _ = document.cgroup_path();
            let _ = document.network();
            let _ = document.prev_result();
            let _ = sluice_cni::gc::valid(&document);
        }
    }

    #[test]
    fn no_result_panics_and_all_pass_through(value in json_value()) {
        if let Value::Object(mut result) = value {
            sluice_cni::result::pod_ips(&result, NETNS);
            sluice_cni::result::host_interface(&result, NETNS, "eth0");
            let passed = sluice_cni::result::pass_on(result.clone(), "1.0.0");
            result.insert("cniVersion".into(), "1.0.0".into());
            prop_assert_eq!(passed, Value::Object(result));
        }
    }

    #[test]
    fn no_labels_panic(text in ".*") {
        let _ = sluice_cni::labels::parse(&text);
    }

    /// The whole plugin on any configuration: one document or nothing, and a panic nowhere. Nothing is spooled or
    /// registered: the verbs run without the variables that would let them.
    #[test]
    fn any_configuration_gives_one_answer(value in json_value(), verb in 0..4_usize) {
        let vars: Vars = [("CNI_COMMAND", ["ADD", "CHECK", "DEL", "VERSION"][verb])].into_iter().collect();
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let status = sluice_cni::run(&vars, value.to_string().as_bytes(), &mut stdout, &mut stderr);
        let reply = serde_json::from_slice::<Value>(&stdout);
        match verb {
            2 => prop_assert!(status == 0 && stdout.is_empty()),
            3 => prop_assert!(status == 0 && reply.unwrap()["supportedVersions"].is_array()),
            _ => prop_assert!(status == 1 && reply.unwrap()["code"] != 999),
        }
    }
}
