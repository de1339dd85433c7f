//! The agent's sockets: what is no request, and who may not ask.

use std::fs;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_cri::v1::Mount;
use serde_json::{Value, json};

use super::plugin::call;
use super::{Run, Status};
use crate::rig::ContainerSpec;

/// How long the agent may take to answer, or to hang up.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Peers that connect and say nothing.
const SILENT: usize = 64;
/// Nobody.
const NOBODY: libc::uid_t = 65534;

/// A name, what is sent, and what the refusal must say; no words where there is to be no answer.
type Case<'a> = (&'a str, Vec<u8>, Option<&'a [&'a str]>);

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let before = run.status().await?;
    modes(run)?;
    requests(run, &before).await?;
    silent(run).await?;
    strangers(run).await?;
    intruder(run).await?;
    run.unchanged("sockets", &before).await?;
    run.enforced("sockets").await
}

fn sockets(run: &Run<'_>) -> [(&'static str, PathBuf); 2] {
    ["cni.sock", "admin.sock"].map(|name| (name, run.agent.directories().run.join(name)))
}

fn mode(path: &Path) -> Result<String> {
    let mode = fs::metadata(path).with_context(|| path.display().to_string())?.permissions().mode();
    Ok(format!("{:03o}", mode & 0o7777))
}

fn modes(run: &mut Run<'_>) -> Result<()> {
    let directory = mode(&run.agent.directories().run)?;
    run.report.equal("sockets: mode of the directory", directory, "", "700");
    for (name, path) in sockets(run) {
        run.report.equal(&format!("sockets: mode of {name}"), mode(&path)?, "", "600");
    }
    Ok(())
}

/// A message: its length, then its text.
fn message(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], text.as_bytes()].concat()
}

/// Sends bytes and no more; the answer, if there is one before the agent hangs up.
fn ask(socket: &Path, bytes: &[u8]) -> io::Result<Option<Value>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    // An agent may hang up before it has read all.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => return Err(error),
        _ => {}
    }
    Ok(answer.get(4..).and_then(|body| serde_json::from_slice(body).ok()))
}

async fn requests(run: &mut Run<'_>, before: &Status) -> Result<()> {
    let tell = |version: u32, call: Value| message(&json!({"version": version, "call": call}).to_string());
    let half = &tell(1, "status".into())[..12];
    let lengths = ["1 to 1048576 are accepted"].as_slice();
    let versions = ["version 99", "install both from one release"].as_slice();
    let unknown = ["not a message of this protocol", "unknown variant `reload`", "status"].as_slice();
    let cases: Vec<Case> = vec![
        ("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Some(lengths)),
        ("length 0", vec![0; 4], Some(lengths)),
        ("length 2^32-1", vec![0xff; 4], Some(lengths)),
        ("nothing", Vec::new(), None),
        ("half a length", vec![0, 0], None),
        ("half a message", half.to_vec(), None),
        ("no JSON", message("\u{0}nonsense"), Some(&["not a message of this protocol"])),
        ("unknown call", tell(1, "reload".into()), Some(unknown)),
        ("other version", tell(99, "status".into()), Some(versions)),
        ("other version, unknown call", tell(99, json!({"later": {"seconds": 3}})), Some(versions)),
        ("a cgroup that is none", tell(1, add()), Some(&["cgroup /nowhere has not the id 1"])),
    ];
    let [(_, cni), (_, admin)] = sockets(run);
    for (name, bytes, words) in cases {
        let answer = tokio::task::block_in_place(|| ask(&cni, &bytes))?;
        let name = format!("cni.sock: {name}");
        match words {
            Some(words) => {
                let refusal = answer.unwrap_or_default()["outcome"]["refused"]["message"].clone();
                run.says(&name, refusal.as_str().unwrap_or_default(), words);
            }
            None => run.report.equal(&name, answer.unwrap_or_default(), "", Value::Null),
        }
        run.unchanged(&name, before).await?;
    }
    for (name, bytes) in
        [("garbage", b"GET / HTTP/1.1\r\n\r\n".to_vec()), ("unknown question", message("\"reboot\""))]
    {
        let answer = tokio::task::block_in_place(|| ask(&admin, &bytes))?;
        let refusal = answer.unwrap_or_default()["refused"]["message"].clone();
        let words = if name == "garbage" { lengths } else { &["not a message of this protocol", "status"] };
        run.says(&format!("admin.sock: {name}"), refusal.as_str().unwrap_or_default(), words);
    }
    Ok(())
}

/// An ADD that is well formed, for a cgroup that does not exist.
fn add() -> Value {
    json!({"add": {
        "attachment": {"containerId": "c0ffee", "ifname": "eth0"},
        "network": "rig",
        "netns": "/run/netns/nowhere",
        "cgroup": {"path": "/nowhere", "id": 1},
        "pod": {"namespace": "broken", "name": "nobody", "uid": "", "labels": {}},
        "ips": [],
        "hostInterface": null,
    }})
}

/// Peers that connect and send nothing keep nobody waiting: served one after the other they would outlast every deadline.
async fn silent(run: &mut Run<'_>) -> Result<()> {
    let mut peers = Vec::new();
    for (_, path) in sockets(run) {
        for _ in 0..SILENT {
            peers.push(UnixStream::connect(&path)?);
        }
    }
    let status = run.status().await?;
    run.report.equal("silent peers: sluice status meanwhile", status.code, "", 0);
    let socket = run.agent.directories().cni_socket();
    // A state directory without the marker of an earlier readiness: STATUS holds only if the agent answers.
    let elsewhere = run.rig.place().directory.join("empty");
    let input = json!({
        "cniVersion": "1.1.0", "name": "rig", "type": "sluice-cni", "socket": socket, "stateDir": elsewhere,
    });
    let answer = call(&[("CNI_COMMAND", "STATUS")], input.to_string().into_bytes()).await?;
    let found = format!("{:?}{}", answer.status, answer.stdout);
    run.report.equal("silent peers: the plugin's STATUS meanwhile", found, "", "Some(0)");
    drop(peers);
    Ok(())
}

/// Another user: the directory keeps him out, and the agent does too where somebody has opened it.
async fn strangers(run: &mut Run<'_>) -> Result<()> {
    let request = message(r#"{"version": 1, "call": "status"}"#);
    for (name, path) in sockets(run) {
        let refused = as_nobody(path, request.clone()).await?;
        let kind = refused.map_err(|error| error.kind());
        run.report.equal(&format!("{name}: another user"), format!("{kind:?}"), "", "Err(PermissionDenied)");
    }
    let [(_, cni), _] = sockets(run);
    let opened = [Opened::open(&run.agent.directories().run, 0o755)?, Opened::open(&cni, 0o666)?];
    let answer = as_nobody(cni, request).await??.unwrap_or_default();
    drop(opened);
    let refusal = answer["outcome"]["refused"]["message"].as_str().unwrap_or_default();
    run.says("cni.sock, opened to all: another user", refusal, &["uid is 65534", "only root"]);
    modes(run)
}

/// A path whose mode is another for a while.
struct Opened(PathBuf, fs::Permissions);

impl Opened {
    fn open(path: &Path, mode: u32) -> Result<Self> {
        let before = fs::metadata(path)?.permissions();
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        Ok(Self(path.to_owned(), before))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Err(error) = fs::set_permissions(&self.0, self.1.clone()) {
            eprintln!("broken-input: cannot close {}: {error}", self.0.display());
        }
    }
}

/// Asks from a thread that has become another user.
async fn as_nobody(socket: PathBuf, bytes: Vec<u8>) -> Result<io::Result<Option<Value>>> {
    tokio::task::spawn_blocking(move || {
        let thread = std::thread::spawn(move || {
            // SAFETY: takes no pointers. The system call itself changes this thread only, which ends soon; the C library's
            // function would change all of them.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
            if result != 0 {
                return Err(io::Error::other("setresuid failed"));
            }
            ask(&socket, &bytes)
        });
        thread.join().expect("no panic")
    })
    .await
    .context("the thread's thread")
}

/// Root in a governed pod, with the socket and the plugin in its hands, wants the agent to forget another pod.
async fn intruder(run: &mut Run<'_>) -> Result<()> {
    let mount = |host: &Path, container: &str, readonly| Mount {
        container_path: container.to_owned(),
        host_path: host.display().to_string(),
        readonly,
        ..Mount::default()
    };
    let variables = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", run.victim.id()), ("CNI_IFNAME", "eth0")];
    let spec = ContainerSpec {
        command: vec!["/plugins/sluice-cni".to_owned()],
        variables: variables.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec(),
        mounts: vec![
            mount(&run.agent.directories().cni_socket(), "/run/sluice/cni.sock", false),
            mount(&run.rig.place().directory.join("cni-bin"), "/plugins", true),
        ],
        ..ContainerSpec::new("intruder", [""; 0])
    };
    let container = run.victim.start(&spec).await?;
    container.succeed().await?;
    let said = container.log()?.join("\n");
    run.says("cni.sock: root in a pod", &said, &["the agent refused", "is in a pod"]);
    Ok(())
}
