//! HTTP/1.

use super::{curious, read, told};
use crate::Connection;

#[test]
fn requests_are_read() {
    for (written, expected) in [
        ("GET /a?b=c HTTP/1.1\r\nHost: Api.Test:8080\r\n\r\n", &["GET api.test:8080 /a?b=c"][..]),
        ("GET / HTTP/1.0\r\n\r\n", &["GET  /"]),
        ("GET / HTTP/1.1\nHost: a\n\n", &["GET a /"]),
        (
            "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n\r\nPUT /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["GET a /", "PUT a /b"],
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nGET / HTTP/1.1\r\n\r\n..HEAD /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["POST a /a", "HEAD a /b"],
        ),
        (
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n00A\r\nGET / HTTP\r\n0\r\nX: y\r\nZ: \r\n\r\n\
             GET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["POST a /a", "GET a /b"],
        ),
        (
            "PUT /a HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nxyGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
            &["PUT a /a", "GET a /b"],
        ),
        (
            "GET http://me:pw@b.test/x?token=1 HTTP/1.1\r\nHost: a\r\nUser-Agent: curl\t/8\r\nAuthorization: Bearer x\r\n\
             X-Api-Key: y\r\nReferer: https://me:pw@c.test/?a=b\r\nX-Other: z\r\n\r\n",
            &["GET b.test /x?token=REDACTED user-agent=curl?/8 authorization=REDACTED x-api-key=REDACTED \
              referer=https://c.test/?REDACTED"],
        ),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", &["OPTIONS a *"]),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", &["GET  /"]),
        ("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", &["GET ::1:80 /"]),
    ] {
        assert_eq!(read(&[written.as_bytes()]).0, expected, "{written}");
    }
}

#[test]
fn where_servers_would_not_agree_nothing_is_made_up() {
    let inner = "0\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    for (lines, reason) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "ambiguous"),
        ("Content-Length: 5\r\nContent-Length: 5", "ambiguous"),
        ("Content-Length: 5, 5", "ambiguous"),
        ("Content-Length: +5", "ambiguous"),
        ("Content-Length: 0x5", "ambiguous"),
        ("Content-Length: 99999999999999999999", "ambiguous"),
        ("Content-Length:", "ambiguous"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "ambiguous"),
        ("Transfer-Encoding: xchunked", "ambiguous"),
        ("Transfer-Encoding: chunked, identity", "ambiguous"),
        ("Transfer-Encoding: chunked, chunked", "ambiguous"),
        ("Transfer-Encoding:", "ambiguous"),
        ("Host: b", "ambiguous"),
        ("X: y\nTransfer-Encoding: chunked", "ambiguous"),
        ("Transfer-Encoding : chunked", "malformed"),
        ("X: y\r\n Transfer-Encoding: chunked", "malformed"),
        ("X\r\nTransfer-Encoding: chunked", "malformed"),
        ("X: y\rTransfer-Encoding: chunked", "malformed"),
        ("X: y\0", "malformed"),
    ] {
        let written = format!("POST /a HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{inner}");
        let (found, connection) = read(&[written.as_bytes()]);
        assert_eq!(found, [format!("unread 1 {reason}")], "{lines}");
        assert!(connection.is_over(), "{lines}");
    }
    for (chunks, reason) in [
        ("5\nhello\r\n", "ambiguous"),
        ("5;a\nb\r\nhello\r\n", "ambiguous"),
        ("5\r\nhello\n", "ambiguous"),
        ("5\r\nhelloo\r\n", "malformed"),
        ("\r\n", "malformed"),
        ("-1\r\n", "malformed"),
        ("0x5\r\nhello\r\n", "malformed"),
        ("5\r5\r\n", "malformed"),
        ("ffffffffffffffff\r\n", "malformed"),
        ("0\r\nX: y\n\r\n", "ambiguous"),
    ] {
        let written =
            format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}{inner}");
        let (found, connection) = read(&[written.as_bytes()]);
        assert_eq!(found, ["POST a /a".to_owned(), format!("unread 0 {reason}")], "{chunks}");
        assert!(connection.is_over(), "{chunks}");
    }
}

#[test]
fn what_is_no_http_is_over_at_once() {
    for written in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"EHLO a\r\n",
        b"a1 LOGIN x y\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"GET /\r\n",
        b"GET / HTTP/1.2\r\n\r\n",
        b"GET  / HTTP/1.1\r\n\r\n",
        b" GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"{\"a\": 1}",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"A_METHOD_THAT_IS_MUCH_LONGER_THAN_ANY_THAT_THERE_IS / HTTP/1.1\r\n\r\n",
    ] {
        let (found, connection) = read(&[written]);
        assert_eq!(found, Vec::<String>::new(), "{}", written.escape_ascii());
        assert!(connection.is_over() && connection.held() == 0, "{}", written.escape_ascii());
    }
}

#[test]
fn http_that_goes_on_as_something_else_is_told_of() {
    let (found, connection) = read(&[b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"what is this\r\n"]);
    assert_eq!(found, ["GET a /", "unread 1 malformed"]);
    assert!(connection.is_over());
}

#[test]
fn behind_an_upgrade_no_http_1_is_read() {
    let upgrade =
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";
    let (found, connection) = read(&[upgrade, b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"]);
    assert_eq!(found, ["GET a /chat to websocket", "unread 0 switched"]);
    assert!(connection.is_over());
    let (found, _) = read(&[b"CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n", b"\x16\x03\x01"]);
    assert_eq!(found, ["CONNECT b.test:443 ", "unread 0 switched"]);
    // Nothing is asked for without `Connection`, or in HTTP/1.0.
    for head in [
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        assert_eq!(read(&[head.as_bytes(), head.as_bytes()]).0, ["GET a /", "GET a /"]);
    }
}

#[test]
fn what_is_not_copied_costs_what_it_must() {
    let mut connection = Connection::new(curious());
    let mut write = |bytes: &str, missing| told(&connection.write(bytes.as_bytes(), missing));
    // A body by its length.
    let head = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n";
    assert_eq!(write(&format!("{head}xy"), 900), ["POST a /a"]);
    assert!(write("", 98).is_empty());
    // Chunks, the first with its line's end.
    let head = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(write(&format!("{head}64\r\nxy"), 100), ["POST a /b"]);
    assert!(write("64\r\nx", 50).is_empty());
    assert!(write("", 49).is_empty());
    assert!(write("\r\n0\r\n\r\n", 0).is_empty());
    // A head: the host is there, the rest is not; what comes in the same write is not known.
    assert_eq!(write("GET /c HTTP/1.1\r\nHost: a\r\nCookie: aaaa", 5000), ["GET a /c"]);
    assert_eq!(write("GET /d HTTP/1.1\r\nHost: a\r\n\r\n", 0), ["GET a /d"]);
    // Requests behind a body.
    let head = "POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
    assert_eq!(write(head, 40), ["POST a /e", "unread 1 cut"]);
    assert!(write("nothing here\r\n", 0).is_empty());
    assert_eq!(write("GET /f HTTP/1.1\r\nHost: a\r\n", 0), Vec::<String>::new());
    assert_eq!(write("\r\n", 0), ["GET a /f"]);
    assert_eq!(write("GET /g", 5000), ["unread 1 cut"]);
}

#[test]
fn after_a_loss_a_write_that_begins_with_a_request_is_found() {
    let mut connection = Connection::new(curious());
    assert!(connection.write(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n", 0).is_empty());
    assert_eq!(told(&connection.lost()), ["POST a /a", "unread 0 lost"]);
    assert!(connection.lost().is_empty());
    assert!(connection.write(b"some of the body GET /x HTTP/1.1\r\n\r\n", 0).is_empty());
    assert_eq!(told(&connection.write(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", 0)), ["GET a /b"]);
    // Nothing is known of what comes behind an upgrade.
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    assert_eq!(told(&connection.write(upgrade, 0)), ["GET a / to x"]);
    assert_eq!(told(&connection.lost()), ["unread 0 lost"]);
    assert!(connection.is_over());
}

#[test]
fn a_connection_that_is_met_late_is_read_from_its_next_request() {
    let mut connection = Connection::met(curious());
    assert!(connection.write(b"rest of a body", 100).is_empty());
    assert_eq!(told(&connection.write(b"GET /b HTTP/1.1\r\nHost: a\r\n\r\n", 0)), ["GET a /b"]);
    // What never shows a request is given up.
    let mut connection = Connection::met(curious());
    let writes =
        (0..2000).take_while(|_| connection.write(b"\x00\x01\x02", 0).is_empty() && !connection.is_over());
    assert_eq!(writes.count(), 1024);
}

#[test]
fn a_head_that_is_too_large_is_given_as_far_as_it_is_known() {
    let mut connection = Connection::new(curious());
    let head = format!("GET /a HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(20_000));
    let mut seen = Vec::new();
    for part in head.as_bytes().chunks(1000) {
        seen.extend(connection.write(part, 0));
        assert!(connection.held() <= 16 << 10, "{}", connection.held());
    }
    assert_eq!(told(&seen), ["GET a /a", "unread 0 too_large"]);
    assert!(connection.is_over());
}
