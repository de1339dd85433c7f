//! The node agent under test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::bpf::{self, KernelObjects, LinkedProgram};
use super::command::{binary, run, tail};
use super::containerd::TICK;
use super::isolate::{Place, fresh};

/// How long the agent may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to end when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// When `<run-dir>/ready` was written, and what it says.
type Marker = (SystemTime, Vec<u8>);

/// A running `sluice agent`. Dropping it kills it and detaches what it pinned.
pub struct Agent {
    binary: PathBuf,
    directories: AgentDirectories,
    cgroup_root: PathBuf,
    extra: Vec<String>,
    child: Option<Child>,
    marker_before: Option<Marker>,
    events: Arc<Mutex<Vec<Value>>>,
}

/// Where the agent keeps things; fixed, so that a chain can name the socket before there is an agent.
#[derive(Clone, Debug)]
pub struct AgentDirectories {
    /// `--run-dir`: `cni.sock`, `admin.sock`, `ready`.
    pub run: PathBuf,
    /// `--bpffs`.
    pub bpffs: PathBuf,
    /// `--state-dir`: the last good policies.
    pub state: PathBuf,
    /// `--policies`.
    pub policies: PathBuf,
    /// The agent's stderr.
    pub log: PathBuf,
}

impl AgentDirectories {
    pub(super) fn create(place: &Place) -> Result<Self> {
        let below = place.directory.join("agent");
        let directories = Self {
            run: below.join("run"),
            bpffs: below.join("bpf"),
            state: below.join("state"),
            policies: below.join("policies"),
            log: below.join("agent.log"),
        };
        for directory in [&directories.bpffs, &directories.policies] {
            fs::create_dir_all(directory)?;
        }
        fresh("bpf", &directories.bpffs, Some("mode=700"))?;
        Ok(directories)
    }

    /// The socket that the plugin talks to.
    pub fn cni_socket(&self) -> PathBuf {
        self.run.join("cni.sock")
    }

    /// The command line of an agent with these directories.
    pub fn command(&self, binary: &Path, cgroup_root: &Path) -> Command {
        let mut command = Command::new(binary);
        command.arg("agent");
        for (option, directory) in [
            ("--cgroup-root", cgroup_root),
            ("--bpffs", &self.bpffs),
            ("--run-dir", &self.run),
            ("--policies", &self.policies),
            ("--state-dir", &self.state),
        ] {
            command.arg(option).arg(directory);
        }
        command
    }

    /// Writes a policy file at once: under another name first, then renamed.
    pub fn write_policy(&self, name: &str, document: &str) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let temporary = self.policies.join(format!(".{name}.tmp"));
        fs::write(&temporary, document)?;
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))?;
        Ok(fs::rename(temporary, self.policies.join(format!("{name}.yaml")))?)
    }

    /// Removes a policy file.
    pub fn remove_policy(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.policies.join(format!("{name}.yaml")))?)
    }
}

impl Agent {
    /// Starts the agent and waits until it is ready.
    pub(super) async fn start(place: &Place, directories: &AgentDirectories, extra: &[&str]) -> Result<Self> {
        let mut agent = Self {
            binary: binary("sluice")?,
            directories: directories.clone(),
            cgroup_root: place.cgroup_root.clone(),
            extra: extra.iter().map(|word| (*word).to_owned()).collect(),
            child: None,
            marker_before: None,
            events: Arc::default(),
        };
        agent.spawn()?;
        agent.wait_ready().await?;
        Ok(agent)
    }

    /// Starts it, and does not wait until it is ready.
    pub fn spawn(&mut self) -> Result<()> {
        // The marker of the run before this one stays, for the plugin reads it; a new one differs from it.
        self.marker_before = self.marker();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.directories.log)?;
        let mut child = self
            .directories
            .command(&self.binary, &self.cgroup_root)
            .env("SLUICE_OUTPUT", "json")
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        let output = child.stdout.take().context("stdout was piped")?;
        let events = Arc::clone(&self.events);
        std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line).unwrap_or(Value::String(line));
                events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
        })?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the agent says that it is ready.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + READY_LIMIT;
        loop {
            let marker = self.marker();
            if marker.is_some() && marker != self.marker_before {
                return Ok(());
            }
            let child = self.child.as_mut().context("the agent is not running")?;
            if let Some(status) = child.try_wait()? {
                bail!("the agent ended with {status}; {}", tail(&self.directories.log, 30));
            }
            if Instant::now() > deadline {
                bail!("the agent does not get ready; {}", tail(&self.directories.log, 30));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    fn marker(&self) -> Option<Marker> {
        let path = self.directories.run.join("ready");
        Some((fs::metadata(&path).ok()?.modified().ok()?, fs::read(path).ok()?))
    }

    /// Everything that it wrote to stdout so far: objects, or strings where a line was not JSON.
    pub fn events(&self) -> Vec<Value> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for an event.
    pub async fn wait_for_event(&self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + limit;
        loop {
            let found = {
                let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
                events.iter().find(|event| wanted(event)).cloned()
            };
            if let Some(event) = found {
                return Ok(event);
            }
            if Instant::now() > deadline {
                bail!("the event did not come; {}", tail(&self.directories.log, 10));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// What it wrote to stdout since the last call.
    pub fn take_events(&self) -> Vec<Value> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// SIGTERM; waits until it has ended, and well. What it pinned stays.
    pub async fn terminate(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("the agent is not running")?;
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
        let deadline = Instant::now() + STOP_LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("the agent does not stop; {}", tail(&self.directories.log, 30));
            }
            tokio::time::sleep(TICK).await;
        };
        self.child = None;
        ensure!(status.success(), "the agent ended with {status}; {}", tail(&self.directories.log, 30));
        Ok(())
    }

    /// Another build is started from now on, and its commands are run.
    pub fn set_binary(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// Runs `sluice detach`. The agent must have ended.
    pub fn detach(&self) -> Result<()> {
        let bpffs = self.directories.bpffs.display().to_string();
        self.command(&["detach", "--bpffs", &bpffs]).map(drop)
    }

    /// What the agent holds in the kernel, by its descriptors and its pins.
    pub fn kernel_objects(&self) -> Result<KernelObjects> {
        let mut objects = KernelObjects::pinned(&self.pins())?;
        if let Some(pid) = self.pid() {
            objects.extend(KernelObjects::of_process(pid)?);
        }
        Ok(objects)
    }

    /// Entries of these of the pinned maps, in the layout that the agent uses.
    pub fn map_entries<const N: usize>(&self, maps: [&str; N]) -> Result<[usize; N]> {
        let pins = bpf::pins(&self.pins())?;
        let mut entries = [0; N];
        for (map, count) in maps.into_iter().zip(&mut entries) {
            // `<ABI version>/maps/<NAME>-<layout>`
            let is_of = |pin: &&PathBuf| {
                let name =
                    pin.file_name().and_then(|name| name.to_str()).and_then(|name| name.rsplit_once('-'));
                name.is_some_and(|(name, _)| name == map)
            };
            let pin = pins.iter().find(is_of).with_context(|| format!("no map {map} is pinned"))?;
            *count = bpf::entries(pin)?;
        }
        Ok(entries)
    }

    /// The pins of the maps: `<NAME>-<layout>`.
    pub fn layouts(&self) -> Result<BTreeSet<String>> {
        let is_map = |pin: &&PathBuf| pin.parent().is_some_and(|parent| parent.ends_with("maps"));
        let name = |pin: &PathBuf| pin.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(bpf::pins(&self.pins())?.iter().filter(is_map).filter_map(name).collect())
    }

    /// What the kernel accounts for every pinned map, in bytes.
    pub fn map_memory(&self) -> Result<usize> {
        bpf::pins(&self.pins())?.iter().map(|pin| bpf::memory(pin)).sum()
    }

    /// The program that is attached to the cgroup under this name.
    pub fn attached(&self, name: &str) -> Result<LinkedProgram> {
        let pins = bpf::pins(&self.pins())?;
        let is_of = |pin: &&PathBuf| pin.ends_with(Path::new("links").join(name));
        LinkedProgram::of(pins.iter().find(is_of).with_context(|| format!("no link {name} is pinned"))?)
    }

    fn pins(&self) -> PathBuf {
        self.directories.bpffs.join("sluice")
    }

    /// SIGKILL; returns when the process is gone. What it pinned stays.
    pub fn kill_hard(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid().context("the agent is not running")?)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        let child = self.child.as_mut().context("the agent is not running")?;
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("the agent does not end; {}", tail(&self.directories.log, 30));
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Kills it if it runs, and starts it again with the same directories.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_hard()?;
        self.spawn()?;
        self.wait_ready().await
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Runs another command of the binary, with `--run-dir` appended.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let run_dir = self.directories.run.display().to_string();
        let all = arguments.iter().copied().chain(["--run-dir", &run_dir]);
        run(&self.binary.display().to_string(), all)
    }

    /// Where its files are.
    pub fn directories(&self) -> &AgentDirectories {
        &self.directories
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let killed = self.kill_hard();
        let detached = self.detach();
        for error in [killed.err(), detached.err()].into_iter().flatten() {
            eprintln!("rig: {error:#}");
        }
    }
}

/// Keeps the logs that somebody may want to read afterwards, if `SLUICE_RIG_LOGS` names a directory.
pub(super) fn keep_log(log: &Path) {
    let Some(directory) = std::env::var_os("SLUICE_RIG_LOGS").map(PathBuf::from) else { return };
    let Some(name) = log.file_name().filter(|_| log.exists()) else { return };
    if let Err(error) = fs::create_dir_all(&directory).and_then(|()| fs::copy(log, directory.join(name))) {
        eprintln!("rig: cannot keep {}: {error}", log.display());
    }
}
