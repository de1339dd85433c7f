//! Packets made by hand: RFC 791, 8200, 768, 9293, 792, 4443.

use std::net::IpAddr;

/// IP protocol numbers.
pub(super) mod protocol {
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ICMPV6: u8 = 58;
}

/// Flags of a TCP segment.
pub(super) mod flag {
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const PSH_ACK: u8 = 0x18;
    pub(crate) const ACK: u8 = 0x10;
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a segment with its pseudo header.
fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> [u8; 2] {
    let mut bytes = octets(source);
    bytes.extend(octets(destination));
    bytes.extend((segment.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    checksum(&bytes).to_be_bytes()
}

/// An IPv4 packet with options (a multiple of four bytes) and the fragment field.
pub(super) fn ipv4(
    (source, destination): (IpAddr, IpAddr),
    protocol: u8,
    fragment: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let mut bytes = vec![0x40 | words as u8, 0];
    bytes.extend(((words * 4 + payload.len()) as u16).to_be_bytes());
    bytes.extend(0x4242_u16.to_be_bytes());
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(options);
    let sum = checksum(&bytes).to_be_bytes();
    bytes[10..12].copy_from_slice(&sum);
    bytes.extend(payload);
    bytes
}

/// An IPv6 packet; extension headers are part of the payload.
pub(super) fn ipv6((source, destination): (IpAddr, IpAddr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((payload.len() as u16).to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(octets(source));
    bytes.extend(octets(destination));
    bytes.extend(payload);
    bytes
}

/// A packet of the addresses' family.
pub(super) fn ip(addresses: (IpAddr, IpAddr), protocol: u8, payload: &[u8]) -> Vec<u8> {
    if addresses.0.is_ipv6() {
        ipv6(addresses, protocol, payload)
    } else {
        ipv4(addresses, protocol, 0, &[], payload)
    }
}

/// A UDP datagram without its IP header.
pub(super) fn udp((source, destination): (IpAddr, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(((8 + payload.len()) as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    let sum = transport_checksum(source, destination, protocol::UDP, &bytes);
    bytes[6..8].copy_from_slice(&sum);
    bytes
}

/// A TCP segment without its IP header.
pub(super) fn tcp(
    (source, destination): (IpAddr, IpAddr),
    ports: (u16, u16),
    (sequence, acknowledged): (u32, u32),
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(ports.0.to_be_bytes());
    bytes.extend(ports.1.to_be_bytes());
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(payload);
    let sum = transport_checksum(source, destination, protocol::TCP, &bytes);
    bytes[16..18].copy_from_slice(&sum);
    bytes
}

/// An ICMP message of either family, without its IP header: type, code, the second word, payload.
pub(super) fn icmp(
    (source, destination): (IpAddr, IpAddr),
    kind: u8,
    word: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend(word);
    bytes.extend(payload);
    let sum = if source.is_ipv6() {
        transport_checksum(source, destination, protocol::ICMPV6, &bytes)
    } else {
        checksum(&bytes).to_be_bytes()
    };
    bytes[2..4].copy_from_slice(&sum);
    bytes
}

/// The protocol number of ICMP in a family.
pub(super) fn icmp_protocol(v6: bool) -> u8 {
    if v6 { protocol::ICMPV6 } else { protocol::ICMP }
}

/// A whole UDP packet.
pub(super) fn udp_packet(addresses: (IpAddr, IpAddr), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    ip(addresses, protocol::UDP, &udp(addresses, ports, payload))
}

/// An ICMP error as the network stack would send it, with a payload of the attacker's.
pub(super) fn stack_message(addresses: (IpAddr, IpAddr), payload: &[u8]) -> Vec<u8> {
    let v6 = addresses.0.is_ipv6();
    ip(addresses, icmp_protocol(v6), &icmp(addresses, if v6 { 1 } else { 3 }, [0; 4], payload))
}

/// A later fragment of a UDP datagram.
pub(super) fn fragment(addresses: (IpAddr, IpAddr), payload: &[u8]) -> Vec<u8> {
    if addresses.0.is_ipv6() {
        ipv6(addresses, 44, &[&[protocol::UDP, 0, 0, 80, 0, 0, 0, 9], payload].concat())
    } else {
        ipv4(addresses, protocol::UDP, 10, &[], payload)
    }
}

/// A whole SYN.
pub(super) fn syn_packet(addresses: (IpAddr, IpAddr), ports: (u16, u16), sequence: u32) -> Vec<u8> {
    ip(addresses, protocol::TCP, &tcp(addresses, ports, (sequence, 0), flag::SYN, &[]))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{checksum, icmp, ipv4, udp, udp_packet};

    fn pair(v6: bool) -> (IpAddr, IpAddr) {
        if v6 {
            ("fd00::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
        } else {
            ("10.0.0.1".parse().unwrap(), "192.0.2.2".parse().unwrap())
        }
    }

    #[test]
    fn a_header_sums_to_zero() {
        let packet = ipv4(pair(false), 17, 0, &[1; 4], &[7; 3]);
        assert_eq!((packet.len(), checksum(&packet[..24])), (27, 0));
        assert_eq!(checksum(&icmp(pair(false), 8, [0; 4], b"odd")), 0);
    }

    #[test]
    fn a_datagram_is_as_long_as_it_says() {
        assert_eq!(udp(pair(true), (1, 2), b"four")[4..6], 12_u16.to_be_bytes());
        assert_eq!(udp_packet(pair(true), (1, 2), b"four").len(), 52);
        assert_eq!(udp_packet(pair(false), (1, 2), b"four").len(), 32);
    }
}
