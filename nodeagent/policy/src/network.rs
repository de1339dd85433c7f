//! A network in CIDR form, as a policy may write it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// An IPv4 or IPv6 network without host bits.
///
/// IPv4 is always held as IPv4: an IPv4-mapped IPv6 network cannot be made. An IPv6 network therefore never holds an
/// IPv4 address, not even `::/0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network(IpNetwork);

/// Why a text or a pair of address and length is no [`Network`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not an address, a slash and a length.
    #[error("`{0}` is no network; write an address and a length, such as 10.0.0.0/8 or 2001:db8::/32")]
    Malformed(String),
    /// An address without a length.
    #[error("`{0}` has no length; write {0}/{1} for this one address")]
    NoLength(IpAddr, u8),
    /// The length is over 32 (IPv4) or 128 (IPv6).
    #[error("`/{length}` is too long for {address}; the longest is /{longest}")]
    TooLong {
        /// The address as written.
        address: IpAddr,
        /// The length as written.
        length: u32,
        /// 32 or 128.
        longest: u8,
    },
    /// Bits beyond the length are set.
    #[error("`{0}` has bits set beyond its length; write {1}, or {2} for this one address")]
    HostBits(String, Network, Network),
    /// An IPv4 network in IPv6 clothes.
    #[error("`{0}` is an IPv4-mapped network; write the IPv4 form, {1}")]
    Mapped(String, Network),
}

impl Network {
    /// Makes a network of an address and its length in bits.
    ///
    /// Fails if the length is over the family's, if bits beyond it are set, or if the network is IPv4-mapped.
    pub fn new(address: IpAddr, length: u8) -> Result<Self, NetworkError> {
        let longest = width(address);
        let network = IpNetwork::new(address, length).map_err(|_| NetworkError::TooLong {
            address,
            length: u32::from(length),
            longest,
        })?;
        let written = network.to_string();
        if let IpAddr::V6(v6) = address
            && length >= 96
            && let Some(v4) = v6.to_ipv4_mapped()
        {
            let whole = truncated(IpAddr::V4(v4), length - 96);
            return Err(NetworkError::Mapped(written, whole));
        }
        let whole = truncated(address, length);
        if whole.0 != network {
            return Err(NetworkError::HostBits(written, whole, Self::host(address)));
        }
        Ok(whole)
    }

    /// The network of one address; an IPv4-mapped address gives the IPv4 network.
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self(IpNetwork::from(address))
    }

    /// The first address of the network.
    pub fn address(&self) -> IpAddr {
        self.0.ip()
    }

    /// The length in bits: 0–32 for IPv4, 0–128 for IPv6.
    pub fn length(&self) -> u8 {
        self.0.prefix()
    }

    /// Whether every address of `other` is in this network. Always false between families.
    pub fn covers(&self, other: &Self) -> bool {
        width(self.address()) == width(other.address())
            && self.length() <= other.length()
            && truncated(other.address(), self.length()) == *self
    }
}

/// The network of `length` bits around `address`; `length` must not be over the family's.
fn truncated(address: IpAddr, length: u8) -> Network {
    let kept = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    };
    // The callers keep `length` within the family; a full-length network stands in for the case that cannot be.
    Network(IpNetwork::new(kept, length).unwrap_or_else(|_| IpNetwork::from(kept)))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let malformed = || NetworkError::Malformed(text.to_owned());
        let Some((address, length)) = text.split_once('/') else {
            let address: IpAddr = text.parse().map_err(|_| malformed())?;
            let address = address.to_canonical();
            return Err(NetworkError::NoLength(address, width(address)));
        };
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(malformed());
        }
        let length: u32 = length.parse().map_err(|_| malformed())?;
        let longest = width(address);
        match u8::try_from(length) {
            Ok(fits) if fits <= longest => Self::new(address, fits),
            _ => Err(NetworkError::TooLong { address, length, longest }),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_or_refused_with_advice() {
        for (text, advice) in [
            (
                "10.0.0.1/24",
                "`10.0.0.1/24` has bits set beyond its length; write 10.0.0.0/24, or 10.0.0.1/32 for this one address",
            ),
            (
                "2001:db8::1/32",
                "`2001:db8::1/32` has bits set beyond its length; write 2001:db8::/32, or 2001:db8::1/128 for this one address",
            ),
            (
                "::ffff:10.0.0.0/104",
                "`::ffff:10.0.0.0/104` is an IPv4-mapped network; write the IPv4 form, 10.0.0.0/8",
            ),
            (
                "::ffff:10.0.0.7/104",
                "`::ffff:10.0.0.7/104` is an IPv4-mapped network; write the IPv4 form, 10.0.0.0/8",
            ),
            (
                "::ffff:0:0/96",
                "`::ffff:0.0.0.0/96` is an IPv4-mapped network; write the IPv4 form, 0.0.0.0/0",
            ),
            ("10.0.0.1", "`10.0.0.1` has no length; write 10.0.0.1/32 for this one address"),
            ("::ffff:10.0.0.1", "`10.0.0.1` has no length; write 10.0.0.1/32 for this one address"),
            ("10.0.0.0/33", "`/33` is too long for 10.0.0.0; the longest is /32"),
            ("::/129", "`/129` is too long for ::; the longest is /128"),
            (
                "10.0.0.0/+8",
                "`10.0.0.0/+8` is no network; write an address and a length, such as 10.0.0.0/8 or 2001:db8::/32",
            ),
            (
                "example.com",
                "`example.com` is no network; write an address and a length, such as 10.0.0.0/8 or 2001:db8::/32",
            ),
        ] {
            let error = text.parse::<Network>().expect_err(text);
            assert_eq!(error.to_string(), advice);
        }
        for text in
            ["0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "2001:db8::/32", "::1/128", "::fffe:0:0/95"]
        {
            assert_eq!(text.parse::<Network>().expect(text).to_string(), text);
        }
    }

    #[test]
    fn covering_stays_in_the_family() {
        let network = |text: &str| text.parse::<Network>().expect(text);
        assert!(network("10.0.0.0/8").covers(&network("10.255.0.0/16")));
        assert!(network("10.0.0.0/8").covers(&network("10.0.0.0/8")));
        assert!(!network("10.0.0.0/8").covers(&network("11.0.0.0/8")));
        assert!(!network("10.0.0.0/8").covers(&network("0.0.0.0/0")));
        assert!(network("::/0").covers(&network("2001:db8::/32")));
        assert!(!network("::/0").covers(&network("10.0.0.0/8")));
    }
}
