//! Heads of HTTP/1: what is asked, and where the request ends.

use crate::target::{Authority, Target};
use crate::{Asked, Protocol, Reason, Request, secrets, text};

/// The most header lines of a head.
const MAX_LINES: usize = 128;

/// A head that was read.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) request: Request,
    pub(crate) body: Body,
    /// What follows the body may be another protocol.
    pub(crate) switches: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// Whether bytes are the beginning of a request of HTTP/1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Looks {
    /// They hold a whole request line.
    Yes,
    /// More of them would tell.
    SoFar,
    No,
}

impl Looks {
    /// Looks at bytes that begin where a request would. Once `Yes` or `No`, more bytes change nothing.
    pub(crate) fn at(bytes: &[u8]) -> Self {
        let Some(method) = text::method_end(bytes) else { return Self::No };
        match bytes.get(method) {
            None => return Self::SoFar,
            Some(b' ') if method > 0 => {}
            Some(_) => return Self::No,
        }
        let rest = &bytes[method + 1..];
        match rest.first() {
            None => return Self::SoFar,
            Some(b'/' | b'*' | b'[') => {}
            Some(byte) if byte.is_ascii_alphanumeric() => {}
            Some(_) => return Self::No,
        }
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            let is_text = |byte: &u8| !byte.is_ascii_control() || *byte == b'\r';
            return if rest.iter().all(is_text) { Self::SoFar } else { Self::No };
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        let target = line.strip_suffix(b" HTTP/1.1").or(line.strip_suffix(b" HTTP/1.0"));
        let is_target = |byte: &u8| *byte != b' ' && !byte.is_ascii_control();
        if target.is_some_and(|target| target.iter().all(is_target)) { Self::Yes } else { Self::No }
    }
}

/// Where a head ends whose end does not lie before `from`.
pub(crate) fn end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(3);
    let mut at = from;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == b'\n') {
        at += found + 1;
        match bytes[at..] {
            [b'\n', ..] => return Some(at + 1),
            [b'\r', b'\n', ..] => return Some(at + 2),
            _ => {}
        }
    }
    None
}

/// What is known of a head that was cut: the request, if its line and perhaps some headers are there.
pub(crate) fn cut(bytes: &[u8], asked: &Asked) -> Result<Request, Reason> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').ok_or(Reason::Cut)? + 1;
    let mut head = bytes[..whole].to_vec();
    head.extend_from_slice(if head.ends_with(b"\r\n") { b"\r\n" } else { b"\n" });
    read(&head, asked).map(|head| head.request)
}

/// Reads a whole head.
pub(crate) fn read(bytes: &[u8], asked: &Asked) -> Result<Head, Reason> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut parsed = httparse::Request::new(&mut lines);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Reason::TooLarge),
        _ => return Err(Reason::Malformed),
    }
    // Where lines end in two ways, servers see different lines.
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(|line| line.ends_with(b"\r\n"));
    let first = lines.next();
    if lines.any(|one| Some(one) != first) {
        return Err(Reason::Ambiguous);
    }
    let method = parsed.method.ok_or(Reason::Malformed)?.to_owned();
    let target = parsed.path.ok_or(Reason::Malformed)?;
    let target = Target::read(&method, target.as_bytes()).ok_or(Reason::Malformed)?;
    let is_old = parsed.version == Some(0);

    let values = |name: &'static str| {
        parsed.headers.iter().filter(move |line| line.name.eq_ignore_ascii_case(name)).map(|line| line.value)
    };
    let named = match one(values("host"))? {
        Some(host) => Authority::read(text::trimmed(host)).ok_or(Reason::Ambiguous)?,
        None => Authority::default(),
    };
    let authority = target.authority.unwrap_or(named);
    let body = body(one(values("transfer-encoding"))?, one(values("content-length"))?, is_old)?;
    let asks_to_switch =
        values("connection").flat_map(text::elements).any(|one| one.eq_ignore_ascii_case(b"upgrade"));
    let upgrade = values("upgrade").flat_map(text::elements).next().filter(|_| asks_to_switch && !is_old);
    let upgrade = upgrade.map(|name| text::printable(name, 64).to_ascii_lowercase());
    let mut headers = Vec::new();
    for line in parsed.headers.iter() {
        keep(&mut headers, line.name, line.value, asked);
    }
    let switches = upgrade.is_some() || method == "CONNECT";
    let request = Request {
        protocol: Protocol::Http1,
        method,
        host: authority.host,
        port: authority.port,
        path: target.path,
        query: asked_query(target.query, asked),
        headers,
        upgrade,
    };
    Ok(Head { request, body, switches })
}

/// The query as it may be told, if it is asked for.
pub(crate) fn asked_query(query: Option<String>, asked: &Asked) -> Option<String> {
    query.filter(|_| asked.query).map(|query| secrets::shown_query(&query))
}

/// Keeps a header if it was asked for, without its secret.
pub(crate) fn keep(kept: &mut Vec<(String, String)>, name: &str, value: &[u8], asked: &Asked) {
    let Some(name) = asked.headers.iter().find(|wanted| wanted.eq_ignore_ascii_case(name)) else { return };
    if kept.len() < MAX_LINES {
        let value = if secrets::is_secret_header(&name.to_ascii_lowercase()) {
            secrets::REDACTED.to_owned()
        } else {
            secrets::shown_value(&text::printable(text::trimmed(value), asked.limits.value))
        };
        kept.push((name.clone(), value));
    }
}

/// The value of a header that may be there once.
fn one<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, Reason> {
    let value = values.next();
    if values.next().is_some() { Err(Reason::Ambiguous) } else { Ok(value) }
}

/// How long the body is (RFC 9112, section 6.3), where every server would agree.
fn body(coding: Option<&[u8]>, length: Option<&[u8]>, is_old: bool) -> Result<Body, Reason> {
    match (coding, length) {
        (None, None) => Ok(Body::None),
        (None, Some(length)) => {
            let digits = text::trimmed(length);
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(digits).ok().filter(|_| is_number);
            number.and_then(|number| number.parse().ok()).map(Body::Length).ok_or(Reason::Ambiguous)
        }
        (Some(coding), None) if !is_old => {
            let mut codings = text::elements(coding).rev();
            let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
            let last = codings.next().is_some_and(is_chunked);
            if last && !codings.any(is_chunked) { Ok(Body::Chunked) } else { Err(Reason::Ambiguous) }
        }
        (Some(_), _) => Err(Reason::Ambiguous),
    }
}
