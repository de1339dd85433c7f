//! Messages written in every way that there is to compress names, and broken ones, read here and by hickory-proto.

use std::net::{IpAddr, Ipv6Addr};

use hickory_proto::op::Message as Reference;
use hickory_proto::rr::RData;
use hickory_proto::serialize::binary::BinDecodable;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use sluice_abi::{NAME_SIZE, reversed};

use super::*;

/// What the kernel's programs do with an answer.
fn read(bytes: &[u8]) -> Result<(String, Vec<(IpAddr, u32)>), Unreadable> {
    if bytes.len() > MAX_MESSAGE as usize {
        return Err(Unreadable);
    }
    // What an earlier message left behind must not count.
    let mut message = Message::new();
    message.0.fill(0xc0);
    message.0[..bytes.len()].copy_from_slice(bytes);
    let mut turn = Turn::new();
    let length = bytes.len() as u64;
    let question = read_question(&message, length, Direction::Answer, &mut turn)?;
    let mut name = [0; NAME_SIZE];
    turn.copy_to(&mut name);
    let name = name[..turn.length() as usize].iter().rev().map(|byte| *byte as char).collect();
    let mut walk = Walk::new();
    walk.begin(question.end.into(), question.answers.into(), length);
    let mut steps = (0..ROUNDS * STEPS_AT_ONCE).map(|_| walk.step(&message));
    if steps.find(|step| *step != Step::More) == Some(Step::Unreadable) {
        return Err(Unreadable);
    }
    let address = |index| {
        let found = walk.address(index);
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&found.address[0].to_le_bytes());
        octets[8..].copy_from_slice(&found.address[1].to_le_bytes());
        (Ipv6Addr::from(octets).to_canonical(), found.ttl as u32)
    };
    Ok((name, (0..walk.found()).map(address).collect()))
}

/// The same by a resolver library: a chain is followed in the order of the records.
fn reference(bytes: &[u8]) -> Option<(String, Vec<(IpAddr, u32)>)> {
    let message = Reference::from_bytes(bytes).ok()?;
    let [query] = message.queries() else { return None };
    let mut followed = query.name().clone();
    let mut addresses = Vec::new();
    let ttl = |ttl: u32| if ttl >> 31 == 0 { ttl } else { 0 };
    for record in message.answers() {
        if *record.name() != followed || record.dns_class() != hickory_proto::rr::DNSClass::IN {
            continue;
        }
        match record.data() {
            RData::CNAME(target) => followed = target.0.clone(),
            RData::A(address) => addresses.push((IpAddr::V4(address.0), ttl(record.ttl()))),
            RData::AAAA(address) => {
                addresses.push((IpAddr::V6(address.0).to_canonical(), ttl(record.ttl())));
            }
            _ => {}
        }
    }
    addresses.truncate(MAX_ADDRESSES);
    // Without the escapes of its text form.
    let labels = query.name().iter().flat_map(|label| [b".", label].concat());
    let name = labels.map(|byte| byte.to_ascii_lowercase() as char).collect();
    Some((name, addresses))
}

/// How an owner or a target is written.
#[derive(Clone, Copy, Debug)]
enum Compression {
    /// Not at all, as some servers do where there is room.
    None,
    /// As far as possible.
    Longest,
    /// The first label, then a pointer if there is one to be had.
    AfterFirst,
}

#[derive(Clone, Debug)]
enum Data {
    A([u8; 4]),
    Aaaa([u8; 16]),
    Cname(usize, Compression),
    Other(u16, Vec<u8>),
}

#[derive(Clone, Debug)]
struct Record {
    owner: usize,
    compression: Compression,
    upper: bool,
    ttl: u32,
    data: Data,
}

const NAMES: [&str; 7] = [
    "www.example.com",
    "cdn.example.com",
    "example.com",
    "a.b.c.d.e.f.example.net",
    "www.example.com.svc.cluster.local",
    "a-label-that-is-as-long-as-labels-may-be-0123456789-0123456789x.net",
    "xn--bcher-kva.example",
];

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Suffixes that are written somewhere, and where.
    known: Vec<(String, usize)>,
}

impl Writer {
    fn half(&mut self, value: usize) {
        self.bytes.extend((value as u16).to_be_bytes());
    }

    fn name(&mut self, name: &str, compression: Compression, upper: bool) {
        let labels: Vec<&str> = name.split('.').collect();
        let mut fresh = Vec::new();
        for index in 0..labels.len() {
            let suffix = labels[index..].join(".");
            let known = self.known.iter().find(|(known, _)| *known == suffix).map(|(_, at)| *at);
            let may = match compression {
                Compression::None => false,
                Compression::Longest => true,
                Compression::AfterFirst => index > 0,
            };
            if let Some(at) = known.filter(|_| may) {
                self.half(0xc000 | at);
                self.known.extend(fresh);
                return;
            }
            fresh.push((suffix, self.bytes.len()));
            self.bytes.push(labels[index].len() as u8);
            let label = if upper { labels[index].to_ascii_uppercase() } else { labels[index].to_owned() };
            self.bytes.extend(label.as_bytes());
        }
        self.bytes.push(0);
        self.known.extend(fresh);
    }
}

fn write(asked: usize, records: &[Record]) -> Vec<u8> {
    let mut writer = Writer::default();
    for value in [0x1234, 0x8180, 1, records.len(), 0, 0] {
        writer.half(value);
    }
    writer.name(NAMES[asked], Compression::None, false);
    writer.half(1);
    writer.half(1);
    for record in records {
        writer.name(NAMES[record.owner], record.compression, record.upper);
        let kind = match &record.data {
            Data::A(_) => 1,
            Data::Aaaa(_) => 28,
            Data::Cname(..) => 5,
            Data::Other(kind, _) => usize::from(*kind),
        };
        writer.half(kind);
        writer.half(1);
        writer.bytes.extend(record.ttl.to_be_bytes());
        let size_at = writer.bytes.len();
        writer.half(0);
        match &record.data {
            Data::A(address) => writer.bytes.extend(address),
            Data::Aaaa(address) => writer.bytes.extend(address),
            Data::Cname(target, compression) => writer.name(NAMES[*target], *compression, record.upper),
            Data::Other(_, data) => writer.bytes.extend(data),
        }
        let size = (writer.bytes.len() - size_at - 2) as u16;
        writer.bytes[size_at..size_at + 2].copy_from_slice(&size.to_be_bytes());
    }
    writer.bytes
}

fn compression() -> impl Strategy<Value = Compression> + Clone {
    prop_oneof![Just(Compression::None), Just(Compression::Longest), Just(Compression::AfterFirst)]
}

fn record() -> impl Strategy<Value = Record> {
    let data = prop_oneof![
        3 => any::<[u8; 4]>().prop_map(Data::A),
        3 => any::<[u8; 16]>().prop_map(Data::Aaaa),
        3 => (0..NAMES.len(), compression()).prop_map(|(target, how)| Data::Cname(target, how)),
        // An unassigned type, and signatures as DNSSEC would put them, whose data is not looked at.
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(|data| Data::Other(65_300, data)),
    ];
    (0..NAMES.len(), compression(), any::<bool>(), any::<u32>(), data)
        .prop_map(|(owner, compression, upper, ttl, data)| Record { owner, compression, upper, ttl, data })
}

/// An answer whose chain leads on more often than chance would have it.
fn answer() -> impl Strategy<Value = Vec<u8>> {
    (0..NAMES.len(), proptest::collection::vec((record(), any::<bool>()), 0..40)).prop_map(
        |(asked, records)| {
            let mut followed = asked;
            let records: Vec<Record> = records
                .into_iter()
                .map(|(mut record, follows)| {
                    if follows {
                        record.owner = followed;
                    }
                    if record.owner == followed
                        && let Data::Cname(target, _) = record.data
                    {
                        followed = target;
                    }
                    record
                })
                .collect();
            write(asked, &records)
        },
    )
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new_with_rng(Config::with_cases(cases), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

#[test]
fn answers_are_read_as_a_resolver_library_reads_them() {
    let mut found = 0;
    runner(2000)
        .run(&answer(), |bytes| {
            let expected = reference(&bytes).expect("the library reads what is well formed");
            let read = read(&bytes);
            prop_assert_eq!(read, Ok(expected));
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    let mut one = runner(200);
    for _ in 0..200 {
        let bytes = answer().new_tree(&mut one).expect("a message").current();
        found += read(&bytes).map_or(0, |(_, addresses)| addresses.len());
    }
    assert!(found > 500, "the generator makes too few addresses: {found}");
}

#[test]
fn broken_messages_open_nothing_that_the_library_would_not() {
    let broken = (
        answer(),
        proptest::collection::vec((any::<prop::sample::Index>(), broken_byte()), 1..6),
        any::<bool>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(mut bytes, changes, is_cut, cut)| {
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes
        });
    let (mut both, mut refused) = (0, 0);
    let mut one = runner(1);
    for _ in 0..10_000 {
        let bytes = broken.new_tree(&mut one).expect("a message").current();
        match (read(&bytes), reference(&bytes)) {
            (Ok(read), Some(expected)) => {
                both += 1;
                assert_eq!(read, expected, "{bytes:x?}");
            }
            (Ok(_), None) | (Err(_), Some(_)) => {}
            (Err(_), None) => refused += 1,
        }
    }
    assert!(both > 500 && refused > 500, "{both} read by both, {refused} by neither");
}

/// Bytes that break more than chance would: pointers, lengths, ends.
fn broken_byte() -> impl Strategy<Value = u8> {
    prop_oneof![any::<u8>(), Just(0xc0), Just(0x0c), Just(0), Just(63), Just(64)]
}

#[test]
fn pointers_that_lead_in_circles_are_refused() {
    let question = write(0, &[]);
    let at = question.len() as u8;
    let circles: [&[u8]; 5] = [
        // To itself, and to each other.
        &[0xc0, at],
        &[3, b'w', b'w', b'w', 0xc0, at],
        &[0xc0, at + 2, 0xc0, at],
        // Forwards, and past the end.
        &[0xc0, at + 4, 0, 0, 0],
        &[0xff, 0xff],
    ];
    for circle in circles {
        let mut bytes = question.clone();
        bytes[7] = 1;
        bytes.extend(circle);
        bytes.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 1]);
        assert_eq!(read(&bytes), Err(Unreadable), "{circle:x?}");
    }
}

#[test]
fn forty_eight_addresses_with_long_names_are_read() {
    let record = |index: u8| Record {
        owner: 0,
        compression: Compression::None,
        upper: index.is_multiple_of(2),
        ttl: 60,
        data: if index < 24 { Data::A([192, 0, 2, index]) } else { Data::Aaaa([index; 16]) },
    };
    let records: Vec<Record> = (0..48).map(record).collect();
    assert_eq!(read(&write(0, &records)).map(|(_, found)| found.len()), Ok(48));
}

fn question(name: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend(name);
    bytes.extend([0, 28, 0, 1]);
    bytes
}

fn asked(bytes: &[u8]) -> Result<(Question, [u8; NAME_SIZE]), Unreadable> {
    let mut message = Message::new();
    message.0[..bytes.len()].copy_from_slice(bytes);
    let mut turn = Turn::new();
    let question = read_question(&message, bytes.len() as u64, Direction::Question, &mut turn)?;
    let mut name = [0; NAME_SIZE];
    turn.copy_to(&mut name);
    Ok((question, name))
}

#[test]
fn a_question_gives_its_name_as_policies_write_it() {
    let (question, name) = asked(&question(b"\x03wWw\x07eXample\x03com\0")).expect("well formed");
    assert_eq!((question.id, question.kind), (0x1234, 28));
    assert_eq!(Some(name), reversed(b"www.example.com").map(|(name, _)| name));
}

#[test]
fn what_is_no_plain_question_is_refused() {
    let good = question(b"\x01a\x03com\0");
    assert!(asked(&good).is_ok());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        asked(&bytes)
    };
    for (at, byte, what) in [
        (2, 0x81, "an answer"),
        (2, 0x29, "an update"),
        (5, 0, "no question"),
        (5, 2, "two questions"),
        (7, 1, "a question with answers"),
        (12, 0xc0, "a compressed name"),
        (13, b'.', "a dot in a label"),
        (13, 0, "a zero in a label"),
        (13, 0x80, "a label in no ASCII"),
        (14, 9, "a name past the end"),
        (22, 3, "another class"),
    ] {
        assert_eq!(with(at, byte).err(), Some(Unreadable), "{what}");
    }
    for length in 0..good.len() {
        assert_eq!(asked(&good[..length]).err(), Some(Unreadable), "{length} bytes");
    }
    let long: Vec<u8> = [[1, b'a']; 126].concat();
    assert_eq!(asked(&question(&[&long[..], &[0]].concat())).err(), Some(Unreadable), "a name of 252 bytes");
    assert!(asked(&question(&[&long[..250], &[0]].concat())).is_ok());
}

#[test]
fn the_root_is_a_name_of_no_length() {
    let bytes = question(b"\0");
    let (_, name) = asked(&bytes).expect("well formed");
    assert_eq!(name, [0; NAME_SIZE]);
}
