//! I6 of the design: replies are free, and only replies. A pod that may send nothing answers whoever asks it, and nothing
//! of its own gets out, to the very client neither. And I8: whatever is denied is told of, and fails at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use self::client::{ANSWER_LIMIT, Client, Held};
use super::detached;
use super::flood::{self, Arrivals, Line, TCP_PORT};
use crate::report::Report;
use crate::rig::net::{DESTINATIONS, Destinations, is_wire};
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions, binary};

pub(in crate::suite) mod client;
pub(in crate::suite) mod events;
mod older;

/// Where the pods live.
const NAMESPACE: &str = "inbound";
/// Where the pod serves.
const SERVED: u16 = 7000;
/// Connections of each family, one after the other.
const CONNECTIONS: u32 = 200;
/// Datagrams of each family and occasion.
const QUERIES: u32 = 20;
/// Rounds that a flood sends without a pause.
const ROUNDS: u32 = 30;
/// How long the flood goes on that the first requests meet.
const FLOOD_SECONDS: f64 = 6.0;
/// When an agent dies that exchanges the programs for another build's.
const DEATHS: [Duration; 8] = [
    Duration::from_millis(10),
    Duration::from_millis(30),
    Duration::from_millis(60),
    Duration::from_millis(100),
    Duration::from_millis(150),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(400),
];
/// How long an edit may take to show.
const EDIT_LIMIT: Duration = Duration::from_secs(15);
/// What the edit of the policy opens.
const OPENED: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 200));
/// The node's addresses on the pods' bridge.
const GATEWAYS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0x88, 0, 0, 0, 0, 1))];

/// A policy for pods with such a label, with these rules.
fn policy(name: &str, label: &str, rules: &str) -> String {
    super::policy(NAMESPACE, name, label, rules)
}

/// A rule that allows these addresses.
fn allow(name: &str, networks: &str) -> String {
    format!("[{{name: {name}, action: Allow, to: [{{networks: [{networks}]}}]}}]")
}

/// The suite on its way: the pod, its client, and what they have said to each other.
struct Run<'a> {
    rig: &'a Rig,
    report: Report,
    random: SmallRng,
    client: Client,
    pod: Pod,
    held: Vec<(String, Held)>,
}

/// Runs the suite.
pub async fn run(place: &Place, seed: u64) -> Result<Report> {
    let rig = Rig::new(place, RigOptions::with_sluice()).await?;
    let [allowed4, allowed6] = DESTINATIONS.allowed;
    let networks = format!("{allowed4}/32, \"{allowed6}/128\"");
    rig.agent_directories().write_policy("server", &policy("server", "server", "[]"))?;
    rig.agent_directories().write_policy("client", &policy("client", "client", &allow("open", &networks)))?;
    let before = rig.snapshot()?;
    let mut agent = rig.start_agent(&[]).await?;

    let mut report = Report::new("inbound", seed);
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "server", &[("app", "server")])).await?;
    events::denials(&mut report, &agent, &pod, (NAMESPACE, "server"), "inbound/server").await?;
    let caller = rig.run_pod(&PodSpec::new(NAMESPACE, "client", &[("app", "client")])).await?;
    let who = (NAMESPACE, "client");
    events::connects(&mut report, &agent, &caller, who, "inbound/client", "open").await?;
    caller.remove().await?;

    let random = SmallRng::seed_from_u64(seed);
    let mut run = Run { rig: &rig, report, random, client: Client::default(), pod, held: Vec::new() };
    run.whole(&mut agent).await?;
    let Run { mut report, pod, held, .. } = run;
    drop(held);
    pod.remove().await?;
    report.equal("capture_drops", rig.far().capture_drops()?, "frames", 0);
    report.equal("backlog_drops", rig.far().backlog_drops()?, "packets", 0);
    detached::check(&mut report, &rig, agent, &before).await?;
    rig.shutdown().await?;
    Ok(report)
}

impl Run<'_> {
    async fn whole(&mut self, agent: &mut Agent) -> Result<()> {
        let port = SERVED.to_string();
        let serve = ContainerSpec::new("serve", ["serve", "--tcp", &port, "--udp", &port]);
        let server = self.pod.start(&serve).await?;
        server.wait_for_line("ready", ANSWER_LIMIT).await?;
        self.hold().await?;
        self.control().await?;

        eprintln!("inbound: answers while another container floods");
        let destinations = self.destinations()?;
        let spec = flood::container("flood", self.random.random(), ROUNDS, FLOOD_SECONDS, &destinations);
        let flooding = self.pod.start(&spec).await?;
        self.answers("", CONNECTIONS).await?;
        self.node_probes().await?;
        let still = flooding.is_running().await?;
        self.report.equal("flooding meanwhile", still, "", true);
        self.own_socket().await?;
        let lines = flood::report(&flooding).await?;
        self.refused(&lines, "");

        eprintln!("inbound: an edit of the policy");
        self.edit(agent).await?;
        self.speak(", after an edit", true);
        self.answers(", after an edit", QUERIES).await?;

        eprintln!("inbound: the agent is dead");
        agent.kill_hard()?;
        self.speak(", agent dead", true);
        self.answers(", agent dead", QUERIES).await?;
        self.flood(", agent dead", &destinations).await?;

        eprintln!("inbound: the agent is back");
        agent.restart().await?;
        self.speak(", after a restart", true);
        self.answers(", after a restart", QUERIES).await?;
        self.flood(", after a restart", &destinations).await?;

        for (build, what) in [("sluice-rehearsal", "an upgrade"), ("sluice", "a downgrade")] {
            eprintln!("inbound: {what}, with other programs and other map layouts");
            // Half an exchange changes nothing: the next start begins anew.
            for delay in DEATHS {
                agent.kill_hard()?;
                agent.set_binary(binary(build)?);
                agent.spawn()?;
                tokio::time::sleep(delay).await;
            }
            agent.restart().await?;
            let when = format!(", after {what}");
            self.speak(&when, build == "sluice-rehearsal");
            self.answers(&when, QUERIES).await?;
            self.flood(&when, &destinations).await?;
        }

        eprintln!("inbound: Sluice is installed under a pod that runs");
        self.install_again(agent).await?;
        self.speak(", older than Sluice", false);
        self.answers(", older than Sluice", QUERIES).await?;
        self.flood(", older than Sluice", &destinations).await?;
        server.stop(Duration::from_secs(1)).await?;
        self.judge().await
    }

    /// Addresses of the pod, with what they are called.
    fn addresses(&self) -> Result<[(&'static str, IpAddr); 2]> {
        Ok([("IPv4", self.pod.ipv4()?), ("IPv6", self.pod.ipv6()?)])
    }

    /// What the floods go to: the very client, and a stranger.
    fn destinations(&self) -> Result<Destinations> {
        let address = |v6| self.client.address(v6).context("the client has no address of that family yet");
        Ok(Destinations { allowed: [address(false)?, address(true)?], forbidden: DESTINATIONS.forbidden })
    }

    /// Opens the connections that will be idle: one of each family that has spoken, one that has not yet.
    async fn hold(&mut self) -> Result<()> {
        for (family, address) in self.addresses()? {
            let to = SocketAddr::new(address, SERVED);
            let mut spoken = self.client.open(self.rig.far(), to).await?;
            let answer = spoken.request("first")?;
            self.report.equal(&format!("{family} connection answered"), answer, "", "re:first");
            self.held.push((format!("{family} idle connection"), spoken));
            let silent = self.client.open(self.rig.far(), to).await?;
            self.held.push((format!("{family} connection that was silent until then"), silent));
        }
        Ok(())
    }

    /// Speaks on the connections that were idle; the silent ones stay so, if they are to.
    fn speak(&mut self, when: &str, silence: bool) {
        for (name, held) in self.held.iter_mut().filter(|(name, _)| !(silence && name.contains("silent"))) {
            let answer = held.request("again").unwrap_or_else(|error| format!("{error:#}"));
            self.report.equal(&format!("{name}{when}"), answer, "", "re:again");
        }
    }

    /// New connections, datagrams and echo requests of both families are answered.
    async fn answers(&mut self, when: &str, connections: u32) -> Result<()> {
        for (family, address) in self.addresses()? {
            let (far, to) = (self.rig.far(), SocketAddr::new(address, SERVED));
            let answered = self.client.requests(far, to, connections).await;
            self.count(&format!("{family} tcp answered{when}"), answered, connections);
            let answered = self.client.queries(far, to, QUERIES).await;
            self.count(&format!("{family} udp answered{when}"), answered, QUERIES);
            let answered = self.client.ping(far, address).await?;
            self.report.equal(&format!("{family} ping answered{when}"), answered, "", true);
        }
        Ok(())
    }

    fn count(&mut self, name: &str, answered: Result<u32>, of: u32) {
        let answered = answered.map_or_else(|error| Value::from(format!("{error:#}")), Value::from);
        self.report.equal(name, answered, "", of);
    }

    /// Probes, as kubelet makes them: from the node's own namespace.
    async fn node_probes(&mut self) -> Result<()> {
        for ((family, address), gateway) in self.addresses()?.into_iter().zip(GATEWAYS) {
            let (local, answer) = client::probe_from_node(SocketAddr::new(address, SERVED)).await?;
            self.report.equal(
                &format!("{family} node's address"),
                local.to_string(),
                "",
                gateway.to_string(),
            );
            self.report.equal(&format!("{family} node's probe answered"), answer, "", "re:probe");
        }
        Ok(())
    }

    /// A socket that heard nothing may not send to where another socket of the pod's just answered.
    async fn own_socket(&mut self) -> Result<()> {
        let port = self.client.udp_port().context("no datagram was sent yet")?;
        for to in self.destinations()?.allowed {
            let family = if to.is_ipv6() { "IPv6" } else { "IPv4" };
            let outcome = events::attempt(&self.pod, "udp", to, port).await?;
            self.report.equal(
                &format!("{family} udp to the client from another socket"),
                outcome,
                "",
                "EPERM",
            );
            let outcome = events::attempt(&self.pod, "tcp", to, port).await?;
            self.report.equal(
                &format!("{family} tcp to the client from another socket"),
                outcome,
                "",
                "EPERM",
            );
        }
        Ok(())
    }

    /// A pod without a policy, to show that the floods would arrive.
    async fn control(&mut self) -> Result<()> {
        let pod = self.rig.run_pod(&PodSpec::new(NAMESPACE, "control", &[("app", "control")])).await?;
        let destinations = self.destinations()?;
        let spec = flood::container("flood", self.random.random(), 3, 0.0, &destinations);
        let lines = flood::report(&pod.start(&spec).await?).await?;
        self.rig.far().settle().await?;
        let arrivals = Arrivals::new(self.rig.far().counts());
        let arrived = lines.iter().filter(|line| arrivals.of_line(line, pod.ips(), &destinations) > 0);
        self.report.equal("control: ways that arrive", arrived.count(), "", lines.len());
        pod.remove().await
    }

    async fn flood(&mut self, when: &str, destinations: &Destinations) -> Result<()> {
        let spec = flood::container("flood", self.random.random(), ROUNDS, 0.0, destinations);
        let container = self.pod.start(&spec).await?;
        let lines = flood::report(&container).await?;
        self.refused(&lines, when);
        Ok(())
    }

    /// Every attempt of a flood failed with EPERM.
    fn refused(&mut self, lines: &[Line], when: &str) {
        let sum = |of: fn(&Line) -> u64| lines.iter().map(of).sum::<u64>();
        let attempted = sum(|line| line.attempted);
        self.report.some(&format!("attempted{when}"), attempted, "packets");
        let refused = sum(|line| line.errors.get("EPERM").copied().unwrap_or(0));
        self.report.equal(&format!("refused with EPERM{when}"), refused, "packets", attempted);
        for line in lines.iter().filter(|line| line.errors.get("EPERM") != Some(&line.attempted)) {
            eprintln!("not refused: {line:?}");
        }
    }

    /// Changes the compiled policy of the pod, and waits until it is in force.
    async fn edit(&mut self, agent: &Agent) -> Result<()> {
        let rules = allow("opened", &format!("{OPENED}/32"));
        agent.directories().write_policy("later", &policy("later", "server", &rules))?;
        let deadline = Instant::now() + EDIT_LIMIT;
        loop {
            let status: Value = serde_json::from_str(&agent.command(&["status", "--output", "json"])?)?;
            let pods = status["pods"].as_array().context("the status has no pods")?;
            if pods.iter().any(|pod| pod["name"] == "server" && pod["policies"].to_string().contains("later"))
            {
                break;
            }
            if Instant::now() > deadline {
                bail!("the edit does not show in the status: {status}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let outcome = events::attempt(&self.pod, "tcp", OPENED, TCP_PORT).await?;
        self.report.equal("the edit is in force", outcome, "", "connected");
        Ok(())
    }

    /// Counts what arrived at the far end.
    async fn judge(&mut self) -> Result<()> {
        self.rig.far().settle().await?;
        let counts = self.rig.far().counts();
        let seen = self.client.sort(&counts, self.pod.ips(), &[OPENED]);
        for example in seen.examples.iter().take(16) {
            eprintln!("leaked: {example}");
        }
        let (queries, pings) = (self.client.queries_sent(), self.client.pings_sent());
        self.report.equal("leaked", seen.own, "packets", 0);
        self.report.equal("answers to datagrams", seen.datagrams, "packets", queries);
        self.report.equal("answers to echo requests", seen.echoes, "packets", pings);
        let strangers = Arrivals::new(counts).from_strangers(|source| is_pods(source) || is_wire(source));
        self.report.equal("strangers", strangers, "", Vec::<String>::new());
        Ok(())
    }
}

/// Whether an address is of the pods' prefixes.
fn is_pods(address: IpAddr) -> bool {
    match (address, GATEWAYS) {
        (IpAddr::V4(address), [IpAddr::V4(gateway), _]) => address.octets()[..2] == gateway.octets()[..2],
        (IpAddr::V6(address), [_, IpAddr::V6(gateway)]) => address.segments()[..4] == gateway.segments()[..4],
        _ => false,
    }
}
