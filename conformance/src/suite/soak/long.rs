//! Flows that live through everything: the pods' own, and those that pods have accepted.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::report::Report;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Container, ContainerSpec, FarEnd, Pod, Rig};
use crate::suite::edits::sink::{Ended, Sink};
use crate::suite::inbound::client::{Client, Held};

/// Ports of the far ends, one for each pod, from here.
const PORT: u16 = 9200;
/// Between two sends of a flow.
const PACE: &str = "20";
/// Where servers serve.
const SERVED: u16 = 7000;
/// How long the beginning or the end of a flow may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const TICK: Duration = Duration::from_millis(20);
/// Between two rounds of questions.
const BETWEEN: Duration = Duration::from_millis(50);

/// A pod's own flows: TCP and UDP, IPv4 and IPv6.
pub(super) struct Streams {
    container: Container,
    sinks: Vec<Sink>,
}

impl Streams {
    /// Opens them; all have arrived once when this returns.
    pub(super) async fn open(rig: &Rig, pod: &Pod, number: u16) -> Result<Self> {
        let port = PORT + number;
        let mut sinks = Vec::new();
        for address in DESTINATIONS.allowed {
            sinks.push(Sink::tcp(rig.far(), address, port).await?);
            sinks.push(Sink::udp(rig.far(), address, port).await?);
        }
        let flows: Vec<&str> = sinks.iter().map(|sink| sink.flow.as_str()).collect();
        let (flows, port) = (flows.join(" "), port.to_string());
        let arguments = ["streams", "--flows", &flows, "--port", &port, "--pace-ms", PACE];
        let container = pod.start(&ContainerSpec::new("streams", arguments)).await?;
        let deadline = Instant::now() + LIMIT;
        while let Some(silent) = sinks.iter().find(|sink| sink.received() == 0) {
            ensure!(Instant::now() < deadline, "{} does not arrive: {:?}", silent.flow, container.log()?);
            tokio::time::sleep(TICK).await;
        }
        Ok(Self { container, sinks })
    }

    /// What has arrived so far, of all.
    pub(super) fn received(&self) -> u64 {
        self.sinks.iter().map(Sink::received).sum()
    }

    /// Stops them, and judges each.
    pub(super) async fn judge(self, far: &FarEnd, pod: &str, report: &mut Report) -> Result<()> {
        for sink in &self.sinks {
            sink.stop();
        }
        self.container.succeed().await?;
        far.settle().await?;
        let ended: Vec<Ended> = self
            .container
            .json()?
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .context("the streams' report")?;
        for mut sink in self.sinks {
            let line = ended.iter().find(|line| line.flow == sink.flow);
            let line = line.with_context(|| format!("the probe tells nothing of {}", sink.flow))?;
            let unit = if sink.flow.starts_with("tcp") { "bytes" } else { "datagrams" };
            let name = format!("stream of {pod}, {}", sink.flow);
            let arrived = sink.finish(far, LIMIT).await?;
            report.some(&format!("{name}: sent"), line.sent, unit);
            report.equal(&format!("{name}: arrived"), arrived, unit, line.sent);
            report.equal(&format!("{name}: errors"), line.errors.values().sum::<u64>(), "", 0);
            report.equal(&format!("{name}: end"), line.end.as_str(), "", "stopped");
        }
        Ok(())
    }
}

/// Clients of the servers: connections that stay open, and new ones, datagrams and echo requests without end.
pub(super) struct Clients {
    pub(super) client: Client,
    held: Vec<Held>,
    to: Vec<SocketAddr>,
    // They end with their pods.
    _servers: Vec<Container>,
    pub(super) asked: u64,
    pub(super) failures: Vec<String>,
}

impl Clients {
    /// Starts servers in these pods, and opens a connection of each family to each.
    pub(super) async fn open(rig: &Rig, pods: impl Iterator<Item = &Pod>) -> Result<Self> {
        let mut client = Client::default();
        let (mut held, mut to, mut servers) = (Vec::new(), Vec::new(), Vec::new());
        let port = SERVED.to_string();
        for pod in pods {
            let serve = ContainerSpec::new("serve", ["serve", "--tcp", &port, "--udp", &port]);
            let server = pod.start(&serve).await?;
            server.wait_for_line("ready", LIMIT).await?;
            servers.push(server);
            for address in [pod.ipv4()?, pod.ipv6()?] {
                let address = SocketAddr::new(address, SERVED);
                held.push(client.open(rig.far(), address).await?);
                to.push(address);
            }
        }
        Ok(Self { client, held, to, _servers: servers, asked: 0, failures: Vec::new() })
    }

    /// A question on every held connection.
    pub(super) fn ask(&mut self) {
        for (held, to) in self.held.iter_mut().zip(&self.to) {
            self.asked += 1;
            let text = format!("question {}", self.asked);
            match tokio::task::block_in_place(|| held.request(&text)) {
                Ok(answer) if answer == format!("re:{text}") => {}
                Ok(answer) => self.failures.push(format!("{to} answered {answer:?}")),
                Err(error) => self.failures.push(format!("held connection to {to}: {error:#}")),
            }
        }
    }

    /// One round of everything.
    pub(super) async fn round(&mut self, far: &FarEnd) {
        self.ask();
        for to in self.to.clone() {
            self.asked += 3;
            match self.client.requests(far, to, 1).await {
                Ok(1) => {}
                other => self.failures.push(format!("new connection to {to}: {other:?}")),
            }
            match self.client.queries(far, to, 1).await {
                Ok(1) => {}
                other => self.failures.push(format!("datagram to {to}: {other:?}")),
            }
            match self.client.ping(far, to.ip()).await {
                Ok(true) => {}
                other => self.failures.push(format!("echo request to {to}: {other:?}")),
            }
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
