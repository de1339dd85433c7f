//! Rules by domain name, with real servers and real clients: an address is open from the moment its name was answered, to
//! the pod that asked, and to nobody who was told by anybody else.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_cri::v1::Mount;
use serde_json::Value;

use self::server::{LIAR, Servers};
use crate::report::Report;
use crate::rig::net::FAR_ADDRESS;
use crate::rig::{Agent, ContainerSpec, Place, Pod, PodSpec, Rig, RigOptions};

mod idle;
mod libraries;
pub(crate) mod server;
mod told;

const NAMESPACE: &str = "names";
/// How long an event may take.
const LIMIT: Duration = Duration::from_secs(10);
/// What the lying server would have opened.
const LIE: &str = "203.0.113.66";

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Fresh names, each asked for and connected to at once.
    pub names: u32,
    /// Broken messages.
    pub broken: u32,
    /// Seed of the random choices.
    pub seed: u64,
}

/// Runs the suite.
pub async fn run(place: &Place, options: Options) -> Result<Report> {
    let mut report = Report::new("names", options.seed);
    let ports =
        RigOptions { tcp_ports: vec![8080, 443, 80], udp_ports: vec![443], ..RigOptions::with_sluice() };
    let rig = Rig::new(place, ports).await?;
    let directory = place.directory.join("names");
    let servers = Servers::start(&rig, &directory, options.seed).await?;
    write_etc(&directory.join("etc"))?;
    for (name, dns) in [("client", ""), ("restricted", "\n  dns: {queries: RuleNames}")] {
        rig.agent_directories().write_policy(name, &policy(name, dns))?;
    }
    rig.agent_directories().write_policy("told", &told::policy())?;
    rig.agent_directories().write_policy("idle", &idle::policy(idle::BOTH))?;
    let resolvers = format!("--resolvers={FAR_ADDRESS},2001:db8:ffff::2,{LIAR}");
    let mut agent = rig.start_agent(&[&resolvers]).await?;
    let pod = rig.run_pod(&PodSpec::new(NAMESPACE, "client", &[("app", "client")])).await?;
    let mut run = Run { report: &mut report, etc: directory.join("etc").display().to_string(), options };

    eprintln!("names: clients");
    run.clients(&agent, &pod).await?;
    eprintln!("names: names that flows show");
    run.shown(&agent, &pod).await?;
    eprintln!("names: what is told of flows");
    for name in ["told", "bare"] {
        let pod = rig.run_pod(&PodSpec::new(NAMESPACE, name, &[("app", name)])).await?;
        run.told(&agent, &pod, name).await?;
        pod.remove().await?;
    }
    run.ech(&pod, false).await?;
    eprintln!("names: an edit, and connections that wait");
    let idle = rig.run_pod(&PodSpec::new(NAMESPACE, "idle", &[("app", "idle")])).await?;
    run.idle(&rig, &idle).await?;
    idle.remove().await?;
    eprintln!("names: streams");
    run.streams(&agent, &pod).await?;
    eprintln!("names: lies, and {} broken messages", options.broken);
    run.lies(&agent, &pod).await?;
    eprintln!("names: restricted questions");
    let restricted = rig.run_pod(&PodSpec::new(NAMESPACE, "restricted", &[("app", "restricted")])).await?;
    run.restricted(&agent, &restricted).await?;
    // Last, for it uses up the pod's budget of events.
    eprintln!("names: {} fresh names", options.names);
    run.fresh(&pod, "", "1").await?;
    run.libraries(&pod, "", "1").await?;
    eprintln!("names: the agent is dead");
    agent.kill_hard()?;
    run.libraries(&pod, ", agent dead", "2").await?;
    run.fresh(&pod, ", agent dead", "2").await?;
    agent.restart().await?;
    let kept = learned(&agent, "client")?.keys().any(|name| name.ends_with("-2.allowed.test"));
    run.report.equal("learned while the agent was dead, known after", kept, "", true);

    agent.terminate().await?;
    agent = rig.start_agent(&[&resolvers, "--ech=outer-name"]).await?;
    run.ech(&pod, true).await?;

    pod.remove().await?;
    restricted.remove().await?;
    drop(servers);
    drop(agent);
    rig.shutdown().await?;
    Ok(report)
}

fn policy(name: &str, dns: &str) -> String {
    let names = "\"*.allowed.test\", \"*.way.test\", \"*.web.test\", \"*.lie.test\", \"*.broken.test\"";
    let rules = format!("[{{name: named, action: Allow, to: [{{domainNames: [{names}]}}]}}]{dns}");
    super::policy(NAMESPACE, name, name, &rules)
}

/// What the C library reads in the pods, and the client's script.
fn write_etc(etc: &Path) -> Result<()> {
    fs::create_dir_all(etc)?;
    let resolv = format!("nameserver {FAR_ADDRESS}\nnameserver 2001:db8:ffff::2\nsearch cluster.test\n");
    fs::write(etc.join("resolv.conf"), resolv)?;
    fs::write(etc.join("nsswitch.conf"), "hosts: files dns\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1 localhost\n")?;
    fs::write(etc.join("flows.py"), include_str!("flows.py"))?;
    fs::write(etc.join("client.py"), include_str!("client.py"))?;
    libraries::compile(etc)
}

/// What a pod has learned: addresses by name.
fn learned(agent: &Agent, pod: &str) -> Result<BTreeMap<String, Vec<IpAddr>>> {
    let said = agent.command(&["dns", &format!("{NAMESPACE}/{pod}"), "--output", "json"])?;
    let entries: Vec<Value> = serde_json::from_str(&said).context("what `sluice dns` says")?;
    let mut names: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    for entry in entries {
        let name = entry["name"].as_str().context("a name")?.to_owned();
        names.entry(name).or_default().push(entry["address"].as_str().context("an address")?.parse()?);
    }
    Ok(names)
}

struct Run<'a> {
    report: &'a mut Report,
    etc: String,
    options: Options,
}

impl Run<'_> {
    /// A container that runs one of the scripts.
    fn container(&self, script: &str, args: &[&str]) -> ContainerSpec {
        let mount = |host: &str, container: &str| Mount {
            host_path: host.to_owned(),
            container_path: container.to_owned(),
            readonly: true,
            ..Mount::default()
        };
        ContainerSpec {
            command: vec!["/usr/bin/python3".to_owned(), format!("/{script}")],
            mounts: vec![
                mount("/usr", "/usr"),
                mount("/usr/bin", "/bin"),
                mount("/usr/lib", "/lib"),
                mount("/usr/lib64", "/lib64"),
                mount(&format!("{}/resolv.conf", self.etc), "/etc/resolv.conf"),
                mount(&format!("{}/nsswitch.conf", self.etc), "/etc/nsswitch.conf"),
                mount(&format!("{}/hosts", self.etc), "/etc/hosts"),
                mount(&format!("{}/{script}", self.etc), &format!("/{script}")),
                mount(&format!("{}/{}", self.etc, libraries::MUSL), "/resolve-musl"),
            ],
            ..ContainerSpec::new(args[0], args.iter().copied())
        }
    }

    /// Runs a script in a pod: what it tells, in order.
    async fn script(&self, pod: &Pod, script: &str, args: &[&str]) -> Result<Vec<(String, Value)>> {
        let container = pod.start(&self.container(script, args)).await?;
        container.succeed().await?;
        let told = container
            .json()?
            .into_iter()
            .filter_map(|line| Some((line["what"].as_str()?.to_owned(), line["came"].clone())));
        Ok(told.collect())
    }

    /// Runs the client in a pod.
    async fn client(&self, pod: &Pod, args: &[&str]) -> Result<Vec<(String, Value)>> {
        self.script(pod, "client.py", args).await
    }

    /// Runs it and holds what it tells against what it should.
    async fn expect(&mut self, pod: &Pod, args: &[&str], wanted: &[(&str, Value)]) -> Result<()> {
        let told = self.client(pod, args).await?.into_iter().collect();
        self.compare(args[0], "", &told, wanted);
        Ok(())
    }

    /// Holds what a script told against what it should.
    fn compare(&mut self, about: &str, who: &str, told: &BTreeMap<String, Value>, wanted: &[(&str, Value)]) {
        for (what, came) in wanted {
            let found = told.get(*what).cloned().unwrap_or_default();
            self.report.equal(&format!("{who}{what}"), found, "", came.clone());
        }
        self.report.equal(&format!("{who}{about}: told"), told.len(), "", wanted.len());
    }

    async fn clients(&mut self, agent: &Agent, pod: &Pod) -> Result<()> {
        let connected = || Value::from("connected");
        let wanted = [
            ("dig A", 1.into()),
            ("dig AAAA only", 1.into()),
            ("dig a chain of CNAMEs", 4.into()),
            ("dig over TCP", 1.into()),
            ("dig 48 addresses, EDNS", 48.into()),
            ("dig truncated, then TCP", 48.into()),
            ("dig mixed case", 1.into()),
            ("dig what none may open", 6.into()),
            ("getent", 2.into()),
            ("connect a", connected()),
            ("connect c1", connected()),
            ("connect tcp", connected()),
            ("connect many", connected()),
            ("connect large", connected()),
            ("connect mixed", connected()),
            ("connect getent", connected()),
            ("connect six", connected()),
        ];
        self.expect(pod, &["clients"], &wanted).await?;
        let learned = learned(agent, "client")?;
        let of = |name: &str| learned.get(name).map_or(0, Vec::len);
        for (name, addresses) in
            [("many", 48), ("large", 48), ("c1", 1), ("six", 1), ("mixed", 1), ("getent", 2)]
        {
            let name = format!("{name}.way.test");
            self.report.equal(&format!("learned of {name}"), of(&name), "addresses", addresses);
        }
        let local = learned.get("local.way.test").cloned().unwrap_or_default();
        let only: Vec<String> = local.iter().map(IpAddr::to_string).collect();
        self.report.equal("learned of local.way.test", only, "", vec!["203.0.113.17"]);
        self.report.equal("learned of a chain's inner names", of("c2.way.test"), "addresses", 0);
        let asked = |event: &Value| event["kind"] == "dns" && event["domain"] == "six.way.test";
        let question =
            agent.wait_for_event(LIMIT, |event| asked(event) && event["reason"] == "asked").await?;
        self.report.equal("event of a question", question["dns_type"].clone(), "", "AAAA");
        let answered =
            |event: &Value| asked(event) && event["answers"] == serde_json::json!(["2001:db8:203::6"]);
        let answer = agent.wait_for_event(LIMIT, answered).await?;
        self.report.equal("event of an answer", answer["dst"].clone(), "", FAR_ADDRESS.to_string());
        Ok(())
    }

    async fn fresh(&mut self, pod: &Pod, when: &str, tag: &str) -> Result<()> {
        let names = self.options.names;
        let told = self.client(pod, &["fresh", &names.to_string(), tag]).await?;
        let denied = names / 10;
        let expected: BTreeMap<String, Value> =
            [("allowed: connected", names - denied), ("denied: EPERM", denied)]
                .map(|(what, number)| (what.to_owned(), number.into()))
                .into();
        let found: BTreeMap<String, Value> = told.into_iter().collect();
        self.report.equal(
            &format!("resolve, then connect at once{when}"),
            serde_json::to_value(found)?,
            "",
            serde_json::to_value(expected)?,
        );
        Ok(())
    }

    async fn shown(&mut self, agent: &Agent, pod: &Pod) -> Result<()> {
        let passed = [
            "right SNI",
            "right SNI in mixed case",
            "right SNI in segments",
            "right SNI in records",
            "right SNI in records and segments",
            "right Host",
            "right Host in segments",
        ];
        let cut = [
            "wrong SNI",
            "wrong SNI in segments",
            "no SNI",
            "no TLS",
            "wrong Host",
            "no Host",
            "a name that rules allow and DNS did not lead here by",
        ];
        let wanted: Vec<(&str, Value)> = passed
            .map(|what| (what, "passed".into()))
            .into_iter()
            .chain(cut.map(|what| (what, "cut".into())))
            .collect();
        self.expect(pod, &["shown"], &wanted).await?;
        for (kind, domain) in [
            ("tls", "pay.web.test"),
            ("tls", "other.example"),
            ("http", "pay.web.test"),
            ("http", "other.example"),
        ] {
            let told = |event: &Value| event["kind"] == kind && event["domain"] == domain;
            let event = agent.wait_for_event(LIMIT, told).await?;
            let what = format!("event of {domain} shown by {kind}");
            self.report.equal(&what, event["reason"].clone(), "", "it shows this name");
        }
        for port in [443, 80] {
            let denied = |event: &Value| event["action"] == "deny" && event["dport"] == port;
            let event = agent.wait_for_event(LIMIT, denied).await?;
            self.report.equal(
                &format!("event of a cut flow to {port}"),
                event["dst"].clone(),
                "",
                "203.0.113.80",
            );
        }
        Ok(())
    }

    /// DNS over TCP: what comes in pieces counts, what only looks like a message does not.
    async fn streams(&mut self, agent: &Agent, pod: &Pod) -> Result<()> {
        let wanted = [
            ("a question and an answer in pieces", 1.into()),
            ("two questions and two answers in a segment", 2.into()),
            ("an answer inside another", 1.into()),
        ];
        self.expect(pod, &["streams", &LIAR.to_string()], &wanted).await?;
        let all = learned(agent, "client")?;
        let found: Vec<&String> = all.keys().filter(|name| name.ends_with(".stream.test")).collect();
        let wanted = vec!["pieces.stream.test", "second.stream.test", "two.stream.test"];
        self.report.equal("learned over TCP", serde_json::to_value(found)?, "", wanted);
        let victim = all.contains_key("victim.lie.test");
        self.report.equal("learned from inside another answer", victim, "", false);
        Ok(())
    }

    async fn lies(&mut self, agent: &Agent, pod: &Pod) -> Result<()> {
        let (liar, own) = (LIAR.to_string(), pod.ipv4()?.to_string());
        let broken = self.options.broken.to_string();
        let told = self.client(pod, &["lies", &liar, &broken, &own]).await?;
        let told: BTreeMap<String, Value> = told.into_iter().collect();
        let all = learned(agent, "client")?;
        for kind in [
            "wrongid",
            "wrongname",
            "wrongtype",
            "noquestion",
            "loop",
            "short",
            "own server",
            "forged over loopback",
        ] {
            // The control: the client itself took it for an answer.
            let came = told.get(kind).cloned().unwrap_or_default();
            self.report.equal(&format!("lie: {kind}: came"), came, "", "answered");
        }
        let lied: Vec<&String> = all.keys().filter(|name| name.ends_with(".lie.test")).collect();
        self.report.equal("lie: names learned", serde_json::to_value(lied)?, "", Vec::<String>::new());
        // A broken message that can still be read is the trusted server's own word, for the name that was asked.
        let strange: Vec<&String> = all
            .iter()
            .filter(|(name, found)| {
                let its_own = [".broken.test", ".stream.test"].iter().any(|zone| name.ends_with(zone));
                found.iter().any(|address| address.to_string() == LIE) && !its_own
            })
            .map(|(name, _)| name)
            .collect();
        self.report.equal(
            "lie: opened for another name",
            serde_json::to_value(strange)?,
            "",
            Vec::<String>::new(),
        );
        let after = told.get("after them").cloned().unwrap_or_default();
        self.report.equal("a name after the broken messages", after, "", "connected");
        let answered = told.get("broken messages answered").cloned().unwrap_or_default();
        self.report.equal("broken messages that arrived", answered, "", self.options.broken);
        Ok(())
    }

    async fn restricted(&mut self, agent: &Agent, pod: &Pod) -> Result<()> {
        let wanted = [
            ("a name that a rule opens", "connected".into()),
            ("a tunnel", "EPERM".into()),
            ("a tunnel by the C library", "no address: EAI_AGAIN".into()),
            ("a tunnel over TCP", 0.into()),
            ("a search suffix", 0.into()),
        ];
        self.expect(pod, &["restricted", &FAR_ADDRESS.to_string()], &wanted).await?;
        let denied =
            |event: &Value| event["action"] == "deny" && event["domain"] == "c2vjcmv0lwrhdge.tunnel.test";
        let event = agent.wait_for_event(LIMIT, denied).await?;
        self.report.equal("event of a refused question", event["proto"].clone(), "", "udp");
        Ok(())
    }
}
