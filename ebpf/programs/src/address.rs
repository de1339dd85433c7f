//! Addresses as the maps want them: 16 bytes in network order.

use sluice_abi::V4_MAPPED;

/// IP version of a hook or a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address as two words, which compare faster than 16 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Address {
    high: u64,
    low: u64,
}

/// `::ffff:0:0` as the word that holds it, without the IPv4 address.
const MAPPED_PREFIX: u64 = u64::from_be_bytes([0, 0, V4_MAPPED[10], V4_MAPPED[11], 0, 0, 0, 0]);

impl Address {
    /// The address of a packet that has none.
    pub const NONE: Self = Self { high: 0, low: 0 };

    /// From four bytes in network order.
    #[inline(always)]
    pub fn v4(bytes: u32) -> Self {
        Self { high: 0, low: MAPPED_PREFIX | u64::from(u32::from_be(bytes)) }
    }

    /// From four words in network order.
    #[inline(always)]
    pub fn v6(words: [u32; 4]) -> Self {
        let word = |high: u32, low: u32| u64::from(u32::from_be(high)) << 32 | u64::from(u32::from_be(low));
        Self { high: word(words[0], words[1]), low: word(words[2], words[3]) }
    }

    /// Does something with both words.
    #[inline(always)]
    pub fn map(self, each: impl Fn(u64) -> u64) -> Self {
        Self { high: each(self.high), low: each(self.low) }
    }

    /// The form that keys and events hold.
    #[inline(always)]
    pub fn bytes(self) -> [u8; 16] {
        let words = [self.high.to_be(), self.low.to_be()];
        // SAFETY: 16 initialised bytes either way, and a byte array has no alignment to keep.
        unsafe { core::mem::transmute::<[u64; 2], [u8; 16]>(words) }
    }

    /// From the form that keys and values hold.
    #[inline(always)]
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        // SAFETY: 16 readable bytes; the read asks for no alignment.
        let words = unsafe { core::ptr::read_unaligned(core::ptr::from_ref(bytes).cast::<[u64; 2]>()) };
        Self { high: u64::from_be(words[0]), low: u64::from_be(words[1]) }
    }

    /// The same as two words as they lie in memory.
    #[inline(always)]
    pub fn words(self) -> [u64; 2] {
        [self.high.to_be(), self.low.to_be()]
    }

    /// From two words as they lie in memory.
    #[inline(always)]
    pub fn from_words(words: [u64; 2]) -> Self {
        Self { high: u64::from_be(words[0]), low: u64::from_be(words[1]) }
    }

    /// What no name may open: unspecified, loopback, link-local and multicast addresses, and the limited broadcast.
    #[inline(always)]
    pub fn is_never_learned(self) -> bool {
        if self.is_mapped() {
            let v4 = self.low as u32;
            return matches!(v4 >> 24, 0 | 127 | 224..=239) || v4 >> 16 == 0xa9fe || v4 == u32::MAX;
        }
        self.is_local() || self.high >> 54 == 0xfe80 >> 6 || self.high >> 56 == 0xff
    }

    /// IPv4 in its 16-byte form. On the wire of IPv6 there is no such address (RFC 4291, section 2.5.5.2).
    #[inline(always)]
    pub fn is_mapped(self) -> bool {
        self.high == 0 && self.low & !0xffff_ffff == MAPPED_PREFIX
    }

    /// What a host may send from before it has an address, or beside the one it was given: the unspecified addresses,
    /// and IPv6 link-local (RFC 4291, section 2.5.6).
    #[inline(always)]
    pub fn is_provisional(self) -> bool {
        let unspecified = self.high == 0 && (self.low == 0 || self.low == MAPPED_PREFIX);
        unspecified || self.high >> 54 == 0xfe80 >> 6
    }

    /// An IPv4 multicast group, or an IPv6 one that no router forwards (RFC 4291, section 2.7).
    #[inline(always)]
    pub fn is_link_multicast(self) -> bool {
        (self.high == 0 && self.low >> 28 == (MAPPED_PREFIX | 0xe000_0000) >> 28) || self.high >> 48 == 0xff02
    }

    /// 127.0.0.0/8, ::1, or the unspecified address, to which a connect means loopback.
    #[inline(always)]
    pub fn is_local(self) -> bool {
        let v4_local = self.is_mapped() && (self.low as u32 >> 24 == 127 || self.low as u32 == 0);
        v4_local || (self.high == 0 && self.low <= 1)
    }
}
