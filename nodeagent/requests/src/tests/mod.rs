//! Whole connections.

mod first;
mod random;
mod second;

use std::sync::Arc;

use crate::{Asked, Connection, Reason, Request, Seen};

/// Everything is asked for.
fn curious() -> Arc<Asked> {
    let headers = ["user-agent", "authorization", "x-api-key", "referer"].map(str::to_owned).to_vec();
    Arc::new(Asked { query: true, headers, ..Asked::default() })
}

/// A request in one line.
fn shown(request: &Request) -> String {
    let port = request.port.map(|port| format!(":{port}")).unwrap_or_default();
    let query = request.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let host = request.host.as_deref().unwrap_or_default();
    let headers: Vec<String> =
        request.headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
    let upgrade = request.upgrade.as_ref().map(|name| format!(" to {name}")).unwrap_or_default();
    format!("{} {host}{port} {}{query}{}{upgrade}", request.method, request.path, headers.concat())
}

fn told(seen: &[Seen]) -> Vec<String> {
    let one = |seen: &Seen| match seen {
        Seen::Request(request) => shown(request),
        Seen::Unread { reason, requests } => format!("unread {requests} {}", reason.name()),
    };
    seen.iter().map(one).collect()
}

/// What a connection gives for writes of which all is copied.
fn read(writes: &[&[u8]]) -> (Vec<String>, Connection) {
    let mut connection = Connection::new(curious());
    let mut seen = Vec::new();
    for write in writes {
        seen.extend(connection.write(write, 0));
    }
    (told(&seen), connection)
}

#[test]
fn every_reason_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), Reason::ALL.len());
}
