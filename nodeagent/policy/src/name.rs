//! Domain names, and the patterns of names that rules hold.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// The most bytes that a name may have on the wire, the final zero left out: a key of the kernel holds no more.
pub const MAX_WIRE: usize = 250;

/// The most bytes of a label (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;

/// A domain name in the one form in which names are compared: lower-case ASCII (IDNA), without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// What a rule says of names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamePattern {
    /// `a.b`: that name only.
    Exact(Name),
    /// `*.b`: every name below `b`, at any depth, and not `b` itself.
    Below(Name),
}

/// Why a text is no name or pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// `*` alone.
    #[error("`*` would match every name; write `*.` before a domain, or leave `to` out to mean anywhere")]
    Everything,
    /// A `*` that does not stand for all labels before a domain.
    #[error("`{0}` has a `*` in it; it goes only before a whole domain, as in *.example.com")]
    Star(String),
    /// An address in a name's place.
    #[error("`{0}` is an address; write it under networks")]
    Address(String),
    /// Too long for DNS, or for the kernel's key.
    #[error("`{0}…` has more than {MAX_WIRE} bytes as DNS writes it; no such name can be matched")]
    TooLong(String),
    /// Not a domain name.
    #[error(
        "`{0}` is no domain name; write labels of at most {MAX_LABEL} letters, digits, `-` and `_` with dots between \
         them, such as api.example.com"
    )]
    Invalid(String),
}

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domains that the name is below, the nearest first.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('.').map(|(dot, _)| &self.0[dot + 1..])
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let shown = || text.chars().take(60).collect::<String>();
        let invalid = || NameError::Invalid(shown());
        if text.parse::<IpAddr>().is_ok() {
            return Err(NameError::Address(shown()));
        }
        if text.contains('*') {
            return Err(NameError::Star(shown()));
        }
        // Far above what any name needs, so that no long text is mapped and normalised.
        if text.len() > 8 * MAX_WIRE {
            return Err(NameError::TooLong(shown()));
        }
        let ascii = idna::domain_to_ascii(text).map_err(|_| invalid())?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.len() >= MAX_WIRE {
            return Err(NameError::TooLong(shown()));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(plain);
        if !name.split('.').all(is_label) {
            return Err(invalid());
        }
        Ok(Self(name.to_owned()))
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix("*.") {
            _ if text == "*" || text == "*." => Err(NameError::Everything),
            Some(domain) => domain.parse().map(Self::Below),
            None => text.parse().map(Self::Exact),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => write!(f, "{name}"),
            Self::Below(domain) => write!(f, "*.{domain}"),
        }
    }
}

impl Serialize for NamePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, NameError> {
        text.parse::<NamePattern>().map(|pattern| pattern.to_string())
    }

    #[test]
    fn names_have_one_form() {
        for (text, expected) in [
            ("api.stripe.com", "api.stripe.com"),
            ("API.Stripe.COM.", "api.stripe.com"),
            ("*.S3.amazonaws.com", "*.s3.amazonaws.com"),
            ("localhost", "localhost"),
            ("_sip._tcp.example.com", "_sip._tcp.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("*.BÜCHER.example", "*.xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("r3---sn-p5qlsn7s.c.example", "r3---sn-p5qlsn7s.c.example"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let refused = |text: &str| read(text).expect_err(text);
        assert_eq!(refused("*"), NameError::Everything);
        assert_eq!(refused("*."), NameError::Everything);
        for text in ["a.*.b", "*a.b", "*.*.b", "a*"] {
            assert!(matches!(refused(text), NameError::Star(_)), "{text}");
        }
        for text in ["10.0.0.1", "2001:db8::1"] {
            assert!(matches!(refused(text), NameError::Address(_)), "{text}");
        }
        let long_label = "a".repeat(64);
        for text in ["", ".", "a..b", ".a", "a b", "a/b", "a:80", "http://a", "a.b..", &long_label] {
            assert!(matches!(refused(text), NameError::Invalid(_)), "{text}");
        }
    }

    #[test]
    fn the_longest_name_fits() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(57));
        assert_eq!(longest.len() + 1, MAX_WIRE);
        assert_eq!(read(&longest).as_deref(), Ok(longest.as_str()));
        assert!(matches!(read(&format!("{longest}e")), Err(NameError::TooLong(_))));
        assert!(matches!(read(&"a".repeat(9000)), Err(NameError::TooLong(_))));
    }
}
