//! A server for inbound traffic: whatever a peer sends over TCP or UDP comes back to it with `re:` in front.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};

/// Serves for ever, on all addresses of both families. A listener on `::` also takes IPv4.
pub(crate) fn run(tcp: u16, udp: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, tcp))?;
    let datagrams = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, udp))?;
    println!("ready");
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        bytes[..3].copy_from_slice(b"re:");
        loop {
            if let Ok((length, peer)) = datagrams.recv_from(&mut bytes[3..])
                && let Err(error) = datagrams.send_to(&bytes[..length + 3], peer)
            {
                eprintln!("no answer to {peer}: {error}");
            }
        }
    });
    for connection in listener.incoming() {
        let connection = connection?;
        std::thread::spawn(move || {
            if let Err(error) = answer(connection) {
                eprintln!("a connection ended: {error}");
            }
        });
    }
    Ok(())
}

/// Answers each chunk until the peer closes.
fn answer(mut connection: TcpStream) -> io::Result<()> {
    let mut bytes = [0; 2048];
    bytes[..3].copy_from_slice(b"re:");
    loop {
        match connection.read(&mut bytes[3..])? {
            0 => return Ok(()),
            length => connection.write_all(&bytes[..length + 3])?,
        }
    }
}
