//! Requests that pods send over HTTP: what their events tell, and what policies say of them.
//!
//! Nothing of a request is enforced yet, so one that a policy would deny is an `audit`.

use std::collections::BTreeMap;

use sluice_policy::{Action as Verdict, Flow, FlowProtocol, Judgement, Name, Names, Requested, Shown};
use sluice_requests::Request;

use super::events::{Action, Line, RequestLine, policy_name, rule_name};
use super::node::Node;

/// The most bytes of a path, or of a query, in an event.
const MAX_TEXT: usize = 2048;

/// Writes a request into the event of its connection, with what the policies of its pod say of it.
///
/// `shown` is the name that the connection shows in TLS, where that is known. A line without a port is of a connection whose
/// destination is not known: then nothing is judged.
pub(super) fn describe(
    line: Line,
    request: Request,
    endpoint: u64,
    shown: Option<&str>,
    library: Option<&'static str>,
    node: &Node,
) -> Line {
    let judged = opening(&line, &request, shown)
        .and_then(|opening| node.judge(endpoint, &opening, requested(&request)));
    told(line, request, shown, library, judged.as_ref())
}

/// The connection as the policies see it before any request.
fn opening(line: &Line, request: &Request, shown: Option<&str>) -> Option<Flow> {
    let name = shown.or(request.host.as_deref()).and_then(|name| name.parse::<Name>().ok());
    Some(Flow {
        destination: line.dst,
        protocol: FlowProtocol::Tcp,
        port: line.dport?,
        opaque: false,
        // The kernel let the connection show it, so it was learned, if that matters.
        names: Names {
            learned: name.clone().into_iter().collect(),
            shown: Some(name.map_or(Shown::Unreadable, Shown::Name)),
        },
        request: None,
    })
}

/// The request as the policies see it.
fn requested(request: &Request) -> Requested {
    Requested::Request { method: request.method.clone(), path: request.path.clone() }
}

/// The line with the request and the rulings: of it, and of its connection before it was known.
fn told(
    mut line: Line,
    request: Request,
    shown: Option<&str>,
    library: Option<&'static str>,
    judged: Option<&(Judgement, Judgement)>,
) -> Line {
    let is_denied = |judgement: &Judgement| judgement.reported.action == Verdict::Deny;
    // What the kernel ruled about the connection stands. One that it denies it cuts, and tells of that itself.
    if line.action == Action::Allow
        && let Some((known, opened)) = judged
        && opened.applied.action != Verdict::Deny
    {
        let ruling = if is_denied(known) { &known.reported } else { &known.applied };
        if let Some(by) = &ruling.by {
            line.policy = Some(policy_name(&by.policy));
            line.rule = Some(rule_name(by));
        }
        if is_denied(known) {
            line.action = Action::Audit;
            let by = ruling.by.as_ref().map(ToString::to_string).unwrap_or_default();
            let why = if is_denied(opened) { "" } else { ", by the request, which is not enforced" };
            line.reason = by + why;
        }
    }
    if let (Some(shown), Some(host)) = (shown, &request.host)
        && !shown.eq_ignore_ascii_case(host)
    {
        line.reason = format!("{}; TLS shows {shown}", line.reason);
    }
    let headers = request.headers.into_iter().fold(BTreeMap::new(), |mut headers, (name, value)| {
        let all: &mut String = headers.entry(name).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&value);
        headers
    });
    line.method = Some(request.method);
    line.path = Some(cut(request.path)).filter(|path| !path.is_empty());
    line.request = RequestLine {
        query: request.query.map(cut),
        headers: Some(headers).filter(|headers| !headers.is_empty()),
        protocol: Some(request.protocol.name().to_owned()),
        upgrade: request.upgrade,
        library: library.map(str::to_owned),
    };
    line
}

/// What an event has room for. The texts of a request are ASCII.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(MAX_TEXT);
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests;
