//! HTTP/2, written by hand and by the crate `h2`.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::{curious, read, told};
use crate::http2::PREFACE;
use crate::{Connection, Seen};

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET https://a/` with a path, which the table keeps.
fn block(path: &str) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x87, 0x41, 1, b'a', 0x44, path.len() as u8];
    bytes.extend(path.as_bytes());
    bytes
}

fn opening() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

#[test]
fn requests_come_out_of_frames() {
    // The first by literals, padded and with a priority; the second refers to the first, in two frames; then trailers.
    let first = [&[3, 0x80, 0, 0, 0, 7][..], &block("/a"), &[0, 0, 0]].concat();
    let second = [0x82, 0x87, 0xbf, 0xbe];
    let written = [
        opening(),
        frame(1, 0x2c, 1, &first),
        frame(0, 0, 1, &[0; 100]),
        frame(1, 1, 3, &second[..1]),
        frame(9, 0, 3, &second[1..2]),
        frame(9, 4, 3, &second[2..]),
        frame(0, 1, 1, b"POST / HTTP/1.1\r\n\r\n"),
        frame(1, 5, 1, &[0x40, 1, b'x', 1, b'y']),
        frame(6, 0, 0, &[0; 8]),
        frame(200, 0, 0, &[0; 8]),
        // What the trailer put into the table is counted: `/a` is third by now.
        frame(1, 5, 5, &[0x82, 0x87, 0xc0, 0xbf]),
    ]
    .concat();
    let (found, connection) = read(&[&written]);
    assert_eq!(found, ["GET a /a", "GET a /a", "GET a /a"]);
    assert!(!connection.is_over());
}

#[test]
fn hosts_and_pseudo_headers_must_be_clear() {
    let of = |fields: &[(&str, &str)]| {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.extend([0, name.len() as u8]);
            block.extend(name.as_bytes());
            block.push(value.len() as u8);
            block.extend(value.as_bytes());
        }
        read(&[&[opening(), frame(1, 5, 1, &block)].concat()]).0.join(", ")
    };
    let get = (":method", "GET");
    let path = (":path", "/x?a=b&api_key=c");
    for (fields, expected) in [
        (
            &[get, path, (":authority", "me@A.test:1"), ("user-agent", "x")][..],
            "GET a.test:1 /x?a=b&api_key=REDACTED user-agent=x",
        ),
        (&[get, path, ("host", "b")], "GET b /x?a=b&api_key=REDACTED"),
        (&[get, path, (":authority", "B"), ("host", "b")], "GET b /x?a=b&api_key=REDACTED"),
        (&[get, path], "GET  /x?a=b&api_key=REDACTED"),
        (&[(":method", "CONNECT"), (":authority", "a:443")], "CONNECT a:443 "),
        (
            &[(":method", "CONNECT"), (":protocol", "websocket"), (":path", "/c"), (":authority", "a")],
            "CONNECT a /c to websocket",
        ),
        (&[get, path, (":authority", "a"), ("host", "b")], "unread 1 ambiguous"),
        (&[get, path, ("host", "b"), ("host", "b")], "unread 1 ambiguous"),
        (&[get, path, (":authority", "a/b")], "unread 1 ambiguous"),
        (&[get, get, path], "unread 1 malformed"),
        (&[get, path, (":path", "/y")], "unread 1 malformed"),
        (&[get], "unread 1 malformed"),
        (&[path], "unread 1 malformed"),
        (&[(":method", "G T"), path], "unread 1 malformed"),
        (&[get, (":path", "x")], "unread 1 malformed"),
        (&[get, (":path", "/\u{1b}[2J")], "GET  /%1B[2J"),
    ] {
        assert_eq!(of(fields), expected, "{fields:?}");
    }
}

#[test]
fn what_no_client_sends_ends_it() {
    let whole = || frame(1, 5, 1, &block("/a"));
    for (frames, expected) in [
        (frame(1, 5, 2, &block("/a")), "unread 0 malformed"),
        (frame(5, 4, 1, &[0; 8]), "unread 0 malformed"),
        (frame(9, 4, 1, &block("/a")), "unread 0 malformed"),
        ([frame(1, 1, 1, &block("/a")), whole()].concat(), "unread 1 malformed"),
        ([frame(1, 1, 1, &block("/a")), frame(9, 4, 3, &[0x82])].concat(), "unread 1 malformed"),
        (frame(1, 5, 1, &[0xff]), "unread 1 malformed"),
        (frame(1, 0xd, 1, &[9, 0x82]), "unread 1 malformed"),
        (frame(1, 0x25, 1, &[0, 0]), "unread 1 malformed"),
        (
            [frame(1, 1, 1, &[0x82]), (0..64).flat_map(|_| frame(9, 0, 1, &[])).collect()].concat(),
            "unread 1 malformed",
        ),
    ] {
        let (found, connection) = read(&[&[opening(), frames.clone(), whole()].concat()]);
        assert_eq!(found, [expected], "{frames:?}");
        assert!(connection.is_over(), "{frames:?}");
    }
}

#[test]
fn a_block_that_cannot_be_read_leaves_the_rest_counted() {
    let mut connection = Connection::new(curious());
    let mut write = |bytes: &[u8], missing| told(&connection.write(bytes, missing));
    assert_eq!(write(&[opening(), frame(1, 5, 1, &block("/a"))].concat(), 0), ["GET a /a"]);
    // Of data that is not copied, nothing is missed.
    assert!(write(&frame(0, 0, 1, &[0; 1000])[..100], 909).is_empty());
    assert_eq!(write(&frame(1, 5, 3, &block("/b")), 0), ["GET a /b"]);
    // A block that is cut is one request, and what it kept in the table is not known.
    let cut = frame(1, 5, 5, &block("/c"));
    assert_eq!(write(&cut[..12], (cut.len() - 12) as u64), ["unread 1 cut"]);
    assert_eq!(write(&frame(1, 5, 7, &block("/d")), 0), ["unread 1 cut"]);
    assert!(write(&frame(1, 5, 7, &block("/trailer")), 0).is_empty());
}

#[test]
fn after_a_loss_streams_tell_how_many_requests_were_missed() {
    let mut connection = Connection::new(curious());
    assert_eq!(connection.write(&[opening(), frame(1, 5, 1, &block("/a"))].concat(), 0).len(), 1);
    assert_eq!(told(&connection.lost()), ["unread 0 lost"]);
    assert!(connection.lost().is_empty());
    // In the middle of a frame.
    assert!(connection.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0).is_empty());
    let write = [frame(8, 0, 0, &[0; 4]), frame(1, 5, 9, &block("/b"))].concat();
    assert_eq!(told(&connection.write(&write, 0)), ["unread 3 lost", "unread 1 lost"]);
    assert_eq!(told(&connection.write(&frame(1, 5, 11, &block("/c")), 0)), ["unread 1 lost"]);
    // One that was not seen from its beginning.
    let mut connection = Connection::met(curious());
    assert!(connection.write(b"data", 0).is_empty());
    assert_eq!(told(&connection.write(&frame(1, 5, 901, &block("/b")), 0)), ["unread 1 lost"]);
    assert_eq!(told(&connection.write(&frame(1, 5, 903, &block("/b")), 0)), ["unread 1 lost"]);
}

#[test]
fn tables_and_blocks_are_bounded() {
    let mut connection = Connection::new(curious());
    assert!(connection.write(&opening(), 0).is_empty());
    let field = [&[0x40, 1, b'x', 0x7f, 0x81, 0x7c][..], &[b'y'; 16_000]].concat();
    let mut seen = Vec::new();
    // The table grows to 64 KiB, and then no more.
    for stream in 0..20 {
        let size: &[u8] = if stream == 0 { &[0x3f, 0xe1, 0xff, 0x03] } else { &[] };
        let block = [size, &field, &block("/a")].concat();
        seen.extend(connection.write(&frame(1, 5, 1 + 2 * stream, &block), 0));
        assert!(connection.held() < 100_000, "{}", connection.held());
    }
    assert_eq!(told(&seen), vec!["GET a /a"; 20]);
    // A larger one is not followed.
    let larger = frame(1, 5, 41, &[&[0x3f, 0xe2, 0xff, 0x03][..], &block("/a")].concat());
    assert_eq!(told(&connection.write(&larger, 0)), ["unread 1 too_large"]);
    assert_eq!(told(&connection.write(&frame(1, 5, 43, &block("/a")), 0)), ["unread 1 too_large"]);
    assert!(connection.held() < 1_000, "{}", connection.held());
    // Neither is a block that never ends.
    let mut connection = Connection::new(curious());
    assert!(connection.write(&[opening(), frame(1, 1, 1, &[0; 16_000])].concat(), 0).is_empty());
    assert!(connection.write(&frame(9, 0, 1, &[0; 16_000]), 0).is_empty());
    assert!(connection.held() < 40_000, "{}", connection.held());
    assert_eq!(told(&connection.write(&frame(9, 4, 1, &[0; 16_000]), 0)), ["unread 1 too_large"]);
}

#[test]
fn http_2_may_follow_an_upgrade() {
    let upgrade =
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n";
    let opening = opening();
    let (first, second) = opening.split_at(10);
    let (found, _) = read(&[upgrade, first, second, &frame(1, 5, 3, &block("/b"))]);
    assert_eq!(found, ["GET a /a to h2c", "GET a /b"]);
}

/// A stream that keeps what is written into it.
struct Overheard {
    inner: DuplexStream,
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl AsyncRead for Overheard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl AsyncWrite for Overheard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(length)) = &written {
            self.writes.lock().expect("no panic").push(bytes[..*length].to_vec());
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What a real client writes for requests with these numbers: their paths, headers, bodies and trailers come from them.
pub(super) fn of_a_client(numbers: &[u32]) -> (Vec<Vec<u8>>, Vec<String>) {
    let writes = Arc::<Mutex<Vec<Vec<u8>>>>::default();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let expected = runtime.block_on(async {
        let (client, server) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut server: h2::server::Connection<_, Bytes> =
                h2::server::Builder::new().header_table_size(3000).handshake(server).await.expect("a server");
            while let Some(accepted) = server.accept().await {
                let (mut request, mut respond) = accepted.expect("a request");
                tokio::spawn(async move {
                    while let Some(data) = request.body_mut().data().await {
                        let length = data.expect("data").len();
                        request.body_mut().flow_control().release_capacity(length).expect("capacity");
                    }
                    respond.send_response(http::Response::new(()), true).expect("an answer");
                });
            }
        });
        let overheard = Overheard { inner: client, writes: Arc::clone(&writes) };
        let (mut client, connection) = h2::client::handshake(overheard).await.expect("a client");
        tokio::spawn(async move { connection.await.expect("a connection") });
        let mut expected = Vec::new();
        let mut answers = Vec::new();
        for number in numbers {
            let method = ["GET", "POST", "DELETE", "PURGE"][*number as usize % 4];
            let host = ["a.test", "b.example:8443"][*number as usize / 4 % 2];
            let path = format!("/v{}/{}", number % 3, "thing~%C3%A9/".repeat(*number as usize % 7));
            let mut request =
                http::Request::builder().method(method).uri(format!("https://{host}{path}?n={number}"));
            request = request.header("user-agent", format!("agent {}", number % 5));
            for line in 0..number % 11 {
                request = request.header(format!("x-line-{line}"), "v".repeat((number % 200) as usize));
            }
            let body = (number % 5) as usize * 7000;
            client = client.ready().await.expect("room");
            let request = request.body(()).expect("a request");
            let (answer, mut stream) = client.send_request(request, body == 0).expect("sent");
            if body > 0 {
                stream.send_data(Bytes::from(vec![0; body]), false).expect("data");
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-sum", number.to_string().parse().expect("a value"));
                stream.send_trailers(trailers).expect("trailers");
            }
            answers.push(answer);
            expected.push(format!("{method} {host} {path}?n={number} user-agent=agent {}", number % 5));
        }
        for answer in answers {
            assert_eq!(answer.await.expect("an answer").status(), 200);
        }
        expected
    });
    drop(runtime);
    let writes = std::mem::take(&mut *writes.lock().expect("no panic"));
    (writes, expected)
}

/// As many requests as the client sent, in its order, and nothing else.
#[test]
fn requests_of_a_real_client_are_seen_one_and_all() {
    let numbers: Vec<u32> = (0..200).map(|number| number * 7919 % 10_007).collect();
    let (writes, expected) = of_a_client(&numbers);
    let mut connection = Connection::new(curious());
    let seen: Vec<Seen> = writes.iter().flat_map(|write| connection.write(write, 0)).collect();
    assert_eq!(told(&seen), expected);
}
