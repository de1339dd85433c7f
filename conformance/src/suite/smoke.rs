//! Does the rig itself count right? A pod without Sluice: everything that it sends must arrive, and be counted exactly.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::flood::{self, Arrivals};
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, is_wire};
use crate::rig::{ContainerSpec, Place, PodSpec, Rig, RigOptions};

/// Rounds of the flood.
const ROUNDS: u32 = 200;
/// Where the pod serves.
const SERVED: u16 = 7000;
/// How long an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let mut report = Report::new("smoke", seed);
    let start = Instant::now();
    let rig = Rig::new(place, RigOptions::default()).await?;
    report.note("rig_up", millis(start), "ms");
    let start = Instant::now();
    let pod = rig.run_pod(&PodSpec::new("smoke", "one", &[("app", "smoke")])).await?;
    report.note("sandbox_up", millis(start), "ms");
    report.equal("pod_addresses", pod.ips().len(), "", 2);

    eprintln!("smoke: flood");
    let container = pod.start(&flood::container("flood", seed, ROUNDS, 0.0, &DESTINATIONS)).await?;
    let start = Instant::now();
    let lines = flood::report(&container).await?;
    report.note("flood", millis(start), "ms");
    rig.far().settle().await?;
    let arrivals = Arrivals::new(rig.far().counts());
    for line in &lines {
        let arrived = arrivals.of_line(line, pod.ips(), &DESTINATIONS);
        let name = format!("arrived: {}", line.label());
        report.equal(&name, arrived, "", line.attempted);
        if line.ok != line.attempted || line.replies == 0 && line.protocol != "tcp" {
            let what = format!("ok {}, replies {}, errors {:?}", line.ok, line.replies, line.errors);
            report.add(&format!("sent: {}", line.label()), what, "", "all ok", Some(false));
        }
    }
    let strangers = arrivals.from_strangers(|source| pod.ips().contains(&source) || is_wire(source));
    report.equal("strangers", strangers, "", Vec::<String>::new());

    eprintln!("smoke: inbound");
    let port = SERVED.to_string();
    let server = pod.start(&ContainerSpec::new("serve", ["serve", "--tcp", &port, "--udp", &port])).await?;
    server.wait_for_line("ready", ANSWER_LIMIT).await?;
    for address in [pod.ipv4()?, pod.ipv6()?] {
        let to = SocketAddr::new(address, SERVED);
        let family = if address.is_ipv6() { 6 } else { 4 };
        let answer = rig.far().tcp_request(to, b"hello", ANSWER_LIMIT).await?;
        report.equal(&format!("inbound: IPv{family} tcp"), text(&answer), "", "re:hello");
        let answer = rig.far().udp_request(to, b"hello", ANSWER_LIMIT).await?;
        report.equal(&format!("inbound: IPv{family} udp"), text(&answer), "", "re:hello");
        let answered = rig.far().ping(address, ANSWER_LIMIT).await?;
        report.equal(&format!("inbound: IPv{family} ping"), answered, "", true);
    }
    server.stop(Duration::from_secs(1)).await?;

    let cgroup = pod.cgroup().to_owned();
    let start = Instant::now();
    pod.remove().await?;
    report.note("pod_removed", millis(start), "ms");
    let start = Instant::now();
    report.equal("cgroup_gone", !cgroup.exists(), "", true);
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    rig.shutdown().await?;
    report.note("rig_down", millis(start), "ms");
    Ok(report)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
