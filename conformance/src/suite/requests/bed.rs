//! What clients need: the server, the programs, and a root that looks like the node's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use k8s_cri::v1::Mount;

use super::programs::{self, MOUNTED};
use super::server::{ADDRESS, HOST, Server};
use crate::rig::net::DESTINATIONS;
use crate::rig::{ContainerSpec, Place, Rig};

/// The server runs while this lives.
pub(crate) struct Bed {
    pub(crate) server: Server,
    /// Where the programs are; pods see it at [`MOUNTED`].
    pub(crate) programs: PathBuf,
    etc: PathBuf,
}

impl Bed {
    /// Starts the server, and makes the programs and what the C library reads in the pods.
    pub(crate) async fn make(rig: &Rig, place: &Place) -> Result<Self> {
        let directory = place.directory.join("requests");
        let server = Server::start(rig, &directory.join("server")).await?;
        let (programs, etc) = (directory.join("programs"), directory.join("etc"));
        tokio::task::block_in_place(|| programs::make(&programs))?;
        fs::create_dir_all(&etc)?;
        fs::write(etc.join("nsswitch.conf"), "hosts: files\n")?;
        fs::write(etc.join("hosts"), format!("127.0.0.1 localhost\n{ADDRESS} {HOST}\n"))?;
        fs::copy(&server.authority, etc.join("ca.pem"))?;
        Ok(Self { server, programs, etc })
    }

    /// A directory of the suite's own, on a file system that dies with the rig.
    pub(crate) fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.programs.with_file_name(name);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// A container that runs a program of the node.
    pub(crate) fn container(&self, name: &str, command: Vec<String>) -> ContainerSpec {
        let mut mounts =
            [("/usr", "/usr"), ("/usr/bin", "/bin"), ("/usr/lib", "/lib"), ("/usr/lib64", "/lib64")]
                .map(|(host, container)| mount(Path::new(host), container))
                .to_vec();
        mounts.push(mount(&self.programs, MOUNTED));
        for file in ["nsswitch.conf", "hosts", "ca.pem"] {
            mounts.push(mount(&self.etc.join(file), &format!("/etc/{file}")));
        }
        ContainerSpec { command, mounts, ..ContainerSpec::new(name, Vec::<String>::new()) }
    }
}

/// A directory or file of the node, not to be written.
pub(crate) fn mount(host: &Path, container: &str) -> Mount {
    Mount {
        host_path: host.display().to_string(),
        container_path: container.to_owned(),
        readonly: true,
        ..Mount::default()
    }
}

/// A policy by which pods with that label `app` may reach the server, and nothing else.
pub(crate) fn policy(namespace: &str, app: &str) -> String {
    let [v4, v6] = DESTINATIONS.allowed;
    let rules = format!("[{{name: server, action: Allow, to: [{{networks: [{v4}/32, \"{v6}/128\"]}}]}}]");
    crate::suite::policy(namespace, app, app, &rules)
}
