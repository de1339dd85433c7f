//! Packets for `BPF_PROG_TEST_RUN`: the bytes of a flow, with an Ethernet header in front.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::Rng;
use rand::rngs::SmallRng;
use sluice_policy::{Flow, FlowProtocol, Shown};

const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;
/// The pod's address in every IPv4 packet.
pub(super) const SOURCE_V4: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, 2);

/// A packet of this flow, as a socket of the pod would send it.
pub(super) fn packet(flow: &Flow, rng: &mut SmallRng) -> Vec<u8> {
    match flow.destination.to_canonical() {
        IpAddr::V4(destination) => ipv4(destination, flow, rng),
        IpAddr::V6(destination) => ipv6(destination, flow, rng),
    }
}

fn ipv4(destination: Ipv4Addr, flow: &Flow, rng: &mut SmallRng) -> Vec<u8> {
    let (mut protocol, transport) = transport(flow, false);
    let mut options: &[u8] = &[];
    // "Don't fragment" is set on plain packets: it must not be taken for a fragment.
    let mut fragment: u16 = 0x4000;
    if flow.opaque {
        match rng.random_range(0..5) {
            // Strict source route to one hop, and no operation.
            0 => options = &[137, 7, 4, 203, 0, 113, 9, 1],
            1 => fragment = 0x2000,
            2 => fragment = rng.random_range(1..0x2000),
            3 => protocol = 4,
            _ => protocol = 41,
        }
    }
    let header_length = 20 + options.len();
    let mut bytes = ethernet(ETH_P_IP);
    bytes.push(0x40 | (header_length / 4) as u8);
    bytes.push(0);
    bytes.extend(((header_length + transport.len()) as u16).to_be_bytes());
    bytes.extend(rng.random::<u16>().to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(SOURCE_V4.octets());
    bytes.extend(destination.octets());
    bytes.extend(options);
    bytes.extend(transport);
    bytes
}

fn ipv6(destination: Ipv6Addr, flow: &Flow, rng: &mut SmallRng) -> Vec<u8> {
    let (mut protocol, mut payload) = transport(flow, true);
    if flow.opaque {
        match rng.random_range(0..6) {
            0 => {
                payload.splice(..0, [protocol, 0, 1, 4, 0, 0, 0, 0]);
                protocol = [0, 43, 60][rng.random_range(0..3)];
            }
            1 => {
                payload.splice(..0, [protocol, 0, 0, 1, 0, 0, 0, 9]);
                protocol = 44;
            }
            2 => protocol = 4,
            3 => protocol = 41,
            4 => protocol = 51,
            _ => protocol = [135, 139, 140][rng.random_range(0..3)],
        }
    }
    let mut bytes = ethernet(ETH_P_IPV6);
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([protocol, 64]);
    bytes.extend(SOURCE_V6.octets());
    bytes.extend(destination.octets());
    bytes.extend(payload);
    bytes
}

fn ethernet(kind: u16) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    bytes.extend(kind.to_be_bytes());
    bytes
}

/// Protocol number and transport header.
fn transport(flow: &Flow, over_ipv6: bool) -> (u8, Vec<u8>) {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&40_000_u16.to_be_bytes());
    header[2..4].copy_from_slice(&flow.port.to_be_bytes());
    let protocol = match flow.protocol {
        FlowProtocol::Tcp => {
            header[12] = 0x50;
            // SYN, or ACK and PSH with what the flow shows.
            header[13] = if flow.names.shown.is_none() { 0x02 } else { 0x18 };
            match &flow.names.shown {
                None => {}
                Some(Shown::Name(name)) => {
                    header.extend(format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").bytes());
                }
                Some(Shown::Unreadable) => header.extend([0; 16]),
            }
            6
        }
        FlowProtocol::Udp => 17,
        FlowProtocol::Sctp => 132,
        FlowProtocol::Icmp => {
            header[0] = if over_ipv6 { 128 } else { 8 };
            if over_ipv6 { 58 } else { 1 }
        }
        FlowProtocol::Other(number) => number,
    };
    (protocol, header)
}
