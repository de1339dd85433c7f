//! Questions to a resolver, one after the other, as a C library asks them: each on a socket of its own.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::json;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// What an answer may be long (EDNS): as much as a resolver sends over UDP.
const ROOM: u16 = 4096;

/// What to ask.
pub(crate) struct Plan {
    pub(crate) server: SocketAddr,
    /// `#` stands for the number of the question.
    pub(crate) name: String,
    /// The type of record that is asked for.
    pub(crate) kind: u16,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Asks them all, and prints how long each took in nanoseconds, and how many addresses came.
pub(crate) fn run(plan: &Plan) -> io::Result<()> {
    let mut nanoseconds = Vec::with_capacity(plan.count as usize);
    let mut addresses = 0;
    for number in plan.first..plan.first + plan.count {
        let name = plan.name.replace('#', &number.to_string());
        let question = question(&name, plan.kind, number as u16);
        let begun = Instant::now();
        let answer = ask(plan.server, &question)?;
        nanoseconds.push(begun.elapsed().as_nanos() as u64);
        if answer[..2] != question[..2] || answer[3] & 0xf != 0 {
            return Err(io::Error::other(format!("no answer to {name}: {:02x?}", &answer[..12])));
        }
        addresses += u32::from(u16::from_be_bytes([answer[6], answer[7]]));
    }
    println!("{}", json!({ "nanoseconds": nanoseconds, "addresses": addresses }));
    Ok(())
}

fn ask(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if server.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(LIMIT))?;
    socket.connect(server)?;
    socket.send(question)?;
    let mut answer = vec![0; ROOM.into()];
    let length = socket.recv(&mut answer)?;
    if length < 12 {
        return Err(io::Error::other("an answer without a header"));
    }
    answer.truncate(length);
    Ok(answer)
}

/// A question for an address (RFC 1035, section 4), with room for a long answer (RFC 6891).
fn question(name: &str, kind: u16, identity: u16) -> Vec<u8> {
    let mut message = identity.to_be_bytes().to_vec();
    // Recursion desired; one question, and one record behind it.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    // The root; the type; IN. Then the root, OPT, and the room.
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1, 0, 0, 41]);
    message.extend(ROOM.to_be_bytes());
    message.extend([0; 6]);
    message
}

#[cfg(test)]
mod tests {
    use super::question;

    #[test]
    fn a_question_is_written_as_dns_has_it() {
        let wire = question("a.bc", 28, 0x1234);
        assert_eq!(wire[..17], *b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x01a\x02bc");
        assert_eq!(wire[17..], *b"\0\0\x1c\0\x01\0\0\x29\x10\0\0\0\0\0\0\0");
    }
}
