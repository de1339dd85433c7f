//! The conformance suites that `cargo xtask test` runs, in the sizes that fit CI.

/// One run of `sluice-conformance`.
pub(crate) struct Suite {
    /// The suite, as that program names it.
    pub(crate) name: &'static str,
    /// Its options.
    pub(crate) args: &'static [&'static str],
}

const fn suite(name: &'static str, args: &'static [&'static str]) -> Suite {
    Suite { name, args }
}

/// All of them, the quickest first: what is broken everywhere shows at once.
pub(crate) const CI_SUITES: &[Suite] = &[
    suite("smoke", &[]),
    suite("broken-input", &[]),
    suite("operate", &[]),
    suite("inbound", &[]),
    suite("unregistered", &[]),
    suite("cni", &[]),
    suite("escape", &[]),
    suite("names", &["--names", "1000", "--broken", "1000"]),
    suite("requests", &["--load", "10000"]),
    suite("meaning", &["--pairs", "200000"]),
    suite("edits", &["--flips", "500"]),
    suite("first-packet", &["--pods", "20"]),
    suite("soak", &["--minutes", "2"]),
];
