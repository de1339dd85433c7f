//! Reads Ethernet frames as far as the suites count them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// ICMP over IPv4.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMP over IPv6.
pub const ICMPV6: u8 = 58;
/// SCTP.
pub const SCTP: u8 = 132;

/// What a frame says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number, IPv6 extension headers skipped.
    pub protocol: u8,
    /// Source port; 0 where there is none.
    pub source_port: u16,
    /// Destination port, or the ICMP type; 0 where there is none and in later fragments.
    pub port: u16,
    /// The sequence number of a TCP segment that has SYN without ACK.
    pub syn: Option<u32>,
    /// The first 8 bytes of a UDP or echo request payload, as the probe writes them; 0 if there are none.
    pub tag: u64,
    /// The byte after the tag.
    pub kind: u8,
}

/// Decodes a frame; `None` for what is neither IPv4 nor IPv6, or cut off.
pub fn decode(frame: &[u8]) -> Option<Packet> {
    let packet = frame.get(14..)?;
    match frame.get(12..14)? {
        [0x08, 0x00] => ipv4(packet),
        [0x86, 0xdd] => ipv6(packet),
        _ => None,
    }
}

fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header = packet.get(..20)?;
    let source = IpAddr::V4(Ipv4Addr::from(*header[12..].first_chunk::<4>()?));
    let destination = IpAddr::V4(Ipv4Addr::from(*header[16..].first_chunk::<4>()?));
    let offset = u16::from_be_bytes([header[6], header[7]]) & 0x1fff;
    let payload = packet.get(usize::from(header[0] & 0xf) * 4..)?;
    Some(transport(source, destination, header[9], (offset == 0).then_some(payload)))
}

fn ipv6(packet: &[u8]) -> Option<Packet> {
    let header = packet.get(..40)?;
    let source = IpAddr::V6(Ipv6Addr::from(*header[8..].first_chunk::<16>()?));
    let destination = IpAddr::V6(Ipv6Addr::from(*header[24..].first_chunk::<16>()?));
    let mut protocol = header[6];
    let mut payload = packet.get(40..)?;
    let mut first = true;
    // Hop-by-hop, routing, fragment, destination options.
    while matches!(protocol, 0 | 43 | 44 | 60) {
        let Some(extension) = payload.get(..8) else { break };
        let length = if protocol == 44 {
            first &= u16::from_be_bytes([extension[2], extension[3]]) >> 3 == 0;
            8
        } else {
            (usize::from(extension[1]) + 1) * 8
        };
        protocol = extension[0];
        payload = payload.get(length..).unwrap_or_default();
        if !first {
            break;
        }
    }
    Some(transport(source, destination, protocol, first.then_some(payload)))
}

/// `payload` is `None` in a fragment that is not the first.
fn transport(source: IpAddr, destination: IpAddr, protocol: u8, payload: Option<&[u8]>) -> Packet {
    let mut packet =
        Packet { source, destination, protocol, source_port: 0, port: 0, syn: None, tag: 0, kind: 0 };
    let payload = payload.unwrap_or_default();
    let word = |at: usize| payload.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
    match protocol {
        TCP | UDP | SCTP => (packet.source_port, packet.port) = (word(0), word(2)),
        ICMP | ICMPV6 => packet.port = payload.first().copied().map_or(0, u16::from),
        _ => {}
    }
    match (protocol, packet.port) {
        (TCP, _) if payload.get(13).is_some_and(|flags| flags & 0x12 == 0x02) => {
            packet.syn = Some(u32::from(word(4)) << 16 | u32::from(word(6)));
        }
        (UDP, _) | (ICMP, 8) | (ICMPV6, 128) => {
            if let Some((tag, rest)) = payload.get(8..).and_then(<[u8]>::split_first_chunk::<8>) {
                packet.tag = u64::from_be_bytes(*tag);
                packet.kind = rest.first().copied().unwrap_or(0);
            }
        }
        _ => {}
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::{ICMPV6, Packet, TCP, UDP, decode};

    fn frame4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 10, 88, 0, 2, 203, 0, 113, 10]);
        frame.extend(payload);
        frame
    }

    fn frame6(next: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64]);
        frame.extend([0xfd; 16]);
        frame.extend([0x20; 16]);
        frame.extend(payload);
        frame
    }

    fn udp() -> Vec<u8> {
        let mut bytes = vec![0x10, 0x01, 0x00, 0x35, 0, 24, 0, 0];
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend([1; 8]);
        bytes
    }

    #[test]
    fn udp_carries_a_tag() {
        let Packet { source, destination, protocol, source_port, port, tag, kind, syn } =
            decode(&frame4(UDP, 0, &udp())).unwrap();
        assert_eq!(
            (source.to_string(), destination.to_string()),
            ("10.88.0.2".into(), "203.0.113.10".into())
        );
        assert_eq!((protocol, source_port, port, tag, kind, syn), (UDP, 0x1001, 53, 7, 1, None));
    }

    #[test]
    fn a_later_fragment_counts_without_a_port() {
        let packet = decode(&frame4(UDP, 0x2001, &udp())).unwrap();
        assert_eq!((packet.protocol, packet.port, packet.tag), (UDP, 0, 0));
        let packet = decode(&frame6(44, &[&[17, 0, 0, 8, 0, 0, 0, 1], &udp()[..]].concat())).unwrap();
        assert_eq!((packet.protocol, packet.port), (UDP, 0));
    }

    #[test]
    fn extension_headers_are_skipped() {
        let destination_options = [44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first_fragment = [17, 0, 0, 1, 0, 0, 0, 1];
        let packet =
            decode(&frame6(60, &[&destination_options[..], &first_fragment, &udp()].concat())).unwrap();
        assert_eq!((packet.protocol, packet.port, packet.tag), (UDP, 53, 7));
    }

    #[test]
    fn only_a_first_syn_is_one() {
        let mut segment = [0; 20];
        segment[4..8].copy_from_slice(&0x0102_0304_u32.to_be_bytes());
        segment[13] = 0x02;
        assert_eq!(decode(&frame4(TCP, 0, &segment)).unwrap().syn, Some(0x0102_0304));
        segment[13] = 0x12;
        assert_eq!(decode(&frame4(TCP, 0, &segment)).unwrap().syn, None);
    }

    #[test]
    fn the_type_of_icmp_stands_for_the_port() {
        assert_eq!(decode(&frame6(ICMPV6, &[128, 0, 0, 0])).unwrap().port, 128);
    }

    #[test]
    fn what_is_cut_off_or_not_ip_is_no_packet_or_one_without_ports() {
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[0; 60]), None);
        let whole = frame6(60, &udp());
        for length in 0..whole.len() {
            let _ = decode(&whole[..length]);
        }
        assert_eq!(decode(&frame4(UDP, 0, &[1])).unwrap().port, 0);
    }
}
