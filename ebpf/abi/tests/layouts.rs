//! What is written down here is what builds that are already installed have in their maps.
//!
//! A line that fails: raise the map's number in `src/layout.rs`, and write its new line.

#![cfg(not(feature = "rehearsal"))]

use std::fmt::Write as _;

use sluice_abi::{
    AddressKey, BoundValue, BudgetValue, ConfigValue, ConversationKey, DenialKey, DenialValue, EndpointValue,
    FlowEvent, FlowValue, HeardKey, LearnedKey, LearnedValue, NameEvent, NameKey, NamedValue,
    NamesConfigValue, OriginValue, PayloadEvent, PortKey, PortValue, QuestionKey, QuestionValue, ResolverKey,
    RulingValue, ShownValue, SlotWord, StepsKey, StepsValue, ToldValue, counter, layout, tail,
};

/// Size of a type, and the offsets of its fields.
macro_rules! shape {
    ($name:ident { $($field:ident),* }) => {{
        let mut shape = format!("{} {}", stringify!($name), size_of::<$name>());
        $(let _ = write!(shape, " {}@{}", stringify!($field), core::mem::offset_of!($name, $field));)*
        shape
    }};
    ($name:ident) => {
        format!("{} {}", stringify!($name), size_of::<$name>())
    };
}

/// What is known of names.
fn shapes_of_names() -> Vec<(&'static str, Vec<String>)> {
    vec![
        ("NAMES_CONFIG", vec![shape!(NamesConfigValue { floor_ns, grace_ns, flags })]),
        ("NAMES", vec![shape!(NameKey { policy, name }), shape!(NamedValue { list, flags })]),
        ("RESOLVERS", vec![shape!(ResolverKey { address, port, pad }), shape!(u32)]),
        ("NODE_ADDRESSES", vec![shape!(u128), shape!(u32)]),
        (
            "QUESTIONS",
            vec![
                shape!(QuestionKey {
                    endpoint,
                    socket,
                    resolver,
                    local_port,
                    resolver_port,
                    id,
                    protocol,
                    pad
                }),
                shape!(QuestionValue { time_ns, kind, name_length, pad, name }),
            ],
        ),
        (
            "LEARNED",
            vec![
                shape!(LearnedKey { endpoint, bucket, pad }),
                shape!(LearnedValue {
                    until_ns,
                    learned_ns,
                    address,
                    resolver,
                    name_length,
                    pad,
                    prefix_length,
                    policy,
                    name,
                    pad2
                }),
            ],
        ),
    ]
}

#[test]
fn maps_are_laid_out_as_their_numbers_say() {
    let names = shapes_of_names();
    let shapes = [
        ("CONFIG", vec![shape!(ConfigValue { levels, reserved })]),
        ("ENDPOINTS", vec![shape!(u64), shape!(EndpointValue { slot, own_count, flags, pad, own })]),
        ("SLOTS", vec![shape!(SlotWord)]),
        ("ADDRESSES", vec![shape!(AddressKey { policy, address }), shape!(u32)]),
        (
            "PORTS",
            vec![
                shape!(PortKey { list, class, pad, port }),
                shape!(PortValue { ruling, steps }),
                shape!(RulingValue { applied, reported, flags, applied_rule, reported_rule }),
            ],
        ),
        ("STEPS", vec![shape!(StepsKey { policy, steps }), shape!(StepsValue { shown, unread, learned })]),
        ("LINKS", vec![shape!(u32), shape!(u64)]),
        ("HEARD", vec![shape!(HeardKey { interface, pad, remote }), shape!(u64)]),
        (
            "FLOWS",
            vec![shape!(FlowValue {
                word,
                slot,
                remote_port,
                protocol,
                direction,
                remote,
                local,
                ruling,
                was_allowed,
                version,
                state,
                pad
            })],
        ),
        ("BOUND", vec![shape!(BoundValue { prefix_length, policy, name })]),
        ("ORIGINS", vec![shape!(OriginValue { pid, flags, comm })]),
        (
            "REPLIES",
            vec![
                shape!(ConversationKey { endpoint, remote, remote_port, local_port, protocol, pad }),
                shape!(u64),
            ],
        ),
        ("OWN", vec![shape!(ConversationKey), shape!(u64)]),
        (
            "DENIALS",
            vec![
                shape!(DenialKey { endpoint, remote, remote_port, protocol, opaque, pad }),
                shape!(DenialValue { last_ns, repeats }),
            ],
        ),
        ("BUDGETS", vec![shape!(BudgetValue { since_ns, given })]),
        ("COUNTERS", vec![format!("{} of {}", counter::COUNT, shape!(u64))]),
        ("EVENTS", vec![shape!(FlowEvent), shape!(NameEvent)]),
        ("PAYLOADS", vec![shape!(PayloadEvent { event, length, is_first, payload })]),
        // The programs' own: `ebpf/programs` asserts their sizes.
        ("STREAMS", vec![]),
        ("HELLOS", vec![]),
        ("SHOWN", vec![shape!(ShownValue { state, by, name_length, pad, name })]),
        ("TOLD", vec![shape!(ToldValue { next })]),
        ("ROOMS", vec![]),
        ("NAME_ROOMS", vec![]),
        ("EGRESS_TAILS", vec![format!("{} programs", tail::COUNT)]),
        ("INGRESS_TAILS", vec![format!("{} programs", tail::COUNT)]),
    ];
    let lines: Vec<String> = layout::MAPS
        .iter()
        .map(|(name, number)| {
            let shape = shapes
                .iter()
                .chain(&names)
                .find(|(map, _)| map == name)
                .expect("each map has its shape here");
            format!("{name}-{number}: {}", shape.1.join(", "))
        })
        .collect();
    let written: Vec<&str> = WRITTEN.lines().collect();
    assert_eq!(lines, written);
}

const WRITTEN: &str = "\
CONFIG-1: ConfigValue 16 levels@0 reserved@8
ENDPOINTS-1: u64 8, EndpointValue 80 slot@0 own_count@4 flags@8 pad@12 own@16
SLOTS-3: SlotWord 8
ADDRESSES-3: AddressKey 20 policy@0 address@4, u32 4
PORTS-3: PortKey 8 list@0 class@4 pad@5 port@6, PortValue 16 ruling@0 steps@12, RulingValue 12 applied@0 reported@1 flags@2 applied_rule@4 reported_rule@8
STEPS-3: StepsKey 8 policy@0 steps@4, StepsValue 72 shown@0 unread@24 learned@48
LINKS-1: u32 4, u64 8
HEARD-1: HeardKey 24 interface@0 pad@4 remote@8, u64 8
FLOWS-3: FlowValue 64 word@0 slot@8 remote_port@12 protocol@14 direction@15 remote@16 local@32 ruling@48 was_allowed@60 version@61 state@62 pad@63
BOUND-1: BoundValue 260 prefix_length@0 policy@4 name@8
ORIGINS-1: OriginValue 24 pid@0 flags@4 comm@8
REPLIES-1: ConversationKey 32 endpoint@0 remote@8 remote_port@24 local_port@26 protocol@28 pad@29, u64 8
OWN-1: ConversationKey 32, u64 8
DENIALS-1: DenialKey 32 endpoint@0 remote@8 remote_port@24 protocol@26 opaque@27 pad@28, DenialValue 16 last_ns@0 repeats@8
BUDGETS-1: BudgetValue 16 since_ns@0 given@8
COUNTERS-2: 14 of u64 8
EVENTS-2: FlowEvent 104, NameEvent 432
PAYLOADS-1: PayloadEvent 2488 event@0 length@432 is_first@436 payload@440
NAMES_CONFIG-2: NamesConfigValue 24 floor_ns@0 grace_ns@8 flags@16
NAMES-3: NameKey 256 policy@0 name@4, NamedValue 8 list@0 flags@4
RESOLVERS-1: ResolverKey 20 address@0 port@16 pad@18, u32 4
NODE_ADDRESSES-1: u128 16, u32 4
QUESTIONS-1: QuestionKey 40 endpoint@0 socket@8 resolver@16 local_port@32 resolver_port@34 id@36 protocol@38 pad@39, QuestionValue 264 time_ns@0 kind@8 name_length@10 pad@11 name@12
LEARNED-1: LearnedKey 16 endpoint@0 bucket@8 pad@12, LearnedValue 320 until_ns@0 learned_ns@8 address@16 resolver@32 name_length@48 pad@49 prefix_length@56 policy@60 name@64 pad2@316
STREAMS-2: 
HELLOS-1: 
SHOWN-1: ShownValue 256 state@0 by@1 name_length@2 pad@3 name@4
TOLD-1: ToldValue 4 next@0
ROOMS-2: 
NAME_ROOMS-3: 
EGRESS_TAILS-2: 8 programs
INGRESS_TAILS-2: 8 programs
";
