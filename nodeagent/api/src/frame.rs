//! How a message travels: a big-endian `u32` length, then that many bytes of JSON.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message that either end accepts, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Why a message could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer went away or a deadline passed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// The length is 0 or above [`MAX_MESSAGE`].
    #[error("a message of {0} bytes; 1 to {MAX_MESSAGE} are accepted")]
    Length(usize),
    /// The bytes are not the JSON of such a message.
    #[error("not a message of this protocol: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of one message, length included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(message)?;
    check(body.len())?;
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// The length that a header announces, if it is one to accept.
pub fn body_length(header: [u8; 4]) -> Result<usize, FrameError> {
    check(u32::from_be_bytes(header) as usize)
}

/// Reads a message's body.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    Ok(serde_json::from_slice(body)?)
}

/// The protocol version that a body states, whatever else it holds; `None` where it states none.
///
/// For a body that [`decode`] refuses: a peer of another version may send fields that this one does not know, and
/// "other version" is the answer that helps then.
pub fn stated_version(body: &[u8]) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct Stated {
        version: u32,
    }
    serde_json::from_slice::<Stated>(body).ok().map(|stated| stated.version)
}

/// Writes one message.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    Ok(to.write_all(&encode(message)?)?)
}

/// Reads one message.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = vec![0; body_length(header)?];
    from.read_exact(&mut body)?;
    decode(&body)
}

fn check(length: usize) -> Result<usize, FrameError> {
    if length == 0 || length > MAX_MESSAGE { Err(FrameError::Length(length)) } else { Ok(length) }
}
