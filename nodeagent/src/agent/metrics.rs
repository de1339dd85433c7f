//! What Prometheus is told.
//!
//! A label's value is a `&'static str`: no pod, address or policy can become one, so the number of series is fixed when
//! the agent is built. Counters of the kernel outlive the agent; those of the agent begin with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use sluice_abi::counter;
use sluice_api::{Call, Outcome, RefusalKind};

use super::Shared;
use super::admin;
use super::events::{Action, Hook, Kind, Line};
use super::hub::Fate;
use names::NameCounters;
use tls::TlsMetrics;

mod names;
mod tls;

/// Labels of a series: name and value.
type Labels<const N: usize> = [(&'static str, &'static str); N];
type Counters<const N: usize> = Family<Labels<N>, Counter>;
type Gauges<const N: usize> = Family<Labels<N>, Gauge>;

/// Bounds of the histogram of the plugin's requests, in seconds. A pod's start has 5 s for it.
const SECONDS: [f64; 12] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

const CALLS: [&str; 6] = ["add", "del", "check", "gc", "status", UNREADABLE];
const RESULTS: [&str; 5] = ["done", "invalid", "unknown", "not_ready", "failed"];
/// What was no request, or came from who may not ask.
const UNREADABLE: &str = "unreadable";
const PROTOCOLS: [&str; 6] = ["tcp", "udp", "sctp", "icmp", "icmpv6", OTHER];
const OTHER: &str = "other";

/// Where an event can be lost on its way.
#[derive(Clone, Copy, Debug)]
pub enum LostAt {
    /// The kernel found the ring buffer full.
    Ring,
    /// Whoever reads the agent's standard output is too slow.
    Stdout,
    /// An observer is too slow.
    Observer,
}

impl LostAt {
    const ALL: [Self; 3] = [Self::Ring, Self::Stdout, Self::Observer];

    fn name(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Stdout => "stdout",
            Self::Observer => "observer",
        }
    }
}

/// Why an event is not told to somebody.
#[derive(Clone, Copy, Debug)]
pub enum Filtered {
    /// It was allowed, and is in `events.exclude`.
    Excluded,
    /// An observer did not ask for it.
    Observer,
}

impl Filtered {
    const ALL: [Self; 2] = [Self::Excluded, Self::Observer];

    fn name(self) -> &'static str {
        match self {
            Self::Excluded => "excluded",
            Self::Observer => "observer",
        }
    }
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    events: Counters<2>,
    filtered: Counters<2>,
    lost: Counters<1>,
    attributed: Counters<1>,
    denied: Counters<2>,
    requests: Counters<2>,
    durations: Family<Labels<1>, Histogram, fn() -> Histogram>,
    over_budget: Counter,
    storage_failures: Counter,
    policy_missing: Counter,
    decisions: Counters<2>,
    names: NameCounters,
    endpoints: Gauges<1>,
    orphans: Gauge,
    unguarded: Gauge,
    policies: Gauge,
    rules: Gauge,
    policy_errors: Gauge,
    map_entries: Gauges<1>,
    map_capacity: Gauges<1>,
    observers: Gauge,
    ready: Gauge,
    tls: TlsMetrics,
    /// A label of decisions. The kernel counts on when an agent with another posture comes: it is the posture of now.
    posture: &'static str,
}

impl Metrics {
    /// Nothing counted yet. `maps` are the maps that can be full, with what they hold at most.
    pub fn new(posture: &'static str, started: jiff::Timestamp, maps: &[(&'static str, u64)]) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SECONDS);
        let mut metrics = Self {
            registry: Registry::with_prefix("sluice"),
            events: Counters::default(),
            filtered: Counters::default(),
            lost: Counters::default(),
            attributed: Counters::default(),
            denied: Counters::default(),
            requests: Counters::default(),
            durations: Family::new_with_constructor(histogram),
            over_budget: Counter::default(),
            storage_failures: Counter::default(),
            policy_missing: Counter::default(),
            decisions: Counters::default(),
            names: NameCounters::default(),
            endpoints: Gauges::default(),
            orphans: Gauge::default(),
            unguarded: Gauge::default(),
            policies: Gauge::default(),
            rules: Gauge::default(),
            policy_errors: Gauge::default(),
            map_entries: Gauges::default(),
            map_capacity: Gauges::default(),
            observers: Gauge::default(),
            ready: Gauge::default(),
            tls: TlsMetrics::default(),
            posture,
        };
        metrics.register(started);
        metrics.tls.register(&mut metrics.registry);
        metrics.begin(maps);
        metrics
    }

    fn register(&mut self, started: jiff::Timestamp) {
        let registry = &mut self.registry;
        let version =
            [("version", env!("CARGO_PKG_VERSION").to_owned()), ("abi", sluice_abi::ABI_VERSION.to_string())];
        registry.register("build", "What this agent was built from", Info::new(version.to_vec()));
        let start: Gauge<f64, AtomicU64> = Gauge::default();
        start.set(started.as_duration().as_secs_f64());
        registry.register_with_unit(
            "start_time",
            "When this agent started, since the epoch",
            Unit::Seconds,
            start,
        );
        registry.register("ready", "1 once every start-up task is done", self.ready.clone());

        registry.register(
            "events",
            "Events that the kernel gave, by kind and by what was done",
            self.events.clone(),
        );
        registry.register(
            "events_filtered",
            "Events that were not told, because they are excluded or an observer did not ask for them",
            self.filtered.clone(),
        );
        registry.register(
            "events_lost",
            "Events that were lost because the ring buffer was full or a reader too slow",
            self.lost.clone(),
        );
        registry.register(
            "events_over_budget",
            "Events that the kernel held back because one pod gave too many",
            self.over_budget.clone(),
        );
        registry.register(
            "events_attributed",
            "Events by whether their pod was still known",
            self.attributed.clone(),
        );
        registry.register("observers", "Observers that follow the events", self.observers.clone());

        registry.register(
            "decisions",
            "Verdicts that the kernel counted since its programs were first loaded, under the posture of now: flows allowed, packets and calls denied, replies",
            self.decisions.clone(),
        );
        registry.register(
            "denied_packets",
            "Packets and calls that events told of as denied, repeats included, by where they were seen",
            self.denied.clone(),
        );
        registry.register(
            "storage_failures",
            "Verdicts that could not be kept with their socket, so that its next packet is judged again",
            self.storage_failures.clone(),
        );
        registry.register(
            "policy_missing",
            "Packets denied because their policy was not in the kernel",
            self.policy_missing.clone(),
        );
        self.names.register(registry);

        registry.register("endpoints", "Governed pods, by state", self.endpoints.clone());
        registry.register(
            "orphans",
            "Cgroups that the kernel governs, but whose pods are not known any more",
            self.orphans.clone(),
        );
        registry.register(
            "unguarded_endpoints",
            "Governed pods with a link that is not watched at the host's end",
            self.unguarded.clone(),
        );
        registry.register("policies", "Policies in force", self.policies.clone());
        registry.register("rules", "Rules of the policies in force", self.rules.clone());
        registry.register(
            "policy_errors",
            "What is wrong with the policy directory; the last good policies are in force meanwhile",
            self.policy_errors.clone(),
        );
        registry.register("map_entries", "Entries in a map of the kernel", self.map_entries.clone());
        registry.register(
            "map_capacity",
            "Entries that a map of the kernel can hold",
            self.map_capacity.clone(),
        );

        registry.register(
            "cni_requests",
            "Requests of the plugin, by call and result",
            self.requests.clone(),
        );
        registry.register_with_unit(
            "cni_request_duration",
            "How long the plugin's requests took in the agent",
            Unit::Seconds,
            self.durations.clone(),
        );
    }

    /// Every series there will ever be, at 0: what appears only when it first happens cannot be alerted on.
    fn begin(&self, maps: &[(&'static str, u64)]) {
        for kind in Kind::ALL {
            for action in Action::ALL {
                drop(self.events.get_or_create(&event_labels(kind, action)));
            }
            for why in Filtered::ALL {
                drop(self.filtered.get_or_create(&[("kind", kind.name()), ("reason", why.name())]));
            }
        }
        for at in LostAt::ALL {
            drop(self.lost.get_or_create(&[("at", at.name())]));
        }
        for result in ["hit", "miss"] {
            drop(self.attributed.get_or_create(&[("result", result)]));
        }
        for hook in Hook::ALL {
            for protocol in PROTOCOLS {
                drop(self.denied.get_or_create(&[("hook", hook.name()), ("protocol", protocol)]));
            }
        }
        for call in CALLS {
            for result in RESULTS {
                drop(self.requests.get_or_create(&[("call", call), ("result", result)]));
            }
            drop(self.durations.get_or_create(&[("call", call)]));
        }
        for verdict in ["allow", "deny", "reply"] {
            drop(self.decisions.get_or_create(&[("verdict", verdict), ("posture", self.posture)]));
        }
        for state in ["governed", "found", "leaving"] {
            drop(self.endpoints.get_or_create(&[("state", state)]));
        }
        for (map, capacity) in maps {
            self.map_capacity.get_or_create(&[("map", *map)]).set(signed(*capacity));
            drop(self.map_entries.get_or_create(&[("map", *map)]));
        }
    }

    /// An event that is told.
    pub fn event(&self, line: &Line, fate: Fate) {
        self.events.get_or_create(&event_labels(line.kind, line.action)).inc();
        let result = if line.pod.is_some() { "hit" } else { "miss" };
        self.attributed.get_or_create(&[("result", result)]).inc();
        if line.action == Action::Deny {
            let protocol = PROTOCOLS.into_iter().find(|known| *known == line.proto).unwrap_or(OTHER);
            let labels = [("hook", line.hook.name()), ("protocol", protocol)];
            self.denied.get_or_create(&labels).inc_by(line.repeats + 1);
        }
        if fate.filtered > 0 {
            self.filtered(line.kind, Filtered::Observer, fate.filtered);
        }
        if fate.lost > 0 {
            self.lost(LostAt::Observer, fate.lost);
        }
    }

    /// Events that were not told.
    pub fn filtered(&self, kind: Kind, why: Filtered, count: u64) {
        self.filtered.get_or_create(&[("kind", kind.name()), ("reason", why.name())]).inc_by(count);
    }

    /// Events that were lost.
    pub fn lost(&self, at: LostAt, count: u64) {
        self.lost.get_or_create(&[("at", at.name())]).inc_by(count);
    }

    /// How many events were lost there since the agent started; those of the ring buffer, since it was made.
    pub fn lost_so_far(&self, at: LostAt) -> u64 {
        self.lost.get_or_create(&[("at", at.name())]).get()
    }

    /// How many events were not told to anybody.
    pub fn excluded_so_far(&self) -> u64 {
        let of = |kind: Kind| {
            let labels = [("kind", kind.name()), ("reason", Filtered::Excluded.name())];
            self.filtered.get_or_create(&labels).get()
        };
        Kind::ALL.into_iter().map(of).sum()
    }

    /// A request of the plugin was answered. `call` is `None` for what was no request.
    pub fn request(&self, call: Option<&Call>, outcome: &Outcome, took: Duration) {
        let call = match call {
            Some(Call::Add(_)) => "add",
            Some(Call::Del(_)) => "del",
            Some(Call::Check(_)) => "check",
            Some(Call::Gc { .. }) => "gc",
            Some(Call::Status) => "status",
            None => UNREADABLE,
        };
        let result = match outcome {
            Outcome::Done => "done",
            Outcome::Refused(refusal) => match refusal.kind {
                RefusalKind::Invalid => "invalid",
                RefusalKind::Unknown => "unknown",
                RefusalKind::NotReady => "not_ready",
                RefusalKind::Failed => "failed",
            },
        };
        self.requests.get_or_create(&[("call", call), ("result", result)]).inc();
        self.durations.get_or_create(&[("call", call)]).observe(took.as_secs_f64());
    }

    /// The exposition in the text format of `OpenMetrics`, of this moment.
    pub fn exposition(&self, shared: &Shared) -> Result<String, MetricsError> {
        self.look(shared)?;
        Ok(self.text()?)
    }

    fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    fn look(&self, shared: &Shared) -> Result<(), crate::datapath::DatapathError> {
        let node = shared.node();
        let counters = node.counters()?;
        let kernel = |index: u32| counters[index as usize];
        set(&self.over_budget, kernel(counter::EVENTS_OVER_BUDGET));
        set(&self.storage_failures, kernel(counter::STORAGE_FAILED));
        set(&self.policy_missing, kernel(counter::POLICY_MISSING));
        self.names.set(&counters);
        set(&self.lost.get_or_create(&[("at", LostAt::Ring.name())]), kernel(counter::EVENTS_LOST));
        for (verdict, index) in
            [("allow", counter::ALLOWED), ("deny", counter::DENIED), ("reply", counter::REPLIES)]
        {
            let labels = [("verdict", verdict), ("posture", self.posture)];
            set(&self.decisions.get_or_create(&labels), kernel(index));
        }
        let (mut governed, mut found, mut leaving, mut unguarded) = (0, 0, 0, 0);
        for (record, is_leaving, _) in node.endpoints() {
            *match (is_leaving, record.found) {
                (true, _) => &mut leaving,
                (false, true) => &mut found,
                (false, false) => &mut governed,
            } += 1;
            unguarded += i64::from(!admin::is_guarded(record));
        }
        for (state, count) in [("governed", governed), ("found", found), ("leaving", leaving)] {
            self.endpoints.get_or_create(&[("state", state)]).set(count);
        }
        self.unguarded.set(unguarded);
        self.orphans.set(signed(node.orphans().count()));
        let policies = node.policies().map(sluice_policy::PolicySet::policies).unwrap_or_default();
        self.policies.set(signed(policies.len()));
        self.rules.set(signed(policies.iter().map(|policy| policy.rules.len()).sum::<usize>()));
        for (map, entries) in node.map_entries() {
            self.map_entries.get_or_create(&[("map", map)]).set(signed(entries));
        }
        drop(node);
        if let Some(observer) = &shared.requests {
            self.tls.look(&observer.counts()?);
        }
        self.policy_errors.set(signed(shared.policy_errors().len()));
        self.observers.set(signed(shared.hub.observers()));
        self.ready.set(i64::from(shared.readiness.since().is_some()));
        Ok(())
    }
}

/// Why there is no exposition.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The kernel's counters cannot be read.
    #[error("cannot read the kernel's counters: {0}")]
    Kernel(#[from] crate::datapath::DatapathError),
    /// It cannot be written.
    #[error("cannot write the metrics: {0}")]
    Encode(#[from] std::fmt::Error),
}

fn event_labels(kind: Kind, action: Action) -> Labels<2> {
    [("kind", kind.name()), ("verdict", action.name())]
}

/// Takes over what somebody else counts.
fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

fn signed(value: impl TryInto<i64>) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
