//! Requests that pods send over HTTP: judged by their policies, and told as events.
//!
//! Whoever reads what pods write gives each [`Seen`] here with the [`Facts`] of its connection. What is told is what would
//! be: nothing of a request is enforced yet, so a request that a policy would deny is an `audit`.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_policy::{
    Action as Verdict, Flow, FlowProtocol, Judgement, Name, Names, Network, Requested, Ruling, Shown,
};
use sluice_requests::{Request, Seen};

use super::events::{
    Action, Describer, Hook, Kind, Line, RequestLine, SCHEMA, policy_name, rule_name, wall_clock,
};
use super::metrics::Filtered;
use super::node::Node;
use super::output::Outlet;

/// Events of one pod in a second, as the kernel has it.
const BUDGET: u32 = 1000;
const SECOND_NS: u64 = 1_000_000_000;
/// The most pods whose budget is kept: more than a node has.
const MAX_BUDGETS: usize = 4096;
/// The most bytes of a path, or of a query, in an event.
const MAX_TEXT: usize = 2048;

/// What is known of the connection that a request was written into.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The pod's cgroup.
    pub endpoint: u64,
    /// The process.
    pub pid: u32,
    /// Its command name, as the kernel has it.
    pub comm: [u8; 16],
    /// When, in nanoseconds of the boot clock.
    pub time_ns: u64,
    /// The pod's end of the connection, if it is known.
    pub source: Option<SocketAddr>,
    /// The other end, if it is known.
    pub destination: Option<SocketAddr>,
    /// The name that the connection shows in TLS, if it is known.
    pub name: Option<String>,
    /// The library that was called; none if the request was read on its way.
    pub library: Option<&'static str>,
}

/// Tells of requests.
pub struct Requests {
    outlet: Arc<Outlet>,
    describer: Describer,
    /// Destinations that are not told of.
    excluded: Vec<Network>,
    budgets: Mutex<Budgets>,
}

impl Requests {
    /// For a node of this name.
    pub fn new(outlet: Arc<Outlet>, node_name: String, excluded: Vec<Network>) -> Self {
        Self { outlet, describer: Describer::new(node_name), excluded, budgets: Mutex::default() }
    }

    /// Tells of what was found in a connection. Each request gives an event or is counted: as excluded, as over the pod's
    /// budget, or as unread.
    pub fn tell(&self, facts: &Facts, seen: Seen) {
        let shared = self.outlet.shared();
        let request = match seen {
            Seen::Request(request) => request,
            Seen::Unread { reason, requests } => return shared.metrics.unread(reason, requests),
        };
        let kind = kind_of(facts);
        let to = facts.destination.map(|to| Network::host(to.ip().to_canonical()));
        if to.is_some_and(|to| self.excluded.iter().any(|network| network.covers(&to))) {
            return shared.metrics.filtered(kind, Filtered::Excluded, 1);
        }
        if !self.budgets.lock().unwrap_or_else(PoisonError::into_inner).take(facts) {
            return shared.metrics.request_over_budget();
        }
        let node = shared.node();
        let judged = judge(&node, facts, &request);
        let pod = node.record(facts.endpoint).map(|record| self.describer.pod(record, facts.pid, &node));
        drop(node);
        let line = line(facts, request, judged.as_ref());
        self.outlet.tell(Line { pod, ..line });
    }
}

/// The kind of a request's event.
fn kind_of(facts: &Facts) -> Kind {
    if facts.library.is_some() { Kind::Https } else { Kind::Http }
}

/// What each pod has given in this second.
#[derive(Default)]
struct Budgets(HashMap<u64, (u64, u32)>);

impl Budgets {
    /// Whether one more event of the pod may be given.
    fn take(&mut self, facts: &Facts) -> bool {
        if self.0.len() >= MAX_BUDGETS && !self.0.contains_key(&facts.endpoint) {
            // Pods that are gone: a second starts anew for those that are not.
            self.0.clear();
        }
        let (since, given) = self.0.entry(facts.endpoint).or_insert((facts.time_ns, 0));
        // The clock of another CPU may be a little behind.
        if facts.time_ns.saturating_sub(*since) >= SECOND_NS {
            (*since, *given) = (facts.time_ns, 0);
        }
        *given += 1;
        *given <= BUDGET
    }
}

/// What policies say of a request.
struct Judged {
    known: Judgement,
    /// Whether any policy selects the pod.
    has_policy: bool,
    /// It would be denied for what it asks, not for where it goes.
    by_request: bool,
}

impl Judged {
    fn new(known: Judgement, opened: &Judgement, has_policy: bool) -> Self {
        let by_request = known.reported.action == Verdict::Deny && opened.reported.action == Verdict::Allow;
        Self { known, has_policy, by_request }
    }
}

/// Judges a request by the policies of its pod. None where nobody can: the pod or the destination is not known.
fn judge(node: &Node, facts: &Facts, request: &Request) -> Option<Judged> {
    let opening = opening(facts, request, facts.destination?);
    let (known, opened) = node.judge(facts.endpoint, &opening, requested(request))?;
    Some(Judged::new(known, &opened, node.is_selected(facts.endpoint)))
}

/// The connection as the policies see it before any request.
fn opening(facts: &Facts, request: &Request, destination: SocketAddr) -> Flow {
    let shown = facts.name.as_ref().or(request.host.as_ref()).and_then(|name| name.parse::<Name>().ok());
    Flow {
        destination: destination.ip(),
        protocol: FlowProtocol::Tcp,
        port: destination.port(),
        opaque: false,
        // The kernel let the connection show it, so it was learned, if that matters.
        names: Names {
            learned: shown.clone().into_iter().collect(),
            shown: Some(shown.map_or(Shown::Unreadable, Shown::Name)),
        },
        request: None,
    }
}

/// The request as the policies see it.
fn requested(request: &Request) -> Requested {
    Requested::Request { method: request.method.clone(), path: request.path.clone() }
}

/// The line of a request, but for its pod.
fn line(facts: &Facts, request: Request, judged: Option<&Judged>) -> Line {
    let is_denied = |judged: &&Judged| judged.known.reported.action == Verdict::Deny;
    let denied = judged.filter(is_denied).map(|judged| &judged.known.reported);
    let ruling: Option<&Ruling> = denied.or(judged.map(|judged| &judged.known.applied));
    let by = ruling.and_then(|ruling| ruling.by.as_ref());
    let mut reason = match (judged, by) {
        (None, _) if facts.destination.is_none() => "not judged: its destination is not known".to_owned(),
        (None, _) => "not judged: its pod is not governed any more".to_owned(),
        (Some(_), Some(rule)) => rule.to_string(),
        (Some(judged), None) if !judged.has_policy => "no policy selects the pod".to_owned(),
        (Some(_), None) => "no rule matches".to_owned(),
    };
    if judged.is_some_and(|judged| judged.by_request) {
        reason += ", by the request, which is not enforced";
    }
    if let (Some(shown), Some(host)) = (&facts.name, &request.host)
        && !shown.eq_ignore_ascii_case(host)
    {
        reason = format!("{reason}; TLS shows {shown}");
    }
    let known = |address: &SocketAddr| address.ip().to_canonical();
    let headers = request.headers.into_iter().fold(BTreeMap::new(), |mut headers, (name, value)| {
        let all: &mut String = headers.entry(name).or_default();
        if !all.is_empty() {
            all.push_str(", ");
        }
        all.push_str(&value);
        headers
    });
    Line {
        v: SCHEMA,
        ts: wall_clock(facts.time_ns),
        kind: kind_of(facts),
        pod: None,
        src: facts.source.as_ref().map(known),
        sport: facts.source.map(|source| source.port()),
        dst: facts.destination.as_ref().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), known),
        dport: facts.destination.map(|destination| destination.port()),
        proto: "tcp".to_owned(),
        domain: request.host.or_else(|| facts.name.clone()),
        dns_type: None,
        dns_code: None,
        answers: None,
        request: RequestLine {
            method: Some(request.method),
            path: Some(cut(request.path)),
            query: request.query.map(cut),
            headers: Some(headers).filter(|headers| !headers.is_empty()),
            protocol: Some(request.protocol.name().to_owned()),
            upgrade: request.upgrade,
            library: facts.library.map(str::to_owned),
        },
        pid: (facts.pid != 0).then_some(facts.pid),
        comm: (facts.pid != 0).then(|| super::events::text(&facts.comm)),
        action: if denied.is_some() { Action::Audit } else { Action::Allow },
        policy: by.map(|rule| policy_name(&rule.policy)),
        rule: by.map(rule_name),
        reason,
        hook: if facts.library.is_some() { Hook::Library } else { Hook::Egress },
        repeats: 0,
    }
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
