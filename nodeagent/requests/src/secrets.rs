//! What must not be told, even to who asked for it.

/// What stands where a secret was.
pub(crate) const REDACTED: &str = "REDACTED";

/// A name with one of these in it names a secret.
const SECRET: [&str; 16] = [
    "auth",
    "cookie",
    "credential",
    "jwt",
    "key",
    "pass",
    "pwd",
    "saml",
    "secret",
    "session",
    "sid",
    "sig",
    "signature",
    "ticket",
    "token",
    "otp",
];

/// Short names that name a secret only as a whole.
const SECRET_WHOLE: [&str; 3] = ["code", "state", "pin"];

/// Whether a header, by its name in lower case, carries a secret.
pub(crate) fn is_secret_header(name: &str) -> bool {
    SECRET.iter().any(|part| name.contains(part))
}

/// A header's value as it may be told: an address without user and query.
pub(crate) fn shown_value(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let (address, query) = match rest.split_once(['?', '#']) {
        Some((address, _)) => (address, "?REDACTED"),
        None => (rest, ""),
    };
    let (authority, path) = match address.find('/') {
        Some(at) => address.split_at(at),
        None => (address, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}{query}")
}

/// A query, with the values that look secret left out.
pub(crate) fn shown_query(query: &str) -> String {
    let shown = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if is_secret_parameter(name) => format!("{name}={REDACTED}"),
        // A parameter without a name may be anything.
        None if pair.len() > 32 => REDACTED.to_owned(),
        _ => pair.to_owned(),
    };
    let mut told = String::with_capacity(query.len());
    for (index, pair) in query.split(['&', ';']).enumerate() {
        if index > 0 {
            told.push('&');
        }
        told.push_str(&shown(pair));
    }
    told
}

fn is_secret_parameter(name: &str) -> bool {
    let name = decoded(name).to_ascii_lowercase();
    SECRET.iter().any(|part| name.contains(part)) || SECRET_WHOLE.contains(&name.as_str())
}

/// A name without its percent-encoding; what is not ASCII then is `?`.
fn decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let mut plain = String::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = name.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        at += if byte.is_some() { 3 } else { 1 };
        let byte = byte.unwrap_or(bytes[at - 1]);
        plain.push(if byte.is_ascii() { char::from(byte) } else { '?' });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_with_secrets_are_known_by_name() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-amz-security-token",
            "x-vault-token",
            "client-secret",
            "x-password",
        ] {
            assert!(is_secret_header(name), "{name}");
        }
        for name in ["user-agent", "accept", "content-type", "x-request-id"] {
            assert!(!is_secret_header(name), "{name}");
        }
    }

    #[test]
    fn secrets_in_a_query_are_left_out() {
        for (query, shown) in [
            ("page=2&sort=asc", "page=2&sort=asc"),
            ("access_token=abc&page=2", "access_token=REDACTED&page=2"),
            ("X-Amz-Signature=ff&X-Amz-Date=1", "X-Amz-Signature=REDACTED&X-Amz-Date=1"),
            ("to%6Ben=abc", "to%6Ben=REDACTED"),
            ("a=1;PASSWORD=x", "a=1&PASSWORD=REDACTED"),
            ("code=abc&postcode=1", "code=REDACTED&postcode=1"),
            ("flag", "flag"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0", "REDACTED"),
            ("key%=%zz", "key%=REDACTED"),
            ("", ""),
        ] {
            assert_eq!(shown_query(query), shown, "{query}");
        }
    }

    #[test]
    fn addresses_in_headers_lose_user_and_query() {
        assert_eq!(shown_value("https://me:pw@a.test/x/y?token=1"), "https://a.test/x/y?REDACTED");
        assert_eq!(shown_value("https://a.test"), "https://a.test");
        assert_eq!(shown_value("curl/8.5 (a?b)"), "curl/8.5 (a?b)");
    }
}
