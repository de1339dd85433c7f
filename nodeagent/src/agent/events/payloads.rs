//! What an event with a payload tells: the request at its start, or the name in a datagram of QUIC.

use std::sync::Arc;

use sluice_abi::{NameEvent, PayloadEvent, kind};
use sluice_requests::{Asked, Connection, Request, Seen};

use super::{Line, names};
use crate::agent::node::Node;
use crate::agent::{quic, requests};

/// Reads payloads.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) asked: Arc<Asked>,
    hellos: quic::Connections,
}

/// What was read of a payload.
pub(super) struct Told {
    /// What the kernel told with it.
    pub(super) event: NameEvent,
    is_first: bool,
    request: Option<Request>,
}

impl Reader {
    /// What a payload tells; none if it is nothing.
    pub(super) fn read(&mut self, event: &PayloadEvent) -> Option<Told> {
        if event.event.flow.kind == kind::TLS {
            let event = self.hellos.add(event)?;
            return Some(Told { event, is_first: true, request: None });
        }
        let payload = event.payload.get(..event.length as usize)?;
        let is_first = event.is_first != 0;
        let request = self.request(payload);
        // A later packet of the connection may begin as a request does, and be anything.
        (is_first || request.is_some()).then_some(Told { event: event.event, is_first, request })
    }

    /// The request at the start of a payload, of which more may follow.
    fn request(&self, payload: &[u8]) -> Option<Request> {
        let mut connection = Connection::new(Arc::clone(&self.asked));
        let request = |seen| match seen {
            Seen::Request(request) => Some(request),
            Seen::Unread { .. } => None,
        };
        connection.write(payload, 0).into_iter().next().and_then(request)
    }
}

impl Told {
    /// Adds it to the line of the flow.
    pub(super) fn describe(self, line: Line, node: &Node) -> Line {
        let mut line = names::describe(&self.event, line);
        let Some(request) = self.request else { return line };
        if !self.is_first {
            "a further request of the connection".clone_into(&mut line.reason);
            line.domain.clone_from(&request.host);
        }
        requests::describe(line, request, self.event.flow.endpoint, None, None, node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_at_the_start_of_a_payload() {
        let reader = Reader::default();
        let read = |payload: &str| reader.request(payload.as_bytes());
        let request = read("GET /a?b=c HTTP/1.1\r\nHost: Some.Example:80\r\n\r\nmore").expect("a request");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("GET", "/a"));
        assert_eq!(request.host.as_deref(), Some("some.example"));
        for other in ["GET is the first word of this\r\n\r\n", "GET /a HTTP/1.1\r\nHost: some", "POST", ""] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
