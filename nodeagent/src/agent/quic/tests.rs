use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{ClientConfig, Endpoint, EndpointConfig};
use sluice_abi::{FlowEvent, RulingValue, TOLD_ADDRESSES, TOLD_PAYLOAD, kind};

use super::*;
use crate::datapath::name_text;

/// The datagram of RFC 9001, appendix A.2.
fn vector() -> Vec<u8> {
    let digits: Vec<u8> = include_str!("rfc9001.hex").bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("digits"), 16).expect("digits");
    digits.chunks(2).map(pair).collect()
}

fn event(datagram: &[u8], local_port: u16) -> PayloadEvent {
    let flow = FlowEvent {
        time_ns: 0,
        endpoint: 7,
        repeats: 0,
        policy: 0,
        pid: 0,
        source: [1; 16],
        remote: [2; 16],
        local_port,
        remote_port: 443,
        protocol: 17,
        kind: kind::TLS,
        hook: 0,
        reason: 0,
        ruling: RulingValue { applied: 0, reported: 0, flags: 0, applied_rule: 0, reported_rule: 0 },
        opaque: 0,
        name: 0,
        pad: [0; 2],
        comm: [0; 16],
    };
    let name = NameEvent {
        flow,
        dns_type: 0,
        answers: 0,
        response_code: 0,
        shown: shown::MORE,
        name_length: 0,
        pad: 0,
        addresses: [[0; 16]; TOLD_ADDRESSES],
        name: [0; _],
        pad2: 0,
    };
    let mut payload = [0; TOLD_PAYLOAD];
    payload[..datagram.len()].copy_from_slice(datagram);
    PayloadEvent { event: name, length: datagram.len() as u32, is_first: 0, payload }
}

fn told(connections: &mut Connections, datagram: &[u8]) -> Option<(u8, String)> {
    let event = connections.add(&event(datagram, 4000))?;
    Some((event.shown, name_text(&event.name, event.name_length)))
}

#[test]
fn the_example_of_the_rfc_is_read() {
    let vector = vector();
    assert_eq!(vector.len(), 1200);
    let mut connections = Connections::default();
    let name = Some((shown::NAME, "example.com".to_owned()));
    assert_eq!(told(&mut connections, &vector), name);
    assert_eq!(told(&mut connections, &vector), None, "sent again");
    let other = connections.add(&event(&vector, 4001));
    assert!(other.is_some(), "another socket");
}

/// What a real client sends before it hears anything. The more protocols it offers, the longer its hello.
fn client_datagrams(name: &str, protocols: usize) -> Vec<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    tls.alpn_protocols = (0..protocols).map(|number| format!("protocol-{number:04}").into_bytes()).collect();
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a configuration")));
    let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
    let (now, server) = (Instant::now(), SocketAddr::from(([203, 0, 113, 1], 443)));
    let (_, mut connection) = endpoint.connect(now, config, server, name).expect("a connection");
    let mut datagrams = Vec::new();
    let mut bytes = Vec::new();
    while connection.poll_transmit(now, 1, &mut bytes).is_some() {
        datagrams.push(std::mem::take(&mut bytes));
    }
    datagrams
}

#[test]
fn a_real_client_is_read() {
    for (protocols, at_least) in [(1, 1), (100, 2)] {
        let datagrams = client_datagrams("Real.Client.example", protocols);
        assert!(datagrams.len() >= at_least, "{} datagrams", datagrams.len());
        let mut connections = Connections::default();
        let mut names: Vec<_> =
            datagrams.iter().filter_map(|datagram| told(&mut connections, datagram)).collect();
        assert_eq!(names.pop(), Some((shown::NAME, "real.client.example".to_owned())), "{protocols}");
        assert!(names.is_empty(), "told once");
    }
}

#[test]
fn what_was_changed_on_the_way_tells_nothing() {
    let vector = vector();
    for at in 0..vector.len() {
        let mut changed = vector.clone();
        changed[at] ^= 1;
        // Type and version are part of what is authenticated, as is all the rest.
        assert_eq!(told(&mut Connections::default(), &changed), None, "byte {at}");
    }
    for end in 0..vector.len() {
        assert_eq!(told(&mut Connections::default(), &vector[..end]), None, "cut at {end}");
    }
}

#[test]
fn a_hello_comes_in_any_order_of_pieces() {
    let vector = vector();
    let [initial] = initial::read(&vector).try_into().expect("one packet");
    let (_, hello) = initial.crypto[0].clone();
    let key = Key { endpoint: 1, local_port: 1, remote: [0; 16], connection: initial.connection.clone() };
    for (first, second) in [(10, 100), (1, 200), (4, 5)] {
        let pieces = [(second, hello.len()), (0, first), (first, second)];
        let mut connections = Connections::default();
        for (index, (start, end)) in pieces.into_iter().enumerate() {
            let crypto = vec![(start as u64, hello[start..end].to_vec())];
            let initial = Initial { connection: initial.connection.clone(), crypto };
            let shows = connections.add_initial(key.clone(), &initial);
            assert_eq!(shows.is_some(), index == 2, "{first} {second}");
            assert!(shows.is_none_or(|shows| name_text(&shows.name, shows.name_length) == "example.com"));
        }
    }
}

#[test]
fn memory_is_bounded() {
    let mut connections = Connections::default();
    for number in 0..2 * CONNECTIONS as u64 {
        let connection = number.to_be_bytes().to_vec();
        let key = Key { endpoint: 1, local_port: 1, remote: [0; 16], connection: connection.clone() };
        let crypto = vec![(1, vec![0; 1000]), (u64::MAX >> 2, vec![0; 1000]), (60_000, vec![0; 1000])];
        assert!(connections.add_initial(key, &Initial { connection, crypto }).is_none());
    }
    assert_eq!(connections.0.len(), CONNECTIONS);
    assert!(connections.0.iter().all(|connection| connection.stream.len() <= MAX_HELLO + 1));
}
