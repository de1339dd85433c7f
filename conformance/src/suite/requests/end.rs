//! What is put into programs is taken out again: when the agent dies, when it is stopped, and when Sluice is taken out.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::mount;
use super::programs::{MOUNTED, fresh};
use super::{Run, TICK, Whose};
use crate::report::Report;
use crate::rig::Snapshot;
use crate::suite::detached;

/// How long it may take: the kernel frees what nobody holds in its own time.
const LIMIT: Duration = Duration::from_secs(20);
/// The library of the process that is looked at.
const LIBRARY: &str = "libssl.so.3";

pub(super) async fn run(run: Run<'_>, before: &Snapshot) -> Result<Report> {
    let Run { rig, bed, mut agent, pod, report, options } = run;
    // A library of its own: other agents of this machine may have put probes into the node's.
    let own = bed.directory("own")?;
    fresh(&fs::canonicalize(Path::new("/usr/lib/x86_64-linux-gnu").join(LIBRARY))?, &own.join(LIBRARY))?;
    let command = ["/usr/bin/python3", &format!("{MOUNTED}/client.py"), "hold", "600"];
    let mut holder = bed.container("holder", command.map(str::to_owned).to_vec());
    holder.mounts.push(mount(&own, "/own"));
    holder.variables.push(("LD_LIBRARY_PATH".to_owned(), "/own".to_owned()));
    let holder = pod.start(&holder).await?;
    holder.wait_for_line("held", LIMIT).await?;
    let process = of_comm(pod.cgroup(), "python3")?.context("the holder is not in the pod's cgroup")?;

    let mut report = report;
    wait(&mut report, "with the agent: the library has probes", process, true).await?;
    agent.kill_hard()?;
    wait(&mut report, "the agent killed: the library has probes", process, false).await?;
    agent.restart().await?;
    wait(&mut report, "the agent started again: the library has probes", process, true).await?;
    let mut run = Run { rig, bed, agent, pod, report, options };
    let mut again = bed.container("again", super::clients::own("openssl-dynamic", "/again", 4));
    again.mounts.push(mount(&own, "/own"));
    again.variables.push(("LD_LIBRARY_PATH".to_owned(), "/own".to_owned()));
    run.pod.start(&again).await?.succeed().await?;
    let whose = Whose { pod: "client", comm: "openssl-dynamic", library: "openssl" };
    run.compare("requests after the agent was killed", "/again", 4, &whose).await?;
    run.agent.terminate().await?;
    wait(&mut run.report, "the agent stopped: the library has probes", process, false).await?;

    let Run { mut agent, pod, mut report, .. } = run;
    let named = "/sys/kernel/tracing/uprobe_events";
    match fs::read_to_string(named) {
        Ok(text) => report.equal("uprobes by name", text, "", ""),
        Err(error) => report.note("uprobes by name", format!("cannot be read: {error}"), ""),
    }
    agent.restart().await?;
    pod.remove().await?;
    detached::check(&mut report, rig, agent, before).await?;
    Ok(report)
}

/// A process of a pod with such a command name.
fn of_comm(cgroup: &Path, comm: &str) -> Result<Option<u32>> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir()
            && let Some(found) = of_comm(&entry.path(), comm)?
        {
            return Ok(Some(found));
        }
    }
    let processes = fs::read_to_string(cgroup.join("cgroup.procs"))?;
    let mut processes = processes.lines().filter_map(|pid| pid.parse().ok());
    Ok(processes.find(|pid: &u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == comm)
    }))
}

/// Waits until the library has probes, or none.
async fn wait(report: &mut Report, name: &str, process: u32, wanted: bool) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut changed = changed(process)?;
    while (changed > 0) != wanted && Instant::now() < deadline {
        tokio::time::sleep(TICK).await;
        changed = self::changed(process)?;
    }
    report.equal(name, changed > 0, &format!("({changed} bytes of its code are not the file's)"), wanted);
    Ok(())
}

/// How many bytes of the library's code in that process are not those of its file: a probe is an instruction put in the place
/// of another.
fn changed(process: u32) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let mut memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let mut looked_at = 0;
    let mut changed = 0;
    for line in maps.lines().filter(|line| line.ends_with(LIBRARY)) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [range, rights, offset, _, _, path] = fields[..] else { continue };
        if !rights.contains('x') {
            continue;
        }
        let (start, end) = range.split_once('-').context("a range")?;
        let number = |text: &str| u64::from_str_radix(text, 16);
        let (start, offset) = (number(start)?, number(offset)?);
        let length = usize::try_from(number(end)? - start)?;
        let (mut code, mut original) = (vec![0; length], Vec::new());
        memory.seek(SeekFrom::Start(start))?;
        memory.read_exact(&mut code)?;
        let mut file = fs::File::open(format!("/proc/{process}/root{path}"))?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(u64::try_from(length)?).read_to_end(&mut original)?;
        looked_at += length;
        // The rest of the last page is of no file.
        changed += code.iter().zip(&original).filter(|(one, other)| one != other).count();
    }
    ensure!(looked_at > 0, "process {process} has no {LIBRARY}");
    Ok(changed)
}
