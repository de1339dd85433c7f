//! Payloads and ICMP headers. The far end of the rig reads the tag and the kind back from every datagram.

/// Bytes of payload in each datagram: the tag (8, big endian), the kind, the destination class, a sequence number (4) and
/// two of padding.
pub(crate) const PAYLOAD: usize = 16;

/// Length of an ICMP echo header.
pub(crate) const ICMP_HEADER: usize = 8;

/// What a datagram carries, so that arrivals can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Chosen by the rig for each container.
    pub(crate) tag: u64,
    /// How it was sent; see `flood`.
    pub(crate) kind: u8,
    /// 1 for the allowed destination.
    pub(crate) destination: u8,
    /// Counts up within a run.
    pub(crate) sequence: u32,
}

impl Mark {
    pub(crate) fn encode(self) -> [u8; PAYLOAD] {
        let mut bytes = [0; PAYLOAD];
        bytes[..8].copy_from_slice(&self.tag.to_be_bytes());
        bytes[8] = self.kind;
        bytes[9] = self.destination;
        bytes[10..14].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first_chunk::<8>()?;
        let (&[kind, destination], rest) = rest.split_first_chunk::<2>()?;
        let (sequence, _) = rest.split_first_chunk::<4>()?;
        Some(Self {
            tag: u64::from_be_bytes(*tag),
            kind,
            destination,
            sequence: u32::from_be_bytes(*sequence),
        })
    }
}

/// An echo request. The kernel fills in the checksum of `ICMPv6` itself.
pub(crate) fn echo_request(v6: bool, mark: Mark) -> [u8; ICMP_HEADER + PAYLOAD] {
    let mut packet = [0; ICMP_HEADER + PAYLOAD];
    packet[0] = if v6 { 128 } else { 8 };
    packet[4..6].copy_from_slice(&(mark.tag as u16).to_be_bytes());
    packet[6..8].copy_from_slice(&(mark.sequence as u16).to_be_bytes());
    packet[ICMP_HEADER..].copy_from_slice(&mark.encode());
    if !v6 {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// The mark of an echo reply as a raw socket delivers it: IPv4 with its IP header, IPv6 without.
pub(crate) fn echo_reply(v6: bool, packet: &[u8]) -> Option<Mark> {
    let icmp = if v6 { packet } else { packet.get(usize::from(packet.first()? & 0xf) * 4..)? };
    let expected = if v6 { 129 } else { 0 };
    if *icmp.first()? != expected {
        return None;
    }
    Mark::decode(icmp.get(ICMP_HEADER..)?)
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::{ICMP_HEADER, Mark, checksum, echo_reply, echo_request};

    const MARK: Mark = Mark { tag: 0x0102_0304_0506_0708, kind: 2, destination: 1, sequence: 99 };

    #[test]
    fn a_mark_survives_the_wire() {
        assert_eq!(Mark::decode(&MARK.encode()), Some(MARK));
        assert_eq!(Mark::decode(&MARK.encode()[..13]), None);
    }

    #[test]
    fn the_checksum_of_a_summed_packet_is_zero() {
        assert_eq!(checksum(&echo_request(false, MARK)), 0);
    }

    #[test]
    fn replies_are_told_from_requests() {
        let request = echo_request(true, MARK);
        assert_eq!(echo_reply(true, &request), None);
        let mut reply = request;
        reply[0] = 129;
        assert_eq!(echo_reply(true, &reply), Some(MARK));
        let mut reply4 = vec![0; 20];
        reply4[0] = 0x45;
        reply4.extend(echo_request(false, MARK));
        reply4[20] = 0;
        assert_eq!(echo_reply(false, &reply4), Some(MARK));
        assert_eq!(echo_reply(false, &reply4[..20 + ICMP_HEADER]), None);
        assert_eq!(echo_reply(false, &[]), None);
    }
}
