//! Processes that no policy governs use the same library: nothing of theirs is told.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, ensure};
use tokio::process::Command;

use super::server::{ADDRESS, HOST};
use super::{Run, Whose};

/// Requests of each.
const EACH: u32 = 5;

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let below = run.rig.place().cgroup_root.join("tool.service");
    fs::create_dir_all(&below)?;
    ask(run, "/outside-a", None).await?;
    ask(run, "/outside-b", Some(&below)).await?;
    fs::remove_dir(below)?;
    // What was written before it has been told of when this has.
    let command = super::clients::own("openssl-dynamic", "/outside-c", 2);
    run.pod.start(&run.bed.container("after", command)).await?.succeed().await?;
    let whose = Whose { pod: "client", comm: "openssl-dynamic", library: "openssl" };
    run.compare("a pod's requests after them", "/outside-c", 2, &whose).await?;
    for (name, prefix) in
        [("a process of the node", "/outside-a"), ("a process in a cgroup beside the pods'", "/outside-b")]
    {
        let answered = run.answered(prefix, EACH as usize).await?.len();
        run.report.equal(&format!("{name}: answered"), answered, "", EACH);
        let told = run.told(prefix).len();
        run.report.equal(&format!("{name}: told"), told, "", 0);
    }
    Ok(())
}

/// curl on the node itself.
async fn ask(run: &Run<'_>, prefix: &str, cgroup: Option<&Path>) -> Result<()> {
    let enter = cgroup.map_or(String::new(), |path| format!("echo $$ > {}/cgroup.procs && ", path.display()));
    let authority = run.bed.server.authority.display();
    let script = format!(
        "{enter}exec curl -sS --fail --cacert {authority} --resolve {HOST}:443:{ADDRESS} -o /dev/null \
         'https://{HOST}{prefix}/[1-{EACH}]'"
    );
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script]).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    ensure!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
