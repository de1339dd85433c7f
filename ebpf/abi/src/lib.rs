//! What the kernel programs and the agent must agree on, byte for byte.
//!
//! Every struct is `#[repr(C)]`, has no padding that the compiler chose, no `bool` and no `Option`; sizes are asserted
//! at compile time. A change to any of them raises a number in [`layout`], which is part of the pin's name, so that two
//! builds never read each other's maps by mistake.
//!
//! Addresses are 16 bytes in network order; IPv4 is written as IPv4-mapped IPv6 (RFC 4291, section 2.5.5.2). Ports are
//! in host order unless a field says otherwise.

#![cfg_attr(not(test), no_std)]

pub mod event;
pub mod layout;
pub mod maps;
pub mod names;
pub mod plaintext;

pub use event::*;
pub use maps::*;
pub use names::*;
pub use plaintext::*;

/// How pins are laid out and named. Part of their path.
pub const ABI_VERSION: u32 = 1;

/// The first 12 bytes of an IPv4 address in its 16-byte form.
pub const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

/// What a verdict is about, as far as ports go.
pub mod class {
    /// TCP with a readable destination port.
    pub const TCP: u8 = 0;
    /// UDP with a readable destination port.
    pub const UDP: u8 = 1;
    /// SCTP with a readable destination port.
    pub const SCTP: u8 = 2;
    /// ICMP in IPv4, `ICMPv6` in IPv6.
    pub const ICMP: u8 = 3;
    /// Any other protocol: it has no ports that Sluice reads.
    pub const OTHER: u8 = 4;
    /// A packet whose destination or ports cannot be trusted. See [`crate::opaque`].
    pub const OPAQUE: u8 = 5;
}

/// Why a packet was judged as [`class::OPAQUE`].
pub mod opaque {
    /// It was not.
    pub const NONE: u8 = 0;
    /// A fragment, the first one included.
    pub const FRAGMENT: u8 = 1;
    /// IPv4 options: a source route would hide the destination.
    pub const IP_OPTIONS: u8 = 2;
    /// IPv6 extension headers: a routing header would hide the destination.
    pub const EXTENSION_HEADER: u8 = 3;
    /// IPv4 or IPv6 inside IP: the destination is in the inner header.
    pub const ENCAPSULATED: u8 = 4;
    /// Too short, or a header that contradicts itself.
    pub const MALFORMED: u8 = 5;
    /// Its source is not an address of the pod.
    pub const FOREIGN_SOURCE: u8 = 6;
    /// A packet socket put it on the wire.
    pub const PACKET_SOCKET: u8 = 7;
    /// Neither IPv4 nor IPv6 nor ARP.
    pub const NOT_IP: u8 = 8;
}

/// What a policy says of a flow.
pub mod action {
    /// Let it pass.
    pub const ALLOW: u8 = 0;
    /// Drop it.
    pub const DENY: u8 = 1;
}

/// Says that a verdict was made without any rule.
pub const NO_RULE: u32 = u32::MAX;

/// The policy id of a pod that no policy selects.
pub const NO_POLICY: u32 = 0;
