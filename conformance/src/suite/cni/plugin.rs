//! The plugin's binary, called as libcni calls it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::NAMESPACE;
use super::sandbox::Sandbox;

/// How long a call may take before it counts as hung. The plugin's own deadlines are shorter by far.
const CALL_LIMIT: Duration = Duration::from_secs(20);

/// The environment of a call.
pub(super) type Vars = BTreeMap<&'static str, String>;

/// What libcni sets for a pod of Kubernetes.
pub(super) fn vars(verb: &str, sandbox: &Sandbox) -> Vars {
    let Sandbox { id, uid, name, .. } = sandbox;
    let arguments = format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={NAMESPACE};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
    );
    Vars::from([
        ("CNI_COMMAND", verb.to_owned()),
        ("CNI_CONTAINERID", id.clone()),
        ("CNI_NETNS", sandbox.netns.clone()),
        ("CNI_IFNAME", "eth0".to_owned()),
        ("CNI_ARGS", arguments),
        ("CNI_PATH", "/opt/cni/bin".to_owned()),
    ])
}

/// What libcni sets for a verb that is about no pod: every variable, and all but these empty.
pub(super) fn vars_of_none(verb: &str) -> Vars {
    let empty = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"].map(|name| (name, String::new()));
    let mut vars = Vars::from(empty);
    vars.insert("CNI_COMMAND", verb.to_owned());
    vars.insert("CNI_PATH", "/opt/cni/bin".to_owned());
    vars
}

/// What a call came to.
pub(super) struct Answer {
    pub(super) status: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) took: Duration,
}

/// Calls a plugin, with this on its stdin.
pub(super) async fn call(plugin: &Path, vars: &Vars, input: &[u8]) -> Result<Answer> {
    let mut command = Command::new(plugin);
    command.envs(vars).stdin(Stdio::piped());
    finish(command, input).await
}

/// Runs a plugin to its end.
pub(super) async fn finish(mut command: Command, input: &[u8]) -> Result<Answer> {
    let started = Instant::now();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start the plugin")?;
    let stdin = child.stdin.take();
    let both = async {
        // It may stop reading before the end. Dropped at the end, which closes it.
        if let Some(mut stdin) = stdin {
            let _ = stdin.write_all(input).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(CALL_LIMIT, both).await.context("the plugin does not end")??;
    Ok(Answer {
        status: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: started.elapsed(),
    })
}

impl Answer {
    /// Success, with nothing on stdout.
    pub(super) fn is_silent(&self) -> Result<()> {
        ensure!(self.status == Some(0) && self.stdout.is_empty(), "not a silent success: {}", self.shown());
        Ok(())
    }

    /// Success, with exactly this document on stdout: the same members in the same order.
    pub(super) fn passes_on(&self, previous: &Value) -> Result<()> {
        ensure!(self.status == Some(0), "no success: {}", self.shown());
        ensure!(self.document()? == *previous, "not what came from the plugin before: {}", self.shown());
        let text = previous.to_string();
        ensure!(self.stdout.trim_end() == text, "not in the same order: {}", self.shown());
        Ok(())
    }

    /// An error document of this code, with all these words in its details.
    pub(super) fn fails(&self, code: i32, words: &[&str]) -> Result<()> {
        let document = self.document()?;
        let names: Vec<&str> = document.as_object().into_iter().flatten().map(|(name, _)| &**name).collect();
        ensure!(names == ["cniVersion", "code", "msg", "details"], "not an error's fields: {document}");
        ensure!(document["code"] == code, "not code {code}: {document}");
        ensure!(self.status == Some(1), "exit status {:?} with {document}", self.status);
        ensure!(document["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "no msg: {document}");
        let details = document["details"].as_str().unwrap_or_default();
        for word in words {
            ensure!(details.contains(word), "the details do not say {word:?}: {document}");
        }
        Ok(())
    }

    /// The one document on stdout.
    pub(super) fn document(&self) -> Result<Value> {
        let mut documents = serde_json::Deserializer::from_str(&self.stdout).into_iter::<Value>();
        let first = documents.next().with_context(|| format!("nothing on stdout: {}", self.shown()))?;
        ensure!(documents.next().is_none(), "more than one document: {}", self.shown());
        first.with_context(|| format!("stdout is no JSON: {}", self.shown()))
    }

    /// For messages.
    pub(super) fn shown(&self) -> String {
        let short = |text: &str| text.chars().take(400).collect::<String>();
        format!(
            "status {:?}, stdout {:?}, stderr {:?}",
            self.status,
            short(&self.stdout),
            short(&self.stderr)
        )
    }
}
