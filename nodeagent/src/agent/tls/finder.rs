//! Finding the files with TLS libraries that governed pods use, and probing them.
//!
//! ```text
//! kernel: code is mapped ────────────────► ┌─────────┐ new file   ┌───────────────┐ functions ┌───────┐
//! a container begins: usual libraries ───► │ of whom?│ ─────────► │ child reads it│ ────────► │ probe │
//! all processes, from time to time ──────► └─────────┘            └───────────────┘           └───────┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::{RecursiveMode, Watcher};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::child::{self, ExamineError};
use super::elf::{Does, Library, Place};
use super::files::{self, FileId, OpenError};
use super::mappings::{self, Mapping};
use super::registry::{Next, State, Why};
use super::{Observer, processes};
use crate::agent::Shared;
use crate::agent::cgroup::Hierarchy;
use crate::agent::node::{is_populated, pod_name};
use crate::datapath::Probed;

/// How often containers that have ended are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// Sweeps between two looks at all processes. Nothing new is expected of them where the kernel tells of mappings.
const SWEEPS_PER_SCAN: u32 = 10;
/// Mappings that may wait.
const WAITING: usize = 4096;
/// Files that are read at the same time, on the node and of one pod.
const AT_ONCE: usize = 4;
const OF_POD_AT_ONCE: usize = 2;
/// Files of one pod that may wait to be read.
const QUEUE: usize = 256;
/// How often a container that begins is looked at before it has its own root directory.
const ROOT_TRIES: u32 = 50;
const ROOT_PAUSE: Duration = Duration::from_millis(20);

/// Libraries by their usual names, and where they are.
const NAMES: [&str; 4] = ["libssl.so.3", "libssl.so.1.1", "libgnutls.so.30", "libssl.so"];
const DIRECTORIES: [&str; 7] = [
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "lib/x86_64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "lib",
    "usr/local/lib",
];
/// Programs that have a library inside, and are what a container runs.
const PROGRAMS: [&str; 3] = ["usr/local/bin/node", "usr/bin/node", "usr/bin/envoy"];
/// A file of a container that nobody has looked at yet.
struct Job {
    container: PathBuf,
    mapping: Mapping,
}

/// A file that was opened.
struct Opened {
    endpoint: u64,
    container: PathBuf,
    /// Device and inode as its mappings show them.
    seen: (u64, u64),
    file: Arc<File>,
    id: FileId,
}

/// How far the work on a file, or on a container that begins, has come.
enum Done {
    Opened(Opened),
    NotOpened { endpoint: u64, container: PathBuf, seen: (u64, u64), error: OpenError },
    Begun(Vec<Opened>),
    Examined(Opened, Result<Vec<Place>, ExamineError>),
    Attached(Opened, State),
}

pub(super) struct Finder {
    shared: Arc<Shared>,
    observer: Arc<Observer>,
    hierarchy: Hierarchy,
    /// Pods' cgroups with the endpoints' ids, as last seen.
    pods: BTreeMap<PathBuf, u64>,
    containers: BTreeSet<PathBuf>,
    queues: HashMap<u64, VecDeque<Job>>,
    running: HashMap<u64, usize>,
    jobs: JoinSet<Done>,
    /// Pods of which it was told that they have too many files.
    told: HashSet<u64>,
}

impl Finder {
    pub(super) fn new(shared: Arc<Shared>, observer: Arc<Observer>, hierarchy: Hierarchy) -> Self {
        Self {
            shared,
            observer,
            hierarchy,
            pods: BTreeMap::new(),
            containers: BTreeSet::new(),
            queues: HashMap::new(),
            running: HashMap::new(),
            jobs: JoinSet::new(),
            told: HashSet::new(),
        }
    }

    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let (sender, mut mapped) = mpsc::channel(WAITING);
        let missed = Arc::new(Notify::new());
        let settled = self.observer.registry().settled.clone();
        if let Err(error) = mappings::start(sender.clone(), Arc::clone(&missed), settled) {
            tracing::warn!(%error, "the kernel does not tell of mappings (perf events): processes are looked at every 10 s");
        }
        let (notices, mut told_of) = mpsc::channel(1);
        let mut inotify = notify::recommended_watcher(move |told: notify::Result<notify::Event>| {
            // Looking at a directory is told of, too.
            if told.is_ok_and(|event| event.kind.is_create()) {
                // A full channel holds a notice already.
                let _ = notices.try_send(());
            }
        })?;
        let mut watched = BTreeSet::new();
        let mut ticks = tokio::time::interval(SWEEP);
        let mut sweeps = 0;
        loop {
            tokio::select! {
                biased;
                Some(done) = self.jobs.join_next(), if !self.jobs.is_empty() => {
                    if let Ok(done) = done { self.done(done) }
                }
                Some(mapping) = mapped.recv() => {
                    let mut homes = HashMap::new();
                    self.mapped(mapping, &mut homes);
                    while let Ok(mapping) = mapped.try_recv() {
                        self.mapped(mapping, &mut homes);
                    }
                }
                _ = told_of.recv() => self.look_at_containers(&mut inotify, &mut watched),
                () = missed.notified() => {
                    tokio::time::sleep(ROOT_PAUSE).await;
                    self.scan();
                }
                _ = ticks.tick() => {
                    self.look_at_containers(&mut inotify, &mut watched);
                    self.sweep().await;
                    if sweeps % SWEEPS_PER_SCAN == 0 {
                        self.scan();
                    }
                    sweeps += 1;
                }
            }
            self.start_jobs();
        }
    }

    /// Code was mapped. `homes` remembers the processes of this moment.
    fn mapped(&mut self, mapping: Mapping, homes: &mut HashMap<u32, Option<(u64, PathBuf)>>) {
        let home = homes.entry(mapping.pid).or_insert_with(|| self.home(mapping.pid)).clone();
        let Some((endpoint, container)) = home else { return };
        self.want(endpoint, &container, mapping);
    }

    /// The pod and the container of a process, if it is in a governed one.
    fn home(&self, pid: u32) -> Option<(u64, PathBuf)> {
        let cgroup = self.hierarchy.of_process(pid)?;
        let (pod, endpoint) = cgroup.ancestors().find_map(|above| self.pods.get_key_value(above))?;
        Some((*endpoint, processes::container(pod, &cgroup)))
    }

    /// Puts a file into its pod's queue, unless it was seen before. The likely ones come first.
    fn want(&mut self, endpoint: u64, container: &Path, mapping: Mapping) {
        let seen = (mapping.device, mapping.inode);
        let name = mapping.path.file_name().unwrap_or_default().to_string_lossy();
        if processes::is_runtime(&mapping.path) || self.observer.registry().is_settled(container, seen) {
            return;
        }
        let queue = self.queues.entry(endpoint).or_default();
        let is_there =
            |job: &Job| (job.mapping.device, job.mapping.inode) == seen && job.container == container;
        if queue.iter().any(is_there) {
            return;
        }
        let is_likely = ["ssl", "tls"].iter().any(|part| name.contains(part));
        let job = Job { container: container.to_owned(), mapping };
        if queue.len() >= QUEUE {
            self.observer.registry().refuse(Why::PodLimit);
            self.refuse_more(endpoint);
        } else if is_likely {
            queue.push_front(job);
        } else {
            queue.push_back(job);
        }
    }

    /// Tells of it, once.
    fn refuse_more(&mut self, endpoint: u64) {
        if self.told.insert(endpoint) {
            let node = self.shared.node();
            let pod = node.record(endpoint).map(|record| pod_name(&record.pod)).unwrap_or_default();
            tracing::warn!(
                pod,
                "ALERT: a pod maps more files than are looked at for TLS libraries: some of its requests may not be seen"
            );
        }
    }

    /// Takes up which pods and containers there are.
    fn look_at_containers(
        &mut self,
        inotify: &mut notify::RecommendedWatcher,
        watched: &mut BTreeSet<PathBuf>,
    ) {
        self.pods = {
            let node = self.shared.node();
            node.endpoints().map(|(record, _, _)| (record.path.clone(), record.cgroup)).collect()
        };
        watched.retain(|path| self.pods.contains_key(path));
        for path in self.pods.keys() {
            if !watched.contains(path) && inotify.watch(path, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(path.clone());
            }
        }
        let mut there = BTreeSet::new();
        for (pod, endpoint) in self.pods.clone() {
            for container in processes::containers(&pod) {
                if !self.containers.contains(&container) {
                    self.look_at(endpoint, &pod, &container);
                    self.jobs.spawn(begin(endpoint, pod.clone(), container.clone()));
                }
                there.insert(container);
            }
        }
        self.containers = there;
        let mut uprobes = self.observer.uprobes();
        if uprobes.needs_leaves()
            && let Err(error) = uprobes.set_leaves(&processes::leaves(&self.pods))
        {
            tracing::warn!(%error, "the probes do not know of all containers");
        }
    }

    /// Looks at all processes of all pods.
    fn scan(&mut self) {
        for (pod, endpoint) in self.pods.clone() {
            for container in processes::containers(&pod) {
                self.look_at(endpoint, &pod, &container);
            }
        }
    }

    fn look_at(&mut self, endpoint: u64, pod: &Path, container: &Path) {
        for pid in processes::of(pod, container) {
            for mapping in mappings::of_process(pid) {
                self.want(endpoint, container, mapping);
            }
        }
    }

    /// Forgets what is over. Probes are gone before any file is looked at again: in one that comes back at once there would be two.
    async fn sweep(&mut self) {
        let endpoints: HashSet<u64> = self.pods.values().copied().collect();
        let dropped =
            self.observer.registry().sweep(Instant::now(), is_populated, |id| endpoints.contains(&id));
        if !dropped.is_empty() {
            drop(tokio::task::spawn_blocking(move || drop(dropped)).await);
        }
        self.queues.retain(|endpoint, queue| endpoints.contains(endpoint) && !queue.is_empty());
        self.told.retain(|endpoint| endpoints.contains(endpoint));
    }

    /// Begins as many jobs as may run, each pod in its turn.
    fn start_jobs(&mut self) {
        let pods: Vec<u64> = self.queues.keys().copied().collect();
        for endpoint in pods {
            while self.running.values().sum::<usize>() < AT_ONCE
                && self.running.get(&endpoint).copied().unwrap_or(0) < OF_POD_AT_ONCE
                && let Some(job) = self.queues.get_mut(&endpoint).and_then(VecDeque::pop_front)
            {
                let seen = (job.mapping.device, job.mapping.inode);
                if self.observer.registry().is_settled(&job.container, seen) {
                    continue;
                }
                *self.running.entry(endpoint).or_default() += 1;
                self.jobs.spawn_blocking(move || match files::open(&job.mapping) {
                    Ok((file, id)) => Done::Opened(Opened {
                        endpoint,
                        container: job.container,
                        seen,
                        file: Arc::new(file),
                        id,
                    }),
                    Err(error) => Done::NotOpened { endpoint, container: job.container, seen, error },
                });
            }
        }
    }

    /// Takes a job on.
    fn done(&mut self, done: Done) {
        match done {
            Done::Begun(opened) => {
                for opened in opened {
                    *self.running.entry(opened.endpoint).or_default() += 1;
                    self.enter(opened);
                }
            }
            Done::Opened(opened) => self.enter(opened),
            Done::NotOpened { endpoint, container, seen, error } => {
                self.ended(endpoint);
                let why = match error {
                    OpenError::Gone => return,
                    OpenError::Untrusted => Why::Untrusted,
                    OpenError::NotRegular => Why::NotRegular,
                    OpenError::Io(_) => Why::Unreadable,
                };
                self.observer.registry().enter_refused(&container, endpoint, seen, why, error.to_string());
            }
            Done::Examined(opened, found) => {
                let refused = |why, error: &dyn std::fmt::Display| State::Refused(why, error.to_string());
                let state = match found {
                    Ok(places) if places.is_empty() => State::Plain,
                    Ok(places) => {
                        let room = self.observer.registry().has_room(opened.endpoint, self.observer.limit);
                        match room {
                            Ok(()) => return self.attach(opened, places),
                            Err(why) => refused(why, &"there are too many probes already"),
                        }
                    }
                    Err(error @ ExamineError::NoElf(_)) => refused(Why::NoElf, &error),
                    Err(error @ ExamineError::OldGo) => refused(Why::OldGo, &error),
                    Err(error @ ExamineError::Deadline) => refused(Why::Deadline, &error),
                    Err(error) => refused(Why::Faulty, &error),
                };
                self.settle(&opened, state);
            }
            Done::Attached(opened, state) => self.settle(&opened, state),
        }
    }

    fn enter(&mut self, opened: Opened) {
        // One that says nothing of itself was taken away: it is as good as no file.
        let Ok(stamp) = files::stamp(&opened.file) else { return self.ended(opened.endpoint) };
        let Opened { endpoint, seen, id, .. } = opened;
        let next =
            self.observer.registry().enter(&opened.container, endpoint, seen, (id, stamp), Instant::now());
        match next {
            Next::Nothing => return self.ended(endpoint),
            Next::TooMany => {
                self.refuse_more(endpoint);
                return self.ended(endpoint);
            }
            Next::Examine => {}
        }
        self.jobs.spawn(async move {
            let found = match files::again(&opened.file) {
                Ok(file) => child::examine(file).await,
                Err(error) => Err(ExamineError::Start(error)),
            };
            Done::Examined(opened, found)
        });
    }

    fn attach(&mut self, opened: Opened, places: Vec<Place>) {
        let observer = Arc::clone(&self.observer);
        self.jobs.spawn_blocking(move || {
            let mut probes = Vec::new();
            let mut libraries = BTreeSet::new();
            for Place { library, does, offset, handshake } in places {
                let what = match (library, does) {
                    (Library::Go, Does::End) => Probed::GoEnd,
                    (_, Does::End) => Probed::End,
                    (Library::OpenSsl, Does::Write) => Probed::OpenSsl,
                    (Library::GnuTls, Does::Write) => Probed::GnuTls,
                    (Library::Go, Does::Write) => Probed::Go,
                    (Library::Rustls, Does::Write) => Probed::Rustls,
                };
                match observer.uprobes().attach(what, opened.file.as_fd(), offset, handshake) {
                    Ok(probe) => probes.push(probe),
                    Err(error) => {
                        return Done::Attached(opened, State::Refused(Why::Attach, error.to_string()));
                    }
                }
                libraries.insert(library);
            }
            Done::Attached(opened, State::Probed(libraries, probes))
        });
    }

    fn settle(&mut self, opened: &Opened, state: State) {
        self.ended(opened.endpoint);
        match &state {
            State::Probed(libraries, probes) => {
                let libraries: Vec<&str> = libraries.iter().map(|library| library.name()).collect();
                tracing::debug!(file = ?opened.id, libraries = libraries.join(","), probes = probes.len(), "probed");
            }
            State::Refused(why, error) => {
                tracing::debug!(file = ?opened.id, why = why.name(), error, "not probed");
            }
            State::Examined | State::Plain => {}
        }
        let unwanted = self.observer.registry().settle(opened.id, state);
        if unwanted.is_some() {
            drop(tokio::task::spawn_blocking(move || drop(unwanted)));
        }
    }

    fn ended(&mut self, endpoint: u64) {
        if let Some(running) = self.running.get_mut(&endpoint) {
            *running -= 1;
            if *running == 0 {
                self.running.remove(&endpoint);
            }
        }
    }
}

/// A container begins: what it will most likely use is opened before its program runs. Its first process is there before
/// that; it has the container's root directory a moment later.
async fn begin(endpoint: u64, pod: PathBuf, container: PathBuf) -> Done {
    for _ in 0..ROOT_TRIES {
        let (pod, within) = (pod.clone(), container.clone());
        let opened = tokio::task::spawn_blocking(move || {
            let pid = processes::with_own_root(&pod, &within)?;
            let root = PathBuf::from(format!("/proc/{pid}/root"));
            let libraries =
                DIRECTORIES.iter().flat_map(|place| NAMES.iter().map(move |name| format!("{place}/{name}")));
            let paths = libraries.chain(PROGRAMS.iter().map(|program| (*program).to_owned()));
            let opened = paths.filter_map(|path| files::open_in(&root, pid, &path).ok());
            Some(opened.collect::<Vec<_>>())
        });
        if let Ok(Some(opened)) = opened.await {
            let opened = opened.into_iter().map(|(file, id, seen)| Opened {
                endpoint,
                container: container.clone(),
                seen,
                file: Arc::new(file),
                id,
            });
            return Done::Begun(opened.collect());
        }
        tokio::time::sleep(ROOT_PAUSE).await;
    }
    Done::Begun(Vec::new())
}
