//! `sluice agent`: keeps the kernel at what the policies say, and tells what it saw.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use sd_notify::NotifyState;
use sluice_policy::Posture;
use sluice_requests::Asked;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use crate::datapath::{self, Datapath, Events, Place, Plaintexts};
use cgroup::Hierarchy;
use drain::Drain;
use hub::Hub;
use metrics::Metrics;
use node::Node;
use policies::PolicyDirectory;
use readiness::{Readiness, Task};
use spool::Spool;
use store::Store;

pub mod admin;
pub mod cgroup;
pub mod config;
mod cutter;
mod drain;
pub mod events;
pub mod features;
mod guards;
mod http;
pub mod hub;
pub mod learned;
mod memory;
pub mod metrics;
pub mod node;
mod observe;
mod output;
pub mod policies;
mod quic;
pub mod readiness;
mod requests;
pub mod resolvers;
mod server;
mod sockets;
mod spool;
pub mod store;
pub mod tls;
pub mod trusted;
mod unregistered;
mod watch;

pub use output::Format;
use output::{Outlet, Pump};

/// Where programs and maps are pinned unless told otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf";
/// Where the sockets are unless told otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/sluice";
/// Where state is kept over a boot unless told otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/sluice";

/// How often what is past its grace is removed.
const SWEEP: Duration = Duration::from_secs(1);

/// What `sluice agent` was asked to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where programs are attached; the mount of the hierarchy if not given.
    pub cgroup_root: Option<PathBuf>,
    /// A directory on a bpffs.
    pub bpffs: PathBuf,
    /// For sockets and what is forgotten at boot.
    pub run_dir: PathBuf,
    /// For what is kept over a boot.
    pub state_dir: PathBuf,
    /// The policy files.
    pub policies: PathBuf,
    /// What is done with a verdict.
    pub posture: Posture,
    /// How events are printed.
    pub output: Format,
    /// A TTL that is shorter counts as this.
    pub dns_floor: Duration,
    /// How long past its TTL an address still counts.
    pub dns_grace: Duration,
    /// By which name a flow goes that encrypts one.
    pub ech: config::Ech,
    /// Whose answers are believed; none: those that the node's own configuration names.
    pub resolvers: Vec<IpAddr>,
    /// The node's name in events.
    pub node_name: String,
    /// Where metrics and probes are served, if they are.
    pub metrics_address: Option<SocketAddr>,
    /// What is asked of the requests that pods send.
    pub requests: Arc<Asked>,
    /// Of what no events are given, as long as it is allowed.
    pub exclude: config::Exclude,
    /// Whether requests over TLS are observed.
    pub observe_requests: bool,
}

/// What the agent's tasks share.
pub struct Shared {
    node: Mutex<Node>,
    /// What is wrong with the policy directory, as last seen.
    policy_errors: Mutex<Vec<String>>,
    /// Requests over TLS, if they are observed.
    requests: Option<Arc<tls::Observer>>,
    /// What this kernel can do.
    features: Vec<features::Feature>,
    /// What else does not work, for `sluice status`.
    errors: Mutex<Vec<String>>,
    readiness: Readiness,
    hub: Hub,
    metrics: Metrics,
    started: jiff::Timestamp,
    posture: Posture,
    cgroup_root: PathBuf,
}

impl Shared {
    /// The node, for a moment. A panic elsewhere leaves it as it was: every call of it is all or nothing.
    pub fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn policy_errors(&self) -> MutexGuard<'_, Vec<String>> {
        self.policy_errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn errors(&self) -> MutexGuard<'_, Vec<String>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A posture as people write it.
fn posture_name(posture: Posture) -> &'static str {
    match posture {
        Posture::Observe => "observe",
        Posture::Log => "log",
        Posture::Enforce => "enforce",
    }
}

/// Runs until told to stop. Stopping changes nothing in the kernel.
pub fn run(options: Options) -> anyhow::Result<()> {
    memory::keep_small();
    let _lock = prepare(&options)?;
    let (shared, events, plaintexts, directory) = open(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let done = runtime.block_on(serve(options, shared, (events, plaintexts), directory));
    // Whoever was still not done when the drain was over is left behind.
    runtime.shutdown_background();
    done
}

/// Makes the directories and takes the place of the one agent of this run directory.
fn prepare(options: &Options) -> anyhow::Result<Flock<fs::File>> {
    for directory in [&options.run_dir, &options.state_dir] {
        private_directory(directory)?;
    }
    if !options.policies.exists() {
        tracing::info!(directory = %options.policies.display(), "making the policy directory");
        fs::create_dir_all(&options.policies)
            .with_context(|| format!("cannot create the policy directory {}", options.policies.display()))?;
    }
    let path = options.run_dir.join("agent.lock");
    let file = fs::File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!(
                "another agent runs with {}; stop it first, or give another --run-dir",
                options.run_dir.display()
            )
        }
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn private_directory(path: &Path) -> anyhow::Result<()> {
    let failed = || format!("cannot make {} a directory for root only", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).with_context(failed)
}

/// Opens the kernel side and brings it to what the policy directory says.
fn open(options: &Options) -> anyhow::Result<(Arc<Shared>, Events, Option<Plaintexts>, PolicyDirectory)> {
    let cgroup_root = options.cgroup_root.clone().map_or_else(Hierarchy::default_root, Ok)?;
    let hierarchy = Hierarchy::of(&cgroup_root)?;
    let cgroup_root = hierarchy.root().to_owned();
    let place = Place { cgroup_root: cgroup_root.clone(), bpffs: options.bpffs.clone() };
    let (datapath, events) = Datapath::open(&place)?;
    let capacities = datapath::capacities(&place)?;
    let store = Store::open(&options.run_dir)?;
    let mut node = Node::open(datapath, store, hierarchy, options.posture)?;
    let mut features = features::probe(&node);
    let (requests, plaintexts) =
        match options.observe_requests.then(|| tls::Observer::open(&place, Arc::clone(&options.requests))) {
            None => (None, None),
            Some(opened) => {
                features.push(tls::feature(opened.as_ref().map(drop)));
                opened.ok().map(|(observer, plaintexts)| (Arc::new(observer), plaintexts)).unzip()
            }
        };
    features::tell(&features);
    let resolvers = resolvers::Source::new(&options.resolvers);
    // Before any policy is compiled: rules by name open the way to them.
    node.set_resolvers(resolvers.read())?;
    node.configure_names(options.dns_floor, options.dns_grace, options.ech)?;
    node.find_own_addresses()?;

    let mut directory = PolicyDirectory::open(&options.policies, &options.state_dir)?;
    let loaded = directory.load();
    let started = jiff::Timestamp::now();
    let shared = Arc::new(Shared {
        node: Mutex::new(node),
        policy_errors: Mutex::default(),
        errors: Mutex::default(),
        requests,
        features,
        readiness: Readiness::default(),
        hub: Hub::default(),
        metrics: Metrics::new(posture_name(options.posture), started, &capacities),
        started,
        posture: options.posture,
        cgroup_root,
    });
    watch::apply(&shared, loaded);
    Spool::new(&options.run_dir).replay(&shared);
    shared.node().collect_leftovers()?;
    shared.readiness.done(Task::Datapath);
    unregistered::look(&shared);
    shared.readiness.done(Task::UnregisteredPods);
    memory::give_back();
    Ok((shared, events, plaintexts, directory))
}

async fn serve(
    options: Options,
    shared: Arc<Shared>,
    (events, plaintexts): (Events, Option<Plaintexts>),
    directory: PolicyDirectory,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let drain = Drain::default();
    // What is brought to its end when the agent stops, and what is just left.
    let mut serving = JoinSet::new();
    let mut watching = JoinSet::new();

    let (lines, printer) = output::start(options.output)?;
    let describer =
        || events::Describer::new(options.node_name.clone()).asking(Arc::clone(&options.requests));
    let outlet = Outlet::new(Arc::clone(&shared), lines);
    if let (Some(observer), Some(plaintexts)) = (&shared.requests, plaintexts) {
        let pump = tls::Pump::new(Arc::clone(&shared), Arc::clone(observer), describer(), outlet.clone());
        serving.spawn(pump.run(plaintexts, drain.listen()));
        watching.spawn(tls::find(Arc::clone(&shared), Arc::clone(observer)));
    }
    let describer = describer();
    let pump = Pump { shared: Arc::clone(&shared), describer, outlet, excluded: options.exclude };
    serving.spawn(pump.run(events, drain.listen()));
    shared.readiness.done(Task::Events);
    let socket = server::listen(options.run_dir.join("cni.sock"))?;
    serving.spawn(server::serve(socket, Arc::clone(&shared), drain.listen(), server::converse_cni));
    shared.readiness.done(Task::CniSocket);
    let socket = server::listen(options.run_dir.join("admin.sock"))?;
    serving.spawn(server::serve(socket, Arc::clone(&shared), drain.listen(), admin::converse));
    shared.readiness.done(Task::AdminSocket);
    if let Some(address) = options.metrics_address {
        match http::listen(address).await {
            Ok(listener) => {
                drop(serving.spawn(http::serve(listener, Arc::clone(&shared), drain.listen())));
            }
            // Pods can start without metrics.
            Err(error) => {
                let error =
                    format!("cannot serve metrics at {address}: {error}; set metricsAddress to a free one");
                tracing::error!("{error}");
                shared.errors().push(error);
            }
        }
    }
    watching.spawn(watch::run(directory, Arc::clone(&shared)));
    watching.spawn(sweep(Arc::clone(&shared), resolvers::Source::new(&options.resolvers)));
    watching.spawn(unregistered::run(Arc::clone(&shared)));
    guards::start(Arc::clone(&shared))?;
    watching.spawn(spool::run(Spool::new(&options.run_dir), Arc::clone(&shared)));
    watching.spawn(tell_ready(options.run_dir.join("ready"), Arc::clone(&shared)));
    // The agent can be asked from now on, whatever it still waits for.
    notify(&[NotifyState::Ready]);

    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = serving.join_next() => ended,
        ended = watching.join_next() => ended,
    };
    match ended {
        Some(Ok(Ok(()))) => bail!("a task of the agent ended by itself"),
        Some(Ok(Err(error))) => return Err(error),
        Some(Err(error)) => return Err(error.into()),
        None => tracing::info!("told to stop; the kernel keeps enforcing"),
    }
    notify(&[NotifyState::Stopping]);
    drain.begin();
    let all = async {
        while serving.join_next().await.is_some() {}
        // The pump is gone, and with it the sender: what waits is printed, and the thread ends.
        tokio::task::spawn_blocking(move || printer.join()).await
    };
    if tokio::time::timeout(drain::LIMIT, all).await.is_err() {
        tracing::warn!("somebody did not take the answer or the events in time; stopping all the same");
    }
    Ok(())
}

/// Says that the agent is ready, once it is.
async fn tell_ready(marker: PathBuf, shared: Arc<Shared>) -> anyhow::Result<()> {
    let pending = shared.readiness.pending();
    if !pending.is_empty() {
        let pending: Vec<String> = pending.iter().map(ToString::to_string).collect();
        tracing::warn!("not ready yet, waiting for: {}", pending.join(", "));
        notify(&[NotifyState::Status(&format!("waiting for: {}", pending.join(", ")))]);
    }
    shared.readiness.wait().await;
    // Read by the plugin's STATUS: from now on a short absence of the agent does not make the node unready.
    fs::write(&marker, shared.started.to_string())
        .with_context(|| format!("cannot write {}", marker.display()))?;
    let pods = shared.node().endpoints().count();
    tracing::info!(cgroup_root = %shared.cgroup_root.display(), pods, "ready");
    notify(&[NotifyState::Status("ready")]);
    std::future::pending().await
}

/// Tells systemd, where it started the agent.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell systemd how the agent is");
    }
}

async fn sweep(shared: Arc<Shared>, resolvers: resolvers::Source) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        ticks.tick().await;
        if let Err(error) = shared.node().sweep() {
            tracing::error!(%error, "cannot remove what is not used any more");
        }
        if let Err(error) = shared.node().set_resolvers(resolvers.read()) {
            tracing::error!(%error, "cannot take up the resolvers that the node has now");
        }
        if let Err(error) = shared.node().find_own_addresses() {
            tracing::error!(%error, "cannot take up the addresses that the node has now");
        }
    }
}
