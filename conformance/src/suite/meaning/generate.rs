//! Random policies, as documents, and random flows to the far end of the rig.
//!
//! A generator of its own, which knows no more than what users are told: a reader and a writer that share a mistake would
//! agree. Addresses and ports come from few values, so that networks overlap, exceptions cut and ranges meet at their ends.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;
use rand::rngs::SmallRng;

use super::names;
use super::sockets::SERVED;

/// The last bytes of the far addresses that are used.
const HOSTS: [u8; 12] = [1, 2, 3, 7, 8, 9, 127, 128, 129, 192, 200, 254];
/// Ports that rules and flows use; some have a server at the far end.
const PORTS: [u16; 12] = [53, 80, 81, 443, 444, 1023, 1024, 8000, 8079, 8080, 8081, 65535];
/// Lengths of networks, as long as they say something about the far prefixes.
const LENGTHS4: [u8; 10] = [0, 5, 8, 24, 25, 26, 29, 30, 31, 32];
const LENGTHS6: [u8; 10] = [0, 3, 32, 48, 64, 120, 121, 124, 127, 128];

/// The pod that is governed.
pub(super) const NAMESPACE: &str = "shop";
/// Its labels.
pub(super) const LABELS: [(&str, &str); 2] = [("app", "web"), ("tier", "front")];

/// A flow to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// As the probe names it: `tcp`, `udp`, `udp-connected`, `icmp`, `sctp`, or a protocol number.
    pub(super) way: &'static str,
    pub(super) to: IpAddr,
    /// 0 where there is none.
    pub(super) port: u16,
    /// The name that it shows once it is open; of a connection that is closed at once none.
    pub(super) shows: Option<&'static str>,
}

impl Flow {
    /// What the policy is asked about.
    pub(super) fn protocol(&self) -> &'static str {
        if self.way == "udp-connected" { "udp" } else { self.way }
    }

    pub(super) fn has_port(&self) -> bool {
        matches!(self.protocol(), "tcp" | "udp" | "sctp")
    }
}

/// A flow that may fall on the edge of something.
pub(super) fn flow(random: &mut SmallRng) -> Flow {
    let ways = ["tcp", "tcp", "tcp", "udp", "udp-connected", "udp", "icmp", "sctp", "47"];
    let mut flow = Flow { way: pick(random, &ways), to: address(random), port: 0, shows: None };
    if flow.has_port() {
        flow.port = port(random);
    }
    if flow.way == "tcp" && random.random_bool(0.5) {
        flow.port = pick(random, &SERVED);
        let right = names::of(flow.to);
        let is_right = !right.is_empty() && random.random_bool(0.4);
        flow.shows = Some(pick(random, if is_right { &right } else { &names::SHOWN }));
    }
    flow
}

/// Documents of all kinds, the first of which is only there for its name.
pub(super) fn policies(random: &mut SmallRng, marker: &str) -> String {
    let mut text = format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {marker}, namespace: {NAMESPACE}}}\n\
         spec: {{podSelector: {{}}, priority: 1000, defaultAction: None, rules: []}}\n"
    );
    for number in 0..random.random_range(1..=6) {
        policy(random, &mut text, number);
    }
    text
}

fn policy(random: &mut SmallRng, text: &mut String, number: u32) {
    let cluster = random.random_bool(0.5);
    // The number comes last: names must not sort as the documents do.
    let name = format!("{}-{number}", pick(random, &["a", "b", "c", "d"]));
    let selector = selector(random, cluster);
    let priority = pick(random, &[0, 100, 500, 500, 1000]);
    let mode = if random.random_bool(0.2) { "Audit" } else { "Enforce" };
    let default = pick(random, &["Deny", "None", "None"]);
    let (kind, metadata) = if cluster {
        ("ClusterEgressPolicy", format!("{{name: {name}}}"))
    } else {
        ("EgressPolicy", format!("{{name: {name}, namespace: {NAMESPACE}}}"))
    };
    line(text, &format!("---\napiVersion: sluice.dev/v1alpha1\nkind: {kind}\nmetadata: {metadata}\nspec:"));
    if cluster {
        line(text, &format!("  tier: {}", pick(random, &["Admin", "Baseline"])));
    }
    line(text, &format!("{selector}\n  priority: {priority}\n  mode: {mode}\n  defaultAction: {default}"));
    let rules = random.random_range(0..=5);
    line(text, if rules == 0 { "  rules: []" } else { "  rules:" });
    for index in 0..rules {
        rule(random, text, index, cluster);
    }
}

/// Mostly one that selects the pod.
fn selector(random: &mut SmallRng, cluster: bool) -> String {
    let pods = pick(
        random,
        &[
            "{}",
            "{}",
            "{}",
            "{matchLabels: {app: web}}",
            "{matchLabels: {app: web, tier: front}}",
            "{matchExpressions: [{key: tier, operator: In, values: [front, back]}]}",
            "{matchExpressions: [{key: team, operator: DoesNotExist}]}",
            "{matchLabels: {app: other}}",
        ],
    );
    let namespaces = pick(
        random,
        &[
            "",
            "",
            "\n  namespaceSelector: {}",
            "\n  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}",
            "\n  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: elsewhere}}",
        ],
    );
    format!("  podSelector: {pods}{}", if cluster { namespaces } else { "" })
}

fn rule(random: &mut SmallRng, text: &mut String, index: u32, cluster: bool) {
    let actions = if cluster { &["Allow", "Deny", "Pass"][..] } else { &["Allow", "Deny"] };
    line(text, &format!("  - name: rule-{index}\n    action: {}", pick(random, actions)));
    if random.random_bool(0.9) {
        line(text, "    to:");
        let mut is_by_name = false;
        for _ in 0..random.random_range(1..=3) {
            is_by_name |= peer(random, text);
        }
        if is_by_name && random.random_bool(0.4) {
            line(text, &format!("    requireName: {}", random.random_bool(0.5)));
        }
    }
    if random.random_bool(0.6) {
        let matches: Vec<String> = (0..random.random_range(1..=3)).map(|_| port_match(random)).collect();
        line(text, &format!("    ports: [{}]", matches.join(", ")));
    }
}

/// Whether it goes by name.
fn peer(random: &mut SmallRng, text: &mut String) -> bool {
    if random.random_bool(0.05) {
        // No far address is a pod's.
        line(text, "    - pods: {podSelector: {}}");
        return false;
    }
    if random.random_bool(0.45) {
        let patterns: Vec<String> = (0..random.random_range(1..=2))
            .map(|_| format!("\"{}\"", pick(random, &names::PATTERNS)))
            .collect();
        line(text, &format!("    - domainNames: [{}]", patterns.join(", ")));
        return true;
    }
    let networks: Vec<(IpAddr, u8)> = (0..random.random_range(1..=3)).map(|_| network(random)).collect();
    let except: Vec<String> = (0..random.random_range(0..=3))
        .map(|_| network(random))
        .filter(|cut| networks.iter().any(|network| network != cut && covers(*network, *cut)))
        .map(written)
        .collect();
    let networks: Vec<String> = networks.into_iter().map(written).collect();
    line(text, &format!("    - networks: [{}]", networks.join(", ")));
    if !except.is_empty() {
        line(text, &format!("      except: [{}]", except.join(", ")));
    }
    false
}

fn port_match(random: &mut SmallRng) -> String {
    let protocol = pick(random, &["", "TCP", "UDP", "UDP", "SCTP", "ICMP"]);
    let protocol = if protocol.is_empty() { String::new() } else { format!("protocol: {protocol}") };
    if protocol.ends_with("ICMP") || (!protocol.is_empty() && random.random_bool(0.2)) {
        return format!("{{{protocol}}}");
    }
    let first = port(random);
    let last = port(random).max(first);
    let range = if random.random_bool(0.5) {
        format!("port: {first}, endPort: {last}")
    } else {
        format!("port: {first}")
    };
    if protocol.is_empty() { format!("{{{range}}}") } else { format!("{{{range}, {protocol}}}") }
}

/// An address at the far end.
fn address(random: &mut SmallRng) -> IpAddr {
    let host = pick(random, &HOSTS);
    far(random.random_range(0..4), host)
}

/// All that there are.
pub(super) fn addresses() -> impl Iterator<Item = IpAddr> {
    HOSTS.into_iter().flat_map(|host| (0..4).map(move |prefix| far(prefix, host)))
}

fn far(prefix: u32, host: u8) -> IpAddr {
    match prefix {
        0 => Ipv4Addr::new(203, 0, 113, host).into(),
        1 => Ipv4Addr::new(198, 51, 100, host).into(),
        2 => Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, host.into()).into(),
        _ => Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, host.into()).into(),
    }
}

fn network(random: &mut SmallRng) -> (IpAddr, u8) {
    let address = address(random);
    let length = pick(random, if address.is_ipv4() { &LENGTHS4 } else { &LENGTHS6 });
    (first(address, length), length)
}

/// The first address of the network of this length that an address lies in.
fn first(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn covers((outer, length): (IpAddr, u8), (inner, inner_length): (IpAddr, u8)) -> bool {
    outer.is_ipv4() == inner.is_ipv4() && length <= inner_length && first(inner, length) == outer
}

fn written((address, length): (IpAddr, u8)) -> String {
    format!("\"{address}/{length}\"")
}

fn port(random: &mut SmallRng) -> u16 {
    pick(random, &PORTS)
}

fn line(text: &mut String, line: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{line}");
}

fn pick<T: Copy>(random: &mut SmallRng, values: &[T]) -> T {
    values[random.random_range(0..values.len())]
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::{covers, flow, network, policies};

    #[test]
    fn a_seed_gives_the_same_again() {
        let once = |seed| {
            let mut random = SmallRng::seed_from_u64(seed);
            (policies(&mut random, "marker"), flow(&mut random))
        };
        assert_eq!(once(7), once(7));
        assert_ne!(once(7).0, once(8).0);
    }

    #[test]
    fn networks_cover_themselves_and_their_parts() {
        let mut random = SmallRng::seed_from_u64(1);
        for _ in 0..100 {
            let network = network(&mut random);
            let all = (if network.0.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap(), 0);
            assert!(covers(network, network) && covers(all, network));
            assert_eq!(covers(network, all), network.1 == 0);
        }
    }
}
