//! A CNI chain, run as libcni runs it: one plugin after the other, each with the result of the one before.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::pods::Birth;
use crate::rig::{AgentDirectories, Place, net};

/// The interface that a pod gets.
const INTERFACE: &str = "eth0";
/// How many plugins the chain has without Sluice's.
pub(in crate::bench) const PLAIN: usize = 1;
/// How many it has with it.
pub(in crate::bench) const WHOLE: usize = 2;

/// The bridge plugin with addresses of one family from host-local, which is as short as chains get; `sluice-cni` behind it.
pub(in crate::bench) struct Chain {
    plugins: Vec<Map<String, Value>>,
    binaries: PathBuf,
}

/// How long an ADD took.
pub(in crate::bench) struct Took {
    pub(super) whole: Duration,
    /// Each plugin, from its start to its end.
    pub(super) plugins: Vec<Duration>,
    /// The result of the last.
    pub(in crate::bench) result: Value,
}

impl Chain {
    pub(in crate::bench) fn new(place: &Place, agent: &AgentDirectories) -> Self {
        let bridge = json!({
            "type": "bridge",
            "bridge": net::BRIDGE,
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": place.directory.join("ipam-bench"),
                "ranges": [[{"subnet": net::POD_SUBNETS[0]}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let sluice = json!({
            "type": "sluice-cni",
            "socket": agent.cni_socket(),
            "cgroupRoot": place.cgroup_root,
            "stateDir": agent.run,
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
        });
        let plugins = [bridge, sluice].into_iter().filter_map(|plugin| plugin.as_object().cloned());
        Self { plugins: plugins.collect(), binaries: place.directory.join("cni-bin") }
    }

    /// ADD by the first `count` plugins.
    pub(in crate::bench) fn add(&self, pod: &Birth, count: usize) -> Result<Took> {
        let begun = Instant::now();
        let mut plugins = Vec::with_capacity(count);
        let mut result = Value::Null;
        for plugin in &self.plugins[..count] {
            let before = Instant::now();
            let answer = self.call("ADD", plugin, pod, &result)?;
            plugins.push(before.elapsed());
            result = serde_json::from_slice(&answer).context("a plugin's result")?;
        }
        Ok(Took { whole: begun.elapsed(), plugins, result })
    }

    /// DEL by the same plugins, the last first.
    pub(in crate::bench) fn del(&self, pod: &Birth, count: usize, result: &Value) -> Result<()> {
        self.plugins[..count]
            .iter()
            .rev()
            .try_for_each(|plugin| self.call("DEL", plugin, pod, result).map(drop))
    }

    /// How long the binary of a plugin takes to say its versions: the cost of a process and nothing else.
    pub(super) fn version(&self, plugin: &str) -> Result<Duration> {
        let begun = Instant::now();
        let mut command = Command::new(self.binaries.join(plugin));
        command.env_clear().env("CNI_COMMAND", "VERSION");
        feed(command, br#"{"cniVersion":"1.0.0"}"#)?;
        Ok(begun.elapsed())
    }

    fn call(&self, verb: &str, plugin: &Map<String, Value>, pod: &Birth, result: &Value) -> Result<Vec<u8>> {
        let name = plugin["type"].as_str().context("a plugin has a type")?;
        let mut command = Command::new(self.binaries.join(name));
        command.env_clear().envs(variables(verb, pod, &self.binaries));
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

fn variables(verb: &str, pod: &Birth, binaries: &Path) -> [(&'static str, String); 7] {
    let (name, uid) = (&pod.name, &pod.uid);
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={name};K8S_POD_UID={uid}",
        super::NAMESPACE
    );
    [
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", name.clone()),
        ("CNI_NETNS", pod.netns.display().to_string()),
        ("CNI_IFNAME", INTERFACE.to_owned()),
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
        let variables = variables("ADD", &pod, &PathBuf::from("/bin"));
        assert!(
            variables.iter().any(|(name, value)| *name == "CNI_ARGS" && value.ends_with("K8S_POD_UID=u"))
        );
    }
}
