//! `sluice tls`: the files that the clients use are found in a process that maps them, and probed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use serde_json::Value;

use super::bed::mount;
use super::{LIMIT, NAMESPACE, Run, TICK, json};
use crate::rig::{Container, ContainerSpec};

const NODE: &str = "/usr/bin/node";
/// Where they are mapped from.
const KEPT: &str = "/kept";

/// Starts a container that maps them, and waits until they are probed. As long as it lives they stay known, as those of a pod
/// that has been there for a while.
pub(super) async fn run(run: &mut Run<'_>) -> Result<Container> {
    let libraries = Path::new("/usr/lib/x86_64-linux-gnu");
    let own = |name: &str| run.bed.programs.join(name);
    let mut files: Vec<(PathBuf, &str)> = vec![
        (libraries.join("libssl.so.3"), "openssl"),
        (libraries.join("libgnutls.so.30"), "gnutls"),
        (own("go-client"), "go"),
        (own("go-stripped"), "go"),
        (own("openssl-static"), "openssl"),
        (own("rustls-client"), "rustls"),
    ];
    if has_own_openssl(NODE)? {
        files.push((PathBuf::from(NODE), "openssl"));
    }
    let mut keeper = ContainerSpec::new("keeper", ["map", "--directory", KEPT, "--seconds", "3600"]);
    let mut wanted = BTreeMap::new();
    for (file, library) in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let kept = format!("{KEPT}/{name}");
        keeper.mounts.push(mount(&file.canonicalize()?, &kept));
        wanted.insert(kept, (*library).to_owned());
    }
    let keeper = run.pod.start(&keeper).await?;
    keeper.wait_for_line("held", LIMIT).await?;
    let deadline = Instant::now() + LIMIT;
    let found = loop {
        let found = probed(run)?;
        if found == wanted || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(TICK).await;
    };
    for (file, library) in wanted {
        let found = found.get(&file).map_or("not probed", String::as_str);
        run.report.equal(&format!("`sluice tls`: {file}"), found, "", library);
    }
    Ok(keeper)
}

/// Is OpenSSL linked into node? Debian's node has it from the shared library, others bring it along.
fn has_own_openssl(node: &str) -> Result<bool> {
    let output = Command::new(node).args(["-p", "process.config.variables.node_shared_openssl"]).output()?;
    Ok(output.stdout.trim_ascii() == b"false")
}

/// The files of this pod that are probed, each with its library.
fn probed(run: &Run<'_>) -> Result<BTreeMap<String, String>> {
    let told = json(&run.agent.command(&["tls", &format!("{NAMESPACE}/client"), "--output", "json"])?)?;
    let uses = told["uses"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_use = |one: &Value| {
        let libraries: Vec<&str> = one["libraries"].as_array()?.iter().filter_map(Value::as_str).collect();
        let is_kept = one["probed"] == true && one["comm"] == "sluice-probe";
        is_kept.then(|| Some((one["file"].as_str()?.to_owned(), libraries.join(",")))).flatten()
    };
    Ok(uses.iter().filter_map(of_use).collect())
}
