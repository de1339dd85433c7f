//! A pod as the plugin sees it, without a runtime: a network namespace with a link to the node, and a cgroup.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::super::flood::TCP_PORT;
use crate::rig::Place;

/// The node's addresses at every pod's link.
const NODE: [&str; 2] = ["10.89.255.1", "fd00:10:89:ffff::1"];

/// The pod.
pub(super) struct Sandbox {
    /// The container's id: upper case too, which some runtimes use.
    pub(super) id: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) netns: String,
    /// The host's end of its link.
    pub(super) link: String,
    pub(super) cgroup: PathBuf,
    /// The same, as the capability `cgroupPath` names it.
    pub(super) cgroup_path: String,
    pub(super) ips: [IpAddr; 2],
}

impl Sandbox {
    /// Makes one. All of it goes with the rig.
    pub(super) fn create(place: &Place, number: u32) -> Result<Self> {
        let name = format!("rig-s{number}");
        let [high, low] = [number / 250, number % 250 + 1].map(|part| part as u8);
        let ips = [
            IpAddr::V4(Ipv4Addr::new(10, 89, high, low)),
            IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x89, 0, 0, 0, 0, number as u16 + 1)),
        ];
        let ([node4, node6], [ip4, ip6]) = (NODE, ips);
        batch(
            &[],
            &format!(
                "netns add {name}
                 link add {name} type veth peer name eth0 netns {name}
                 addr add {node4}/32 dev {name}
                 addr add {node6}/128 dev {name} nodad
                 link set {name} up
                 route add {ip4}/32 dev {name}
                 route add {ip6}/128 dev {name}"
            ),
        )?;
        batch(
            &["-n", &name],
            &format!(
                "link set lo up
                 link set eth0 up
                 addr add {ip4}/32 dev eth0
                 addr add {ip6}/128 dev eth0 nodad
                 route add {node4}/32 dev eth0
                 route add default via {node4}
                 route add {node6}/128 dev eth0
                 route add default via {node6}"
            ),
        )?;
        let uid = format!("{number:08x}-0000-4000-8000-000000000000");
        let cgroup_path = format!("/kubepods/burstable/pod{uid}");
        let cgroup = place.cgroup_root.join(&cgroup_path[1..]);
        fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        Ok(Self {
            id: format!("C0FFEE{number:058x}"),
            netns: format!("/run/netns/{name}"),
            link: name.clone(),
            name,
            uid,
            cgroup,
            cgroup_path,
            ips,
        })
    }

    /// What a primary plugin that makes such a link answers, in the form of each version, with what some vendors add.
    pub(super) fn result(&self, version: &str) -> Value {
        let [ip4, ip6] = self.ips;
        let mut ips = vec![
            json!({"interface": 1, "address": format!("{ip4}/32"), "gateway": NODE[0]}),
            json!({"interface": 1, "address": format!("{ip6}/128"), "gateway": NODE[1]}),
            json!({"interface": 0, "address": format!("{}/32", NODE[0])}),
        ];
        if version < "1.0.0" {
            for (ip, family) in ips.iter_mut().zip(["4", "6", "4"]) {
                ip["version"] = family.into();
            }
        }
        let mut result = json!({
            "cniVersion": version,
            "interfaces": [
                {"name": self.link, "mac": "02:00:00:00:10:01"},
                {"name": "eth0", "mac": "02:00:00:00:10:02", "sandbox": self.netns},
            ],
            "ips": ips,
            "routes": [{"dst": "0.0.0.0/0", "gw": NODE[0]}, {"dst": "::/0"}],
            "dns": {"nameservers": ["10.96.0.10"]},
            "vendor": {"z": 1, "a": [null, true, 1.5, "ä", 18_446_744_073_709_551_615_u64]},
        });
        if version == "1.1.0" {
            result["interfaces"][1]["mtu"] = 1450.into();
            result["interfaces"][1]["socketPath"] = "/run/vhost.sock".into();
            result["routes"][0]["advmss"] = 1360.into();
        }
        result
    }

    /// A process of the pod that connects with its first call; how it ends.
    pub(super) async fn connect(&self, probe: &Path, to: IpAddr) -> Result<String> {
        const START: &str = "echo 0 > \"$0/cgroup.procs\" && exec nsenter \"--net=$1\" \"$2\" connect \
                             --proto tcp --to \"$3\" --port \"$4\"";
        let mut command = tokio::process::Command::new("sh");
        command.args(["-c", START]).arg(&self.cgroup).arg(&self.netns).arg(probe);
        command.arg(to.to_string()).arg(TCP_PORT.to_string()).stdin(Stdio::null());
        let output = command.output().await?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the probe did not run: {}", stderr.trim());
        let line: Value = serde_json::from_slice(&output.stdout).context("the probe's line")?;
        Ok(line["outcome"].as_str().context("the probe named no outcome")?.to_owned())
    }

    /// Removes the cgroup, as the kubelet does with a pod that has ended.
    pub(super) fn remove(self) -> Result<()> {
        fs::remove_dir(&self.cgroup).with_context(|| format!("cannot remove {}", self.cgroup.display()))
    }
}

/// Lets `ip` do many things at once.
fn batch(options: &[&str], lines: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run ip")?;
    child.stdin.take().context("stdin was piped")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
