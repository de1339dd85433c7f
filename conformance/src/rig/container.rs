//! Containers of a pod.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_cri::v1::{
    Capability, ContainerState, ContainerStatus, ContainerStatusRequest, Mount, StopContainerRequest,
};
use serde_json::Value;

use super::containerd::TICK;
use super::pod::Runtime;

/// How long a container may run that is waited for.
const RUN_LIMIT: Duration = Duration::from_mins(5);

/// A container to start: the probe, with arguments.
#[derive(Clone, Debug, Default)]
pub struct ContainerSpec {
    /// Its name; may be used again for a restart.
    pub name: String,
    /// The probe's subcommand and options.
    pub args: Vec<String>,
    /// What runs instead of the probe, from a mount; empty: the probe.
    pub command: Vec<String>,
    /// Environment variables.
    pub variables: Vec<(String, String)>,
    /// Capabilities to add and to drop; none: the runtime's defaults, which have `NET_RAW`.
    pub capabilities: Option<Capability>,
    /// Whether it is privileged.
    pub privileged: bool,
    /// Directories of the node that it sees.
    pub mounts: Vec<Mount>,
}

impl ContainerSpec {
    /// A container with default rights.
    pub fn new<S: Into<String>>(name: &str, args: impl IntoIterator<Item = S>) -> Self {
        Self { name: name.to_owned(), args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// Adds capabilities, by their names without `CAP_`.
    #[must_use]
    pub fn with_capabilities(mut self, names: &[&str]) -> Self {
        let capabilities = self.capabilities.get_or_insert_default();
        capabilities.add_capabilities.extend(names.iter().map(|name| (*name).to_owned()));
        self
    }
}

/// A container that was started. Removed with its pod.
pub struct Container {
    runtime: Arc<Runtime>,
    name: String,
    id: String,
    log: PathBuf,
}

impl Container {
    pub(super) fn new(runtime: Arc<Runtime>, name: String, id: String, log: PathBuf) -> Self {
        Self { runtime, name, id, log }
    }

    /// Its id at the runtime.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until it has ended, and returns its exit code.
    pub async fn wait(&self) -> Result<i32> {
        let deadline = Instant::now() + RUN_LIMIT;
        loop {
            let status = self.status().await?;
            if status.state == i32::from(ContainerState::ContainerExited) {
                return Ok(status.exit_code);
            }
            ensure!(Instant::now() < deadline, "container {} does not end", self.name);
            tokio::time::sleep(TICK).await;
        }
    }

    /// Waits for its success.
    pub async fn succeed(&self) -> Result<()> {
        let code = self.wait().await?;
        ensure!(code == 0, "container {} exited with {code}: {:?}", self.name, self.log()?);
        Ok(())
    }

    /// Whether it is running.
    pub async fn is_running(&self) -> Result<bool> {
        Ok(self.status().await?.state == i32::from(ContainerState::ContainerRunning))
    }

    /// Stops it: SIGTERM, and SIGKILL after `grace`.
    pub async fn stop(&self, grace: Duration) -> Result<()> {
        let timeout = grace.as_secs().cast_signed();
        let request = StopContainerRequest { container_id: self.id.clone(), timeout };
        self.runtime
            .client()
            .stop_container(request)
            .await
            .with_context(|| format!("stopping {}", self.name))?;
        Ok(())
    }

    /// The lines that it wrote, stdout and stderr.
    pub fn log(&self) -> Result<Vec<String>> {
        match std::fs::read_to_string(&self.log) {
            Ok(text) => Ok(lines(&text)),
            Err(error) => bail!("no log of {} at {}: {error}", self.name, self.log.display()),
        }
    }

    /// The lines that are JSON.
    pub fn json(&self) -> Result<Vec<Value>> {
        Ok(self.log()?.iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    /// Waits until it has written such a line.
    pub async fn wait_for_line(&self, line: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let log = self.log()?;
            if log.iter().any(|written| written == line) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{} did not write {line:?}: {log:?}", self.name);
            ensure!(self.is_running().await?, "{} ended before it wrote {line:?}: {log:?}", self.name);
            tokio::time::sleep(TICK).await;
        }
    }

    async fn status(&self) -> Result<ContainerStatus> {
        let request = ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let reply = self.runtime.client().container_status(request).await;
        let status = reply.with_context(|| format!("status of {}", self.name))?.into_inner().status;
        status.with_context(|| format!("{} has no status", self.name))
    }
}

/// Takes a log in CRI's form apart: `time stream F|P text`, where P is a part that the next line continues.
fn lines(log: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut partial = String::new();
    for entry in log.lines() {
        let mut fields = entry.splitn(4, ' ').skip(2);
        let (Some(tag), Some(text)) = (fields.next(), fields.next()) else { continue };
        partial.push_str(text);
        if tag.starts_with('F') {
            lines.push(std::mem::take(&mut partial));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn parts_of_a_line_are_joined() {
        let log = "2026-01-01T00:00:00Z stdout P {\"a\":\n2026-01-01T00:00:00Z stdout F  1}\n\
                   2026-01-01T00:00:00Z stderr F oh no\ncut";
        assert_eq!(lines(log), ["{\"a\": 1}", "oh no"]);
    }
}
