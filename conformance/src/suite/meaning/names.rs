//! Names, what they lead to, and what a flow by name may do.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::generate::{self, NAMESPACE};
use crate::report::Report;
use crate::rig::net::FAR_ADDRESS;
use crate::rig::{Agent, ContainerSpec, Pod};

/// Each name, and to which of the far addresses it leads, by their number modulo [`PARTS`]: so that some have one name, some
/// two and some none.
const NAMES: [(&str, [u32; 2]); 5] = [
    ("a.one.test", [0, 1]),
    ("b.one.test", [1, 2]),
    ("c.deep.one.test", [2, 3]),
    ("two.test", [3, 1]),
    ("a.two.test", [5, 5]),
];
const PARTS: u32 = 6;
/// What rules write.
pub(super) const PATTERNS: [&str; 9] = [
    "a.one.test",
    "b.one.test",
    "c.deep.one.test",
    "*.one.test",
    "*.deep.one.test",
    "two.test",
    "*.two.test",
    "*.test",
    "elsewhere.example",
];
/// What flows show: also what leads nowhere.
pub(super) const SHOWN: [&str; 7] =
    ["a.one.test", "b.one.test", "c.deep.one.test", "two.test", "a.two.test", "elsewhere.example", NONE];
/// Shows nothing that can be read.
pub(super) const NONE: &str = "none";
/// Types of questions (RFC 1035, RFC 3596).
const A: u16 = 1;
const AAAA: u16 = 28;

/// What leads to the far address of this number.
fn names_of(number: u32) -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().filter(move |(_, parts)| parts.contains(&(number % PARTS))).map(|(name, _)| name)
}

/// What leads to an address.
pub(super) fn of(address: IpAddr) -> Vec<&'static str> {
    let numbered = generate::addresses().zip(0..);
    numbered.filter(|(other, _)| *other == address).flat_map(|(_, number)| names_of(number)).collect()
}

/// The zone `test.`.
pub(super) fn zone() -> String {
    let mut zone =
        "$ORIGIN test.\n$TTL 60\n@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 192.0.2.2\n".to_owned();
    for (address, number) in generate::addresses().zip(0..) {
        let kind = if address.is_ipv6() { "AAAA" } else { "A" };
        for name in names_of(number) {
            // Writing to a String does not fail.
            let _ = writeln!(zone, "{name}. {kind} {address}");
        }
    }
    zone
}

/// The pod asks for everything, once: it counts for as long as the suite runs, whatever the policies say.
pub(super) async fn learn(agent: &Agent, pod: &Pod, report: &mut Report) -> Result<()> {
    let server = FAR_ADDRESS.to_string();
    for (name, _) in NAMES {
        for kind in [A, AAAA] {
            let kind = kind.to_string();
            let arguments =
                ["ask", "--server", &server, "--port", "53", "--name", name, "--count", "1", "--kind", &kind];
            pod.start(&ContainerSpec::new("ask", arguments)).await?.succeed().await?;
        }
    }
    let said = tokio::task::block_in_place(|| {
        agent.command(&["dns", &format!("{NAMESPACE}/{}", super::sockets::POD), "--output", "json"])
    })?;
    let learned: Vec<Value> = serde_json::from_str(&said).context("what `sluice dns` says")?;
    let all: usize = generate::addresses().map(|address| of(address).len()).sum();
    ensure!(all > 0, "names lead somewhere");
    report.equal("sockets: addresses learned", learned.len(), "", all);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{generate, of};

    #[test]
    fn addresses_have_none_one_or_two_names() {
        for count in 0..3 {
            assert!(generate::addresses().any(|address| of(address).len() == count), "{count}");
        }
    }
}
