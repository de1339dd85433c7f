//! The node agent under test.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::command::{binary, run, tail};
use super::containerd::TICK;
use super::isolate::{Place, fresh};

/// How long the agent may take until it is ready.
const READY_LIMIT: Duration = Duration::from_secs(30);

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

    fn spawn(&mut self) -> Result<()> {
        // The marker of the run before this one stays, for the plugin reads it; a new one differs from it.
        self.marker_before = self.marker();
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.directories.log)?;
        let mut child = Command::new(&self.binary)
            .arg("agent")
            .arg("--cgroup-root")
            .arg(&self.cgroup_root)
            .arg("--bpffs")
            .arg(&self.directories.bpffs)
            .arg("--run-dir")
            .arg(&self.directories.run)
            .arg("--policies")
            .arg(&self.directories.policies)
            .arg("--state-dir")
            .arg(&self.directories.state)
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

    /// SIGKILL; returns when the process is gone. What it pinned stays.
    pub fn kill_hard(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Kills it if it runs, and starts it again with the same directories.
    pub async fn restart(&mut self) -> Result<()> {
        self.kill_hard()?;
        self.spawn()?;
        self.wait_ready().await
    }

    /// Kills it if it runs, and starts another build of it in its place: `sluice` or `sluice-rehearsal`.
    pub async fn restart_as(&mut self, name: &str) -> Result<()> {
        self.binary = binary(name)?;
        self.restart().await
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
        let bpffs = self.directories.bpffs.display().to_string();
        let detached = self.command(&["detach", "--bpffs", &bpffs]);
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
