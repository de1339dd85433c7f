//! Where in an ELF file applications hand over what is to be encrypted.
//!
//! The file may be anybody's: this runs in a process that has no rights, see [`super::child`].

use object::elf::{PF_X, PT_LOAD};
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object, ObjectSection, ObjectSymbol, ReadRef};
use serde::{Deserialize, Serialize};

/// Functions that are probed in one file. Generic code may be there several times.
const MAX_PLACES: usize = 16;

/// A TLS library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Library {
    /// OpenSSL and what was made from it.
    OpenSsl,
    /// `GnuTLS`.
    GnuTls,
    /// Go's `crypto/tls`.
    Go,
    /// rustls.
    Rustls,
}

impl Library {
    /// As people write it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl",
            Self::GnuTls => "gnutls",
            Self::Go => "go",
            Self::Rustls => "rustls",
        }
    }
}

/// What a function does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Does {
    /// It writes into it.
    Write,
    /// It ends it.
    End,
}

/// A function to be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// Of which library.
    pub(super) library: Library,
    /// What it does.
    pub(super) does: Does,
    /// Where in the file its code begins.
    pub(super) offset: u64,
    /// Where in OpenSSL's structure of a connection it says that the handshake goes on.
    pub(super) handshake: Option<u32>,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    /// Not ELF, not of 64 bits, or its headers contradict themselves.
    #[error("no ELF file that can be read: {0}")]
    Form(#[from] object::Error),
    /// Its arguments are where the probes do not look.
    #[error("built by Go before 1.18")]
    OldGo,
}

/// The functions of a file that are to be probed; none if it has none.
pub(super) fn places<'data, R: ReadRef<'data>>(data: R) -> Result<Vec<Place>, ElfError> {
    let file = ElfFile64::<Endianness, R>::parse(data)?;
    let mut places = Vec::new();
    let mut has_go = false;
    let mut handshake = None;
    for symbol in file.dynamic_symbols().chain(file.symbols()) {
        if !symbol.is_definition() || symbol.kind() != object::SymbolKind::Text {
            continue;
        }
        let Ok(name) = symbol.name_bytes() else { continue };
        if name == b"SSL_in_init" {
            handshake = handshake_state(&file, symbol.address());
        }
        let Some((library, does)) = function(name) else { continue };
        has_go |= library == Library::Go;
        add(&file, &mut places, (library, does), symbol.address());
    }
    if file.section_by_name(".go.buildinfo").is_some() {
        if !has_go {
            for (name, does) in [(GO_WRITE, Does::Write), (GO_CLOSE, Does::End)] {
                if let Some(address) = go_function(&file, name) {
                    has_go = true;
                    add(&file, &mut places, (Library::Go, does), address);
                }
            }
        }
        if has_go && !has_register_arguments(&file) {
            return Err(ElfError::OldGo);
        }
    }
    for place in places.iter_mut().filter(|place| place.library == Library::OpenSsl) {
        place.handshake = handshake.filter(|_| place.does == Does::Write);
    }
    if !places.iter().any(|place| place.does == Does::Write) {
        places.clear();
    }
    Ok(places)
}

/// What `SSL_in_init` returns, as its code says: up to OpenSSL 3.1 it is no more than a load from the structure and a
/// return. Other code is not understood.
fn handshake_state<'data, R: ReadRef<'data>>(
    file: &ElfFile64<'data, Endianness, R>,
    address: u64,
) -> Option<u32> {
    const ENTRY: &[u8] = b"\xf3\x0f\x1e\xfa"; // endbr64
    const RETURN: u8 = 0xc3;
    /// Larger than any structure of a connection.
    const LIMIT: u32 = 4096;
    (file.architecture() == object::Architecture::X86_64).then_some(())?;
    let code = file.data().read_bytes_at(offset(file, address)?, 16).ok()?;
    let code = code.strip_prefix(ENTRY).unwrap_or(code);
    let (state, rest) = match code {
        // mov eax, [rdi + 8 bits], and with 32 bits
        [0x8b, 0x47, offset, rest @ ..] => (u32::from(*offset), rest),
        [0x8b, 0x87, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]), rest),
        _ => return None,
    };
    // At most `xor edi, edi` in between.
    (rest.iter().take(3).any(|byte| *byte == RETURN) && state < LIMIT).then_some(state)
}

fn add<'data, R: ReadRef<'data>>(
    file: &ElfFile64<'data, Endianness, R>,
    places: &mut Vec<Place>,
    (library, does): (Library, Does),
    address: u64,
) {
    let Some(offset) = offset(file, address) else { return };
    let place = Place { library, does, offset, handshake: None };
    if places.len() < MAX_PLACES && !places.contains(&place) {
        places.push(place);
    }
}

/// Whose function is it, and what does it do?
fn function(name: &[u8]) -> Option<(Library, Does)> {
    match name {
        b"SSL_write" | b"SSL_write_ex" => Some((Library::OpenSsl, Does::Write)),
        b"SSL_free" => Some((Library::OpenSsl, Does::End)),
        b"gnutls_record_send" => Some((Library::GnuTls, Does::Write)),
        b"gnutls_deinit" => Some((Library::GnuTls, Does::End)),
        GO_WRITE => Some((Library::Go, Does::Write)),
        GO_CLOSE => Some((Library::Go, Does::End)),
        name if name.starts_with(b"_ZN") || name.starts_with(b"_R") => {
            let name = std::str::from_utf8(name).ok().filter(|name| name.contains("rustls"))?;
            // `<rustls::conn::ConnectionCommon<T> as rustls::conn::connection::PlaintextSink>::write`: `Writer` calls it
            // by a table, so that it is there however much is inlined.
            let is_write =
                name.contains("PlaintextSink$GT$5write17h") || name.contains("13PlaintextSink5write");
            is_write.then_some((Library::Rustls, Does::Write))
        }
        _ => None,
    }
}

const GO_WRITE: &[u8] = b"crypto/tls.(*Conn).Write";
const GO_CLOSE: &[u8] = b"crypto/tls.(*Conn).Close";

/// Where in the file an address of code lies.
fn offset<'data, R: ReadRef<'data>>(file: &ElfFile64<'data, Endianness, R>, address: u64) -> Option<u64> {
    let endian = file.endian();
    let length = file.data().len().ok()?;
    file.elf_program_headers().iter().find_map(|segment| {
        let from = segment.p_vaddr(endian);
        let is_code = segment.p_type(endian) == PT_LOAD && segment.p_flags(endian) & PF_X != 0;
        let into = address.checked_sub(from).filter(|into| is_code && *into < segment.p_filesz(endian))?;
        into.checked_add(segment.p_offset(endian)).filter(|offset| *offset < length)
    })
}

/// Was this built by a Go that hands over arguments in registers? Go writes its version into the file in this form since
/// 1.18 (`debug/buildinfo`).
fn has_register_arguments<'data, R: ReadRef<'data>>(file: &ElfFile64<'data, Endianness, R>) -> bool {
    const INLINE: u8 = 2;
    let info = file.section_by_name(".go.buildinfo").and_then(|section| section.data().ok());
    info.is_some_and(|info| {
        info.starts_with(b"\xff Go buildinf:") && info.get(15).is_some_and(|flags| flags & INLINE != 0)
    })
}

/// The address of a function by Go's own table of them, which stripping leaves (`runtime/symtab.go`, `pcHeader`).
fn go_function<'data, R: ReadRef<'data>>(
    file: &ElfFile64<'data, Endianness, R>,
    wanted: &[u8],
) -> Option<u64> {
    /// Go 1.18 and 1.20.
    const MAGIC: [u32; 2] = [0xffff_fff0, 0xffff_fff1];
    let section =
        [".gopclntab", ".data.rel.ro.gopclntab"].into_iter().find_map(|name| file.section_by_name(name))?;
    let table = section.data().ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(*table.get(at..)?.first_chunk()?));
    let long = |at: usize| {
        table
            .get(at..)?
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes))
            .and_then(|long| usize::try_from(long).ok())
    };
    if !MAGIC.contains(&word(0)?) || *table.get(7)? != 8 {
        return None;
    }
    let (count, names, functions) = (long(8)?, table.get(long(32)?..)?, long(64)?);
    // Not filled in where the program may be loaded anywhere.
    let text = match long(24)? as u64 {
        0 => file.section_by_name(".text")?.address(),
        text => text,
    };
    (0..count).find_map(|index| {
        let entry = functions.checked_add(index.checked_mul(8)?)?;
        let function = functions.checked_add(word(entry + 4)? as usize)?;
        let name = names.get(word(function + 4)? as usize..)?;
        let is_wanted = name.get(..=wanted.len())?.strip_suffix(&[0]) == Some(wanted);
        is_wanted.then(|| text.checked_add(u64::from(word(entry).unwrap_or(0)))).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_known_by_their_symbols() {
        for (name, wanted) in [
            ("SSL_write", Some((Library::OpenSsl, Does::Write))),
            ("SSL_write_ex", Some((Library::OpenSsl, Does::Write))),
            ("SSL_free", Some((Library::OpenSsl, Does::End))),
            ("SSL_write_early_data", None),
            ("gnutls_record_send", Some((Library::GnuTls, Does::Write))),
            ("crypto/tls.(*Conn).Write", Some((Library::Go, Does::Write))),
            ("crypto/tls.(*Conn).Write.func1", None),
            (
                "_ZN104_$LT$rustls..conn..ConnectionCommon$LT$T$GT$$u20$as$u20$rustls..conn..connection..PlaintextSink$GT$5write17h0123456789abcdefE",
                Some((Library::Rustls, Does::Write)),
            ),
            (
                "_ZN104_$LT$rustls..conn..ConnectionCommon$LT$T$GT$$u20$as$u20$rustls..conn..connection..PlaintextSink$GT$14write_vectored17h0123456789abcdefE",
                None,
            ),
            ("_ZN6rustls4conn6Writer5flush17h0123456789abcdefE", None),
        ] {
            assert_eq!(function(name.as_bytes()), wanted, "{name}");
        }
    }

    #[test]
    fn what_is_no_elf_file_is_refused() {
        assert!(matches!(places(&b"#!/bin/sh\n"[..]), Err(ElfError::Form(_))));
        assert!(matches!(places(&b"\x7fELF\x02\x01\x01"[..]), Err(ElfError::Form(_))));
    }
}
