//! What a rule says of HTTP requests, and paths in the one form in which they are compared.

use std::borrow::Cow;

use serde::Serialize;

/// The most entries of a rule's `http`, as Gateway API has it.
pub const MAX_MATCHES: usize = 64;

/// The most bytes of a path in a rule, as Gateway API has it.
pub const MAX_PATH: usize = 1024;

/// One entry of a rule's `http`: methods, a path, or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpMatch {
    /// `methods`: any of these. Absent: any method. Never empty.
    pub methods: Option<Vec<Method>>,
    /// `path`. Absent: any path.
    pub path: Option<PathMatch>,
}

/// A method that Gateway API knows. Methods are told apart by case; others match only entries without `methods`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are HTTP's own")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl Method {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 9] = [
        ("GET", Self::Get),
        ("HEAD", Self::Head),
        ("POST", Self::Post),
        ("PUT", Self::Put),
        ("DELETE", Self::Delete),
        ("CONNECT", Self::Connect),
        ("OPTIONS", Self::Options),
        ("TRACE", Self::Trace),
        ("PATCH", Self::Patch),
    ];

    /// The method of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, method)| method)
    }
}

/// `path` of an entry. The value is as [`normal`] gives it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// That path only; a final `/` counts.
    Exact(String),
    /// The path and all below it, element by element: `/v1` means `/v1`, `/v1/` and `/v1/x`, not `/v10`. A final `/` of the
    /// value does not count.
    Prefix(String),
}

impl PathMatch {
    /// Whether a path, as [`normal`] gives it, is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(value) => path == value,
            Self::Prefix(value) => {
                let value = value.strip_suffix('/').unwrap_or(value);
                path.strip_prefix(value).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// A path that servers read in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnclearPath {
    /// A `%` without two digits of base 16.
    #[error("a `%` in it has no two digits behind it")]
    Percent,
    /// An encoded `/`, `\` or NUL.
    #[error("it has an encoded `/`, `\\` or NUL in it")]
    Encoded,
    /// A character that no path has.
    #[error("it has a `\\`, `#`, `?`, space or control character in it")]
    Character,
    /// More `..` than elements, or `..` beside `//` or `;`.
    #[error("its `.` and `..` mean different paths to different servers")]
    Dots,
    /// It does not begin with `/`.
    #[error("it does not begin with `/`")]
    Relative,
}

/// The path in the one form in which paths are compared (RFC 3986, section 6.2.2): unreserved characters are not
/// percent-encoded, other codes are in upper case, `.` and `..` are resolved, and several `/` are one.
pub fn normal(path: &str) -> Result<String, UnclearPath> {
    if !path.starts_with('/') {
        return Err(UnclearPath::Relative);
    }
    let path = decoded(path)?;
    let is_dots = |element: &str| {
        let plain = element.split(';').next().unwrap_or_default();
        matches!(plain, "." | "..")
    };
    let elements: Vec<&str> = path[1..].split('/').collect();
    if !elements.iter().copied().any(is_dots) {
        let mut kept: Vec<&str> = elements.iter().copied().filter(|element| !element.is_empty()).collect();
        if path.ends_with('/') {
            kept.push("");
        }
        return Ok(format!("/{}", kept.join("/")));
    }
    // An empty element is none to some servers, and one that `..` takes away to others.
    let (last, inner) = elements.split_last().ok_or(UnclearPath::Relative)?;
    if inner.iter().any(|element| element.is_empty()) {
        return Err(UnclearPath::Dots);
    }
    let mut kept = Vec::new();
    for element in &elements {
        match *element {
            "." => {}
            ".." => drop(kept.pop().ok_or(UnclearPath::Dots)?),
            dots if is_dots(dots) => return Err(UnclearPath::Dots),
            element => kept.push(element),
        }
    }
    if is_dots(last) {
        kept.push("");
    }
    Ok(format!("/{}", kept.join("/")))
}

/// Decodes what need not be encoded.
fn decoded(path: &str) -> Result<Cow<'_, str>, UnclearPath> {
    let is_strange = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'\\' | b'#' | b'?');
    if path.bytes().any(is_strange) {
        return Err(UnclearPath::Character);
    }
    if !path.contains('%') {
        return Ok(Cow::Borrowed(path));
    }
    let mut plain = String::with_capacity(path.len());
    let mut parts = path.split('%');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let code = code.ok_or(UnclearPath::Percent)?;
        match u8::from_str_radix(code, 16).map_err(|_| UnclearPath::Percent)? {
            b'/' | b'\\' | 0 => return Err(UnclearPath::Encoded),
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => plain.push(char::from(byte)),
            _ => {
                plain.push('%');
                plain.push_str(&code.to_ascii_uppercase());
            }
        }
        plain.push_str(&part[2..]);
    }
    Ok(Cow::Owned(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_form() {
        for (path, expected) in [
            ("/", "/"),
            ("/v1", "/v1"),
            ("/v1/", "/v1/"),
            ("//v1///x//", "/v1/x/"),
            ("/%76%31/%7E%C3%a9%2b", "/v1/~%C3%A9%2B"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2E%2e/c", "/c"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/...", "/..."),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(expected), "{path}");
            assert_eq!(normal(expected).as_deref(), Ok(expected), "{expected}");
        }
        for (path, why) in [
            ("", UnclearPath::Relative),
            ("*", UnclearPath::Relative),
            ("/..", UnclearPath::Dots),
            ("/a/../../b", UnclearPath::Dots),
            ("/a//../b", UnclearPath::Dots),
            ("/a/..;/b", UnclearPath::Dots),
            ("/a/.;x/b", UnclearPath::Dots),
            ("/a%2fb", UnclearPath::Encoded),
            ("/a%5Cb", UnclearPath::Encoded),
            ("/a%00", UnclearPath::Encoded),
            ("/a%", UnclearPath::Percent),
            ("/a%4", UnclearPath::Percent),
            ("/a%zz", UnclearPath::Percent),
            ("/a%+1", UnclearPath::Percent),
            ("/a\\b", UnclearPath::Character),
            ("/a#b", UnclearPath::Character),
            ("/a b", UnclearPath::Character),
            ("/\u{e9}", UnclearPath::Character),
        ] {
            assert_eq!(normal(path), Err(why), "{path}");
        }
    }

    #[test]
    fn prefixes_go_element_by_element() {
        let prefix = |value: &str, path: &str| PathMatch::Prefix(value.to_owned()).matches(path);
        for value in ["/v1", "/v1/"] {
            for path in ["/v1", "/v1/", "/v1/x"] {
                assert!(prefix(value, path), "{value} {path}");
            }
            for path in ["/v10", "/", "/v", "/V1", "/x/v1"] {
                assert!(!prefix(value, path), "{value} {path}");
            }
        }
        assert!(prefix("/", "/") && prefix("/", "/x"));
        let exact = |path: &str| PathMatch::Exact("/v1".to_owned()).matches(path);
        assert!(exact("/v1") && !exact("/v1/") && !exact("/v1/x"));
    }
}
