//! The wire: a node network namespace (the rig's own) and a far one, joined by a veth pair.
//!
//! ```text
//! pods 10.88.0.0/16, fd00:10:88::/64          203.0.113.0/24   198.51.100.0/24
//!   └ rig-br0 ─ node ─ rig-far ═══ rig-node ─ far: every address of these prefixes
//!              192.0.2.1/30   192.0.2.2/30    2001:db8:203::/64  2001:db8:198::/64
//! ```
//!
//! Nothing translates addresses: the far end sees every pod by its own.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};

use super::command::{ip, run};
use super::containerd::TICK;

/// The bridge that the pods hang on.
pub const BRIDGE: &str = "rig-br0";
/// Pods' addresses.
pub const POD_SUBNETS: [&str; 2] = ["10.88.0.0/16", "fd00:10:88::/64"];
/// Prefixes of which every address is at the far end. Suites take allowed and forbidden destinations from them.
pub const FAR_PREFIXES: [&str; 4] =
    ["203.0.113.0/24", "198.51.100.0/24", "2001:db8:203::/64", "2001:db8:198::/64"];
/// The far end's address on the wire itself.
pub const FAR_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const FAR_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 2);
/// The far network namespace.
pub(super) const FAR: &str = "rig-far";
const NODE_SIDE: &str = "rig-far";
pub(super) const FAR_SIDE: &str = "rig-node";
const NODE_MAC: &str = "02:00:00:00:00:01";
const FAR_MAC: &str = "02:00:00:00:00:02";
/// How long the kernel may take to bring the wire up.
const UP_LIMIT: Duration = Duration::from_secs(10);

/// Destinations that suites use: one of each family from the `203` prefixes, one of each from the `198` ones.
#[derive(Clone, Copy, Debug)]
pub struct Destinations {
    /// IPv4, IPv6.
    pub allowed: [IpAddr; 2],
    /// IPv4, IPv6.
    pub forbidden: [IpAddr; 2],
}

/// What the suites allow and forbid unless they need something else.
pub const DESTINATIONS: Destinations = Destinations {
    allowed: [
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x10)),
    ],
    forbidden: [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 0x10)),
    ],
};

/// Whether an address belongs to the wire itself, or stays on one link.
pub fn is_wire(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [192, 0, 2] || v4.is_unspecified(),
        IpAddr::V6(v6) => {
            v6.segments()[..3] == FAR_ADDRESS6.segments()[..3]
                || v6.is_unicast_link_local()
                || v6.is_unspecified()
        }
    }
}

/// Makes the wire. The calling thread must be in the node's network namespace.
pub(super) fn build() -> Result<()> {
    set("ipv4/ip_forward", "1")?;
    set("ipv6/conf/all/forwarding", "1")?;
    no_dad()?;
    ip("link set lo up")?;
    ip(&format!("netns add {FAR}"))?;
    ip(&format!(
        "link add {NODE_SIDE} address {NODE_MAC} type veth peer name {FAR_SIDE} address {FAR_MAC} netns {FAR}"
    ))?;
    in_far(|| -> Result<()> {
        no_dad()?;
        // Of the far IPv6 prefixes no address is configured, but the servers answer from all of them.
        set("ipv6/ip_nonlocal_bind", "1")?;
        set("core/somaxconn", "65535")?;
        set("ipv4/tcp_max_syn_backlog", "65535")?;
        Ok(())
    })?
    .join()
    .expect("no panic")?;
    let far = |arguments: &str| ip(&format!("-n {FAR} {arguments}"));
    ip(&format!("addr add 192.0.2.1/30 dev {NODE_SIDE}"))?;
    ip(&format!("addr add 2001:db8:ffff::1/126 dev {NODE_SIDE} nodad"))?;
    ip(&format!("link set {NODE_SIDE} up"))?;
    far("link set lo up")?;
    far(&format!("addr add {FAR_ADDRESS}/30 dev {FAR_SIDE}"))?;
    far(&format!("addr add {FAR_ADDRESS6}/126 dev {FAR_SIDE} nodad"))?;
    far(&format!("link set {FAR_SIDE} up"))?;
    // Fixed neighbours: a queue that waits for a resolution may drop packets that the suites count.
    ip(&format!("neigh replace {FAR_ADDRESS} lladdr {FAR_MAC} dev {NODE_SIDE} nud permanent"))?;
    ip(&format!("neigh replace {FAR_ADDRESS6} lladdr {FAR_MAC} dev {NODE_SIDE} nud permanent"))?;
    far(&format!("neigh replace 192.0.2.1 lladdr {NODE_MAC} dev {FAR_SIDE} nud permanent"))?;
    far(&format!("neigh replace 2001:db8:ffff::1 lladdr {NODE_MAC} dev {FAR_SIDE} nud permanent"))?;
    far("route add default via 192.0.2.1")?;
    far("route add default via 2001:db8:ffff::1")?;
    for prefix in FAR_PREFIXES {
        let via = if prefix.contains(':') { FAR_ADDRESS6.to_string() } else { FAR_ADDRESS.to_string() };
        ip(&format!("route add {prefix} via {via}"))?;
        far(&format!("route add local {prefix} dev lo"))?;
    }
    Ok(())
}

/// Waits until both ends of the wire have their link-local address, with the route that comes with it. The kernel gives it to
/// them once it has noticed, by a worker of its own, that the link is there.
pub(super) fn wait_up() -> Result<()> {
    let deadline = Instant::now() + UP_LIMIT;
    for (namespace, end) in [(&[][..], NODE_SIDE), (&["-n", FAR], FAR_SIDE)] {
        let question = ["-6", "route", "show", "table", "local", "dev", end];
        while !run("ip", namespace.iter().chain(&question))?.contains("local fe80::") {
            ensure!(Instant::now() < deadline, "{end}, an end of the wire, does not come up");
            std::thread::sleep(TICK);
        }
    }
    Ok(())
}

/// Runs a function in a thread that is in the far network namespace.
pub(super) fn in_far<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    let namespace = fs::File::open(format!("/run/netns/{FAR}")).context("the far end is not there")?;
    let thread = std::thread::Builder::new().name("far".to_owned()).spawn(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).expect("root may enter its own namespaces");
        run()
    })?;
    Ok(thread)
}

/// Sets a sysctl of the calling thread's network namespace.
fn set(name: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value).with_context(|| format!("cannot set net/{name}"))
}

/// No duplicate address detection on links that come later: it delays every address by a second.
fn no_dad() -> Result<()> {
    set("ipv6/conf/all/accept_dad", "0")?;
    set("ipv6/conf/default/accept_dad", "0")?;
    set("ipv6/conf/default/dad_transmits", "0")
}
