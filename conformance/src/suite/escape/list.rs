//! The attempts: what each does, and what must be seen of it.

/// What is to be told of an attempt that the datapath judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// A denial of the forbidden address.
    Forbidden,
    /// A denial of the allowed address: for what a packet is, or in whose name.
    Allowed,
    /// A denial of this address.
    To(&'static str),
    /// Nothing, and why.
    Nothing(&'static str),
}

/// What becomes of the same attempt of a pod without a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    /// It arrives.
    Arrives,
    /// It may not either, and why.
    Cannot(&'static str),
}

/// What the rig has to do for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing.
    Alone,
    /// With the capability to mount.
    Mounting,
    /// Whatever goes to the allowed counts too: it is in another's name.
    Foreign,
    /// The far end connects to the pod, from the forbidden address.
    Visited,
    /// The far end connects to the pod from the port that the pod connects to.
    Crossing,
    /// The policy comes while it goes on.
    Later,
    /// The pod is removed while it goes on.
    Removed,
    /// The socket is another pod's.
    Given,
    /// The socket is the pod's, the process is another pod's.
    Taken,
}

/// An attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Escape {
    /// As the probe calls it, without the digit of the family.
    pub(super) name: &'static str,
    /// Families, by their digits; none where it makes no difference.
    pub(super) families: &'static str,
    /// What the attacker does.
    pub(super) what: &'static str,
    /// What must be told.
    pub(super) told: Told,
    /// What a pod without a policy gets.
    pub(super) control: Control,
    /// What the rig does.
    pub(super) way: Way,
    /// It is open by design, and this closes it.
    pub(super) closed_by: Option<&'static str>,
}

const fn row(name: &'static str, families: &'static str, what: &'static str, told: Told) -> Escape {
    Escape { name, families, what, told, control: Control::Arrives, way: Way::Alone, closed_by: None }
}

impl Escape {
    const fn by(mut self, way: Way) -> Self {
        self.way = way;
        self
    }

    const fn open(mut self, closed_by: &'static str) -> Self {
        self.closed_by = Some(closed_by);
        self
    }

    const fn cannot(mut self, why: &'static str) -> Self {
        self.control = Control::Cannot(why);
        self
    }
}

const KERNEL: Told = Nothing("the kernel refuses it, not policy");
const NOT_IP: Told = Nothing("no IP, and so no address to tell of");
const LOOPBACK: Told = Nothing("it never leaves the pod");
const ABSENT: &str = "as far as we know, nothing comes of it";

use Told::{Allowed, Forbidden, Nothing, To};

/// All of them.
pub(super) const ESCAPES: &[Escape] = &[
    // Plain sockets.
    row("udp", "46", "sendto, also to a port of the allowed that is not allowed", Forbidden),
    row("udp-connected", "46", "connect, send", Forbidden),
    row("udp-alternating", "46", "one socket, sendto the allowed and the forbidden in turn", Forbidden),
    row("udp-connected-sendto", "46", "connected to the allowed, sendto the forbidden", Forbidden),
    row("udp-reconnected", "46", "connected to the allowed, then to the forbidden", Forbidden),
    row("udp-mapped", "4", "IPv4-mapped addresses on an IPv6 socket", Forbidden),
    row("udp-many", "46", "sendmmsg with mixed destinations", Forbidden),
    row("udp-more", "46", "MSG_MORE and UDP_CORK with a change of destination", Forbidden),
    row("udp-port-zero", "46", "port 0", KERNEL).cannot("UDP has no port 0: EINVAL"),
    row("udp-broadcast", "4", "255.255.255.255 and the subnet's broadcast", To("255.255.255.255")),
    row("udp-multicast", "4", "link-local and site multicast", To("239.1.2.3")),
    row("udp-multicast", "6", "link-local and site multicast", To("ff05::77")),
    row("udp-link-local", "6", "a link-local address", To("fe80::66")),
    row("udp-fork", "46", "sent by a program that the container's executes", Forbidden),
    row("udp-options", "4", "IP_OPTIONS: source route, record route", Forbidden),
    row("udp-extensions", "6", "IPV6_HOPOPTS, IPV6_DSTOPTS, IPV6_RTHDR", Forbidden),
    row("udp-source", "46", "IP_PKTINFO with the own source", Forbidden),
    row(
        "udp-foreign-source",
        "46",
        "IP_TRANSPARENT, IP_FREEBIND: a neighbour's source, also to the allowed",
        Allowed,
    ),
    row("udp-device", "46", "SO_BINDTODEVICE eth0", Forbidden),
    row("udp-mark", "46", "SO_MARK", Forbidden),
    row("udp-segments", "46", "UDP_SEGMENT, corked too", Forbidden),
    row("udp-splice", "46", "sendfile and splice", Forbidden),
    row("udp-lite", "46", "UDP-Lite", Forbidden),
    row("udp-storage", "46", "option memory full, so that nothing is remembered with the socket", Forbidden),
    row("udp-ring", "46", "send by io_uring", Forbidden),
    row("group-join", "46", "the payload is the address of a group that is joined", NOT_IP)
        .open("a bridge with multicast snooping, or net.ipv4.igmp_max_memberships=0 and no IPv6 groups"),
    row("ping", "46", "echo request of a ping socket", Forbidden),
    row("ping-raw", "46", "echo request of a raw socket", Forbidden),
    // Connections.
    row("tcp", "46", "connect, also to a port of the allowed that is not allowed", Forbidden),
    row("tcp-port-zero", "46", "connect to port 0", Forbidden),
    row("tcp-mapped", "4", "an IPv4-mapped address on an IPv6 socket", Forbidden),
    row("tcp-fast-open", "46", "MSG_FASTOPEN: data in the SYN", Forbidden),
    row("tcp-fast-open-connect", "46", "TCP_FASTOPEN_CONNECT", Forbidden),
    row(
        "tcp-listen-connect",
        "46",
        "from the port of an own listener, by another socket and by the listener",
        Forbidden,
    ),
    row(
        "tcp-reconnected",
        "46",
        "connected to the allowed, AF_UNSPEC, connected to the forbidden",
        Forbidden,
    ),
    row("tcp-repair", "4", "TCP_REPAIR: no handshake", KERNEL).cannot("needs NET_ADMIN"),
    row("tcp-foreign-source", "46", "IP_TRANSPARENT: a neighbour's source, to the allowed", Allowed)
        .by(Way::Foreign),
    row("tcp-storage", "46", "option memory full, so that nothing is remembered with the socket", Forbidden),
    row("tcp-ring", "46", "connect and send by io_uring", Forbidden),
    row("mptcp", "46", "multipath TCP", Forbidden),
    row("sctp", "46", "SCTP, one to one", Forbidden),
    row("sctp-many", "46", "SCTP, one to many", Forbidden),
    row("dccp", "46", "DCCP", Forbidden),
    row("accept-reconnect", "46", "an accepted socket is disconnected and connects", Forbidden)
        .by(Way::Visited),
    row("reply-syn", "46", "a SYN made by hand to a peer that connected", Forbidden).by(Way::Visited),
    row("reply-after-close", "46", "a segment made by hand to a peer whose connection is over", Forbidden)
        .by(Way::Visited),
    row("simultaneous-open", "46", "both ends connect at once", Forbidden).by(Way::Crossing),
    // Packets by hand.
    row("raw-own", "46", "IP_HDRINCL, own source", Forbidden),
    row("raw-neighbour", "46", "IP_HDRINCL, a neighbour's source", Forbidden),
    row("raw-outside", "46", "IP_HDRINCL, a stranger's source", Forbidden),
    row("raw-spoof-allowed", "46", "IP_HDRINCL, a neighbour's source, to the allowed", Allowed),
    row("raw-tcp", "46", "a SYN and a segment by hand", Forbidden),
    row("raw-header-differs", "46", "the call names the allowed, the header the forbidden", Forbidden),
    row("raw-fragments", "46", "first and later fragments by hand", Forbidden),
    row("raw-source-route", "4", "a loose source route by the allowed, by hand", Allowed),
    row("raw-extensions", "6", "hop-by-hop, destination options, routing headers, by hand", Forbidden),
    row("raw-encapsulated", "46", "IP in IP, 6in4, GRE and ESP to the allowed", Allowed),
    row("raw-protocols", "46", "DCCP, SCTP, L2TP, UDP-Lite and other protocols, by hand", Forbidden),
    row(
        "raw-own-by-neighbour",
        "46",
        "to oneself by the header, to a neighbour by the frame",
        Nothing("judged by where it would go"),
    ),
    row(
        "raw-next-hop",
        "46",
        "to the allowed by the header, to a neighbour by the frame",
        Nothing("judged by the header"),
    )
    .open("no NET_RAW for the pod, or a CNI that routes each pod by a link of its own"),
    row("raw-loopback-outward", "4", "127.0.0.2 and 0.0.0.0 by the pod's interface", To("127.0.0.2")),
    row("raw-loopback-outward", "6", "::1 and :: by the pod's interface", To("::1")),
    row("raw-mapped", "6", "IPv6 on the wire to the mapped form of the allowed", Allowed),
    row("raw-neighbour-discovery", "6", "ND and MLD messages with a payload", Forbidden),
    row("raw-icmp-reply", "46", "echo replies and errors by hand", Forbidden),
    // In another's name.
    row("lo-datagram", "46", "a datagram of the forbidden over loopback, and an answer to it", Forbidden),
    row("lo-echo", "46", "an echo request of the forbidden over loopback: the kernel answers", Forbidden),
    row(
        "lo-unreachable",
        "46",
        "a datagram of the forbidden to a closed port: the kernel's error carries it",
        Forbidden,
    ),
    row("lo-reset", "46", "a SYN of the forbidden to a closed port: the kernel resets", Forbidden),
    row("lo-syn", "46", "a SYN of the forbidden to an own listener", Forbidden),
    row("lo-syn-cookie", "46", "the same, with the queue full: a cookie", Forbidden),
    row("lo-handshake", "46", "a whole handshake over loopback, and a write", Forbidden),
    row("lo-bound", "46", "SO_BINDTODEVICE lo", LOOPBACK).cannot("it never leaves the pod"),
    row("lo-forward", "46", "a frame on loopback that the pod's namespace forwards", Forbidden),
    row("lo-forward-icmp", "46", "the same, shaped like an answer of the network stack", Forbidden),
    row("lo-frame-echo", "46", "an echo request of the forbidden, a frame on loopback", Forbidden),
    row(
        "bounce-udp",
        "46",
        "a datagram of the forbidden, routed back in by the node, and an answer to it",
        Forbidden,
    ),
    row(
        "bounce-tcp",
        "46",
        "a SYN of the forbidden, routed back in by the node, and segments by hand",
        Forbidden,
    ),
    // Frames.
    row("frame-raw", "46", "AF_PACKET, SOCK_RAW", Forbidden),
    row("frame-datagram", "46", "AF_PACKET, SOCK_DGRAM", Forbidden),
    row("frame-bypass", "46", "AF_PACKET, PACKET_QDISC_BYPASS", Forbidden),
    row("frame-ring", "46", "AF_PACKET, PACKET_TX_RING", Forbidden),
    row("frame-spoof-allowed", "46", "AF_PACKET, a neighbour's source, to the allowed", Allowed),
    row("frame-mac", "46", "AF_PACKET, another MAC address", Forbidden),
    row("frame-vlan", "46", "AF_PACKET, behind a VLAN tag", NOT_IP),
    row("frame-arp", "", "AF_PACKET: claims a neighbour's address by ARP", NOT_IP),
    row("frame-ethertype", "", "AF_PACKET, a protocol for experiments", NOT_IP),
    row("frame-pppoe", "", "AF_PACKET, PPPoE", NOT_IP),
    row("frame-mpls", "", "AF_PACKET, MPLS", NOT_IP),
    row("frame-short", "", "AF_PACKET: says that it is IP, and is not", NOT_IP)
        .cannot("a bridge may drop it"),
    row("xdp", "46", "AF_XDP", Forbidden),
    row("xdp-fragment", "46", "AF_XDP, a later fragment", Forbidden),
    row("xdp-icmp", "46", "AF_XDP, shaped like an answer of the network stack", Forbidden),
    row("tun", "", "a TUN device", KERNEL).cannot("the devices of a container do not have it"),
    // Other families.
    row("smc", "46", "AF_SMC", Forbidden),
    row("rds", "", "AF_RDS", KERNEL).cannot(ABSENT),
    row("rxrpc", "", "AF_RXRPC", KERNEL).cannot(ABSENT),
    row("pppoe", "", "AF_PPPOX", KERNEL).cannot(ABSENT),
    row("llc", "", "AF_LLC", KERNEL).cannot(ABSENT),
    row("tipc", "", "AF_TIPC", KERNEL).cannot(ABSENT),
    row(
        "vsock",
        "",
        "AF_VSOCK to a machine that is not there",
        Nothing("not IP: the runtime's seccomp profile closes it"),
    )
    .cannot("no such machine"),
    // Who, where and when.
    row("namespaces", "46", "unshare user and network, with sockets of before", Forbidden),
    row("nested-cgroup", "46", "children of the container's cgroup", Forbidden).by(Way::Mounting),
    row("foreign-cgroup", "46", "a cgroup beside the pod's", KERNEL).by(Way::Mounting).cannot(ABSENT),
    row("daemon", "46", "a grandchild that outlives the container's first process", Forbidden),
    row("take", "46", "sockets of another pod, by SCM_RIGHTS", Forbidden)
        .by(Way::Given)
        .open("no volume that pods of different policy can both write to"),
    row("give", "46", "the pod's sockets used by another pod, by SCM_RIGHTS", Forbidden).by(Way::Taken),
    row("before-policy", "46", "sockets that are older than the policy", Forbidden).by(Way::Later),
    row("orphan", "46", "unsent bytes of a closed connection that is older than the policy", Forbidden)
        .by(Way::Later),
    row("flood-to-death", "46", "the pod is removed while it floods", Forbidden).by(Way::Removed),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::ESCAPES;

    #[test]
    fn every_attempt_is_named_once() {
        let mut names = HashSet::new();
        for escape in ESCAPES {
            assert!(escape.families.chars().all(|digit| "46".contains(digit)), "{escape:?}");
            let families = if escape.families.is_empty() { "-" } else { escape.families };
            for digit in families.chars() {
                assert!(names.insert((escape.name, digit)), "{escape:?}");
            }
        }
    }
}
