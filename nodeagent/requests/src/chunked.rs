//! Bodies in chunks (RFC 9112, section 7.1), passed over.

use crate::Reason;

/// The most bytes of the line of a chunk's size, and of the trailers.
const MAX_LINE: usize = 4096;

/// A place in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// In the line of a chunk's size.
    Size { size: u64, digits: u8, length: usize, place: Line },
    /// In a chunk: so much of its data is left, and then its line's end.
    Data { left: u64 },
    /// The `\r` after a chunk's data, then the `\n`.
    DataEnd { met_return: bool },
    /// In the trailers.
    Trailer { length: usize, is_empty: bool, met_return: bool },
}

/// A place in the line of a chunk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    Digits,
    Extension,
    Return,
}

/// What became of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passed {
    /// All of them belong to the body.
    All,
    /// The body ends after so many.
    Ends(usize),
}

impl Chunked {
    pub(crate) const START: Self = Self::Size { size: 0, digits: 0, length: 0, place: Line::Digits };
    const TRAILER: Self = Self::Trailer { length: 0, is_empty: true, met_return: false };

    /// Passes over bytes.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Result<Passed, Reason> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let Self::Data { left } = self {
                let step = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= step as u64;
                at += step;
                if *left == 0 {
                    *self = Self::DataEnd { met_return: false };
                }
                continue;
            }
            at += 1;
            if self.step(*byte)? {
                return Ok(Passed::Ends(at));
            }
        }
        Ok(Passed::All)
    }

    /// Passes over bytes that were not copied, if they end inside a chunk or right behind one.
    pub(crate) fn skip(&mut self, missing: u64) -> bool {
        let Self::Data { left } = *self else { return missing == 0 };
        match missing.checked_sub(left) {
            None => *self = Self::Data { left: left - missing },
            Some(0) => *self = Self::DataEnd { met_return: false },
            Some(1) => *self = Self::DataEnd { met_return: true },
            Some(2) => *self = Self::START,
            Some(_) => return false,
        }
        true
    }

    /// One byte that is no data. True if the body ends with it.
    fn step(&mut self, byte: u8) -> Result<bool, Reason> {
        match self {
            Self::Size { size, digits, length, place } => {
                *length += 1;
                let digit = char::from(byte).to_digit(16);
                match (*place, byte) {
                    (Line::Return, b'\n') => {
                        *self = if *size == 0 { Self::TRAILER } else { Self::Data { left: *size } };
                    }
                    (_, b'\n') => return Err(Reason::Ambiguous),
                    (Line::Digits | Line::Extension, b'\r') if *digits > 0 => *place = Line::Return,
                    (Line::Digits, _) if digit.is_some() && *digits < 15 => {
                        *digits += 1;
                        *size = *size << 4 | u64::from(digit.unwrap_or_default());
                    }
                    (Line::Digits, b';' | b' ' | b'\t') if *digits > 0 => *place = Line::Extension,
                    (Line::Extension, _) if *length < MAX_LINE && !byte.is_ascii_control() => {}
                    _ => return Err(Reason::Malformed),
                }
            }
            Self::DataEnd { met_return } => match (*met_return, byte) {
                (false, b'\r') => *met_return = true,
                (true, b'\n') => *self = Self::START,
                (false, b'\n') => return Err(Reason::Ambiguous),
                _ => return Err(Reason::Malformed),
            },
            Self::Trailer { length, is_empty, met_return } => {
                *length += 1;
                match (*met_return, byte) {
                    (true, b'\n') if *is_empty => return Ok(true),
                    (true, b'\n') => (*is_empty, *met_return) = (true, false),
                    (false, b'\n') => return Err(Reason::Ambiguous),
                    (true, _) => return Err(Reason::Malformed),
                    (false, b'\r') => *met_return = true,
                    (false, _) if *length < MAX_LINE => *is_empty = false,
                    (false, _) => return Err(Reason::TooLarge),
                }
            }
            Self::Data { .. } => {}
        }
        Ok(false)
    }
}
