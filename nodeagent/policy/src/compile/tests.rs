//! The shape of what is compiled, and its size.

use std::fmt::Write as _;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

use super::cover::cover;
use super::*;
use crate::arbitrary::rng;
use crate::evaluate::evaluate;
use crate::flow::{Names, RuleId};
use crate::model::{Policy, Tier};
use crate::parse::parse;
use rand::Rng;

fn selection(text: &str) -> Selection {
    Selection::new(parse("test.yaml", text).expect("valid policies").into_iter().map(Arc::new))
}

fn own(name: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\n\
         spec: {{podSelector: {{}}, rules: [{rules}]}}\n"
    )
}

/// The compiled form as text: a line for each prefix, then the lists.
fn shown(compiled: &Compiled) -> String {
    let mut text = String::new();
    for (prefix, list) in &compiled.prefixes {
        let address = std::net::Ipv6Addr::from(prefix.address);
        writeln!(text, "{address}/{} -> {list}", prefix.length).expect("a string takes all");
    }
    for (number, list) in compiled.lists.iter().enumerate() {
        write!(text, "list {number}:").expect("a string takes all");
        for entry in &list.entries {
            let CompiledRuling { applied, applied_rule, .. } = entry.ruling;
            let rule = applied_rule.map_or_else(|| "-".to_owned(), |rule| rule.to_string());
            write!(text, " {:?}:{}/{}={applied:?}({rule})", entry.class, entry.port, entry.length)
                .expect("a string takes all");
        }
        text.push('\n');
    }
    for (number, rule) in compiled.rules.iter().enumerate() {
        writeln!(text, "{number} = {rule}").expect("a string takes all");
    }
    text
}

#[test]
fn golden() {
    let text = own(
        "web",
        "{action: Allow, to: [{networks: [10.0.0.0/8], except: [10.9.0.0/16]}], ports: [{port: 443}]}, \
         {name: never, action: Allow, to: [{networks: [10.0.0.0/8], except: [10.9.0.0/16]}], ports: [{port: 443}]}, \
         {action: Allow, to: [{networks: [\"2001:db8::/32\"]}], ports: [{port: 8000, endPort: 8080}, {protocol: ICMP}]}",
    );
    let compiled = compile(&selection(&text), &World::default(), Posture::Enforce);
    assert_eq!(
        shown(&compiled),
        "\
::/0 -> 0
::ffff:0.0.0.0/96 -> 0
::ffff:10.0.0.0/104 -> 2
::ffff:10.9.0.0/112 -> 0
2001:db8::/32 -> 1
list 0: Tcp:0/0=Deny(2) Udp:0/0=Deny(2) Sctp:0/0=Deny(2) Icmp:0/0=Deny(2) Other:0/0=Deny(2) Opaque:0/0=Deny(2)
list 1: Tcp:0/0=Deny(2) Tcp:8000/10=Allow(1) Tcp:8064/12=Allow(1) Tcp:8080/16=Allow(1) Udp:0/0=Deny(2) \
Sctp:0/0=Deny(2) Icmp:0/0=Allow(1) Other:0/0=Deny(2) Opaque:0/0=Deny(2)
list 2: Tcp:0/0=Deny(2) Tcp:443/16=Allow(0) Udp:0/0=Deny(2) Sctp:0/0=Deny(2) Icmp:0/0=Deny(2) Other:0/0=Deny(2) \
Opaque:0/0=Deny(2)
0 = EgressPolicy default/web, rule 0
1 = EgressPolicy default/web, rule 2
2 = EgressPolicy default/web, default action
"
    );
}

#[test]
fn patterns_lead_to_what_they_and_those_above_add() {
    let text = own(
        "web",
        "{action: Allow, to: [{domainNames: [\"*.b.test\"]}], ports: [{port: 443}]}, \
         {action: Deny, to: [{domainNames: [x.a.b.test, \"*.a.b.test\"]}]}, \
         {action: Allow, to: [{networks: [10.0.0.0/8]}]}",
    );
    let compiled = compile(&selection(&text), &World::default(), Posture::Enforce);
    let patterns: Vec<String> = compiled
        .names
        .iter()
        .map(|entry| format!("{} {} {:?}", entry.pattern, entry.opens, entry.list))
        .collect();
    // The two that a `*.` pattern lies above without meaning them have entries of their own.
    assert_eq!(
        patterns,
        [
            "a.b.test true Some(2)",
            "b.test false None",
            "x.a.b.test true Some(3)",
            "*.a.b.test true Some(3)",
            "*.b.test true Some(2)",
        ]
    );
    let list = &compiled.lists[2];
    assert_eq!(list.entries.len(), 2, "TCP 443 and the other ports: {list:?}");
    let entry = list.entry(Class::Tcp, 443).expect("an entry");
    let steps = &compiled.steps[entry.steps.expect("steps") as usize];
    assert!(steps.shown.iter().any(Option::is_some), "{steps:?}");
    assert!(steps.learned.iter().chain(&steps.unread).all(Option::is_none), "a name is required: {steps:?}");
    assert_eq!(list.entry(Class::Tcp, 80).and_then(|entry| entry.steps), None);
    assert!(list.entry(Class::Udp, 443).is_none());
    // Where no rule by name could match, an address's list needs no steps.
    let rules = own("plain", "{action: Allow, to: [{networks: [10.0.0.0/8]}]}");
    let plain = compile(&selection(&rules), &World::default(), Posture::Enforce);
    assert!(plain.steps.is_empty() && plain.names.is_empty());
    assert!(plain.lists.iter().flat_map(|list| &list.entries).all(|entry| entry.steps.is_none()));
}

#[test]
fn prefixes_that_change_nothing_are_left_out() {
    let text = own(
        "web",
        "{action: Allow, to: [{networks: [10.0.0.0/8]}]}, {action: Allow, to: [{networks: [10.1.0.0/16]}]}",
    );
    let compiled = compile(&selection(&text), &World::default(), Posture::Enforce);
    assert_eq!(compiled.prefixes.len(), 3, "both roots and 10.0.0.0/8");
    assert_eq!(compiled.rules.len(), 2, "the rule that never decides has no name");
}

#[test]
fn equal_selections_are_equal_and_hash_alike() {
    let text = own("web", "{action: Allow, to: [{networks: [10.0.0.0/8]}], ports: [{port: 1}, {port: 5}]}");
    let [a, b] = [0, 1].map(|_| compile(&selection(&text), &World::default(), Posture::Enforce));
    assert_eq!(a, b);
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    assert_eq!(hasher.hash_one(&a), hasher.hash_one(&b));
    let other = own("web", "{action: Allow, to: [{networks: [10.0.0.0/8]}], ports: [{port: 1}, {port: 6}]}");
    assert_ne!(a, compile(&selection(&other), &World::default(), Posture::Enforce));
}

#[test]
fn prefixes_hold_what_they_should() {
    let address = |text: &str| bytes(text.parse().expect("an address"));
    let network = |text: &str| Prefix::from(&text.parse::<Network>().expect("a network"));
    for (prefix, inside, outside) in [
        ("10.0.0.0/8", "10.255.255.255", "11.0.0.0"),
        ("10.0.0.0/9", "10.127.255.255", "10.128.0.0"),
        ("10.0.0.1/32", "10.0.0.1", "10.0.0.0"),
        ("0.0.0.0/0", "255.255.255.255", "::fffe:0:0"),
        ("2001:db8::/33", "2001:db8:7fff::", "2001:db8:8000::"),
        ("::1/128", "::1", "::"),
    ] {
        let prefix = network(prefix);
        assert!(prefix.contains(&address(inside)) && !prefix.contains(&address(outside)));
        assert_eq!(Prefix::truncated(&address(inside), prefix.length), prefix);
        assert_ne!(Prefix::truncated(&address(outside), prefix.length), prefix);
    }
    assert_eq!(network("0.0.0.0/0"), Prefix::IPV4);
    assert_eq!(network("::/0"), Prefix::ALL);
}

fn ruling(number: u32) -> CompiledRuling {
    CompiledRuling { applied_rule: Some(number), ..CompiledRuling::SILENT }
}

#[test]
fn a_cover_gives_every_port_its_ruling_with_few_entries() {
    let mut rng = rng(7);
    for _ in 0..300 {
        let mut starts: Vec<u32> = (0..rng.random_range(0..8)).map(|_| rng.random_range(1..65536)).collect();
        starts.push(0);
        starts.sort_unstable();
        starts.dedup();
        let parts: Vec<(u32, CompiledRuling)> =
            starts.iter().map(|start| (*start, ruling(rng.random_range(0..3)))).collect();
        let entries: Vec<PortEntry> = cover(&parts)
            .into_iter()
            .map(|(port, length, ruling)| PortEntry { class: Class::Tcp, port, length, ruling, steps: None })
            .collect();
        let list = List { entries };
        let edges =
            parts.iter().flat_map(|(start, _)| [start.saturating_sub(1), *start, (start + 1).min(65535)]);
        for port in edges.chain([65535]) {
            let expected = parts.iter().rev().find(|(start, _)| *start <= port).expect("port 0 has a part").1;
            assert_eq!(list.ruling(Class::Tcp, port as u16), expected, "port {port} of {parts:?}");
        }
        assert!(list.entries.len() <= 1 + 31 * parts.len());
    }
    let everything_but_one = [(0, ruling(0)), (443, ruling(1)), (444, ruling(0))];
    assert_eq!(cover(&everything_but_one), [(0, 0, ruling(0)), (443, 16, ruling(1))]);
}

/// Policies of 500 rules each; every rule has a network of its own, some of them inside others.
fn many_rules(policies: usize) -> Vec<Policy> {
    let mut text = String::new();
    for policy in 0..policies {
        let mut rules = String::new();
        for rule in 0..500 {
            let number = policy * 500 + rule;
            let network = match rule % 10 {
                0 => format!("10.{}.{}.0/24", number / 10 / 256, number / 10 % 256),
                1 => format!("2001:db8:{number:x}::/48"),
                _ => format!("10.{}.{}.{}/32", number / 10 / 256, number / 10 % 256, number % 256),
            };
            let action = if rule % 7 == 0 { "Deny" } else { "Allow" };
            let port = 1 + number % 1000;
            write!(
                rules,
                "{{action: {action}, to: [{{networks: [\"{network}\"]}}], ports: [{{port: {port}, endPort: {}}}]}}, ",
                port + number % 50
            )
            .expect("a string takes all");
        }
        text.push_str(&own(&format!("p{policy:03}"), &rules));
    }
    parse("many.yaml", &text).expect("valid policies")
}

#[test]
fn ten_thousand_rules_are_compiled_and_right() {
    let policies = many_rules(20);
    let selection = Selection::new(policies.into_iter().map(Arc::new));
    assert_eq!(selection.tier(Tier::Namespace).iter().map(|p| p.rules.len()).sum::<usize>(), 10_000);
    let world = World::default();
    let started = std::time::Instant::now();
    let compiled = compile(&selection, &world, Posture::Enforce);
    println!(
        "{:?} for {} prefixes, {} lists, {} entries",
        started.elapsed(),
        compiled.prefixes.len(),
        compiled.lists.len(),
        compiled.entries()
    );
    assert!(compiled.prefixes.len() >= 10_000);
    let mut rng = rng(1);
    for _ in 0..200 {
        let number: usize = rng.random_range(0..10_000);
        let destination = format!("10.{}.{}.{}", number / 10 / 256, number / 10 % 256, number % 256);
        let flow = Flow {
            destination: destination.parse().expect("an address"),
            protocol: FlowProtocol::Tcp,
            port: (1 + number % 1000 + rng.random_range(0..60)) as u16,
            opaque: false,
            names: Names::default(),
            request: None,
        };
        let (quick, slow) = (compiled.judge(&flow), evaluate(&selection, &world, Posture::Enforce, &flow));
        assert_eq!(
            (quick.applied, compiled.rule(quick.applied_rule)),
            (slow.applied.action, slow.applied.by.as_ref())
        );
    }
}

#[test]
fn a_limit_ends_the_compiling_early() {
    let text = own("web", "{action: Allow, to: [{networks: [10.0.0.0/8]}], ports: [{port: 1}]}");
    let (selection, world) = (selection(&text), World::default());
    let compiled = compile(&selection, &world, Posture::Enforce);
    let within = |limit| compile_within(&selection, &world, Posture::Enforce, limit);
    assert_eq!(within(compiled.entries()), Ok(compiled.clone()));
    let limit = compiled.entries() - 1;
    let error = within(limit).expect_err("one entry too many");
    assert_eq!(error, CompileError::TooLarge(limit));
    assert!(
        error
            .to_string()
            .starts_with(&format!("the policies need more than {limit} entries; use fewer rules"))
    );
}

#[test]
fn names_are_numbered_in_the_order_of_the_rules() {
    let text = own("web", "{action: Allow, ports: [{port: 9}]}, {action: Deny, ports: [{port: 1}]}");
    let compiled = compile(&selection(&text), &World::default(), Posture::Log);
    let indexes: Vec<Option<u32>> =
        compiled.rules.iter().map(|r| r.rule.as_ref().map(|RuleId { index, .. }| *index)).collect();
    assert_eq!(indexes, [Some(0), Some(1), None]);
    assert!(compiled.lists.iter().flat_map(|l| &l.entries).all(|e| e.ruling.applied == Action::Allow));
}
