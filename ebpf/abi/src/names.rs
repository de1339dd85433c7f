//! Names: how the maps hold them, and what is learned from DNS.
//!
//! ```text
//! QUESTIONS  (endpoint, socket, resolver, ports, id) ──► the name that was asked, until the answer comes
//! RESOLVERS  (address, port) ──► whose answers count
//! LEARNED    (endpoint, bucket) ──► one address, one name that led to it, and until when
//! NAMES      (policy id, name), longest prefix ──► list id, and whether the name may be asked for
//! HELLOS     socket ──► the pieces of its first payload, until a name is found in it or not
//! SHOWN      socket ──► the name that its flow showed
//! TOLD       socket ──► how far its requests have been told of
//! ```
//!
//! A name is kept *reversed*: lower-case text without a final dot, a dot put in front, all of it turned round.
//! `a.b.com` is `moc.b.a.`, padded with zeros. So a pattern is a prefix: of `*.b.com` it is `moc.b.`, of `b.com` alone it
//! is `moc.b.` and one zero. The first would match `b.com` itself too, so the compiler always writes the second beside it,
//! with what the patterns above say. DNS's own length bytes
//! would not do in place of the dots: 45 and 48 to 57 are also letters of host names, so that `x5` and a label of 53
//! letters would look like a name below that label.

use crate::FlowEvent;

/// Bytes that a reversed name has room for, the zero that ends an exact pattern included.
pub const NAME_SIZE: usize = 252;

/// The longest reversed name. The same length as in wire form without the final zero.
pub const MAX_NAME: usize = 250;

/// Places of `LEARNED` that one endpoint has: what keeps its table bounded.
pub const LEARNED_BUCKETS: u32 = 1024;

/// Places after its own at which a learned address may lie, the own one included.
pub const LEARNED_PROBES: u32 = 8;

/// [`NamedValue::list`] of a name that no rule means.
pub const NO_LIST: u32 = 0;

/// A reversed name, padded with zeros.
pub type NameBytes = [u8; NAME_SIZE];

/// Turns a name as people write it into its reversed form, and says how long that is. A leading `*.` is for the caller
/// to take off. `None` if it is empty, too long, or has a label that no host name has.
pub const fn reversed(name: &[u8]) -> Option<(NameBytes, usize)> {
    let mut bytes = [0; NAME_SIZE];
    let length = name.len() + 1;
    if name.is_empty() || length > MAX_NAME {
        return None;
    }
    let mut label = 0;
    let mut index = 0;
    while index < name.len() {
        let byte = name[name.len() - 1 - index].to_ascii_lowercase();
        label = if byte == b'.' { 0 } else { label + 1 };
        if !is_in_names(byte) || label > 63 || (byte == b'.' && (index == 0 || bytes[index - 1] == b'.')) {
            return None;
        }
        bytes[index] = byte;
        index += 1;
    }
    if label == 0 {
        return None;
    }
    bytes[index] = b'.';
    Some((bytes, length))
}

/// May the byte stand in a name that Sluice keeps? Printable ASCII without the space.
pub const fn is_in_names(byte: u8) -> bool {
    byte > b' ' && byte < 0x7f
}

/// Where in `LEARNED` an endpoint looks for an address first; the address as two words as they lie in memory.
pub const fn learned_bucket(address: [u64; 2]) -> u32 {
    // Fibonacci hashing: the upper bits of the product depend on all bits of the factor.
    let hash = (address[0] ^ address[1] ^ address[1] >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 54) as u32 & (LEARNED_BUCKETS - 1)
}

/// An address as two words as they lie in memory.
pub const fn address_words(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: 16 initialised bytes either way, and any of them are two words.
    unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(address) }
}

/// Key of `RESOLVERS`. The value is a word of [`resolver`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolverKey {
    /// Its address.
    pub address: [u8; 16],
    /// Its port: 53, for no other is looked at.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// Bits of the values of `RESOLVERS`.
pub mod resolver {
    /// Its answers are believed.
    pub const TRUSTED: u32 = 1;
}

/// Key of `QUESTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionKey {
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// The cookie of the socket that asked.
    pub socket: u64,
    /// Who was asked.
    pub resolver: [u8; 16],
    /// From which port.
    pub local_port: u16,
    /// At which port.
    pub resolver_port: u16,
    /// The question's id.
    pub id: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

/// Value of `QUESTIONS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuestionValue {
    /// When it was asked, on the boot clock.
    pub time_ns: u64,
    /// The type asked for.
    pub kind: u16,
    /// Length of the name.
    pub name_length: u8,
    /// Zero.
    pub pad: u8,
    /// The name asked for, reversed.
    pub name: NameBytes,
}

/// Key of `LEARNED`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedKey {
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// [`learned_bucket`] of the address, and up to [`LEARNED_PROBES`] places on, modulo [`LEARNED_BUCKETS`].
    pub bucket: u32,
    /// Zero.
    pub pad: u32,
}

/// Value of `LEARNED`: an address and a name that led to it. It counts for new flows until `until_ns`, and its place is
/// not used again for [`NamesConfigValue::grace_ns`] after that.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LearnedValue {
    /// Until when it counts, on the boot clock. The floor and the grace for clients that ignore TTLs are in it.
    pub until_ns: u64,
    /// When it was learned last.
    pub learned_ns: u64,
    /// The address.
    pub address: [u8; 16],
    /// Who answered.
    pub resolver: [u8; 16],
    /// Length of the name.
    pub name_length: u8,
    /// Zero.
    pub pad: [u8; 7],
    /// With this and what follows, the entry is its own key for `NAMES`: [`NameKey::BITS`], always.
    pub prefix_length: u32,
    /// The policy under which the name was looked up last; [`crate::NO_POLICY`] to begin with.
    pub policy: u32,
    /// The name asked for, reversed.
    pub name: NameBytes,
    /// Zero.
    pub pad2: u32,
}

/// What the agent tells the programs about names. One element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamesConfigValue {
    /// A TTL that is shorter counts as this, in nanoseconds.
    pub floor_ns: u64,
    /// How long past its TTL a learned address still counts, for clients that ignore TTLs.
    pub grace_ns: u64,
    /// Bits of [`names_config`].
    pub flags: u64,
}

/// Bits of [`NamesConfigValue::flags`].
pub mod names_config {
    /// A hello with an encrypted one in it shows the name that stands outside of that.
    pub const OUTER_NAMES: u64 = 1;
}

/// Value of `NAMES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedValue {
    /// The list in `PORTS` of what the name adds to an address that was learned from it, or [`NO_LIST`].
    pub list: u32,
    /// Bits of [`named`].
    pub flags: u32,
}

/// Bits of [`NamedValue::flags`].
pub mod named {
    /// The name may be asked for also where questions are restricted.
    pub const OPENS: u32 = 1;
}

/// Key data of `NAMES`; the prefix length counts these bits.
///
/// A name is looked up with the zero that follows it and all of [`NameKey::BITS`]: an exact pattern's prefix holds that
/// zero, a `*.` pattern's ends in a dot.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameKey {
    /// Policy id; always compared whole.
    pub policy: u32,
    /// The reversed name, padded with zeros.
    pub name: NameBytes,
}

impl NameKey {
    /// Bits before the name.
    pub const HEADER_BITS: u32 = 32;
    /// Bits of a whole key.
    pub const BITS: u32 = 2048;
}

/// What is known of the name that a flow shows: [`ShownValue::state`].
pub mod shown {
    /// Nothing was sent yet, or not enough.
    pub const MORE: u8 = 0;
    /// This name, for good.
    pub const NAME: u8 = 1;
    /// This name, but what follows may still take it back: an extension that encrypts the real one.
    pub const SO_FAR: u8 = 2;
    /// It was read whole and shows no name.
    pub const NONE: u8 = 3;
    /// The name is encrypted (ECH). The one that is kept stands outside, and is no name that the flow goes by.
    pub const ENCRYPTED: u8 = 4;
    /// Neither a `ClientHello` nor an HTTP/1 request, or one that cannot be followed.
    pub const UNREADABLE: u8 = 5;
    /// This name, which stands outside of an encrypted one: [`super::names_config::OUTER_NAMES`].
    pub const OUTER: u8 = 6;

    /// Is there a name that the flow goes by?
    pub const fn is_name(state: u8) -> bool {
        matches!(state, NAME | SO_FAR | OUTER)
    }
}

/// Where a name was shown: [`ShownValue::by`].
pub mod shown_by {
    /// Nowhere yet.
    pub const NOTHING: u8 = 0;
    /// In the server name indication of a `ClientHello`.
    pub const TLS: u8 = 1;
    /// In the `Host` of an HTTP/1 request.
    pub const HTTP: u8 = 2;
}

/// The name that a flow showed: value of `SHOWN`, freed with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShownValue {
    /// One of [`shown`].
    pub state: u8,
    /// One of [`shown_by`].
    pub by: u8,
    /// Length of the name.
    pub name_length: u8,
    /// Zero.
    pub pad: u8,
    /// The name, reversed.
    pub name: NameBytes,
}

/// How far the requests of a flow have been told of: value of `TOLD`, freed with the socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToldValue {
    /// The TCP number after the last of them: what is sent again is not told again.
    pub next: u32,
}

/// Addresses of an answer that an event tells; it counts all of them.
pub const TOLD_ADDRESSES: usize = 4;

/// An event with a name: a flow's, or with a kind of its own ([`crate::kind`]), where `remote` is the resolver or the
/// server.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameEvent {
    /// What any event has.
    pub flow: FlowEvent,
    /// DNS: the type asked for.
    pub dns_type: u16,
    /// DNS: how many addresses the answer has.
    pub answers: u16,
    /// DNS: the answer's code.
    pub response_code: u8,
    /// One of [`shown`], for kinds TLS and HTTP.
    pub shown: u8,
    /// Length of the name.
    pub name_length: u8,
    /// Zero.
    pub pad: u8,
    /// DNS: the first of the addresses; the rest is zero.
    pub addresses: [[u8; 16]; TOLD_ADDRESSES],
    /// The name, reversed.
    pub name: NameBytes,
    /// Zero.
    pub pad2: u32,
}

/// Bytes of a payload that are told; a power of two. A datagram of QUIC's Initial packets is not longer.
pub const TOLD_PAYLOAD: usize = 2048;

/// A payload that user space reads: in the ring `PAYLOADS`. Of kind [`crate::kind::HTTP`] the start of a request, of kind
/// [`crate::kind::TLS`] a datagram of QUIC.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadEvent {
    /// What any event with a name has. The name is only that of the first request, which the flow was judged by.
    pub event: NameEvent,
    /// How many bytes of `payload` are set.
    pub length: u32,
    /// 1 for the first request of a flow.
    pub is_first: u32,
    /// The payload from its start.
    pub payload: [u8; TOLD_PAYLOAD],
}

const _: () = {
    assert!(size_of::<ResolverKey>() == 20);
    assert!(size_of::<QuestionKey>() == 40);
    assert!(size_of::<QuestionValue>() == 264);
    assert!(size_of::<LearnedKey>() == 16);
    assert!(size_of::<LearnedValue>() == 320);
    assert!(size_of::<NamesConfigValue>() == 24);
    assert!(size_of::<NameKey>() == 256);
    assert!(size_of::<NamedValue>() == 8);
    assert!(size_of::<ShownValue>() == 256);
    assert!(size_of::<ToldValue>() == 4);
    assert!(size_of::<NameEvent>() == 104 + 8 + 16 * TOLD_ADDRESSES + 256);
    assert!(size_of::<PayloadEvent>() == 432 + 8 + TOLD_PAYLOAD);
};

#[cfg(feature = "user")]
mod pod {
    use super::{
        FlowEvent, LearnedKey, LearnedValue, NameEvent, NameKey, NamedValue, NamesConfigValue, PayloadEvent,
        QuestionKey, QuestionValue, ResolverKey, ShownValue, ToldValue,
    };

    macro_rules! pod {
        ($($name:ident),+ $(,)?) => {$(
            // SAFETY: `repr(C)`, `Copy` and `'static`, made of integers only, and the size assertions above leave no
            // room for padding: every byte is initialised and any byte pattern is a value.
            unsafe impl aya::Pod for $name {}
        )+};
    }

    pod!(
        FlowEvent,
        LearnedKey,
        LearnedValue,
        NameEvent,
        NameKey,
        NamedValue,
        NamesConfigValue,
        PayloadEvent,
        QuestionKey,
        QuestionValue,
        ResolverKey,
        ShownValue,
        ToldValue,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> Option<String> {
        let (bytes, length) = reversed(name.as_bytes())?;
        assert!(bytes[length..].iter().all(|byte| *byte == 0));
        Some(bytes[..length].iter().map(|byte| *byte as char).collect())
    }

    #[test]
    fn a_name_is_turned_round() {
        assert_eq!(text("A.b.Com").as_deref(), Some("moc.b.a."));
        assert_eq!(text("com").as_deref(), Some("moc."));
        assert_eq!(text(&"a".repeat(63)).map(|name| name.len()), Some(64));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for name in ["", ".", "a.", ".a", "a..b", "a b", "a\0b", "ä", &"a".repeat(64), &"a.".repeat(130)] {
            assert_eq!(text(name), None, "{name:?}");
        }
    }

    #[test]
    fn addresses_spread_over_the_buckets() {
        let mut used = std::collections::BTreeSet::new();
        for last in 0..=255 {
            let address = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, last];
            let bucket = learned_bucket(address_words(address));
            assert!(bucket < LEARNED_BUCKETS);
            used.insert(bucket);
        }
        assert!(used.len() > 200, "{}", used.len());
    }
}
