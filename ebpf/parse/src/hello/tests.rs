//! Hellos and requests, whole and in pieces.

use proptest::prelude::*;
use sluice_abi::NAME_SIZE;

use super::*;

/// What an OpenSSL 3.5.7 client sends by default: `s_client -servername pay.Example.com -alpn h2,http/1.1`, with a key
/// share of X25519MLKEM768.
const OPENSSL: &str = include_str!("openssl-3.5.7.hex");

struct Packet<'a>(&'a [u8]);

impl Source for Packet<'_> {
    unsafe fn load(&self, offset: u64, to: *mut u8, length: u64) -> bool {
        let Some(bytes) = self.0.get(offset as usize..(offset + length) as usize) else { return false };
        // SAFETY: the caller's: as many bytes may be written.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        true
    }
}

/// The state after each piece, and the name at the end.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, String) {
    let mut hello = Hello::new();
    let mut states = Vec::new();
    for piece in pieces {
        // As a packet: headers in front.
        let packet = [&[0xaa; 52], piece].concat();
        hello.add(&Packet(&packet), 52, piece.len() as u64);
        while hello.read() {}
        states.push(hello.state());
    }
    let mut name = [0; NAME_SIZE];
    let length = hello.name(&mut name);
    (states, name[..length.into()].iter().rev().map(|byte| *byte as char).collect())
}

fn whole(bytes: &[u8]) -> (u8, String) {
    let (states, name) = read([bytes]);
    (states[0], name)
}

fn openssl() -> Vec<u8> {
    let digits: Vec<u8> = OPENSSL.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &(data.len() as u16).to_be_bytes(), data].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    let length = name.len() as u16;
    let data = [&(length + 3).to_be_bytes(), &[0][..], &length.to_be_bytes(), name].concat();
    extension(0, &data)
}

/// A handshake message with these extensions.
fn handshake(extensions: &[Vec<u8>]) -> Vec<u8> {
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.push(32);
    body.extend([9; 32]);
    body.extend([0, 4, 0x13, 1, 0x13, 2, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[1, 0], &(body.len() as u16).to_be_bytes()[..], &body].concat()
}

/// TLS records of at most `size` bytes each.
fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
    handshake.chunks(size).flat_map(record).collect()
}

fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
    records(&handshake(extensions), 16_384)
}

/// An extension of no meaning, as browsers send them (RFC 8701).
fn grease() -> Vec<u8> {
    extension(0x3a3a, &[0])
}

const NAME: &str = ".pay.example.com";

#[test]
fn a_post_quantum_hello_is_read_whole() {
    let bytes = openssl();
    assert!(bytes.len() > 1500, "{} bytes", bytes.len());
    assert_eq!(whole(&bytes), (shown::NAME, NAME.to_owned()));
}

#[test]
fn a_hello_may_come_in_any_pieces() {
    let bytes = openssl();
    for size in [1, 2, 5, 6, 100, 536] {
        let (mut states, name) = read(bytes.chunks(size));
        assert_eq!(name, NAME, "pieces of {size}");
        states.dedup();
        // Once the name is there it is told, before the rest has come; then it stands.
        assert!(states.ends_with(&[shown::SO_FAR, shown::NAME]), "pieces of {size}: {states:?}");
        assert!(states.len() == 2 || states[..] == [shown::MORE, shown::SO_FAR, shown::NAME]);
    }
}

#[test]
fn a_hello_may_come_in_any_records() {
    let handshake = handshake(&[grease(), server_name(b"pay.example.com"), extension(21, &[0; 300])]);
    for size in [20, 64, 100, 399] {
        let bytes = records(&handshake, size);
        assert_eq!(whole(&bytes), (shown::NAME, NAME.to_owned()), "records of {size}");
        let (states, name) = read(bytes.chunks(33));
        assert_eq!((states.last(), name.as_str()), (Some(&shown::NAME), NAME), "records of {size}");
    }
}

#[test]
fn extensions_come_in_any_order() {
    let name = || server_name(b"pay.example.com");
    let long = || extension(51, &[1; 1200]);
    for extensions in
        [vec![name()], vec![name(), long()], vec![long(), name()], vec![grease(), long(), name(), grease()]]
    {
        assert_eq!(whole(&hello(&extensions)), (shown::NAME, NAME.to_owned()));
    }
}

#[test]
fn what_shows_no_name() {
    let name = || server_name(b"pay.example.com");
    assert_eq!(whole(&hello(&[grease()])).0, shown::NONE);
    assert_eq!(whole(&hello(&[name(), extension(0xfe0d, &[0; 100])])).0, shown::ENCRYPTED);
    let (state, outer) = whole(&hello(&[extension(0xfe0d, &[0; 100]), name()]));
    assert_eq!((state, outer), (shown::ENCRYPTED, whole(&hello(&[name()])).1), "the name outside is kept");
}

#[test]
fn what_cannot_be_read() {
    let name = || server_name(b"pay.example.com");
    let mut wrong_type = name();
    wrong_type[6] = 1;
    let mut two_names = name();
    two_names.extend([0, 0, 1, b'a']);
    let mut alert = hello(&[name()]);
    alert[0] = 21;
    let mut server_hello = hello(&[name()]);
    server_hello[5] = 2;
    let mut too_short = hello(&[name()]);
    let last = too_short.len() - 1;
    too_short[last - 17] = 9;
    for (what, bytes) in [
        ("two server names", hello(&[name(), name()])),
        ("a name of another type", hello(&[wrong_type])),
        ("a list of two names", hello(&[two_names])),
        ("an empty name", hello(&[server_name(b"")])),
        ("a name with a zero", hello(&[server_name(b"pay.example.com\0.evil.example")])),
        ("a name with a final dot", hello(&[server_name(b"pay.example.com.")])),
        ("a label of 64 letters", hello(&[server_name(&[b'a'; 64])])),
        ("an alert", alert),
        ("a server's hello", server_hello),
        ("an extension that is too short", too_short),
        ("4,096 bytes and no end", hello(&[extension(51, &[1; 5000]), name()])),
        ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()),
        ("zeros", vec![0; 64]),
    ] {
        assert_eq!(whole(&bytes).0, shown::UNREADABLE, "{what}");
    }
}

#[test]
fn a_request_shows_its_host() {
    let long = format!("GET / HTTP/1.1\r\nCookie: {}\r\nHost: pay.example.com\r\n\r\n", "x".repeat(3000));
    for request in [
        "GET / HTTP/1.1\r\nHost: pay.example.com\r\n\r\n",
        "POST /a?b HTTP/1.0\r\nUser-Agent: x\r\nhOsT:\t Pay.Example.COM:8080 \r\nA: b\r\n\r\nbody",
        "GET / HTTP/1.1\r\nHost:pay.example.com.\r\nHosts: other\r\nXHost: other\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: pay.example.com\r\n\r\n",
        &long,
    ] {
        assert_eq!(whole(request.as_bytes()), (shown::NAME, NAME.to_owned()), "{request}");
        for size in [1, 7, 40] {
            let (states, name) = read(request.as_bytes().chunks(size));
            assert_eq!((states.last(), name.as_str()), (Some(&shown::NAME), NAME), "{request}");
        }
    }
    assert_eq!(whole(b"GET / HTTP/1.0\r\nUser-Agent: x\r\n\r\n").0, shown::NONE);
    assert_eq!(whole(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").0, shown::UNREADABLE);
    assert_eq!(whole(b"GET / HTTP/1.1\r\nHost: pay.exa").0, shown::MORE);
    assert_eq!(whole(b"GET / HTTP/1.1\r\nHost: pay.example.com\r\nA").0, shown::SO_FAR);
}

#[test]
fn a_request_that_servers_read_differently_is_unreadable() {
    for request in [
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT b.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nX: y\r\n Host: a.example\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.example\n\n",
        "GET / HTTP/1.1\r\nX: y\rHost: b.example\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a.example:\0\r\n\r\n",
        "GET /\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a..example\r\n\r\n",
        "get / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        assert_eq!(whole(request.as_bytes()).0, shown::UNREADABLE, "{request}");
    }
}

proptest! {
    #[test]
    fn any_name_comes_out_as_it_went_in(
        name in "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,20}){0,5}",
        cuts in proptest::collection::vec(1..200_usize, 0..8),
    ) {
        let bytes = hello(&[grease(), server_name(name.as_bytes()), extension(51, &[3; 700])]);
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        pieces.push(rest);
        let (states, read) = read(pieces.into_iter().filter(|piece| !piece.is_empty()));
        prop_assert_eq!((states.last(), read), (Some(&shown::NAME), format!(".{name}")));
    }

    #[test]
    fn nothing_is_read_past_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..600), kind in 0..3_u8) {
        let start: &[u8] = match kind {
            0 => &[22, 3, 1, 1, 0, 1, 0, 0, 0xfc],
            1 => b"GET / HTTP/1.1\r\n",
            _ => b"",
        };
        let bytes = [start, &bytes].concat();
        let (states, _) = read(bytes.chunks(97));
        prop_assert!(states.iter().all(|state| *state <= shown::UNREADABLE));
    }
}
