//! What is counted of requests over TLS.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Counters, set, signed};
use crate::agent::tls::Counts;

#[derive(Default)]
pub(super) struct TlsMetrics {
    probed: Gauge,
    probes: Gauge,
    refused: Counters<1>,
    writes: Counter,
    records: Counter,
    lost: Counters<1>,
    passed_over: Counter,
    unread: Counters<1>,
    flows: Counter,
    silent: Gauge,
    unbound: Counter,
}

impl TlsMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("tls_files", "Files with a TLS library that are probed", self.probed.clone());
        registry.register("tls_probes", "Functions in them that are probed", self.probes.clone());
        registry.register(
            "tls_files_refused",
            "Files that pods map and that were not probed though they may hold a TLS library, by reason",
            self.refused.clone(),
        );
        registry.register(
            "plaintext_writes",
            "Writes of pods' applications that met a probe",
            self.writes.clone(),
        );
        registry.register("plaintext_records", "Records of them that the kernel gave", self.records.clone());
        registry.register(
            "plaintext_lost",
            "Writes that were not copied whole, or not at all, by reason",
            self.lost.clone(),
        );
        registry.register(
            "plaintext_passed_over",
            "Writes that were not copied: their connection had shown no requests",
            self.passed_over.clone(),
        );
        registry.register(
            "requests_unread",
            "Requests over TLS that could not be read, as far as they can be counted, by reason",
            self.unread.clone(),
        );
        registry.register(
            "requests_unbound",
            "Requests over TLS whose destination is not known for certain",
            self.unbound.clone(),
        );
        registry.register("tls_flows", "TLS flows of governed pods that were told of", self.flows.clone());
        registry.register(
            "tls_flows_unseen",
            "TLS flows, told of lately, of processes of which no plain text was seen",
            self.silent.clone(),
        );
    }

    pub(super) fn look(&self, counts: &Counts) {
        self.probed.set(signed(counts.probed));
        self.probes.set(signed(counts.probes));
        set(&self.writes, counts.writes);
        set(&self.records, counts.records);
        set(&self.passed_over, counts.passed_over);
        set(&self.flows, counts.flows);
        self.silent.set(signed(counts.silent));
        set(&self.unbound, counts.unbound);
        for (family, values) in
            [(&self.refused, &counts.refused), (&self.lost, &counts.lost), (&self.unread, &counts.unread)]
        {
            for (reason, value) in values {
                set(&family.get_or_create(&[("reason", *reason)]), *value);
            }
        }
    }
}
