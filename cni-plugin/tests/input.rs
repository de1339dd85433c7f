//! What no runtime can bring about from outside: defects of the plugin, a stdout that is gone, and input at random.

mod common;

use std::io::{self, Read};

use common::{NETNS, pod_vars};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use sluice_cni::Vars;
use sluice_cni::conf::{Conf, Document};
use sluice_cni::env::PodArgs;

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
