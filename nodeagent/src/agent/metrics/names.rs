//! What the kernel counts of names.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use sluice_abi::counter;

/// Index of the kernel's counter, name and help of ours.
const ALL: [(u32, &str, &str); 7] = [
    (counter::LEARNED, "learned", "Addresses learned from DNS, again or for the first time"),
    (
        counter::LEARNED_FULL,
        "learned_full",
        "Answers of which an address took the place of one that still counted, or found none",
    ),
    (
        counter::ADDRESSES_REFUSED,
        "addresses_refused",
        "Addresses of answers that no name may open: loopback, link-local, multicast, the node's own",
    ),
    (counter::DNS_UNREADABLE, "dns_unreadable", "DNS messages that could not be read"),
    (counter::DNS_UNASKED, "dns_unasked", "Answers of resolvers to nobody's question"),
    (
        counter::QUESTIONS_REFUSED,
        "questions_refused",
        "Questions refused because no rule could open the name (dns.queries: RuleNames)",
    ),
    (counter::NAMES_UNREADABLE, "names_unreadable", "First payloads of flows whose name could not be read"),
];

/// A counter for each.
#[derive(Default)]
pub(super) struct NameCounters([Counter; ALL.len()]);

impl NameCounters {
    pub(super) fn register(&self, registry: &mut Registry) {
        for ((_, name, help), counter) in ALL.iter().zip(&self.0) {
            registry.register(*name, *help, counter.clone());
        }
    }

    /// Takes over what the kernel has counted.
    pub(super) fn set(&self, kernel: &[u64]) {
        for ((index, _, _), counter) in ALL.iter().zip(&self.0) {
            super::set(counter, kernel[*index as usize]);
        }
    }
}
