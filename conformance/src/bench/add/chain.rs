//! A CNI chain, run as libcni runs it: one plugin after the other, each with the result of the one before.

use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::pods::Birth;
use crate::rig::{AgentDirectories, Place, net};

/// The interface that a pod gets.
const INTERFACE: &str = "eth0";
/// What containerd names the interface of its loopback plugin.
const LOOPBACK: &str = "lo";
/// A plugin that does nothing: this applet of busybox, linked statically, reads what it is told and says it again.
const NOTHING: &str = "cat";
/// Where the program of that is.
const BUSYBOX: &str = "/bin/busybox";
/// Which chain a pod is added by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Kind {
    /// What containerd runs for a pod by the configuration that it installs (its `script/setup/install-cni`): the loopback
    /// plugin, and then a bridge with masquerade and addresses of both families, and port mappings.
    Usual,
    /// The shortest that gives a pod a network: a bridge with addresses of one family from host-local.
    Shortest,
}

/// What comes last in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Last {
    /// Nothing more than what gives the pod its network.
    Plain,
    /// A program that does nothing: what any further plugin costs.
    Nothing,
    /// Sluice's plugin.
    Sluice,
}

/// The plugins of a chain, and those that may come last.
pub(in crate::bench) struct Chain {
    plugins: Vec<Map<String, Value>>,
    nothing: Map<String, Value>,
    sluice: Map<String, Value>,
    binaries: PathBuf,
}

/// How long an ADD took.
pub(in crate::bench) struct Took {
    pub(super) whole: Duration,
    /// The last plugin, from its start to its end.
    pub(super) last: Duration,
    /// The result of the last.
    pub(in crate::bench) result: Value,
}

impl Chain {
    pub(in crate::bench) fn new(place: &Place, agent: &AgentDirectories, kind: Kind) -> Result<Self> {
        let binaries = place.directory.join("cni-bin");
        let nothing = binaries.join(NOTHING);
        if !nothing.is_symlink() {
            symlink(BUSYBOX, &nothing).context("cannot link the plugin that does nothing")?;
        }
        let ipam = |name: &str, families: &[(&str, &str)]| {
            let ranges: Vec<_> = families.iter().map(|(subnet, _)| json!([{"subnet": subnet}])).collect();
            let routes: Vec<_> = families.iter().map(|(_, all)| json!({"dst": all})).collect();
            json!({"type": "host-local", "dataDir": place.directory.join(name), "ranges": ranges, "routes": routes})
        };
        let plugins = match kind {
            Kind::Usual => vec![
                json!({"type": "loopback"}),
                json!({
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": true,
                    "ipMasq": true,
                    "promiscMode": true,
                    "ipam": ipam("ipam-usual", &[("10.88.0.0/16", "0.0.0.0/0"), ("2001:db8:4860::/64", "::/0")]),
                }),
                json!({"type": "portmap", "capabilities": {"portMappings": true}}),
            ],
            Kind::Shortest => vec![json!({
                "type": "bridge",
                "bridge": net::BRIDGE,
                "isGateway": true,
                "ipMasq": false,
                "ipam": ipam("ipam-shortest", &[(net::POD_SUBNETS[0], "0.0.0.0/0")]),
            })],
        };
        let sluice = json!({
            "type": "sluice-cni",
            "socket": agent.cni_socket(),
            "cgroupRoot": place.cgroup_root,
            "stateDir": agent.run,
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
        });
        let object = |plugin: Value| match plugin {
            Value::Object(plugin) => plugin,
            _ => Map::new(),
        };
        Ok(Self {
            plugins: plugins.into_iter().map(object).collect(),
            nothing: object(json!({"type": NOTHING})),
            sluice: object(sluice),
            binaries,
        })
    }

    /// The plugins in order, with what comes last.
    fn plugins(&self, last: Last) -> impl DoubleEndedIterator<Item = &Map<String, Value>> {
        let more = match last {
            Last::Plain => None,
            Last::Nothing => Some(&self.nothing),
            Last::Sluice => Some(&self.sluice),
        };
        self.plugins.iter().chain(more)
    }

    /// ADD by all plugins, each with the result of the one before. containerd runs the loopback plugin as a network of its own.
    pub(in crate::bench) fn add(&self, pod: &Birth, last: Last) -> Result<Took> {
        let begun = Instant::now();
        let mut took = Duration::ZERO;
        let mut result = Value::Null;
        for plugin in self.plugins(last) {
            let before = Instant::now();
            let answer = self.call("ADD", plugin, pod, &result)?;
            took = before.elapsed();
            if plugin["type"] != "loopback" && plugin["type"] != NOTHING {
                result = serde_json::from_slice(&answer).context("a plugin's result")?;
            }
        }
        Ok(Took { whole: begun.elapsed(), last: took, result })
    }

    /// DEL by the same plugins, the last first.
    pub(in crate::bench) fn del(&self, pod: &Birth, last: Last, result: &Value) -> Result<()> {
        self.plugins(last).rev().try_for_each(|plugin| {
            let result = if plugin["type"] == "loopback" { &Value::Null } else { result };
            self.call("DEL", plugin, pod, result).map(drop)
        })
    }

    fn call(&self, verb: &str, plugin: &Map<String, Value>, pod: &Birth, result: &Value) -> Result<Vec<u8>> {
        let name = plugin["type"].as_str().context("a plugin has a type")?;
        let mut command = Command::new(self.binaries.join(name));
        let interface = if name == "loopback" { LOOPBACK } else { INTERFACE };
        command.env_clear().envs(variables(verb, pod, interface, &self.binaries));
        let input = serde_json::to_vec(&configuration(plugin, pod, result)).context("the configuration")?;
        feed(command, &input).with_context(|| format!("{verb} of {name} for {}", pod.name))
    }
}

/// What libcni writes to a plugin's stdin.
fn configuration(plugin: &Map<String, Value>, pod: &Birth, result: &Value) -> Map<String, Value> {
    let mut all = plugin.clone();
    all.insert("name".to_owned(), json!("bench"));
    all.insert("cniVersion".to_owned(), json!("1.0.0"));
    if plugin.contains_key("capabilities") {
        let annotations = json!({"sluice.dev/labels": format!("app={}", pod.app)});
        let given = json!({"cgroupPath": pod.cgroup, "io.kubernetes.cri.pod-annotations": annotations});
        all.insert("runtimeConfig".to_owned(), given);
    }
    if !result.is_null() {
        all.insert("prevResult".to_owned(), result.clone());
    }
    all
}

fn variables(verb: &str, pod: &Birth, interface: &str, binaries: &Path) -> [(&'static str, String); 7] {
    let (name, uid) = (&pod.name, &pod.uid);
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={name};K8S_POD_UID={uid}",
        super::NAMESPACE
    );
    [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", name.clone()),
        ("CNI_NETNS", pod.netns.display().to_string()),
        ("CNI_IFNAME", interface.to_owned()),
        ("CNI_ARGS", arguments),
        ("CNI_PATH", binaries.display().to_string()),
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
    ]
}

/// Runs a plugin and gives what it wrote to stdout.
fn feed(mut command: Command, input: &[u8]) -> Result<Vec<u8>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    child.stdin.take().context("stdin was piped")?.write_all(input)?;
    let output = child.wait_with_output()?;
    let said = || {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("{}: {out}{err}", output.status)
    };
    ensure!(output.status.success(), "{}", said());
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::{Value, json};

    use super::{configuration, variables};
    use crate::bench::add::pods::Birth;

    #[test]
    fn a_plugin_is_told_what_libcni_tells() {
        let pod = Birth {
            name: "bench-1".to_owned(),
            uid: "u".to_owned(),
            app: "a0000".to_owned(),
            cgroup: "/kubepods/burstable/podu".to_owned(),
            directory: PathBuf::new(),
            netns: PathBuf::from("/run/netns/bench-1"),
        };
        let plugin = json!({"type": "x", "capabilities": {"cgroupPath": true}}).as_object().cloned().unwrap();
        let first = configuration(&plugin, &pod, &Value::Null);
        assert!(!first.contains_key("prevResult") && first["cniVersion"] == "1.0.0");
        assert_eq!(first["runtimeConfig"]["cgroupPath"], "/kubepods/burstable/podu");
        let second =
            configuration(&json!({"type": "y"}).as_object().cloned().unwrap(), &pod, &json!({"ips": []}));
        assert!(second.contains_key("prevResult") && !second.contains_key("runtimeConfig"));
        let variables = variables("ADD", &pod, "eth0", &PathBuf::from("/bin"));
        assert!(
            variables.iter().any(|(name, value)| *name == "CNI_ARGS" && value.ends_with("K8S_POD_UID=u"))
        );
    }
}
