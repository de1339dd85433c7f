//! A node with many pods and policies: what the agent takes of memory, and how fast an edit is in force.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::SmallRng;
use sluice_api::{Add, Attachment, Call, Cgroup, Outcome, PROTOCOL_VERSION, Pod, Reply, Request, frame};

use super::pods::{Birth, Maker};
use super::probe::{PORT, Probe};
use super::{NAMESPACE, app};
use crate::rig::{Agent, Rig, run};

/// The host's end of the link that all pods of such a node share.
const LINK: &str = "bench-host";
/// The address that the first pod has, which is the node's own: what its socket sends leaves by the node's wire.
const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// How long the agent is left alone before its memory is looked at.
const REST: Duration = Duration::from_secs(3);
/// The longest pause between two edits; each is random, so that edits meet the agent in every state.
const PAUSE: Duration = Duration::from_millis(30);

/// A node with policies, and pods as they are added.
pub(super) struct Node<'a> {
    agent: Agent,
    maker: &'a mut Maker,
    policies: usize,
    pods: Vec<Birth>,
    probe: Option<Probe>,
}

/// The pair of interfaces that stands for every pod's.
pub(super) fn make_link() -> Result<()> {
    run("ip", ["link", "add", LINK, "type", "veth", "peer", "name", "bench-pod"]).map(drop)
}

/// The policy of one app. One in ten names the pods of another app; the last rule is what edits add and take away.
pub(super) fn policy(number: usize, policies: usize, with_probe: bool) -> String {
    let (name, next) = (app(number), app((number + 1) % policies));
    let peers = if number.is_multiple_of(10) {
        format!(
            "\n  - name: peers\n    action: Allow\n    to: [{{pods: {{podSelector: {{matchLabels: {{app: {next}}}}}}}}}]"
        )
    } else {
        String::new()
    };
    let probe = if with_probe {
        format!(
            "\n  - name: probe\n    action: Allow\n    to: [{{networks: [\"203.0.113.0/24\"]}}]\n    \
             ports: [{{port: {PORT}, protocol: UDP}}]"
        )
    } else {
        String::new()
    };
    let (third, fourth) = (number / 256, number % 256);
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  podSelector: {{matchLabels: {{app: {name}}}}}
  rules:
  - name: dns
    action: Allow
    to: [{{networks: [\"10.96.0.10/32\", \"fd00:10:96::a/128\"]}}]
    ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]
  - name: database
    action: Allow
    to: [{{networks: [\"172.16.{third}.{fourth}/32\"]}}]
    ports: [{{port: 5432}}, {{port: 6000, endPort: 6100}}]
  - name: web
    action: Allow
    to: [{{networks: [\"0.0.0.0/0\", \"::/0\"], except: [\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \
         \"203.0.113.0/24\", \"fc00::/7\"]}}]
    ports: [{{port: 443}}]{peers}{probe}
"
    )
}

impl<'a> Node<'a> {
    /// Starts an agent that knows of nothing but these policies.
    pub(super) async fn start(rig: &Rig, maker: &'a mut Maker, policies: usize) -> Result<Self> {
        let directories = rig.agent_directories();
        for directory in [&directories.run, &directories.state, &directories.policies] {
            if directory.exists() {
                fs::remove_dir_all(directory)?;
            }
        }
        fs::create_dir_all(&directories.policies)?;
        for number in 0..policies {
            directories.write_policy(&app(number), &policy(number, policies, false))?;
        }
        let agent = rig.start_agent(&[]).await?;
        Ok(Self { agent, maker, policies, pods: Vec::new(), probe: None })
    }

    /// Registers pods until there are so many: what `sluice-cni` asks for on ADD, without a process for each.
    pub(super) fn grow(&mut self, count: usize) -> Result<()> {
        while self.pods.len() < count {
            let number = self.pods.len();
            let pod = self.maker.make(0, app(number % self.policies))?;
            let address = if number == 0 {
                FIRST
            } else {
                Ipv4Addr::new(10, 88, (number >> 8) as u8, (number & 0xff) as u8).into()
            };
            register(&self.agent.directories().cni_socket(), &pod, address)?;
            self.pods.push(pod);
        }
        if self.probe.is_none() {
            let first = self.pods.first().context("no pods")?;
            self.probe = Some(Probe::new(&first.directory, FIRST)?);
        }
        Ok(())
    }

    /// What the agent has in memory and what its maps take, in MiB.
    pub(super) fn memory(&self) -> Result<(f64, f64)> {
        std::thread::sleep(REST);
        let pid = self.agent.pid().context("the agent has ended")?;
        let pss = proportional(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?)?;
        Ok((pss / 1024.0, f64::from(u32::try_from(self.agent.map_memory()? >> 10)?) / 1024.0))
    }

    /// Allows what was denied, so many times; gives how long each took, from the rename of the file to the first datagram that
    /// passes.
    pub(super) fn edits(&self, count: u32, random: &mut SmallRng) -> Result<Vec<Duration>> {
        let probe = self.probe.as_ref().context("no pods")?;
        probe.wait(false)?;
        let mut took = Vec::new();
        for _ in 0..count {
            std::thread::sleep(PAUSE.mul_f64(random.random()));
            let begun = self.edit(true)?;
            took.push(probe.wait(true)?.duration_since(begun));
            std::thread::sleep(PAUSE.mul_f64(random.random()));
            self.edit(false)?;
            probe.wait(false)?;
        }
        Ok(took)
    }

    /// Edits the first pod's policy; gives when the new file took the place of the old.
    fn edit(&self, with_probe: bool) -> Result<Instant> {
        let policies = &self.agent.directories().policies;
        let (beside, path) = (policies.join(".edit.tmp"), policies.join(format!("{}.yaml", app(0))));
        fs::write(&beside, policy(0, self.policies, with_probe))?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600))?;
        let begun = Instant::now();
        fs::rename(&beside, &path)?;
        Ok(begun)
    }

    /// Ends the agent and removes the pods' cgroups.
    pub(super) fn end(self) -> Result<()> {
        let Self { agent, pods, probe, .. } = self;
        drop((agent, probe));
        pods.into_iter().try_for_each(Birth::bury)
    }
}

fn register(socket: &Path, pod: &Birth, address: IpAddr) -> Result<()> {
    let id = fs::metadata(&pod.directory)?.ino();
    let add = Add {
        attachment: Attachment { container_id: pod.name.clone(), ifname: "eth0".to_owned() },
        network: "bench".to_owned(),
        netns: pod.netns.display().to_string(),
        cgroup: Cgroup { path: pod.directory.display().to_string(), id },
        pod: Pod {
            namespace: NAMESPACE.to_owned(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
            labels: [("app".to_owned(), pod.app.clone())].into(),
        },
        ips: vec![address],
        host_interface: Some(LINK.to_owned()),
    };
    let mut line = UnixStream::connect(socket)?;
    frame::write(&mut line, &Request { version: PROTOCOL_VERSION, call: Call::Add(add) })?;
    let reply: Reply = frame::read(&mut line)?;
    ensure!(matches!(reply.outcome, Outcome::Done), "{}: {:?}", pod.name, reply.outcome);
    Ok(())
}

/// The proportional set size, in KiB.
fn proportional(rollup: &str) -> Result<f64> {
    let line =
        rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
    line.trim().trim_end_matches(" kB").parse().with_context(|| format!("Pss: {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::{policy, proportional};

    #[test]
    fn a_rollup_is_read() {
        let rollup = "Rss:  9 kB\nPss:                7332 kB\nPss_Dirty: 1 kB\n";
        assert!((proportional(rollup).unwrap() - 7332.0).abs() < 0.1);
        assert!(proportional("Rss: 9 kB\n").is_err());
    }

    #[test]
    fn an_edit_adds_the_probe_rule_and_nothing_else() {
        let (with, without) = (policy(0, 10, true), policy(0, 10, false));
        assert!(with.contains("app: a0001") && with.starts_with(without.trim_end()));
        assert!(with.contains("port: 9, protocol: UDP") && !policy(1, 10, false).contains("pods:"));
    }
}
