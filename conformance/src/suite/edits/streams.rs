//! Long flows of a pod: some that every version of the policy allows, some that every other one denies.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::sink::{Ended, Sink};
use super::{DENIED_LATER, KEPT};
use crate::report::Report;
use crate::rig::{Container, ContainerSpec, FarEnd, Pod, Rig};

/// The port of the far ends.
const PORT: u16 = 9100;
/// Where the pod serves.
const SERVED: u16 = 7000;
/// How long anything but a cut may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a cut may take until it counts as one that does not come.
const CUT_LIMIT: Duration = Duration::from_secs(15);
/// How soon a flow that an edit denies should lose its socket.
const CUT_AIM: Duration = Duration::from_secs(1);
/// Between two looks.
const TICK: Duration = Duration::from_millis(5);

/// The flows, with their far ends.
pub(super) struct Streams {
    container: Container,
    kept: Vec<Sink>,
    /// Connections, then datagrams.
    cut: Vec<Sink>,
    alternating: Vec<Sink>,
    /// What connections that were cut had brought by then.
    brought: Vec<u64>,
}

impl Streams {
    /// Opens them; all have arrived once when this returns.
    pub(super) async fn open(rig: &Rig, pod: &Pod) -> Result<Self> {
        let far = rig.far();
        let (mut kept, mut cut, mut alternating) = (Vec::new(), Vec::new(), Vec::new());
        for address in KEPT {
            kept.push(Sink::tcp(far, address, PORT).await?);
            kept.push(Sink::udp(far, address, PORT).await?);
        }
        for address in DENIED_LATER {
            cut.push(Sink::tcp(far, address, PORT).await?);
            alternating.push(Sink::udp(far, address, PORT).await?);
        }
        let all = || kept.iter().chain(&cut).chain(&alternating);
        let flows: Vec<&str> = all().map(|sink| sink.flow.as_str()).collect();
        let (flows, port) = (flows.join(" "), PORT.to_string());
        let arguments = ["streams", "--flows", &flows, "--port", &port];
        let container = pod.start(&ContainerSpec::new("streams", arguments)).await?;
        let deadline = Instant::now() + LIMIT;
        while let Some(silent) = all().find(|sink| sink.received() == 0) {
            ensure!(Instant::now() < deadline, "{} does not arrive: {:?}", silent.flow, container.log()?);
            tokio::time::sleep(TICK).await;
        }
        Ok(Self { container, kept, cut, alternating, brought: Vec::new() })
    }

    /// An edit that denies some connections has just been confirmed: nothing of them may arrive any more, and their sockets
    /// must go.
    ///
    /// What the pod's kernel had let out before the edit may still be under way, in a queue of a CPU: it is waited for, and
    /// counted as brought before.
    pub(super) async fn cut(&mut self, far: &FarEnd, report: &mut Report) -> Result<()> {
        let confirmed = Instant::now();
        far.settle().await?;
        self.brought = self.cut.iter().map(Sink::received).collect();
        let flows: Vec<&str> = self.cut.iter().map(|sink| sink.flow.as_str()).collect();
        let mut gone = BTreeMap::new();
        while gone.len() < flows.len() && confirmed.elapsed() < CUT_LIMIT {
            for line in ended(&self.container)? {
                if flows.contains(&line.flow.as_str()) {
                    gone.entry(line.flow).or_insert((line.end, confirmed.elapsed()));
                }
            }
            tokio::time::sleep(TICK).await;
        }
        for flow in flows {
            let name = format!("denied by an edit: {flow}");
            let end = gone.get(flow);
            let how = end.map_or("it stays", |(how, _)| how.as_str());
            let is_cut = matches!(how, "ECONNABORTED" | "ECONNRESET");
            report.add(&format!("{name}: socket gone"), how, "", "ECONNABORTED or ECONNRESET", Some(is_cut));
            // A busy machine may take longer: only a socket that stays is a failure.
            let aim = format!("≤ {} ms", CUT_AIM.as_millis());
            if let Some((_, after)) = end {
                let ok = (*after <= CUT_AIM).then_some(true);
                report.add(&format!("{name}: after"), after.as_millis() as u64, "ms", &aim, ok);
            }
        }
        Ok(())
    }

    /// Stops what still flows, and judges all of them, after so many edits.
    pub(super) async fn judge(self, far: &FarEnd, edits: u32, report: &mut Report) -> Result<()> {
        for (sink, brought) in self.cut.iter().zip(&self.brought) {
            let name = format!("denied by an edit: {}", sink.flow);
            report.some(&format!("{name}: before"), *brought, "bytes");
            report.equal(&format!("{name}: later"), sink.received() - brought, "bytes", 0);
        }
        for sink in self.kept.iter().chain(&self.cut).chain(&self.alternating) {
            sink.stop();
        }
        self.container.succeed().await?;
        far.settle().await?;
        let ended = ended(&self.container)?;
        let of = |sink: &Sink| {
            let line = ended.iter().find(|line| line.flow == sink.flow);
            line.with_context(|| format!("the probe tells nothing of {}", sink.flow))
        };
        for mut sink in self.kept {
            let line = of(&sink)?;
            let unit = if sink.flow.starts_with("tcp") { "bytes" } else { "datagrams" };
            let name = format!("always allowed: {}", sink.flow);
            report.some(&format!("{name}: sent"), line.sent, unit);
            report.equal(
                &format!("{name}: lost"),
                line.sent.cast_signed() - sink.finish(far, LIMIT).await?.cast_signed(),
                unit,
                0,
            );
            report.equal(&format!("{name}: errors"), line.errors.values().sum::<u64>(), "", 0);
            report.equal(&format!("{name}: end"), line.end.as_str(), "", "stopped");
        }
        for mut sink in self.alternating {
            let line = of(&sink)?;
            let name = format!("allowed now and then: {}", sink.flow);
            report.some(&format!("{name}: sent"), line.sent, "datagrams");
            // A datagram that an edit overtakes is judged again at the host's end of the link, and stays there.
            let overtaken = line.sent.cast_signed() - sink.finish(far, LIMIT).await?.cast_signed();
            let denying = edits.div_ceil(2).into();
            let ok = (0..=denying).contains(&overtaken);
            let aim = format!("≤ {denying}, one for each edit");
            report.add(&format!("{name}: overtaken by an edit"), overtaken, "datagrams", &aim, Some(ok));
            report.some(
                &format!("{name}: refused"),
                line.errors.get("EPERM").copied().unwrap_or(0),
                "datagrams",
            );
            let others: Vec<&String> = line.errors.keys().filter(|errno| *errno != "EPERM").collect();
            report.equal(&format!("{name}: other errors"), format!("{others:?}"), "", "[]");
        }
        Ok(())
    }
}

fn ended(container: &Container) -> Result<Vec<Ended>> {
    container.json()?.into_iter().map(|line| Ok(serde_json::from_value(line)?)).collect()
}

/// Connections into the pod, which policy never judges.
pub(super) struct Accepted {
    // Ends with its pod.
    _server: Container,
    streams: Vec<TcpStream>,
    pub(super) requests: u64,
    pub(super) failures: Vec<String>,
}

impl Accepted {
    /// One of each family.
    pub(super) async fn open(far: &FarEnd, pod: &Pod) -> Result<Self> {
        let port = SERVED.to_string();
        let server =
            pod.start(&ContainerSpec::new("serve", ["serve", "--tcp", &port, "--udp", &port])).await?;
        server.wait_for_line("ready", LIMIT).await?;
        let mut streams = Vec::new();
        for address in [pod.ipv4()?, pod.ipv6()?] {
            let to = SocketAddr::new(address, SERVED);
            let stream = far
                .call(move || {
                    let stream = TcpStream::connect_timeout(&to, LIMIT)?;
                    stream.set_read_timeout(Some(LIMIT))?;
                    Ok(stream)
                })
                .await?;
            streams.push(stream);
        }
        Ok(Self { _server: server, streams, requests: 0, failures: Vec::new() })
    }

    /// A question and its answer on each.
    pub(super) fn ask(&mut self) {
        for stream in &mut self.streams {
            self.requests += 1;
            let mut answer = [0; 7];
            let result = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
            match result {
                Ok(()) if &answer == b"re:ping" => {}
                Ok(()) => self.failures.push(format!("answered {answer:?}")),
                Err(error) => self.failures.push(error.to_string()),
            }
        }
    }
}

/// Of one family, the address.
pub(super) fn host(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv6() { 128 } else { 32 })
}
