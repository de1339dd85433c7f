//! Pods, made the way kubelet makes them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, KeyValue, LinuxContainerConfig,
    LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
    NamespaceOption, PodSandboxConfig, PodSandboxMetadata, PodSandboxStatusRequest, RemovePodSandboxRequest,
    RunPodSandboxRequest, StartContainerRequest, StopPodSandboxRequest,
};
use tonic::transport::Channel;

use super::container::{Container, ContainerSpec};
use super::containerd::RuntimeClient;
use super::image::PROBE_IMAGE;
use super::isolate::Place;
use super::{cgroup, command};

/// Quality of service, which decides where the pod's cgroup is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Qos {
    /// `kubepods/pod<uid>`
    Guaranteed,
    /// `kubepods/burstable/pod<uid>`
    #[default]
    Burstable,
    /// `kubepods/besteffort/pod<uid>`
    BestEffort,
}

impl Qos {
    /// The directory below `kubepods`.
    fn directory(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "burstable/",
            Self::BestEffort => "besteffort/",
        }
    }
}

/// A pod to run.
#[derive(Clone, Debug, Default)]
pub struct PodSpec {
    /// Its name; must be unique.
    pub name: String,
    /// Its namespace; `default` if empty.
    pub namespace: String,
    /// Its labels: as CRI labels, and in the annotation that hosts without Kubernetes give labels by.
    pub labels: BTreeMap<String, String>,
    /// Further annotations.
    pub annotations: BTreeMap<String, String>,
    /// Its quality of service.
    pub qos: Qos,
    /// Whether it lives in the node's network namespace: no CNI then.
    pub host_network: bool,
}

impl PodSpec {
    /// A burstable pod with labels such as `app=web`.
    pub fn new(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Self::default()
        }
    }
}

/// What a pod needs of the rig after it was made.
#[derive(Clone)]
pub(super) struct Runtime {
    pub(super) channel: Channel,
    pub(super) place: Place,
    pub(super) containerd_log: PathBuf,
}

impl Runtime {
    pub(super) fn client(&self) -> RuntimeClient {
        RuntimeClient::new(self.channel.clone())
    }
}

/// A running pod. [`remove`](Self::remove) it; dropping it removes it too, and blocks meanwhile.
pub struct Pod {
    runtime: Arc<Runtime>,
    config: PodSandboxConfig,
    cgroup: PathBuf,
    id: String,
    uid: String,
    ips: Vec<IpAddr>,
    attempts: AtomicU32,
    removed: bool,
}

impl Pod {
    /// Makes the pod's cgroup, then its sandbox.
    pub(super) async fn run(runtime: Arc<Runtime>, spec: &PodSpec) -> Result<Self> {
        let uid = random_uid();
        let below = format!("kubepods/{}pod{uid}", spec.qos.directory());
        let cgroup = runtime.place.cgroup_root.join(&below);
        fs::create_dir_all(&cgroup)?;
        let config = sandbox_config(&runtime.place, spec, &uid, &below);
        fs::create_dir_all(&config.log_directory)?;
        let mut pod = Self {
            runtime,
            config,
            cgroup,
            id: String::new(),
            uid,
            ips: Vec::new(),
            attempts: AtomicU32::new(0),
            removed: false,
        };
        // From here on the pod's drop cleans up, whatever fails.
        pod.start_sandbox().await.with_context(|| format!("pod {}/{}", spec.namespace, spec.name))?;
        Ok(pod)
    }

    async fn start_sandbox(&mut self) -> Result<()> {
        let mut client = self.runtime.client();
        let request =
            RunPodSandboxRequest { config: Some(self.config.clone()), runtime_handler: String::new() };
        let reply = client.run_pod_sandbox(request).await;
        let reply = reply.with_context(|| command::tail(&self.runtime.containerd_log, 5))?;
        self.id = reply.into_inner().pod_sandbox_id;
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        let status = client.pod_sandbox_status(request).await?.into_inner().status.unwrap_or_default();
        let network = status.network.unwrap_or_default();
        let further = network.additional_ips.iter().map(|address| &address.ip);
        for address in std::iter::once(&network.ip).chain(further).filter(|address| !address.is_empty()) {
            self.ips.push(address.parse().with_context(|| format!("address {address:?}"))?);
        }
        Ok(())
    }

    /// Starts a container; its process runs when this returns. An init container, the main one and its restarts are calls
    /// one after the other.
    pub async fn start(&self, spec: &ContainerSpec) -> Result<Container> {
        // Boxed: it holds whole requests, and suites nest many of these.
        Box::pin(self.start_container(spec)).await
    }

    async fn start_container(&self, spec: &ContainerSpec) -> Result<Container> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        let log = format!("{}-{attempt}.log", spec.name);
        let config = container_config(spec, attempt, &log, &self.config);
        let mut client = self.runtime.client();
        let request = CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config),
            sandbox_config: Some(self.config.clone()),
        };
        let reply =
            client.create_container(request).await.with_context(|| format!("creating {}", spec.name))?;
        let id = reply.into_inner().container_id;
        let started = client.start_container(StartContainerRequest { container_id: id.clone() }).await;
        started.with_context(|| format!("starting {}", spec.name))?;
        let log = PathBuf::from(&self.config.log_directory).join(log);
        Ok(Container::new(Arc::clone(&self.runtime), spec.name.clone(), id, log))
    }

    /// Its addresses, the first that the runtime names first.
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }

    /// Its IPv4 address.
    pub fn ipv4(&self) -> Result<IpAddr> {
        self.ips.iter().copied().find(IpAddr::is_ipv4).context("the pod has no IPv4 address")
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> Result<IpAddr> {
        self.ips.iter().copied().find(IpAddr::is_ipv6).context("the pod has no IPv6 address")
    }

    /// Its unique id.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The id of its sandbox.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its cgroup, the one that kubelet would make.
    pub fn cgroup(&self) -> &std::path::Path {
        &self.cgroup
    }

    /// Stops and removes the pod, and then its cgroup.
    pub async fn remove(mut self) -> Result<()> {
        self.removed = true;
        teardown(&self.runtime, &self.id, &self.cgroup).await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.removed {
            return;
        }
        // A runtime of its own: this may run in a worker of the suite's.
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<()> {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(async {
                        let place = Runtime { channel: reconnect(&self.runtime)?, ..(*self.runtime).clone() };
                        teardown(&place, &self.id, &self.cgroup).await
                    })
                })
                .join()
        });
        if let Ok(Err(error)) = result {
            eprintln!("rig: pod {} was not removed: {error:#}", self.uid);
        }
    }
}

/// A connection that belongs to the calling async runtime.
fn reconnect(runtime: &Runtime) -> Result<Channel> {
    let socket = runtime.place.directory.join("containerd.sock");
    Ok(tonic::transport::Endpoint::try_from(format!("unix:{}", socket.display()))?.connect_lazy())
}

async fn teardown(runtime: &Runtime, id: &str, cgroup: &std::path::Path) -> Result<()> {
    if !id.is_empty() {
        let mut client = runtime.client();
        let pod_sandbox_id = id.to_owned();
        client.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id }).await?;
        let pod_sandbox_id = id.to_owned();
        client.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    }
    ensure!(cgroup.starts_with(&runtime.place.cgroup_root), "{} is not the rig's", cgroup.display());
    cgroup::remove(cgroup)
}

fn sandbox_config(place: &Place, spec: &PodSpec, uid: &str, cgroup: &str) -> PodSandboxConfig {
    let namespace = if spec.namespace.is_empty() { "default" } else { &spec.namespace };
    let labels: Vec<String> = spec.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let mut annotations: std::collections::HashMap<String, String> =
        spec.annotations.clone().into_iter().collect();
    if !labels.is_empty() {
        annotations.entry("sluice.dev/labels".to_owned()).or_insert_with(|| labels.join(","));
    }
    let kubelet_labels = [
        ("io.kubernetes.pod.name", spec.name.as_str()),
        ("io.kubernetes.pod.namespace", namespace),
        ("io.kubernetes.pod.uid", uid),
    ];
    let labels = spec.labels.clone().into_iter();
    let labels =
        labels.chain(kubelet_labels.map(|(key, value)| (key.to_owned(), value.to_owned()))).collect();
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec.name.clone(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
            attempt: 0,
        }),
        // A pod in the node's network has the node's name.
        hostname: if spec.host_network { String::new() } else { spec.name.clone() },
        log_directory: place
            .directory
            .join("logs")
            .join(format!("{namespace}_{}_{uid}", spec.name))
            .display()
            .to_string(),
        labels,
        annotations,
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("{}/{cgroup}", place.cgroup_path),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec.host_network)),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Network for the pod, or the node's; processes for each container.
fn namespaces(host_network: bool) -> NamespaceOption {
    let network = if host_network { NamespaceMode::Node } else { NamespaceMode::Pod };
    NamespaceOption { network: network.into(), pid: NamespaceMode::Container.into(), ..Default::default() }
}

fn container_config(
    spec: &ContainerSpec,
    attempt: u32,
    log: &str,
    sandbox: &PodSandboxConfig,
) -> ContainerConfig {
    let pod = sandbox.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt }),
        image: Some(ImageSpec { image: PROBE_IMAGE.to_owned(), ..Default::default() }),
        command: spec.command.clone(),
        args: spec.args.clone(),
        envs: spec
            .variables
            .iter()
            .map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() })
            .collect(),
        log_path: log.to_owned(),
        mounts: spec.mounts.clone(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                capabilities: spec.capabilities.clone(),
                privileged: spec.privileged,
                namespace_options: pod.and_then(|pod| pod.namespace_options.clone()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// In the form that the API server gives them.
fn random_uid() -> String {
    let bits: u128 = rand::random();
    let hex = format!("{bits:032x}");
    format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{PodSpec, Qos, random_uid, sandbox_config};
    use crate::rig::isolate::Place;

    #[test]
    fn a_sandbox_is_what_kubelet_would_ask_for() {
        let place = Place {
            name: "sluice-rig-7".to_owned(),
            directory: PathBuf::from("/run/sluice-rig-7"),
            cgroup_root: PathBuf::from("/sys/fs/cgroup/sluice-rig-7"),
            cgroup_path: "/sluice-rig-7".to_owned(),
        };
        let spec = PodSpec::new("shop", "web", &[("app", "web"), ("tier", "front")]);
        let below = format!("kubepods/{}pod1-2", Qos::Burstable.directory());
        let config = sandbox_config(&place, &spec, "1-2", &below);
        assert_eq!(config.annotations["sluice.dev/labels"], "app=web,tier=front");
        assert_eq!(config.labels["io.kubernetes.pod.uid"], "1-2");
        assert_eq!(config.linux.unwrap().cgroup_parent, "/sluice-rig-7/kubepods/burstable/pod1-2");
    }

    #[test]
    fn uids_look_like_uids() {
        let uid = random_uid();
        assert_eq!(uid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert_ne!(uid, random_uid());
    }
}
