//! An observer's connection: events as they come, for as long as somebody reads them.

use std::sync::Arc;

use serde::Serialize;
use sluice_api::frame::{self, FrameError};
use sluice_api::{Refusal, RefusalKind};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::admin::Answer;
use super::events::Line;
use super::hub::{Observe, Subscription};
use super::{Shared, server};

/// Lines that are written at once.
const AT_ONCE: usize = 64;

/// [`Answer::Event`] of a line that others have, too.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
enum Shown<'a> {
    Event(&'a Line),
}

/// Sends what was asked for. Ends when the peer goes away, or when no event comes any more.
pub(super) async fn converse(
    mut stream: UnixStream,
    shared: &Shared,
    wanted: &Observe,
) -> Result<(), FrameError> {
    let mut subscription = match shared.hub.subscribe(wanted) {
        Ok(subscription) => subscription,
        Err(error) => {
            let refusal = Refusal { kind: RefusalKind::NotReady, message: error.to_string() };
            return server::send(&mut stream, &Answer::Refused(refusal)).await;
        }
    };
    let (mut from, mut to) = stream.split();
    let mut byte = [0];
    tokio::select! {
        done = deliver(&mut subscription, &mut to) => match done {
            // A peer that goes away in the middle has had enough.
            Err(FrameError::Io(_)) => Ok(()),
            done => done,
        },
        // It has asked, and says nothing more until it goes away.
        _ = from.read(&mut byte) => Ok(()),
    }
}

async fn deliver(from: &mut Subscription, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameError> {
    for lines in std::mem::take(&mut from.recent).chunks(AT_ONCE) {
        write(lines, to).await?;
    }
    let mut lines = Vec::with_capacity(AT_ONCE);
    while from.lines.recv_many(&mut lines, AT_ONCE).await > 0 {
        write(&lines, to).await?;
        lines.clear();
        // After what was in the queue before it was full, as nearly as makes no difference.
        match from.lost() {
            0 => {}
            lost => to.write_all(&frame::encode(&Answer::Lost(lost))?).await?,
        }
    }
    Ok(to.write_all(&frame::encode(&Answer::End)?).await?)
}

async fn write(lines: &[Arc<Line>], to: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend(frame::encode(&Shown::Event(line))?);
    }
    Ok(to.write_all(&bytes).await?)
}
