//! DNS messages (RFC 1035): the question of one, and the addresses that one answers.

use crate::Unreadable;
use crate::bits::Room;
use crate::turn::Turn;

mod walk;

pub use walk::{Found, MAX_ADDRESSES, ROUNDS, STEPS_AT_ONCE, Step, Walk};

/// The largest message that is read. EDNS allows for more, but resolvers and clients agree on 4,096 bytes at most, mostly
/// on 1,232 (DNS flag day 2020).
pub const MAX_MESSAGE: u64 = 4096;

/// The port that resolvers listen on.
pub const PORT: u16 = 53;

/// Bytes of the header (section 4.1.1), behind which the question starts.
const HEADER: u64 = 12;

/// Room for a message.
pub type Message = Room<{ MAX_MESSAGE as usize + 512 }>;

/// Types of records.
pub mod kind {
    /// An IPv4 address (RFC 1035, section 3.4.1).
    pub const A: u64 = 1;
    /// The name that another is an alias of (section 3.3.1).
    pub const CNAME: u64 = 5;
    /// An IPv6 address (RFC 3596, section 2.1).
    pub const AAAA: u64 = 28;
}

/// The Internet, of DNS's classes.
const CLASS_IN: u64 = 1;

/// A message's one question; its name is in the [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Chosen by who asks.
    pub id: u16,
    /// The type asked for.
    pub kind: u16,
    /// The code of an answer; zero in a question.
    pub response_code: u8,
    /// How many records the answer has.
    pub answers: u16,
    /// Where they start.
    pub end: u16,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A question.
    Question,
    /// An answer.
    Answer,
}

/// Reads the header and the question of a message of `length` bytes: opcode 0, exactly one question, in the Internet
/// class.
#[inline(always)]
pub fn read_question(
    message: &Message,
    length: u64,
    direction: Direction,
    turn: &mut Turn,
) -> Result<Question, Unreadable> {
    if !(HEADER..=MAX_MESSAGE).contains(&length) {
        return Err(Unreadable);
    }
    // One bit for an answer, four for the opcode.
    let asked = match direction {
        Direction::Question => 0,
        Direction::Answer => 0x80,
    };
    if message.byte(2, 0) & 0xf8 != asked || message.half(4) != 1 {
        return Err(Unreadable);
    }
    let answers = message.half(6);
    if direction == Direction::Question && answers != 0 {
        return Err(Unreadable);
    }
    let end = turn.wire(message, HEADER, length)?;
    if end + 4 > length || message.half(end + 2) != CLASS_IN {
        return Err(Unreadable);
    }
    Ok(Question {
        id: message.half(0) as u16,
        kind: message.half(end) as u16,
        response_code: (message.byte(3, 0) & 0xf) as u8,
        answers: answers as u16,
        end: (end + 4) as u16,
    })
}

#[cfg(test)]
mod tests;
