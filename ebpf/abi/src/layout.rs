//! The layout of each map, as a number in the name of its pin.
//!
//! Two builds of Sluice share a map only if its layout has the same number in both: `FLOWS` of layout 1 is pinned as
//! `FLOWS-1`, and a build that lays it out as 2 makes `FLOWS-2` beside it, fills it, and exchanges the programs only then.
//! It is the same going up and going down.
//!
//! So whoever changes a key, a value, or what either means, raises the number. Maps that refer to each other's contents have
//! one number together: a slot's word names a policy in the tries, and a judged flow names a word. Where `REPLIES` or `OWN`
//! are made anew, datagrams that came in before are not known any more to be answered: raise theirs with care.

/// `SLOTS`, `ADDRESSES`, `PORTS`, `STEPS`, `NAMES` and `FLOWS`.
pub const VERDICTS: u32 = if cfg!(feature = "rehearsal") { 4 } else { 3 };
/// `ENDPOINTS`.
pub const ENDPOINTS: u32 = if cfg!(feature = "rehearsal") { 2 } else { 1 };
/// `COUNTERS`.
pub const COUNTERS: u32 = if cfg!(feature = "rehearsal") { 3 } else { 2 };
/// `STREAMS`, `ROOMS` and the arrays of programs, for what one program leaves to the next. Raised with the two above as well:
/// programs of different layouts must not call each other.
pub const TAILS: u32 = if cfg!(feature = "rehearsal") { 3 } else { 2 };

/// Every map by its name in the object, with the number of its layout.
pub const MAPS: [(&str, u32); 32] = [
    ("CONFIG", 1),
    ("ENDPOINTS", ENDPOINTS),
    ("SLOTS", VERDICTS),
    ("ADDRESSES", VERDICTS),
    ("PORTS", VERDICTS),
    ("STEPS", VERDICTS),
    ("LINKS", 1),
    ("HEARD", 1),
    ("FLOWS", VERDICTS),
    ("BOUND", 1),
    ("ORIGINS", 1),
    ("REPLIES", 1),
    ("OWN", 1),
    ("DENIALS", 1),
    ("BUDGETS", 1),
    ("COUNTERS", COUNTERS),
    ("EVENTS", 2),
    ("PAYLOADS", 1),
    ("NAMES_CONFIG", 2),
    ("NAMES", VERDICTS),
    ("RESOLVERS", 1),
    ("NODE_ADDRESSES", 1),
    ("QUESTIONS", 1),
    ("LEARNED", 1),
    ("STREAMS", TAILS),
    ("HELLOS", 1),
    ("SHOWN", 1),
    ("TOLD", 1),
    ("ROOMS", TAILS),
    ("NAME_ROOMS", VERDICTS),
    ("EGRESS_TAILS", TAILS),
    ("INGRESS_TAILS", TAILS),
];
