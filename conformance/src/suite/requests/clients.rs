//! The clients: real programs, each with the library that it writes through.

use super::programs::MOUNTED;
use super::server::{ADDRESS, HOST};

/// A client, and how it is told what to ask for.
pub(super) struct Client {
    /// What it is.
    pub(super) name: &'static str,
    /// Its command name, as the kernel has it.
    pub(super) comm: &'static str,
    /// The library, as events name it.
    pub(super) library: &'static str,
    /// `http/1.1` or `h2`.
    pub(super) protocol: &'static str,
    /// The command line for this prefix of paths and this many requests.
    pub(super) command: fn(&str, u32) -> Vec<String>,
}

/// A file whose content is sent, as curl takes it.
const UPLOAD: &str = "@/clients/upload";

/// Those that must be seen.
pub(super) const CLIENTS: &[Client] = &[
    client("curl, OpenSSL", "curl", "openssl", "http/1.1", |prefix, count| {
        curl("--http1.1", &["-d", "x"], prefix, count)
    }),
    client("curl, OpenSSL", "curl", "openssl", "h2", |prefix, count| {
        curl("--http2", &["-d", "x"], prefix, count)
    }),
    client("curl, large bodies", "curl", "openssl", "http/1.1", |prefix, count| {
        curl("--http1.1", &["--data-binary", UPLOAD], prefix, count)
    }),
    client("curl, large bodies in chunks", "curl", "openssl", "http/1.1", |prefix, count| {
        curl("--http1.1", &["-H", "Transfer-Encoding: chunked", "--data-binary", UPLOAD], prefix, count)
    }),
    client("curl, large bodies", "curl", "openssl", "h2", |prefix, count| {
        curl("--http2", &["--data-binary", UPLOAD], prefix, count)
    }),
    client("Python requests, large bodies", "python3", "openssl", "http/1.1", |prefix, count| {
        python("requests-large", prefix, count)
    }),
    client("libcurl, GnuTLS", "python3", "gnutls", "http/1.1", |prefix, count| {
        python("pycurl", prefix, count)
    }),
    client("libcurl, GnuTLS", "python3", "gnutls", "h2", |prefix, count| python("pycurl-2", prefix, count)),
    client("wget, GnuTLS", "wget", "gnutls", "http/1.1", wget),
    client("Python urllib", "python3", "openssl", "http/1.1", |prefix, count| {
        python("urllib", prefix, count)
    }),
    client("Python requests", "python3", "openssl", "http/1.1", |prefix, count| {
        python("requests", prefix, count)
    }),
    client("node", "node", "openssl", "http/1.1", |prefix, count| node("1.1", prefix, count)),
    client("node", "node", "openssl", "h2", |prefix, count| node("2", prefix, count)),
    client("Go", "go-client", "go", "http/1.1", |prefix, count| go("go-client", "1.1", prefix, count)),
    client("Go", "go-client", "go", "h2", |prefix, count| go("go-client", "2", prefix, count)),
    client("Go, stripped", "go-stripped", "go", "http/1.1", |prefix, count| {
        go("go-stripped", "1.1", prefix, count)
    }),
    client("Go, stripped", "go-stripped", "go", "h2", |prefix, count| go("go-stripped", "2", prefix, count)),
    client("openssl s_client", "openssl", "openssl", "http/1.1", s_client),
    client("C, OpenSSL", "openssl-dynamic", "openssl", "http/1.1", |prefix, count| {
        own("openssl-dynamic", prefix, count)
    }),
    client("C, static OpenSSL", "openssl-static", "openssl", "http/1.1", |prefix, count| {
        own("openssl-static", prefix, count)
    }),
    client("rustls", "rustls-client", "rustls", "http/1.1", |prefix, count| {
        own("rustls-client", prefix, count)
    }),
];

/// Cells that cannot be had, with the reason.
pub(super) const ABSENT: &[(&str, &str)] = &[
    ("wget, h2", "wget speaks HTTP/1.1 only"),
    ("Python urllib, h2", "urllib speaks HTTP/1.1 only"),
    ("Python requests, h2", "requests speaks HTTP/1.1 only"),
    ("openssl s_client, h2", "it sends what it is given, and frames of HTTP/2 are not typed"),
];

const fn client(
    name: &'static str,
    comm: &'static str,
    library: &'static str,
    protocol: &'static str,
    command: fn(&str, u32) -> Vec<String>,
) -> Client {
    Client { name, comm, library, protocol, command }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// One process; each second request is a POST.
fn curl(version: &str, post: &[&str], prefix: &str, count: u32) -> Vec<String> {
    let mut command = words(&["/usr/bin/curl"]);
    for number in 0..count {
        if number > 0 {
            command.extend(words(&["--next"]));
        }
        command.extend(words(&["-sS", "--fail", version, "--cacert", "/etc/ca.pem", "-o", "/dev/null"]));
        if number % 2 == 1 {
            command.extend(words(post));
        }
        command.push(format!("https://{HOST}{prefix}/{number}"));
    }
    command
}

fn python(kind: &str, prefix: &str, count: u32) -> Vec<String> {
    words(&["/usr/bin/python3", &format!("{MOUNTED}/client.py"), kind, HOST, prefix, &count.to_string()])
}

fn node(version: &str, prefix: &str, count: u32) -> Vec<String> {
    words(&["/usr/bin/node", &format!("{MOUNTED}/client.js"), version, HOST, prefix, &count.to_string()])
}

fn go(program: &str, version: &str, prefix: &str, count: u32) -> Vec<String> {
    words(&[&format!("{MOUNTED}/{program}"), version, HOST, prefix, &count.to_string()])
}

/// One of the suite's own, that takes the address too.
pub(super) fn own(program: &str, prefix: &str, count: u32) -> Vec<String> {
    let (program, address, count) = (format!("{MOUNTED}/{program}"), ADDRESS.to_string(), count.to_string());
    words(&[&program, &address, HOST, prefix, &count])
}

/// One process and one connection for the GETs, another for the POSTs.
fn wget(prefix: &str, count: u32) -> Vec<String> {
    let urls = |odd: u32| -> String {
        let numbers = (0..count).filter(|number| number % 2 == odd);
        numbers.map(|number| [" https://", HOST, prefix, "/", &number.to_string()].concat()).collect()
    };
    let wget = "wget -q -O /dev/null --ca-certificate=/etc/ca.pem";
    shell(&format!("{wget}{} && {wget} --post-data=x{}", urls(0), urls(1)))
}

/// A connection for each request.
fn s_client(prefix: &str, count: u32) -> Vec<String> {
    let lines: Vec<String> = (0..count)
        .map(|number| {
            let (method, body) =
                if number % 2 == 1 { ("POST", r"Content-Length: 1\r\n\r\nx") } else { ("GET", r"\r\n") };
            let request = format!(r"{method} {prefix}/{number} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{body}");
            let connect = format!("openssl s_client -quiet -verify_return_error -CAfile /etc/ca.pem -connect {HOST}:443 -servername {HOST}");
            format!("printf '{request}' | {connect} 2>/dev/null | grep -q '^ok'")
        })
        .collect();
    shell(&lines.join(" && "))
}

fn shell(script: &str) -> Vec<String> {
    words(&["/bin/sh", "-c", script])
}
