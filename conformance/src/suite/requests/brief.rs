//! Clients that live for about 50 ms and make one request: in containers of their own, and run in one that is there; with files
//! that the agent knows. And clients that live for a second, with files that nobody has run before.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_cri::v1::ExecSyncRequest;

use super::bed::mount;
use super::clients::own;
use super::programs::fresh;
use super::server::HOST;
use super::{Run, Whose};

/// Clients of each kind.
const TIMES: u32 = 5;
/// Requests of a client whose file is new, and the pause after each, in milliseconds: it lives for a second.
const MANY: u32 = 200;
const PAUSE: u32 = 5;
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
    for number in 0..TIMES {
        container(run, &new, curl("/brief-a", number)).await?;
        exec(run, sleeper.id(), curl("/brief-b", number)).await?;
        let program = own("openssl-static", &format!("/brief-c/{number}"), 1);
        container(run, &new, program).await?;
    }
    for (name, prefix, comm) in [
        ("one request of a new container", "/brief-a", "curl"),
        ("one request of a process run in a container", "/brief-b", "curl"),
        ("one request of a new container, static OpenSSL", "/brief-c", "openssl-static"),
    ] {
        run.compare(name, prefix, TIMES, &Whose { pod: "client", comm, library: "openssl" }).await?;
    }
    never_seen(run, &new, sleeper.id()).await?;
    sleeper.stop(Duration::ZERO).await
}

/// Files that nobody has mapped before: the probes are there a moment after the process begins. How long that takes is told, and
/// that from then on nothing is missing.
async fn never_seen(run: &mut Run<'_>, new: &Path, sleeper: &str) -> Result<()> {
    let many = |number: u32, what: &str| {
        let mut command = own(what, &format!("/new-{number}"), MANY);
        command.push(PAUSE.to_string());
        command
    };
    let mut firsts: [Vec<u32>; 3] = Default::default();
    for number in 0..TIMES {
        let mut in_new = many(3 * number, "openssl-static");
        in_new[0] = format!("{NEW}/static-{number}");
        container(run, new, in_new).await?;
        let mut later = many(3 * number + 1, "openssl-static");
        later[0] = format!("{NEW}/later-{number}");
        exec(run, sleeper, later).await?;
        let library = format!("LD_LIBRARY_PATH={NEW}/{number}");
        let mut with_library = vec!["/usr/bin/env".to_owned(), library];
        with_library.extend(many(3 * number + 2, "openssl-dynamic"));
        exec(run, sleeper, with_library).await?;
        for (kind, firsts) in (0_u32..).zip(&mut firsts) {
            let prefix = format!("/new-{}/", 3 * number + kind);
            firsts.push(first_seen(run, &prefix).await?);
        }
    }
    let kinds = ["a program in a new container", "a program run in a container", "a library in a container"];
    for (kind, mut firsts) in kinds.into_iter().zip(firsts) {
        firsts.sort_unstable();
        let name = format!("never seen before: {kind}");
        run.report.equal(
            &format!("{name}: seen at last"),
            firsts.iter().all(|first| *first < MANY),
            "",
            true,
        );
        let missed = firsts[firsts.len() / 2];
        let unit = format!("requests, one each {PAUSE} ms, median of {TIMES}: {firsts:?}");
        run.report.note(&format!("{name}: missed at first"), missed, &unit);
    }
    Ok(())
}

/// Which was the first request that was seen: all after it were, too.
async fn first_seen(run: &mut Run<'_>, prefix: &str) -> Result<u32> {
    let answered = run.answered(prefix, MANY as usize).await?.len();
    ensure!(answered == MANY as usize, "the server answered {answered} of {MANY}");
    let last = format!("{prefix}{}", MANY - 1);
    run.heard(&last, 1).await;
    let mut seen = Vec::new();
    for event in run.told(prefix) {
        seen.extend(event["path"].as_str().and_then(|path| path.rsplit('/').next()?.parse::<u32>().ok()));
    }
    let first = seen.iter().copied().min().unwrap_or(MANY);
    if !seen.iter().copied().eq(first..MANY) {
        run.report.equal(
            &format!("{prefix}: seen from the first that was"),
            seen,
            "",
            format!("{first} to {MANY}"),
        );
    }
    Ok(first)
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
