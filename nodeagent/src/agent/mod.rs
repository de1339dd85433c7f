//! `sluice agent`: keeps the kernel at what the policies say, and tells what it saw.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use sluice_api::Attachment;
use sluice_policy::Posture;
use tokio::signal::unix::{SignalKind, signal};

use crate::datapath::{Datapath, Events, Place};
use cgroup::Hierarchy;
use node::Node;
use policies::PolicyDirectory;
use store::Store;

pub mod admin;
pub mod cgroup;
mod cutter;
pub mod events;
pub mod features;
pub mod learned;
mod netlink;
pub mod node;
mod output;
pub mod policies;
pub mod resolvers;
mod server;
mod sockets;
pub mod store;
mod unregistered;
mod watch;

pub use output::Format;

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
    /// Whose answers are believed; none: those that the node's own configuration names.
    pub resolvers: Vec<IpAddr>,
    /// The node's name in events.
    pub node_name: String,
}

/// What the agent's tasks share.
pub struct Shared {
    node: Mutex<Node>,
    /// What is wrong with the policy directory, as last seen.
    policy_errors: Mutex<Vec<String>>,
    /// What this kernel can do.
    features: Vec<features::Feature>,
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
}

/// Runs until told to stop. Stopping changes nothing in the kernel.
pub fn run(options: Options) -> anyhow::Result<()> {
    let _lock = prepare(&options)?;
    let (shared, events, directory) = open(&options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(serve(options, shared, events, directory))
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
fn open(options: &Options) -> anyhow::Result<(Arc<Shared>, Events, PolicyDirectory)> {
    let cgroup_root = options.cgroup_root.clone().map_or_else(Hierarchy::default_root, Ok)?;
    let hierarchy = Hierarchy::of(&cgroup_root)?;
    let cgroup_root = hierarchy.root().to_owned();
    let place = Place { cgroup_root: cgroup_root.clone(), bpffs: options.bpffs.clone() };
    let (datapath, events) = Datapath::open(&place)?;
    let store = Store::open(&options.run_dir)?;
    let mut node = Node::open(datapath, store, hierarchy, options.posture)?;
    let features = features::probe(&node);
    features::tell(&features);
    replay_spool(&options.run_dir, &mut node);
    let resolvers = resolvers::Source::new(&options.resolvers);
    // Before any policy is compiled: rules by name open the way to them.
    node.set_resolvers(resolvers.read())?;
    node.set_lifetimes(options.dns_floor, options.dns_grace)?;
    node.find_own_addresses()?;

    let mut directory = PolicyDirectory::open(&options.policies, &options.state_dir)?;
    let loaded = directory.load();
    let shared = Arc::new(Shared {
        node: Mutex::new(node),
        policy_errors: Mutex::default(),
        features,
        started: jiff::Timestamp::now(),
        posture: options.posture,
        cgroup_root,
    });
    watch::apply(&shared, loaded);
    shared.node().collect_leftovers()?;
    unregistered::look(&shared);
    Ok((shared, events, directory))
}

async fn serve(
    options: Options,
    shared: Arc<Shared>,
    events: Events,
    directory: PolicyDirectory,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let cni = server::listen(&options.run_dir.join("cni.sock"))?;
    let admin = server::listen(&options.run_dir.join("admin.sock"))?;
    let lines = output::start(options.output);
    let describer = events::Describer::new(options.node_name.clone());

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(server::serve(cni, Arc::clone(&shared), server::answer_cni));
    tasks.spawn(server::serve(admin, Arc::clone(&shared), admin::answer));
    tasks.spawn(output::pump(events, Arc::clone(&shared), describer, lines));
    tasks.spawn(watch::run(directory, Arc::clone(&shared)));
    tasks.spawn(sweep(Arc::clone(&shared), resolvers::Source::new(&options.resolvers)));
    tasks.spawn(unregistered::run(Arc::clone(&shared)));

    // Read by the plugin's STATUS: from now on a short absence of the agent does not make the node unready.
    let ready = options.run_dir.join("ready");
    fs::write(&ready, shared.started.to_string())
        .with_context(|| format!("cannot write {}", ready.display()))?;
    let pods = shared.node().endpoints().count();
    tracing::info!(cgroup_root = %shared.cgroup_root.display(), pods, "ready");
    tokio::select! {
        _ = terminate.recv() => tracing::info!("told to stop; the kernel keeps enforcing"),
        _ = interrupt.recv() => tracing::info!("interrupted; the kernel keeps enforcing"),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(())) => bail!("a task of the agent ended by itself"),
            Ok(Err(error)) => return Err(error),
            Err(error) => return Err(error.into()),
        },
    }
    for socket in ["cni.sock", "admin.sock"] {
        store::remove(&options.run_dir.join(socket))?;
    }
    Ok(())
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

/// The DELs that came while no agent was there.
fn replay_spool(run_dir: &Path, node: &mut Node) {
    let spool = run_dir.join("spool");
    let entries = match fs::read_dir(&spool) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            return tracing::error!(%error, spool = %spool.display(), "cannot read the spooled DELs");
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let attachment =
            fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Attachment>(&text).ok());
        match attachment.map(|attachment| node.del(&attachment)) {
            Some(Err(error)) => {
                tracing::error!(%error, file = %path.display(), "cannot carry out a spooled DEL; it stays");
                continue;
            }
            Some(Ok(())) => {}
            None => tracing::warn!(file = %path.display(), "not a spooled DEL; removed"),
        }
        if let Err(error) = store::remove(&path) {
            tracing::error!(%error, "cannot remove a spooled DEL");
        }
    }
}
