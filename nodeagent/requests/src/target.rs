//! The target of a request, taken apart.

use crate::text;

/// A host and the port beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Authority {
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// What an absolute target names.
    pub(crate) authority: Option<Authority>,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

impl Target {
    /// Reads the target of a request of HTTP/1: `/path`, `*`, `http://host/path`, and for CONNECT `host:port`.
    pub(crate) fn read(method: &str, target: &[u8]) -> Option<Self> {
        if method == "CONNECT" {
            let authority = Authority::read(target).filter(|authority| authority.host.is_some())?;
            return Some(Self { authority: Some(authority), path: String::new(), query: None });
        }
        if target == b"*" {
            return Some(Self { authority: None, path: "*".to_owned(), query: None });
        }
        if target.first() == Some(&b'/') {
            let (path, query) = split_query(target);
            return Some(Self { authority: None, path, query });
        }
        let colon = target.windows(3).position(|three| three == b"://")?;
        let (scheme, rest) = (&target[..colon], &target[colon + 3..]);
        let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if scheme.is_empty() || !scheme.iter().all(is_scheme) {
            return None;
        }
        let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
        // What stands before the last @ is a user, and maybe a password.
        let host = rest[..end].rsplit(|byte| *byte == b'@').next()?;
        let authority = Authority::read(host).filter(|authority| authority.host.is_some())?;
        let (mut path, query) = split_query(&rest[end..]);
        if !path.starts_with('/') {
            path.insert(0, '/');
        }
        Some(Self { authority: Some(authority), path, query })
    }
}

/// A path and what follows its `?`.
pub(crate) fn split_query(target: &[u8]) -> (String, Option<String>) {
    match target.iter().position(|byte| *byte == b'?') {
        Some(at) => (text::encoded(&target[..at]), Some(text::encoded(&target[at + 1..]))),
        None => (text::encoded(target), None),
    }
}

impl Authority {
    /// Reads `host`, `host:port`, `[address]` or `[address]:port`; nothing at all is no host.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']')?;
            let is_address = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '%');
            if host.is_empty() || !host.chars().all(is_address) {
                return None;
            }
            (host, port.strip_prefix(':').or(port.is_empty().then_some(""))?)
        } else {
            let (host, port) = text.split_once(':').unwrap_or((text, ""));
            let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '%' | '~');
            if !host.chars().all(is_name) {
                return None;
            }
            (host, port)
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let port = if port.is_empty() { None } else { Some(port.parse().ok()?) };
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        Some(Self { host: Some(host).filter(|host| !host.is_empty()), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, target: &str) -> Option<String> {
        let target = Target::read(method, target.as_bytes())?;
        let authority = target.authority.map_or("-".to_owned(), |authority| {
            format!("{}|{:?}", authority.host.unwrap_or_default(), authority.port)
        });
        Some(format!("{authority} {} {:?}", target.path, target.query))
    }

    #[test]
    fn targets_are_taken_apart() {
        for (method, target, expected) in [
            ("GET", "/a/b?c=d?e", "- /a/b Some(\"c=d?e\")"),
            ("GET", "/", "- / None"),
            ("GET", "/\u{e9}", "- /%C3%A9 None"),
            ("OPTIONS", "*", "- * None"),
            ("GET", "http://me:pw@Api.Test:8080/x?y", "api.test|Some(8080) /x Some(\"y\")"),
            ("GET", "http://me@evil.test@api.test", "api.test|None / None"),
            ("GET", "https://[2001:DB8::1]:443?y", "2001:db8::1|Some(443) / Some(\"y\")"),
            ("CONNECT", "api.test:443", "api.test|Some(443)  None"),
        ] {
            assert_eq!(read(method, target).as_deref(), Some(expected), "{target}");
        }
        for (method, target) in [
            ("GET", "a"),
            ("GET", "a:b"),
            ("GET", "http:///x"),
            ("CONNECT", "/a"),
            ("GET", "://a/"),
            ("GET", ""),
        ] {
            assert_eq!(read(method, target), None, "{target}");
        }
    }

    #[test]
    fn hosts_have_one_form() {
        let host = |text: &str| Authority::read(text.as_bytes());
        let some = |host: &str, port| Some(Authority { host: Some(host.to_owned()), port });
        assert_eq!(host("A.Test."), some("a.test", None));
        assert_eq!(host("a:80"), some("a", Some(80)));
        assert_eq!(host("[::1]"), some("::1", None));
        assert_eq!(host(""), Some(Authority::default()));
        for bad in ["a b", "a/b", "a@b", "a:b", "a:99999", "[::1", "[]", "[::1]x", "a:1:2", "a\u{e9}", "a\\b"]
        {
            assert_eq!(host(bad), None, "{bad}");
        }
    }
}
