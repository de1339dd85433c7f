//! `sluice bench-datapath --names`: what a packet of an established flow costs where rules by name opened its address.
//!
//! As [`super::bench`] does it. The packet is a TLS `ClientHello` that shows the name which led to the address: rules by name
//! judge the flow by it, once, and all other repeats must find the verdict with the socket. Beside it a request of HTTP/1,
//! of which each is read: there is one cost for a request, not for a packet.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use sluice_abi::counter;
use sluice_policy::arbitrary::rng;
use sluice_policy::{Compiled, Flow, FlowProtocol, Name, Names, Shown};

use super::bench::{Options, compiled_from, time};
use super::{Scratch, baseline, packet};
use crate::agent::cgroup::Hierarchy;
use crate::datapath::Datapath;

/// How many names the policy's rules hold. Without any a rule with a network opens the address.
const NAMES: [u32; 3] = [0, 1, 1000];
/// Names in each rule.
const NAMES_PER_RULE: u32 = 100;
/// The ports that the rules open, where a flow must show its name.
const HTTPS: u16 = 443;
const HTTP: u16 = 80;
/// Learned from names, as far as there are rules by name.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));

/// One round of one size. Durations are nanoseconds a packet.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Sample {
    /// Number of the round.
    round: u32,
    /// Names in the pod's policy.
    names: u32,
    /// The baseline.
    baseline: f64,
    /// The baseline once more.
    control: f64,
    /// A packet whose flow was judged.
    established: f64,
    /// How often that flow was judged, in all repeats.
    judged: u64,
    /// A request of HTTP/1 in a flow that rules by name allowed.
    request: f64,
}

/// Runs it and prints a JSON line for each sample. The process's namespaces and cgroup are not what they were afterwards:
/// for a process that ends then.
pub fn print(options: &Options) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let root = options.cgroup_root.clone().map_or_else(Hierarchy::default_root, Ok)?;
    let scratch = Scratch::make(&root)?;
    let place = scratch.place();
    let (mut datapath, _events) = Datapath::open(&place)?;
    datapath.attach()?;
    let pod = fs::metadata(&scratch.pod)?.ino();
    datapath.set_levels(&[Hierarchy::of(&root)?.level(&scratch.pod)].into());
    datapath.set_endpoint(pod, 0, &[packet::SOURCE_V4.into()], false)?;
    let (egress, baseline) = (datapath.program(&place, "egress")?, baseline::load_program(&place)?);
    let mut rng = rng(options.seed);
    let (hello, request) = (hello(&mut rng)?, packet::packet(&flow(HTTP)?, &mut rng));
    let learned: Name = name(0).parse()?;

    let mut sizes = Vec::new();
    for names in NAMES {
        sizes.push((names, compiled(names)?));
    }
    for round in 0..options.rounds {
        sizes.shuffle(&mut rng);
        for (names, compiled) in &sizes {
            let ruleset = datapath.install(compiled)?;
            let from: &[Name] = if *names == 0 { &[] } else { std::slice::from_ref(&learned) };
            datapath.plant_learned(pod, ADDRESS, from, u64::MAX)?;
            datapath.flip(0, ruleset.id);
            let mut sample = Sample { round, names: *names, ..Sample::default() };
            let mut figures = [0, 1, 2, 3];
            figures.shuffle(&mut rng);
            let time =
                |program, packet: &[u8]| time(program, packet, scratch.interface, options.repeats, true);
            for figure in figures {
                match figure {
                    0 => sample.baseline = time(&baseline, &hello)?,
                    1 => sample.control = time(&baseline, &hello)?,
                    2 => sample.request = time(&egress, &request)?,
                    _ => {
                        let before = datapath.counters()?[counter::ALLOWED as usize];
                        sample.established = time(&egress, &hello)?;
                        sample.judged = datapath.counters()?[counter::ALLOWED as usize] - before;
                    }
                }
            }
            serde_json::to_writer(&mut out, &sample)?;
            writeln!(out)?;
            datapath.flip(0, sluice_abi::NO_POLICY);
            datapath.retire(&ruleset)?;
        }
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("n{number}.bench.test")
}

/// A TLS `ClientHello` (RFC 8446, section 4.1.2) that shows the first name.
fn hello(rng: &mut SmallRng) -> anyhow::Result<Vec<u8>> {
    /// Offsets of the length in the IP header and of the flags in the TCP header, behind an Ethernet header.
    const LENGTH: usize = 14 + 2;
    const FLAGS: usize = 14 + 20 + 13;
    const ACK_AND_PUSH: u8 = 0x18;
    let name = name(0);
    let length = |bytes: usize| (bytes as u16).to_be_bytes();
    // Of server_name (RFC 6066, section 3): type, lengths of extension, list and name.
    let mut extensions = vec![0, 0];
    extensions.extend([length(name.len() + 5), length(name.len() + 3)].concat());
    extensions.push(0);
    extensions.extend(length(name.len()));
    extensions.extend(name.bytes());
    // Version, random, no session, one cipher suite, no compression.
    let mut hello = vec![3, 3];
    hello.extend((0..32).map(|_| rng.random::<u8>()));
    hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
    hello.extend(length(extensions.len()));
    hello.extend(extensions);
    let mut flow = flow(HTTPS)?;
    flow.names.shown = None;
    let mut bytes = packet::packet(&flow, rng);
    bytes[FLAGS] = ACK_AND_PUSH;
    // The record, and the handshake in it.
    bytes.extend([0x16, 3, 1]);
    bytes.extend(length(hello.len() + 4));
    bytes.extend([1, 0]);
    bytes.extend(length(hello.len()));
    bytes.extend(hello);
    let whole = length(bytes.len() - 14);
    bytes[LENGTH..LENGTH + 2].copy_from_slice(&whole);
    Ok(bytes)
}

/// The flow, which shows the first name.
fn flow(port: u16) -> anyhow::Result<Flow> {
    let name: Name = name(0).parse()?;
    let names = Names { learned: vec![name.clone()], shown: Some(Shown::Name(name)) };
    Ok(Flow { destination: ADDRESS, protocol: FlowProtocol::Tcp, port, opaque: false, names, request: None })
}

fn compiled(names: u32) -> anyhow::Result<Compiled> {
    let mut text =
        "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: bench, namespace: bench}\n\
                    spec:\n  podSelector: {}\n  rules:\n"
            .to_owned();
    if names == 0 {
        writeln!(
            text,
            "  - {{action: Allow, to: [{{networks: [{ADDRESS}/32]}}], ports: [{{port: {HTTP}}}, {{port: {HTTPS}}}]}}"
        )?;
    }
    for first in (0..names).step_by(NAMES_PER_RULE as usize) {
        let all: Vec<String> = (first..names.min(first + NAMES_PER_RULE)).map(name).collect();
        let all = all.join(", ");
        writeln!(
            text,
            "  - {{action: Allow, to: [{{domainNames: [{all}]}}], ports: [{{port: {HTTP}}}, {{port: {HTTPS}}}]}}"
        )?;
    }
    compiled_from(&text)
}

#[cfg(test)]
mod tests {
    use super::{HTTP, HTTPS, NAMES, compiled, flow};
    use sluice_policy::Action;

    #[test]
    fn every_size_allows_what_is_sent() {
        for names in NAMES {
            let compiled = compiled(names).unwrap();
            for port in [HTTP, HTTPS] {
                let judged = compiled.judge(&flow(port).unwrap());
                assert_eq!(judged.applied, Action::Allow, "{names} names, port {port}");
            }
        }
    }
}
