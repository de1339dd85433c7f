//! The rig: a node of its own, made of what the machine already has.
//!
//! ```no_run
//! use sluice_conformance::rig::{self, ContainerSpec, PodSpec, Rig, RigOptions};
//!
//! fn main() -> anyhow::Result<()> {
//!     rig::dispatch();
//!     let outcome = rig::isolated(|place| {
//!         rig::block_on(async {
//!             let rig = Rig::new(place, RigOptions::default()).await?;
//!             let pod = rig.run_pod(&PodSpec::new("default", "one", &[("app", "web")])).await?;
//!             let container = pod.start(&ContainerSpec::new("main", ["sleep", "--seconds", "1"])).await?;
//!             container.succeed().await?;
//!             pod.remove().await?;
//!             rig.shutdown().await?;
//!             Ok(Vec::new())
//!         })
//!     })?;
//!     assert!(outcome.leftovers.is_empty());
//!     Ok(())
//! }
//! ```
//!
//! All traffic stays in network namespaces that the rig makes, and Sluice's programs are attached at a cgroup that the rig
//! makes; see [`isolate`] for what happens to it all in the end.

use std::sync::Arc;

use anyhow::Result;
use serde_json::{Map, Value, json};

mod agent;
mod bpf;
mod capture;
mod cgroup;
mod cni;
mod command;
mod container;
mod containerd;
pub mod decode;
mod far;
mod image;
pub mod isolate;
pub mod leftovers;
pub mod net;
mod pod;
mod runc;
mod snapshot;

pub use agent::{Agent, AgentDirectories};
pub use bpf::{KernelObjects, LinkedProgram, RunTime, RunTimes};
pub use cni::Chain;
pub use command::{binary, binary_in_path, run, static_binary};
pub use container::{Container, ContainerSpec};
pub use containerd::RuntimeClient;
pub use far::{Count, FarEnd, Key};
pub use isolate::{Outcome, Place, isolated};
pub use pod::{Pod, PodSpec, Qos};
pub use runc::dispatch;
pub use snapshot::Snapshot;

/// What a rig is made with.
#[derive(Clone, Debug)]
pub struct RigOptions {
    /// `cniVersion` of the chain.
    pub cni_version: String,
    /// Whether `sluice-cni` is in the chain, and with which fields besides those that every run needs.
    pub sluice: Option<Map<String, Value>>,
    /// Ports on which the far end accepts and echoes.
    pub tcp_ports: Vec<u16>,
    /// Ports on which the far end answers datagrams.
    pub udp_ports: Vec<u16>,
}

impl Default for RigOptions {
    fn default() -> Self {
        Self { cni_version: "1.0.0".to_owned(), sluice: None, tcp_ports: vec![8080], udp_ports: vec![5353] }
    }
}

impl RigOptions {
    /// A rig whose chain ends with `sluice-cni`.
    pub fn with_sluice() -> Self {
        Self { sluice: Some(Map::new()), ..Self::default() }
    }
}

/// A node: containerd, a CNI chain, and a far end that its pods can reach.
pub struct Rig {
    // In the order in which they are to go.
    containerd: containerd::Containerd,
    far: FarEnd,
    runtime: Arc<pod::Runtime>,
    agent: AgentDirectories,
    place: Place,
}

impl Rig {
    /// Builds the wire and starts containerd. To be called in the body of [`isolated`], on a multi-threaded runtime.
    pub async fn new(place: &Place, options: RigOptions) -> Result<Self> {
        net::build()?;
        let far = FarEnd::start(&options.tcp_ports, &options.udp_ports)?;
        let agent = AgentDirectories::create(place)?;
        let sluice = options.sluice.map(|fields| {
            let mut all = plugin_fields(place, &agent);
            all.extend(fields);
            all
        });
        let cni = cni::install(&place.directory, &Chain { version: options.cni_version, sluice })?;
        let containerd = containerd::Containerd::start(&place.directory, &cni).await?;
        let runtime = Arc::new(pod::Runtime {
            channel: containerd.channel.clone(),
            place: place.clone(),
            containerd_log: containerd.log.clone(),
        });
        Ok(Self { containerd, far, runtime, agent, place: place.clone() })
    }

    /// Runs a pod: its cgroup, its sandbox, the CNI chain. No container yet.
    pub async fn run_pod(&self, spec: &PodSpec) -> Result<Pod> {
        Box::pin(Pod::run(Arc::clone(&self.runtime), spec)).await
    }

    /// Starts the agent under test, with further options.
    pub async fn start_agent(&self, extra: &[&str]) -> Result<Agent> {
        Agent::start(&self.place, &self.agent, extra).await
    }

    /// Where the agent's files are, whether it runs or not.
    pub fn agent_directories(&self) -> &AgentDirectories {
        &self.agent
    }

    /// The far end of the wire.
    pub fn far(&self) -> &FarEnd {
        &self.far
    }

    /// What Sluice could change on the node, as it is now.
    pub fn snapshot(&self) -> Result<Snapshot> {
        net::wait_up()?;
        Snapshot::take(&self.place, &self.agent)
    }

    /// Where the rig is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// A client of containerd's runtime service, for what the rig does not offer.
    pub fn cri(&self) -> RuntimeClient {
        self.runtime.client()
    }

    /// Ends containerd and the far end, and keeps the logs. Pods must be gone.
    pub async fn shutdown(self) -> Result<()> {
        tokio::task::spawn_blocking(move || drop(self)).await?;
        Ok(())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        agent::keep_log(&self.containerd.log);
        agent::keep_log(&self.agent.log);
    }
}

/// What `sluice-cni` has to know to find this rig's agent and pods.
fn plugin_fields(place: &Place, agent: &AgentDirectories) -> Map<String, Value> {
    let fields = json!({
        "socket": agent.cni_socket(),
        "cgroupRoot": place.cgroup_root,
        "stateDir": agent.run,
        "failurePolicy": "Fail",
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Runs a suite's future on a multi-threaded runtime.
pub fn block_on<T>(suite: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(suite);
    // Whatever still runs in the background dies with the rig.
    runtime.shutdown_background();
    result
}
