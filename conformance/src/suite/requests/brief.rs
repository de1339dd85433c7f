//! Clients that live for about 50 ms and make one request: in containers of their own, and run in one that is there; with files
//! that the agent knows, and with files that nobody has run before.

use std::path::Path;

use anyhow::{Result, ensure};
use k8s_cri::v1::ExecSyncRequest;

use super::bed::mount;
use super::clients::own;
use super::programs::{MOUNTED, fresh};
use super::server::HOST;
use super::{Run, Whose};

/// Clients of each kind.
const TIMES: u32 = 5;
/// Where new files are seen.
const NEW: &str = "/new";

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let new = run.bed.directory("new")?;
    let library = std::fs::canonicalize("/usr/lib/x86_64-linux-gnu/libssl.so.3")?;
    for number in 0..TIMES {
        fresh(&run.bed.programs.join("openssl-static"), &new.join(format!("static-{number}")))?;
        fresh(&run.bed.programs.join("openssl-static"), &new.join(format!("later-{number}")))?;
        std::fs::create_dir(new.join(number.to_string()))?;
        fresh(&library, &new.join(format!("{number}/libssl.so.3")))?;
    }
    let mut sleeper = run.bed.container("sleeper", vec!["/usr/bin/sleep".to_owned(), "600".to_owned()]);
    sleeper.mounts.push(mount(&new, NEW));
    let sleeper = run.pod.start(&sleeper).await?;
    let curl = |prefix: &str, number: u32| {
        let url = format!("https://{HOST}{prefix}/{number}");
        ["/usr/bin/curl", "-sS", "--fail", "--cacert", "/etc/ca.pem", "-o", "/dev/null", &url]
            .map(str::to_owned)
            .to_vec()
    };
    let alone = |program: String, prefix: &str, number: u32| {
        let mut command = own("openssl-static", &format!("{prefix}/{number}"), 1);
        command[0] = program;
        command
    };
    let with_library = |prefix: &str, number: u32| {
        let mut command = vec!["/usr/bin/env".to_owned(), format!("LD_LIBRARY_PATH={NEW}/{number}")];
        command.extend(curl(prefix, number));
        command
    };

    for number in 0..TIMES {
        container(run, &new, curl("/brief-a", number)).await?;
        exec(run, sleeper.id(), curl("/brief-b", number)).await?;
        container(run, &new, alone(format!("{MOUNTED}/openssl-static"), "/brief-c", number)).await?;
        container(run, &new, alone(format!("{NEW}/static-{number}"), "/brief-d", number)).await?;
        exec(run, sleeper.id(), alone(format!("{NEW}/later-{number}"), "/brief-e", number)).await?;
        exec(run, sleeper.id(), with_library("/brief-f", number)).await?;
    }
    let curl = "curl";
    for (name, prefix, comm) in [
        ("one request of a new container", "/brief-a", curl),
        ("one request of a process run in a container", "/brief-b", curl),
        ("one request of a new container, static", "/brief-c", "openssl-static"),
        ("one request of a new container, a program never run before", "/brief-d", "static-"),
        ("one request of a process run in a container, a program never run before", "/brief-e", "later-"),
        ("one request of a process run in a container, a library never mapped before", "/brief-f", curl),
    ] {
        if comm.ends_with('-') {
            // Each has a name of its own.
            let answered = run.answered(prefix, TIMES as usize).await?.len();
            let told = run.heard(prefix, answered).await;
            let right =
                told.iter().filter(|event| event["comm"].as_str().is_some_and(|of| of.starts_with(comm)));
            let value = format!("{} of {answered}", right.count());
            run.report.equal(name, value, "seen", format!("{TIMES} of {TIMES}"));
        } else {
            run.compare(name, prefix, TIMES, &Whose { pod: "client", comm }).await?;
        }
    }
    sleeper.stop(std::time::Duration::ZERO).await
}

async fn container(run: &Run<'_>, new: &Path, command: Vec<String>) -> Result<()> {
    let mut spec = run.bed.container("brief", command);
    spec.mounts.push(mount(new, NEW));
    run.pod.start(&spec).await?.succeed().await
}

/// Runs a command in a container, as `kubectl exec` does.
async fn exec(run: &Run<'_>, container_id: &str, cmd: Vec<String>) -> Result<()> {
    let request = ExecSyncRequest { container_id: container_id.to_owned(), cmd, timeout: 30 };
    let reply = run.rig.cri().exec_sync(request).await?.into_inner();
    ensure!(
        reply.exit_code == 0,
        "exit code {}: {}",
        reply.exit_code,
        String::from_utf8_lossy(&reply.stderr)
    );
    Ok(())
}
