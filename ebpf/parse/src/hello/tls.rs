//! A `ClientHello` (RFC 8446, section 4.1.2; the same before 1.3) and its server name (RFC 6066, section 3).

use sluice_abi::shown;

use super::Hello;
use crate::Unreadable;
use crate::bits::{get, put};

/// Type and length of a handshake message.
const HANDSHAKE_HEADER: u64 = 4;
const TYPE_CLIENT_HELLO: u64 = 1;
/// The version, and 32 random bytes.
const FIXED: u64 = 34;
/// The longest hello that is told from rubbish.
const MAX_HELLO: u64 = 1 << 16;
/// Extensions that are walked through. Browsers send 18.
const MAX_EXTENSIONS: u32 = 48;
const EXTENSION_HEADER: u64 = 4;
const EXTENSION_SERVER_NAME: u64 = 0;
/// `encrypted_client_hello` (RFC 9849): the name in the clear is that of a front.
const EXTENSION_ENCRYPTED_HELLO: u64 = 0xfe0d;
/// Length of the list, type of the one entry, its length.
const SERVER_NAME_HEADER: u64 = 5;

impl Hello {
    /// Reads what has come of a hello, from its start.
    #[inline(always)]
    pub(super) fn read_hello(&mut self) -> Result<Option<u8>, Unreadable> {
        self.server_name_of_hello().map(Some)
    }

    #[inline(always)]
    fn server_name_of_hello(&mut self) -> Result<u8, Unreadable> {
        put(&mut self.name_at, 0);
        put(&mut self.is_encrypted, 0);
        let have = get(&self.have);
        if have < HANDSHAKE_HEADER {
            return Ok(shown::MORE);
        }
        let header = self.bytes.word(0);
        let end = HANDSHAKE_HEADER + (header & 0xff_ffff);
        if header >> 24 != TYPE_CLIENT_HELLO || end > MAX_HELLO {
            return Err(Unreadable);
        }
        let Some(start) = self.find_extensions(have) else {
            return if have >= end { Err(Unreadable) } else { Ok(shown::MORE) };
        };
        if start == end {
            return Ok(shown::NONE);
        }
        if start + 2 > have {
            return if have >= end { Err(Unreadable) } else { Ok(shown::MORE) };
        }
        if start + 2 + self.bytes.half(start) != end {
            return Err(Unreadable);
        }
        put(&mut self.at, start + 2);
        for _ in 0..MAX_EXTENSIONS {
            let at = get(&self.at);
            if at == end {
                return Ok(self.whole());
            }
            if at + EXTENSION_HEADER > end {
                return Err(Unreadable);
            }
            if at + EXTENSION_HEADER > have {
                return Ok(self.so_far());
            }
            let size = self.bytes.half(at + 2);
            let next = at + EXTENSION_HEADER + size;
            if next > end {
                return Err(Unreadable);
            }
            match self.bytes.half(at) {
                EXTENSION_SERVER_NAME if next > have => return Ok(shown::MORE),
                EXTENSION_SERVER_NAME => self.server_name(at + EXTENSION_HEADER, size)?,
                EXTENSION_ENCRYPTED_HELLO => put(&mut self.is_encrypted, 1),
                _ => {}
            }
            put(&mut self.at, next);
        }
        Err(Unreadable)
    }

    /// Where the extensions start; none if that has not come.
    #[inline(always)]
    fn find_extensions(&self, have: u64) -> Option<u64> {
        let session = HANDSHAKE_HEADER + FIXED;
        if session + 1 > have {
            return None;
        }
        let ciphers = session + 1 + self.bytes.byte(session, 0);
        if ciphers + 2 > have {
            return None;
        }
        let methods = ciphers + 2 + self.bytes.half(ciphers);
        if methods + 1 > have {
            return None;
        }
        Some(methods + 1 + self.bytes.byte(methods, 0))
    }

    /// Notes the name: one list, one entry, of the one type that there is.
    #[inline(always)]
    fn server_name(&mut self, at: u64, size: u64) -> Result<(), Unreadable> {
        let length = size.wrapping_sub(SERVER_NAME_HEADER);
        if size <= SERVER_NAME_HEADER
            || get(&self.name_at) != 0
            || self.bytes.half(at) != size - 2
            || self.bytes.byte(at, 2) != 0
            || self.bytes.half(at + 3) != length
        {
            return Err(Unreadable);
        }
        put(&mut self.name_at, at + SERVER_NAME_HEADER);
        put(&mut self.name_length, length);
        Ok(())
    }

    #[inline(always)]
    fn whole(&self) -> u8 {
        if get(&self.is_encrypted) != 0 {
            shown::ENCRYPTED
        } else if get(&self.name_at) == 0 {
            shown::NONE
        } else {
            shown::NAME
        }
    }

    #[inline(always)]
    fn so_far(&self) -> u8 {
        if get(&self.name_at) == 0 { shown::MORE } else { shown::SO_FAR }
    }
}
