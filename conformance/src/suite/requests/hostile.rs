//! A hostile image: what looks like a library and is a trap for whoever reads it. The agent, other pods and their requests are
//! unharmed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_cri::v1::Mount;
use nix::mount::{MntFlags, umount2};

use super::bed::{Bed, mount};
use super::traps;
use super::{LIMIT, NAMESPACE, Run, TICK, Whose, json};
use crate::rig::{Agent, Container, ContainerSpec, Pod, PodSpec, binary_in_path};
use crate::suite::operate::http::{Samples, samples};
use crate::suite::skip;

/// Pods that are added in each series.
const PODS: usize = 6;
/// The agent may have so much more memory, with its readers, as long as the hostile pod is there.
const MEMORY: f64 = 2.0;
/// ADD may take so much longer, by the median of each series; a reader that waits for a trap would take a hundred times as long.
const LONGER: f64 = 4.0;

/// What the agent must have refused at least, by its own reasons.
const REFUSED: &[(&str, u64)] = &[("untrusted_file_system", 1), ("no_elf", 3), ("pod_limit", 1)];

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let directory = run.bed.directory("hostile")?;
    tokio::task::block_in_place(|| traps::make(&directory, run.options.copies))?;
    let hung = Hung::start(run.bed)?;
    if let Err(reason) = &hung {
        skip("requests", "a file system that hangs", reason)?;
    }
    let before = memory(&run.agent)?;
    let counted = samples().await?;
    let calm = adds(run, "calm").await?;
    let control = adds(run, "control").await?;

    // Two pods, for the copies use up what a pod may have looked at.
    let pod = run.rig.run_pod(&PodSpec::new(NAMESPACE, "hostile", &[("app", "client")])).await?;
    let mut traps = vec![mount(&directory.join("files"), "/hostile/files")];
    // Where a library would be.
    traps.push(mount(&directory.join("lib"), "/usr/lib"));
    if let Ok(hung) = &hung {
        traps.push(mount(&hung.directory, "/hostile/hung"));
    }
    let count = traps::COUNT + u64::from(hung.is_ok());
    let mapper = map(run, &pod, traps, count).await?;
    let greedy = run.rig.run_pod(&PodSpec::new(NAMESPACE, "greedy", &[("app", "client")])).await?;
    let many = vec![mount(&directory.join("many"), "/hostile/many")];
    let copies = map(run, &greedy, many, run.options.copies.into()).await?;
    let absurd = run.bed.container("absurd", super::clients::own("openssl-static", "/absurd", 2));
    let mut absurd = ContainerSpec { name: "absurd".to_owned(), ..absurd };
    absurd.mounts.push(mount(&directory.join("programs"), "/absurd"));
    "/absurd/openssl-static".clone_into(&mut absurd.command[0]);
    pod.start(&absurd).await?.succeed().await?;

    let harmed = adds(run, "harmed").await?;
    for (index, client) in super::clients::CLIENTS.iter().enumerate() {
        if ["C, static OpenSSL", "wget, GnuTLS"].contains(&client.name) || client.name == "curl, OpenSSL" {
            let prefix = format!("/meanwhile-{index:02}");
            let container = run.bed.container("meanwhile", (client.command)(&prefix, 4));
            run.pod.start(&container).await?.succeed().await?;
            let whose = Whose { pod: "client", comm: client.comm, library: client.library };
            let name = format!("beside a hostile pod: {}, {}", client.name, client.protocol);
            run.compare(&name, &prefix, 4, &whose).await?;
        }
    }
    let during = memory(&run.agent)?;
    run.report.equal("hostile: its pod is told of as ever", told_absurd(run).await?, "answered", 2);
    refused(run, &counted).await?;
    for mapper in [mapper, copies] {
        mapper.stop(Duration::ZERO).await?;
    }
    pod.remove().await?;
    greedy.remove().await?;
    drop(hung);
    let after = memory(&run.agent)?;

    let rounded = |value: f64| (value * 1000.0).round() / 1000.0;
    for (name, value) in [("with a hostile pod", during), ("after it", after)] {
        let ratio = rounded(value / before);
        let unit = format!("of {before} KiB PSS, readers included");
        let (name, aim) = (format!("agent's memory {name}"), format!("≤ {MEMORY}"));
        run.report.add(&name, ratio, &unit, &aim, Some(ratio <= MEMORY));
    }
    let [calm, control, harmed] = [calm, control, harmed].map(median);
    let ratio = rounded(harmed / calm);
    let unit = format!("of {:.1} ms", calm * 1e3);
    run.report.add(
        "ADD of other pods, with a hostile pod",
        ratio,
        &unit,
        &format!("≤ {LONGER}"),
        Some(ratio <= LONGER),
    );
    run.report.note("ADD of other pods: A/A control", rounded(control / calm), &unit);
    Ok(())
}

/// Starts a container that maps all that is below these mounts, and holds it.
async fn map(run: &mut Run<'_>, pod: &Pod, mounts: Vec<Mount>, files: u64) -> Result<Container> {
    let arguments = ["map", "--directory", "/hostile", "--seconds", "600"];
    let spec = ContainerSpec { mounts, ..ContainerSpec::new("mapper", arguments) };
    let mapper = pod.start(&spec).await?;
    mapper.wait_for_line("held", LIMIT).await?;
    let count = mapper.json()?.into_iter().next().context("the mapper's count")?;
    run.report.equal("hostile: files mapped", count["mapped"].clone(), "", files);
    Ok(mapper)
}

/// What the hostile pod itself asked for has arrived.
async fn told_absurd(run: &Run<'_>) -> Result<usize> {
    Ok(run.answered("/absurd", 2).await?.len())
}

/// What was not probed is counted with its reason, and named by `sluice tls`.
async fn refused(run: &mut Run<'_>, before: &Samples) -> Result<()> {
    for (reason, least) in REFUSED {
        let series = format!("sluice_tls_files_refused_total{{reason=\"{reason}\"}}");
        let deadline = Instant::now() + LIMIT;
        let mut refused = samples().await?.growth(before, &series)?;
        while refused < *least && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
            refused = samples().await?.growth(before, &series)?;
        }
        run.report.add(&series, refused, "files", &format!("≥ {least}"), Some(refused >= *least));
    }
    for pod in ["hostile", "greedy"] {
        let said = run.agent.command(&["tls", &format!("{NAMESPACE}/{pod}"), "--output", "json"])?;
        let told = json(&said)?;
        let uses = told["uses"].as_array().map(Vec::as_slice).unwrap_or_default();
        let without = uses.iter().filter(|one| one["probed"] == false && one["why"].is_string()).count();
        let name = format!("{pod}: files that `sluice tls` names with a reason");
        run.report.some(&name, without as u64, "");
        let probed = uses.iter().filter(|one| one["probed"] == true).count();
        run.report.note(&format!("{pod}: files that are probed"), probed, "");
        let mut whys: BTreeMap<&str, usize> = BTreeMap::new();
        for why in uses.iter().filter_map(|one| one["why"].as_str()) {
            *whys.entry(why).or_default() += 1;
        }
        for (why, files) in whys {
            eprintln!("requests: {pod}: {files} × {why}");
        }
    }
    Ok(())
}

/// How long ADD takes in the agent, for some pods one after the other.
async fn adds(run: &Run<'_>, series: &str) -> Result<Vec<f64>> {
    const SUM: &str = "sluice_cni_request_duration_seconds_sum{call=\"add\"}";
    let mut took = Vec::new();
    for number in 0..PODS {
        let before = samples().await?.number(SUM)?;
        let spec = PodSpec::new(NAMESPACE, &format!("{series}-{number}"), &[("app", "client")]);
        let pod = run.rig.run_pod(&spec).await?;
        took.push(samples().await?.number(SUM)? - before);
        pod.remove().await?;
    }
    Ok(took)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The agent's memory in KiB, and that of its readers.
fn memory(agent: &Agent) -> Result<f64> {
    let agent = agent.pid().context("the agent is not running")?;
    let mut sum = proportional(agent)?;
    for entry in fs::read_dir("/proc")? {
        let Ok(pid) = entry?.file_name().to_string_lossy().parse::<u32>() else { continue };
        // Readers end when they have read.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(agent) {
            sum += proportional(pid).unwrap_or(0.0);
        }
    }
    Ok(sum)
}

fn proportional(pid: u32) -> Result<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix("kB"));
    Ok(kib.context("smaps_rollup has no Pss")?.trim().parse()?)
}

/// A file system whose only file is never read to its end.
struct Hung {
    server: Child,
    directory: PathBuf,
}

impl Hung {
    /// Mounts it; the reason where the machine has no FUSE.
    fn start(bed: &Bed) -> Result<Result<Self, String>> {
        if !Path::new("/dev/fuse").exists() {
            return Ok(Err("the kernel has no FUSE".to_owned()));
        }
        let directory = bed.directory("hung")?;
        let script = bed.programs.join("hung.py");
        fs::write(&script, include_str!("hung.py"))?;
        let mut command = Command::new(binary_in_path("python3")?);
        command.arg(script).arg(&directory).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut server = command.spawn().with_context(|| format!("{command:?}"))?;
        let mut line = String::new();
        BufReader::new(server.stdout.take().context("stdout was piped")?).read_line(&mut line)?;
        let hung = Self { server, directory };
        ensure!(line == "mounted\n", "the file system that hangs is not mounted: {line:?}");
        Ok(Ok(hung))
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // With its server gone, whoever waits for it is told so.
        let ended = self.server.kill().and_then(|()| self.server.wait());
        let unmounted = umount2(&self.directory, MntFlags::MNT_DETACH);
        for error in
            [ended.err().map(|e| e.to_string()), unmounted.err().map(|e| e.to_string())].into_iter().flatten()
        {
            eprintln!("requests: the file system that hangs: {error}");
        }
    }
}
