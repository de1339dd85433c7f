//! Bytes that somebody else chose, made fit to be shown.

use std::fmt::Write;

/// Percent-encodes what is no printable ASCII, as a path or query has it.
pub(crate) fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

/// Puts `?` for what is no printable ASCII, and cuts what is too long.
pub(crate) fn printable(bytes: &[u8], longest: usize) -> String {
    let shown = |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' };
    bytes.iter().take(longest).map(shown).collect()
}

/// The longest method.
const MAX_METHOD: usize = 32;

/// Whether a byte may be in a method (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Where a method ends that bytes begin with; none if they begin with none.
pub(crate) fn method_end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.iter().take(MAX_METHOD + 1).take_while(|byte| is_token(**byte)).count();
    (length <= MAX_METHOD).then_some(length)
}

/// Whether bytes are a method.
pub(crate) fn is_method(bytes: &[u8]) -> bool {
    !bytes.is_empty() && method_end(bytes) == Some(bytes.len())
}

/// Without spaces and tabs at both ends.
pub(crate) fn trimmed(bytes: &[u8]) -> &[u8] {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = bytes.iter().take_while(|byte| is_space(byte)).count();
    let bytes = &bytes[start..];
    let end = bytes.iter().rev().take_while(|byte| is_space(byte)).count();
    &bytes[..bytes.len() - end]
}

/// The elements of a list, as headers write it.
pub(crate) fn elements(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trimmed).filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_a_terminal_raw() {
        assert_eq!(encoded(b"/a\x1b[2J\n\xffb c"), "/a%1B[2J%0A%FFb%20c");
        assert_eq!(printable(b"a\x1b[2J\n\xff b", 100), "a?[2J?? b");
        assert_eq!(printable(b"abcdef", 3), "abc");
    }

    #[test]
    fn lists_are_taken_apart() {
        let found: Vec<&[u8]> = elements(b" gzip ,, chunked\t").collect();
        assert_eq!(found, [&b"gzip"[..], b"chunked"]);
        assert_eq!(trimmed(b" \t "), b"");
    }
}
