//! Whatever is written, in whatever pieces.

use proptest::prelude::*;

use super::second::{frame, of_a_client};
use super::{curious, read, told};
use crate::http2::PREFACE;
use crate::{Connection, Seen};

/// More than a connection may ever hold: a head or block, the largest table, and the room that both grow by.
const MOST: usize = 256 << 10;

fn head() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "[A-Za-z-]{1,10}: [ -~]{0,40}",
        "(User-Agent|Authorization|Cookie): [ -~]{0,40}",
        Just("Connection: upgrade\r\nUpgrade: h2c".to_owned()),
    ];
    let lines = prop::collection::vec(line, 0..5);
    let end = prop_oneof![9 => Just("\r\n"), 1 => Just("\n")];
    let target =
        prop_oneof![4 => "/[a-z/?=&.%]{0,30}", 1 => "http://[a-z@:]{1,8}/[a-z]{0,5}", 1 => "[a-z*:]{0,4}"];
    let method =
        prop_oneof![8 => "(GET|POST|PUT|PRI|OPTIONS)", 1 => "[A-Z]{1,12}", 1 => Just("CONNECT".to_owned())];
    (method, target, lines, end).prop_map(|(method, target, lines, end)| {
        let mut head = format!("{method} {target} HTTP/1.1{end}Host: a.test{end}");
        for line in lines {
            head += &line;
            head += end;
        }
        head
    })
}

/// A request of HTTP/1 as clients write it, or nearly.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let chunks = prop::collection::vec("[a-z\r\n]{1,20}", 0..4);
    let body = prop_oneof![
        Just("\r\n".to_owned()),
        "[a-z \r\n]{0,60}".prop_map(|body| format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        (chunks, prop_oneof![Just("\r\n"), Just("X: y\r\n\r\n"), Just("x\n\r\n")]).prop_map(
            |(chunks, trailer)| {
                let chunk = |chunk: &String| format!("{:x}\r\n{chunk}\r\n", chunk.len());
                let chunks: String = chunks.iter().map(chunk).collect();
                format!("Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n{trailer}")
            }
        ),
    ];
    (head(), body).prop_map(|(head, body)| (head + &body).into_bytes())
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let block = prop_oneof![
        "/[a-z]{0,30}".prop_map(|path| {
            let mut block = vec![0x82, 0x87, 0x41, 1, b'a', 0x44, path.len() as u8];
            block.extend(path.as_bytes());
            block
        }),
        prop::collection::vec(any::<u8>(), 0..40),
        Just(vec![0x82, 0x87, 0xbe, 0xbf]),
    ];
    let kind = prop_oneof![6 => Just(1_u8), 2 => Just(9), 3 => Just(0), 1 => any::<u8>()];
    let flags = prop_oneof![6 => Just(5_u8), 1 => Just(0), 1 => any::<u8>()];
    (kind, flags, 0..40_u32, block)
        .prop_map(|(kind, flags, stream, block)| frame(kind, flags, 2 * stream + 1, &block))
}

/// Everything that may be written into a connection.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let first = prop::collection::vec(request(), 1..5).prop_map(|requests| requests.concat()).boxed();
    let second = prop::collection::vec(frames(), 0..12);
    let second = second.prop_map(|frames| [PREFACE, &frame(4, 0, 0, &[]), &frames.concat()].concat()).boxed();
    let garbage = prop::collection::vec(any::<u8>(), 0..200).boxed();
    prop_oneof![
        4 => first.clone(),
        4 => second.clone(),
        1 => garbage.clone(),
        1 => (first.clone(), garbage).prop_map(|(first, garbage)| [first, garbage].concat()),
        1 => (first, second).prop_map(|(first, second)| [first, second].concat()),
    ]
}

/// The pieces of a stream, cut where the numbers say.
fn pieces<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|two| &stream[two[0]..two[1]]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    /// How a stream is cut into writes changes nothing.
    #[test]
    fn pieces_do_not_count(stream in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let (whole, of_whole) = read(&[&stream]);
        let (cut, of_cut) = read(&pieces(&stream, &cuts));
        prop_assert_eq!(&whole, &cut, "{}", stream.escape_ascii());
        prop_assert_eq!(of_whole.is_over(), of_cut.is_over());
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(&whole, &read(&bytes).0);
    }

    /// Nothing makes it panic or grow, whatever is cut off and lost; and texts are fit for a terminal.
    #[test]
    fn nothing_breaks_it(
        steps in prop::collection::vec((stream(), any::<prop::sample::Index>(), 0..2000_u64, 0..10_u8), 1..6),
        is_met: bool,
    ) {
        let mut connection = if is_met { Connection::met(curious()) } else { Connection::new(curious()) };
        for (stream, cut, missing, kind) in steps {
            let seen = match kind {
                0 => connection.lost(),
                1..=3 => connection.write(&stream[..cut.index(stream.len() + 1)], missing),
                _ => connection.write(&stream, 0),
            };
            prop_assert!(connection.held() <= MOST, "{}", connection.held());
            for text in told(&seen) {
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    /// What a real client of HTTP/2 writes is read in any pieces.
    #[test]
    fn a_real_client_is_read_in_any_pieces(
        numbers in prop::collection::vec(0..100_000_u32, 1..40),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
    ) {
        let (writes, expected) = of_a_client(&numbers);
        let stream = writes.concat();
        prop_assert_eq!(read(&pieces(&stream, &cuts)).0, expected);
    }

    /// Where a whole write is lost, the requests that are read are right, and all others are counted.
    #[test]
    fn what_is_lost_of_a_real_client_is_counted(
        numbers in prop::collection::vec(0..100_000_u32, 2..40),
        lost in any::<prop::sample::Index>(),
    ) {
        let (writes, expected) = of_a_client(&numbers);
        // The first one is what tells HTTP/2.
        let lost = 1 + lost.index(writes.len() - 1);
        let mut connection = Connection::new(curious());
        let (mut read, mut unread) = (Vec::new(), 0);
        // One more, so that the last that was lost has one behind it.
        let stream = 2 * numbers.len() as u32 + 1;
        let last = frame(1, 5, stream, &[0x82, 0x87, 0x84, 0x41, 1, b'a']);
        for (index, write) in writes.iter().chain([&last]).enumerate() {
            let seen = if index == lost { connection.lost() } else { connection.write(write, 0) };
            for one in seen {
                match one {
                    Seen::Request(_) => read.extend(told(&[one])),
                    Seen::Unread { requests, .. } => unread += requests as usize,
                }
            }
        }
        let right = read.len().min(expected.len());
        prop_assert_eq!(&read[..right], &expected[..right]);
        prop_assert_eq!(read.len() + unread, expected.len() + 1);
    }
}
