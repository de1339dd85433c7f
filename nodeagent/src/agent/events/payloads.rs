//! What an event with a payload tells: the request at its start.

use std::sync::Arc;

use sluice_abi::{NameEvent, PayloadEvent};
use sluice_requests::{Asked, Connection, Request, Seen};

use super::{Line, names};

/// Reads payloads.
#[derive(Default)]
pub(super) struct Reader {
    asked: Arc<Asked>,
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
    pub(super) fn describe(self, line: Line) -> Line {
        let mut line = names::describe(&self.event, line);
        let Some(request) = self.request else { return line };
        if !self.is_first {
            "a further request of the connection".clone_into(&mut line.reason);
            line.domain = request.host;
        }
        line.method = Some(request.method);
        line.path = Some(request.path).filter(|path| !path.is_empty());
        line
    }
}
