//! An HTTP/1 request and its `Host` (RFC 9112).
//!
//! What RFC 9112 asks a server to refuse, and what some take for the end of a line and others do
//! not, is unreadable: white space before a colon, folded lines, a lone carriage return, a second `Host`, a target that
//! names a host of its own.

use sluice_abi::shown;

use super::Hello;
use crate::Unreadable;
use crate::bits::{get, put};

/// Parts of a request. To `HOST_NAME` is added how many letters of it have come.
mod phase {
    pub(super) const METHOD: u64 = 0;
    pub(super) const TARGET: u64 = 1;
    pub(super) const REQUEST_LINE: u64 = 2;
    pub(super) const LINE_START: u64 = 3;
    pub(super) const LAST_RETURN: u64 = 4;
    pub(super) const VALUE: u64 = 5;
    pub(super) const RETURN: u64 = 6;
    pub(super) const BEFORE_HOST: u64 = 7;
    pub(super) const HOST: u64 = 8;
    pub(super) const AFTER_HOST: u64 = 9;
    pub(super) const OTHER_NAME: u64 = 10;
    pub(super) const HOST_NAME: u64 = 16;
}

/// Steps between which the verifier starts anew: eight bytes of a value in a step, one byte of anything else.
const STEPS_AT_ONCE: u32 = 128;

/// What a header's name is compared to, as far as it has come.
const HOST: [u64; 4] = [b'h' as u64, b'o' as u64, b's' as u64, b't' as u64];

/// ` HTTP/1.` as the eight bytes before the last digit.
const VERSION: u64 = u64::from_le_bytes(*b" HTTP/1.");

impl Hello {
    /// Reads on in a request. None if there is more to do.
    #[inline(always)]
    pub(super) fn read_request(&mut self) -> Result<Option<u8>, Unreadable> {
        let have = get(&self.have);
        for _ in 0..STEPS_AT_ONCE {
            let at = get(&self.scanned);
            if at >= have {
                return Ok(Some(self.shows(shown::MORE, shown::SO_FAR)));
            }
            let is_long = matches!(get(&self.phase), phase::REQUEST_LINE | phase::VALUE);
            if is_long && at + 8 <= have && !has_control(self.bytes.raw_long(at)) {
                put(&mut self.scanned, at + 8);
                continue;
            }
            let byte = self.bytes.byte(at, 0);
            if byte == 0 {
                return Err(Unreadable);
            }
            put(&mut self.scanned, at + 1);
            if self.scan(at, byte)? {
                return Ok(Some(self.shows(shown::NONE, shown::NAME)));
            }
        }
        Ok(None)
    }

    #[inline(always)]
    fn shows(&self, none: u8, name: u8) -> u8 {
        if get(&self.name_length) == 0 { none } else { name }
    }

    /// Takes in a byte; true if it ends the headers.
    #[inline(always)]
    fn scan(&mut self, at: u64, byte: u64) -> Result<bool, Unreadable> {
        const SPACE: u64 = b' ' as u64;
        const TAB: u64 = b'\t' as u64;
        const RETURN: u64 = b'\r' as u64;
        const NEWLINE: u64 = b'\n' as u64;
        const COLON: u64 = b':' as u64;
        const BRACKET: u64 = b'[' as u64;
        const DOT: u64 = b'.' as u64;
        let next = match get(&self.phase) {
            phase::METHOD => match byte {
                SPACE => phase::TARGET,
                0x41..=0x5a if at < 16 => phase::METHOD,
                _ => return Err(Unreadable),
            },
            // A path, or `*` of OPTIONS. A whole URL or an authority would count in place of the Host.
            phase::TARGET if byte == u64::from(b'/') || byte == u64::from(b'*') => phase::REQUEST_LINE,
            phase::REQUEST_LINE => match byte {
                RETURN if at >= 9 && self.bytes.raw_long(at - 9) == VERSION => phase::RETURN,
                RETURN | NEWLINE => return Err(Unreadable),
                _ => phase::REQUEST_LINE,
            },
            phase::RETURN if byte == NEWLINE => phase::LINE_START,
            phase::LAST_RETURN if byte == NEWLINE => return Ok(true),
            phase::TARGET | phase::RETURN | phase::LAST_RETURN => return Err(Unreadable),
            phase::VALUE => match byte {
                RETURN => phase::RETURN,
                NEWLINE => return Err(Unreadable),
                _ => phase::VALUE,
            },
            phase::BEFORE_HOST => match byte {
                SPACE | TAB => phase::BEFORE_HOST,
                // Nothing, or an address in brackets.
                RETURN | NEWLINE | COLON | BRACKET => return Err(Unreadable),
                _ => {
                    put(&mut self.name_at, at);
                    phase::HOST
                }
            },
            phase::HOST => match byte {
                SPACE | TAB | COLON | RETURN => {
                    let length = at - get(&self.name_at);
                    // The dot of a name that is complete.
                    let has_dot = length > 1 && self.bytes.byte(at - 1, 0) == DOT;
                    put(&mut self.name_length, if has_dot { length - 1 } else { length });
                    if byte == RETURN { phase::RETURN } else { phase::AFTER_HOST }
                }
                NEWLINE => return Err(Unreadable),
                _ => phase::HOST,
            },
            // A port, or nothing.
            phase::AFTER_HOST => match byte {
                RETURN => phase::RETURN,
                SPACE | TAB | 0x30..=0x39 => phase::AFTER_HOST,
                _ => return Err(Unreadable),
            },
            // In or before a header's name.
            before => match byte {
                RETURN if before == phase::LINE_START => phase::LAST_RETURN,
                SPACE | TAB | RETURN | NEWLINE => return Err(Unreadable),
                COLON if before == phase::LINE_START => return Err(Unreadable),
                COLON if before == phase::HOST_NAME + 4 => {
                    if get(&self.name_at) != 0 {
                        return Err(Unreadable);
                    }
                    phase::BEFORE_HOST
                }
                COLON => phase::VALUE,
                _ => {
                    let letters = if before == phase::LINE_START { phase::HOST_NAME } else { before };
                    let expected = match letters.wrapping_sub(phase::HOST_NAME) {
                        0 => HOST[0],
                        1 => HOST[1],
                        2 => HOST[2],
                        3 => HOST[3],
                        _ => 0,
                    };
                    if byte | 0x20 == expected { letters + 1 } else { phase::OTHER_NAME }
                }
            },
        };
        put(&mut self.phase, next);
        Ok(false)
    }
}

/// Is any of eight bytes below the space?
#[inline(always)]
fn has_control(bytes: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    bytes.wrapping_sub(ONES * 0x20) & !bytes & (ONES * 0x80) != 0
}
