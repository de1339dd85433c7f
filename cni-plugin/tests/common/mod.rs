//! What the tests share: the built binary run as a runtime runs it, an agent that follows a script, and cgroups that
//! go away with the test.

#![allow(dead_code, unreachable_pub, reason = "each test binary takes it in whole and uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_api::{Call, Outcome, PROTOCOL_VERSION, Refusal, RefusalKind, Reply, Request, frame};
use tempfile::TempDir;

pub const NETNS: &str = "/nowhere/netns/pod";
pub const ID: &str = "c0ffee";
pub const UID: &str = "0ab1-22cd";

/// What the scripted agent does with a connection.
#[derive(Clone, Debug)]
pub enum Act {
    /// Reads the request and answers.
    Answer(Outcome),
    /// Reads the request and writes these bytes, then closes.
    Bytes(Vec<u8>),
    /// Reads the request and writes one byte of a good answer at a time, this far apart.
    Trickle(Duration),
    /// Closes at once.
    CloseAtOnce,
    /// Answers before it has read anything, then closes.
    AnswerUnread(Outcome),
    /// Reads the request and is silent.
    Silence,
    /// Accepts and reads nothing.
    Deaf,
}

pub fn refusal(kind: RefusalKind) -> Act {
    Act::Answer(Outcome::Refused(Refusal { kind, message: "the reason".into() }))
}

pub fn done() -> Act {
    Act::Answer(Outcome::Done)
}

pub fn good_reply() -> Vec<u8> {
    frame::encode(&Reply { version: PROTOCOL_VERSION, outcome: Outcome::Done }).unwrap()
}

/// A directory with an agent's socket and state, the agent, and the cgroup tree of a node.
pub struct Node {
    pub directory: TempDir,
    pub cgroups: CgroupTree,
    seen: Arc<Mutex<Vec<Call>>>,
}

impl Node {
    /// A node whose agent does not run.
    pub fn without_agent() -> Self {
        Self { directory: TempDir::new().unwrap(), cgroups: CgroupTree::new(), seen: Arc::default() }
    }

    /// A node whose agent does this with every connection.
    pub fn with(act: Act) -> Self {
        let node = Self::without_agent();
        node.start_agent(act);
        node
    }

    /// Starts the agent. It runs as long as the test does.
    pub fn start_agent(&self, act: Act) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let seen = Arc::clone(&self.seen);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (act, seen) = (act.clone(), Arc::clone(&seen));
                thread::spawn(move || serve(stream.unwrap(), act, &seen));
            }
        });
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("cni.sock")
    }

    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn spooled(&self) -> PathBuf {
        self.state().join(format!("spool/{ID}:eth0.json"))
    }

    /// What the agent was asked so far.
    pub fn seen(&self) -> Vec<Call> {
        self.seen.lock().unwrap().clone()
    }

    /// A configuration for this node, with the pod's cgroup declared and there.
    pub fn conf(&self, version: &str) -> Value {
        self.cgroups.make("kubepods/burstable/pod1");
        json!({
            "cniVersion": version,
            "name": "pods",
            "type": "sluice-cni",
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
            "socket": self.socket(),
            "stateDir": self.state(),
            "cgroupRoot": self.cgroups.path,
            "runtimeConfig": {"cgroupPath": "/kubepods/burstable/pod1"},
            "prevResult": prev_result(version),
        })
    }
}

fn serve(mut stream: UnixStream, act: Act, seen: &Mutex<Vec<Call>>) {
    let hold = |_stream: UnixStream| thread::sleep(Duration::from_secs(30));
    match act {
        Act::CloseAtOnce => return,
        Act::AnswerUnread(outcome) => {
            frame::write(&mut stream, &Reply { version: PROTOCOL_VERSION, outcome }).unwrap();
            return;
        }
        Act::Deaf => return hold(stream),
        _ => {}
    }
    let request: Request = frame::read(&mut stream).unwrap();
    assert_eq!(request.version, PROTOCOL_VERSION);
    seen.lock().unwrap().push(request.call);
    match act {
        Act::Answer(outcome) => {
            frame::write(&mut stream, &Reply { version: PROTOCOL_VERSION, outcome }).unwrap();
        }
        Act::Bytes(bytes) => stream.write_all(&bytes).unwrap(),
        Act::Trickle(pause) => {
            for byte in good_reply() {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(pause);
            }
        }
        _ => hold(stream),
    }
}

/// A directory of its own in the cgroup2 hierarchy of this machine, and what is made below it.
pub struct CgroupTree {
    pub path: PathBuf,
}

impl CgroupTree {
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = cgroup2_mount().join(format!("sluice-cni-test-{}-{number}", std::process::id()));
        fs::create_dir(&path).expect("these tests need root and a writable cgroup2 mount");
        Self { path }
    }

    /// Makes a cgroup and those above it.
    pub fn make(&self, relative: &str) -> PathBuf {
        let path = self.path.join(relative);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for CgroupTree {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

fn remove(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    // A process that was just killed may be in it for a moment more.
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The first cgroup2 mount, found otherwise than the plugin does.
pub fn cgroup2_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let fields = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let found = mounts.lines().map(fields).find(|fields| fields[2] == "cgroup2");
    PathBuf::from(&found.expect("these tests need a cgroup2 mount")[1])
}

/// What the bridge plugin answers, with fields of several versions and vendors.
pub fn prev_result(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [
            {"name": "cni0", "mac": "00:11:22:33:44:55"},
            {"name": "veth1234", "mac": "00:11:22:33:44:66", "mtu": 1450, "socketPath": ""},
            {"name": "eth0", "mac": "00:00:00:00:fe:80:00:00:00:00:00:00", "sandbox": NETNS, "pciID": "0000:00"},
        ],
        "ips": [
            {"version": "4", "interface": 2, "address": "10.88.0.7/16", "gateway": "10.88.0.1"},
            {"version": "6", "interface": 2, "address": "fd00::7/64"},
            {"version": "4", "interface": 0, "address": "10.88.0.1/16"},
        ],
        "routes": [{"dst": "0.0.0.0/0", "mtu": 1400, "advmss": 1360, "table": 100}],
        "vendor": {"z": 1, "a": [null, true, 1.5, "ä"]},
    })
}

/// How a run of the binary ended.
pub struct Run {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Run {
    /// It succeeded with nothing on stdout.
    #[track_caller]
    pub fn silent(&self) -> &Self {
        assert_eq!((self.status, self.stdout.as_str()), (Some(0), ""), "stderr: {}", self.stderr);
        self
    }

    /// It succeeded with exactly one JSON document on stdout.
    #[track_caller]
    pub fn document(&self) -> Value {
        assert_eq!(self.status, Some(0), "stdout: {} stderr: {}", self.stdout, self.stderr);
        self.only_document()
    }

    /// It failed with this code in exactly one error document on stdout; gives the details.
    #[track_caller]
    pub fn error(&self, code: i32) -> String {
        let reply = self.only_document();
        assert_eq!(reply["code"], code, "{reply}");
        assert_eq!(self.status, Some(1), "{reply}");
        let keys: Vec<_> = reply.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["cniVersion", "code", "msg", "details"]);
        assert!(!reply["msg"].as_str().unwrap().is_empty());
        reply["details"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn only_document(&self) -> Value {
        let mut documents = serde_json::Deserializer::from_str(&self.stdout).into_iter::<Value>();
        let first = documents.next().expect("a document on stdout").expect("JSON on stdout");
        assert!(documents.next().is_none(), "one document only: {}", self.stdout);
        first
    }
}

/// The environment that containerd gives for a pod.
pub fn pod_vars(command: &str) -> Vec<(&'static str, String)> {
    vec![
        ("CNI_COMMAND", command.into()),
        ("CNI_CONTAINERID", ID.into()),
        ("CNI_NETNS", NETNS.into()),
        ("CNI_IFNAME", "eth0".into()),
        ("CNI_PATH", "/opt/cni/bin".into()),
        (
            "CNI_ARGS",
            format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID={ID};K8S_POD_UID={UID}"
            ),
        ),
    ]
}

/// Runs the built binary as a runtime does.
pub fn run_with(vars: &[(&str, String)], stdin: &[u8]) -> Run {
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice-cni"))
        .env_clear()
        .envs(vars.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = stdin.to_vec();
    // The plugin may stop reading before the end.
    let writer = thread::spawn(move || drop(input.write_all(&bytes)));
    let mut stdout = String::new();
    let mut stderr = String::new();
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let status = child.wait().unwrap().code();
    writer.join().unwrap();
    Run { status, stdout, stderr, took: started.elapsed() }
}

/// Runs a verb for the usual pod.
pub fn run(command: &str, conf: &Value) -> Run {
    run_with(&pod_vars(command), conf.to_string().as_bytes())
}

/// A configuration with some fields set.
pub fn with(mut conf: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    conf.as_object_mut().unwrap().extend(fields);
    conf
}
