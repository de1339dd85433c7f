//! The CNI chain of the node: the bridge plugin, and Sluice's behind it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::command::binary;
use super::net::{BRIDGE, POD_SUBNETS};

/// Where Debian has the plugins.
const PLUGINS: &str = "/usr/lib/cni";

/// The chain to install.
#[derive(Clone, Debug)]
pub struct Chain {
    /// `cniVersion` of the list.
    pub version: String,
    /// Fields of Sluice's entry, besides its type and capabilities. None: the plain bridge.
    pub sluice: Option<Map<String, Value>>,
}

impl Default for Chain {
    fn default() -> Self {
        Self { version: "1.0.0".to_owned(), sluice: None }
    }
}

/// The directories that containerd is told of.
#[derive(Clone, Debug)]
pub(super) struct Directories {
    pub(super) configuration: PathBuf,
    pub(super) binaries: PathBuf,
}

/// Writes the chain below `directory`.
pub(super) fn install(directory: &Path, chain: &Chain) -> Result<Directories> {
    let directories =
        Directories { configuration: directory.join("net.d"), binaries: directory.join("cni-bin") };
    std::fs::create_dir_all(&directories.configuration)?;
    std::fs::create_dir_all(&directories.binaries)?;
    for plugin in ["bridge", "host-local", "loopback", "portmap", "ptp"] {
        std::os::unix::fs::symlink(Path::new(PLUGINS).join(plugin), directories.binaries.join(plugin))
            .with_context(|| format!("cannot link {plugin}"))?;
    }
    if chain.sluice.is_some() {
        std::fs::copy(binary("sluice-cni")?, directories.binaries.join("sluice-cni"))?;
    }
    let list = conflist(chain, &directory.join("ipam"));
    std::fs::write(
        directories.configuration.join("10-rig.conflist"),
        serde_json::to_vec_pretty(&list).context("the conflist is JSON")?,
    )?;
    Ok(directories)
}

fn conflist(chain: &Chain, addresses: &Path) -> Value {
    let ranges: Vec<Value> = POD_SUBNETS.iter().map(|subnet| json!([{"subnet": subnet}])).collect();
    let mut plugins = vec![json!({
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": false,
        "ipam": {
            "type": "host-local",
            "dataDir": addresses,
            "ranges": ranges,
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    })];
    if let Some(fields) = &chain.sluice {
        let mut entry = json!({
            "type": "sluice-cni",
            "capabilities": {"cgroupPath": true, "io.kubernetes.cri.pod-annotations": true},
        });
        if let Some(entry) = entry.as_object_mut() {
            entry.extend(fields.clone());
        }
        plugins.push(entry);
    }
    json!({"cniVersion": chain.version, "name": "rig", "plugins": plugins})
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::{Chain, conflist};

    #[test]
    fn sluice_comes_last_with_its_capabilities() {
        let fields = json!({"socket": "/run/a/cni.sock"}).as_object().cloned();
        let list = conflist(&Chain { sluice: fields, ..Chain::default() }, Path::new("/a"));
        assert_eq!(list["cniVersion"], "1.0.0");
        assert_eq!(list["plugins"][0]["type"], "bridge");
        assert_eq!(list["plugins"][1]["type"], "sluice-cni");
        assert_eq!(list["plugins"][1]["socket"], "/run/a/cni.sock");
        assert_eq!(list["plugins"][1]["capabilities"]["cgroupPath"], true);
        let plain = conflist(&Chain::default(), Path::new("/a"));
        assert_eq!(plain["plugins"].as_array().map(Vec::len), Some(1));
    }
}
