//! Reading a packet: the IP header, the ports, and whether either can be trusted.
//!
//! What is not plain is not walked but called opaque: IPv4 with options, IPv6 with any extension header, fragments,
//! IP in IP. Sockets do not send these unless asked to, and a source route, for one, puts the wrong address where the
//! destination stands.

use core::arch::asm;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use sluice_abi::{class, opaque};

use crate::address::Address;

const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;
const ETH_P_IPV6: u32 = 0x86dd_u16.to_be() as u32;

pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_SCTP: u8 = 132;
const IPPROTO_ICMP: u8 = 1;
const IPPROTO_ICMPV6: u8 = 58;
const IPPROTO_IPIP: u8 = 4;
const IPPROTO_IPV6: u8 = 41;

const IPPROTO_IGMP: u8 = 2;
const IPPROTO_HOPOPTS: u8 = 0;

/// TCP flags (RFC 9293, section 3.1).
pub const TCP_SYN: u8 = 0x02;
pub const TCP_RST: u8 = 0x04;
pub const TCP_ACK: u8 = 0x10;
/// Offset of the sequence and acknowledgement numbers in a TCP header.
const TCP_NUMBERS: u32 = 4;
/// Offset of the flags in a TCP header.
const TCP_FLAGS: u32 = 13;
/// Offset of the byte that holds the header's length, in its upper half.
const TCP_OFFSET: u32 = 12;

/// Length of a UDP header (RFC 768).
const UDP_HEADER: u32 = 8;

/// IPv4 header without options (RFC 791, section 3.1).
#[repr(C)]
pub struct Ipv4 {
    pub version_ihl: u8,
    tos: u8,
    total_length: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    pub protocol: u8,
    checksum: u16,
    pub source: u32,
    pub destination: u32,
}

impl Ipv4 {
    /// No fragment: the reserved bit, "more fragments" and the offset are zero. "Don't fragment" says nothing.
    #[inline(always)]
    pub fn is_whole(&self) -> bool {
        u16::from_be(self.fragment) & 0xbfff == 0
    }
}

/// IPv6 header (RFC 8200, section 3).
#[repr(C)]
pub struct Ipv6 {
    version_flow: u32,
    payload_length: u16,
    pub next_header: u8,
    hop_limit: u8,
    pub source: [u32; 4],
    pub destination: [u32; 4],
}

/// What the judge needs to know of a packet.
#[derive(Clone, Copy)]
pub struct Packet {
    pub source: Address,
    pub destination: Address,
    pub source_port: u16,
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`class`].
    pub class: u8,
    /// One of [`opaque`].
    pub opaque: u8,
    /// IP version: 4 or 6.
    pub version: u8,
    /// Where the transport header starts.
    transport: u32,
}

impl Packet {
    /// Reads the packet of a program that sees it from byte `start` of its buffer on: 0 in cgroup programs, the length of
    /// the Ethernet header in classifiers.
    #[inline(always)]
    pub fn read(skb: *mut __sk_buff, start: u32) -> Self {
        // SAFETY: `skb` is the program's context.
        let protocol = unsafe { (*skb).protocol };
        let read = if protocol == ETH_P_IP {
            Self::read_v4(skb, start)
        } else if protocol == ETH_P_IPV6 {
            Self::read_v6(skb, start)
        } else {
            Some(Self { opaque: opaque::NOT_IP, ..Self::malformed() })
        };
        read.unwrap_or(Self::malformed()).forgotten(skb)
    }

    /// The same packet.
    ///
    /// VERIFIER: there are dozens of ways through the reading, each of which knows some field for certain. Whatever comes
    /// after would be followed for each of them; so they are made to forget it.
    #[inline(always)]
    pub fn forgotten(self, skb: *mut __sk_buff) -> Self {
        let forget = |value: u64| forget(skb, value);
        Self {
            source: self.source.map(forget),
            destination: self.destination.map(forget),
            source_port: forget(self.source_port.into()) as u16,
            destination_port: forget(self.destination_port.into()) as u16,
            protocol: forget(self.protocol.into()) as u8,
            class: forget(self.class.into()) as u8,
            opaque: forget(self.opaque.into()) as u8,
            version: forget(self.version.into()) as u8,
            transport: forget(self.transport.into()) as u32,
        }
    }

    /// The source of an IP packet, and nothing else of it.
    #[inline(always)]
    pub fn read_source(skb: *mut __sk_buff, start: u32) -> Option<Address> {
        // SAFETY: `skb` is the program's context.
        let protocol = unsafe { (*skb).protocol };
        if protocol == ETH_P_IP {
            load(skb, start + core::mem::offset_of!(Ipv4, source) as u32).map(Address::v4)
        } else if protocol == ETH_P_IPV6 {
            load(skb, start + core::mem::offset_of!(Ipv6, source) as u32).map(Address::v6)
        } else {
            None
        }
    }

    /// Marks a packet as one that cannot be trusted.
    #[inline(always)]
    pub fn distrust(&mut self, opaque: u8) {
        self.class = class::OPAQUE;
        self.opaque = opaque;
    }

    #[inline(always)]
    fn read_v4(skb: *mut __sk_buff, start: u32) -> Option<Self> {
        let header: Ipv4 = load(skb, start)?;
        let mut packet = Self {
            source: Address::v4(header.source),
            destination: Address::v4(header.destination),
            protocol: header.protocol,
            version: 4,
            transport: start + size_of::<Ipv4>() as u32,
            ..Self::malformed()
        };
        if header.version_ihl >> 4 != 4 || header.version_ihl & 0xf < 5 {
            return Some(packet);
        }
        if header.version_ihl & 0xf > 5 {
            packet.opaque = opaque::IP_OPTIONS;
        } else if !header.is_whole() {
            packet.opaque = opaque::FRAGMENT;
        } else {
            packet.read_transport(skb, IPPROTO_ICMP);
        }
        Some(packet)
    }

    #[inline(always)]
    fn read_v6(skb: *mut __sk_buff, start: u32) -> Option<Self> {
        let header: Ipv6 = load(skb, start)?;
        let mut packet = Self {
            source: Address::v6(header.source),
            destination: Address::v6(header.destination),
            protocol: header.next_header,
            version: 6,
            transport: start + size_of::<Ipv6>() as u32,
            ..Self::malformed()
        };
        if u32::from_be(header.version_flow) >> 28 != 6 {
            return Some(packet);
        }
        // A mapped address would be judged as the IPv4 address that it is not.
        if packet.source.is_mapped() || packet.destination.is_mapped() {
            return Some(packet);
        }
        match header.next_header {
            44 => packet.opaque = opaque::FRAGMENT,
            // Hop-by-hop, routing, authentication, destination options, mobility, host identity, shim6 (IANA's
            // registry of extension headers). ESP and "no next header" carry nothing that could be read after them
            // and are protocols like any other.
            0 | 43 | 51 | 60 | 135 | 139 | 140 => packet.opaque = opaque::EXTENSION_HEADER,
            _ => packet.read_transport(skb, IPPROTO_ICMPV6),
        }
        Some(packet)
    }

    #[inline(always)]
    fn read_transport(&mut self, skb: *mut __sk_buff, icmp: u8) {
        self.class = match self.protocol {
            IPPROTO_TCP => class::TCP,
            IPPROTO_UDP => class::UDP,
            IPPROTO_SCTP => class::SCTP,
            IPPROTO_IPIP | IPPROTO_IPV6 => {
                self.opaque = opaque::ENCAPSULATED;
                return;
            }
            protocol => {
                self.opaque = opaque::NONE;
                self.class = if protocol == icmp { class::ICMP } else { class::OTHER };
                return;
            }
        };
        match load::<[u16; 2]>(skb, self.transport) {
            Some([source, destination]) => {
                self.opaque = opaque::NONE;
                self.source_port = u16::from_be(source);
                self.destination_port = u16::from_be(destination);
            }
            None => self.class = class::OPAQUE,
        }
    }

    /// A TCP segment's flags; none for anything else.
    #[inline(always)]
    pub fn tcp_flags(&self, skb: *mut __sk_buff) -> u8 {
        if self.class != class::TCP {
            return 0;
        }
        load(skb, self.transport + TCP_FLAGS).unwrap_or(0)
    }

    /// Where the payload of a UDP datagram or TCP segment starts, and how long it is.
    #[inline(always)]
    pub fn payload(&self, skb: *mut __sk_buff) -> Option<(u32, u32)> {
        let header = match self.class {
            class::TCP => u32::from(load::<u8>(skb, self.transport + TCP_OFFSET)? >> 4) * 4,
            class::UDP => UDP_HEADER,
            _ => return None,
        };
        // SAFETY: `skb` is the program's context.
        let length = unsafe { (*skb).len };
        let start = self.transport + header;
        if start > length { None } else { Some((start, length - start)) }
    }

    /// A TCP segment's number, and the number of the next byte that its sender waits for.
    #[inline(always)]
    pub fn tcp_numbers(&self, skb: *mut __sk_buff) -> Option<[u32; 2]> {
        let [number, next] = load::<[u32; 2]>(skb, self.transport + TCP_NUMBERS)?;
        Some([u32::from_be(number), u32::from_be(next)])
    }

    /// A TCP segment that carries nothing: its header ends where the packet does.
    #[inline(always)]
    pub fn is_bare_segment(&self, skb: *mut __sk_buff) -> bool {
        if self.class != class::TCP {
            return false;
        }
        let offset: u8 = load(skb, self.transport + TCP_OFFSET).unwrap_or(0);
        // SAFETY: `skb` is the program's context.
        let length = unsafe { (*skb).len };
        self.transport + u32::from(offset >> 4) * 4 >= length
    }

    /// Does it open a TCP connection: a SYN that acknowledges nothing?
    #[inline(always)]
    pub fn is_opening(&self, skb: *mut __sk_buff) -> bool {
        self.tcp_flags(skb) & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    /// What the network stack answers to what it gets: ICMP errors, echo replies, TCP resets and acknowledgements. True
    /// of anything of that shape; who sent it is for the caller to know.
    #[inline(always)]
    pub fn is_stack_answer(&self, skb: *mut __sk_buff) -> bool {
        match (self.class, self.protocol) {
            // Echo reply, unreachable, time exceeded, parameter problem (RFC 792).
            (class::ICMP, IPPROTO_ICMP) => matches!(self.transport_byte(skb, 0), 0 | 3 | 11 | 12),
            // Errors and the echo reply (RFC 4443).
            (class::ICMP, _) => matches!(self.transport_byte(skb, 0), 1..=4 | 129),
            (class::TCP, _) => self.tcp_flags(skb) & TCP_SYN == 0 && self.is_bare_segment(skb),
            _ => false,
        }
    }

    /// What the network stack tells its neighbours: neighbour discovery, and membership of groups. The same holds.
    #[inline(always)]
    pub fn is_link_message(&self, skb: *mut __sk_buff) -> bool {
        match (self.class, self.protocol) {
            // Neighbour discovery (RFC 4861) and MLD without a router alert (RFC 2710).
            (class::ICMP, IPPROTO_ICMPV6) => matches!(self.transport_byte(skb, 0), 130..=137 | 143),
            // IGMP and MLD come with a router alert, so as options.
            (class::OPAQUE, IPPROTO_IGMP) => {
                self.opaque == opaque::IP_OPTIONS && self.destination.is_link_multicast()
            }
            (class::OPAQUE, IPPROTO_HOPOPTS) => {
                self.opaque == opaque::EXTENSION_HEADER
                    && self.destination.is_link_multicast()
                    && self.transport_byte(skb, 0) == IPPROTO_ICMPV6
                    && self.transport_byte(skb, 1) == 0
                    && matches!(self.transport_byte(skb, 8), 130..=132 | 143)
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn transport_byte(&self, skb: *mut __sk_buff, offset: u32) -> u8 {
        load(skb, self.transport + offset).unwrap_or(u8::MAX)
    }

    const fn malformed() -> Self {
        Self {
            source: Address::NONE,
            destination: Address::NONE,
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            class: class::OPAQUE,
            opaque: opaque::MALFORMED,
            version: 0,
            transport: 0,
        }
    }
}

/// The same number.
///
/// VERIFIER: which does not know it any more. For what was found out in many ways and is asked for later.
#[inline(always)]
pub fn forget(skb: *mut __sk_buff, mut value: u64) -> u64 {
    // SAFETY: `skb` is the program's context; a number is added and taken away again.
    unsafe {
        let any = u64::from((*skb).len);
        asm!("{0} += {1}", "{0} -= {1}", inout(reg) value, in(reg) any);
    }
    value
}

/// As [`forget`], of a yes or no.
#[inline(always)]
pub fn forget_whether(skb: *mut __sk_buff, value: bool) -> bool {
    forget(skb, value.into()) & 1 != 0
}

/// Copies a value out of the packet; `None` past its end.
#[inline(always)]
pub fn load<T>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = core::mem::MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes exactly `size_of::<T>()` bytes, or fails and writes zeros. Only called for types made
    // of integers.
    unsafe {
        let failed = bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32);
        if failed == 0 { Some(value.assume_init()) } else { None }
    }
}
