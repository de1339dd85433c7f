//! Files that look like libraries.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::rig::run;

/// The name of all of them.
const NAME: &str = "libssl.so.3";
/// How many are in `files`, the copies aside.
pub(super) const COUNT: u64 = 11;

// Fields of a 64-bit ELF header, and of a section's.
const SECTIONS_AT: usize = 0x28;
const SEGMENTS: usize = 0x38;
const SECTION_SIZE: usize = 0x3a;
const SECTIONS: usize = 0x3c;
const NAMES: usize = 0x3e;
const HEADER: usize = 64;

/// Makes them in `directory`: `files`, `many`, `lib` for a place where libraries are, and `programs`.
pub(super) fn make(directory: &Path, copies: u32) -> Result<()> {
    let library = fs::canonicalize(Path::new("/usr/lib/x86_64-linux-gnu").join(NAME))?;
    let whole = fs::read(&library).with_context(|| library.display().to_string())?;
    let lib = directory.join("lib/x86_64-linux-gnu");
    fs::create_dir_all(&lib)?;
    mkfifo(&lib.join(NAME), Mode::from_bits_truncate(0o644))?;

    let put = |kind: &str, bytes: &[u8]| -> Result<()> {
        let below = directory.join("files").join(kind);
        fs::create_dir_all(&below)?;
        Ok(fs::write(below.join(NAME), bytes)?)
    };
    for length in [1, 63, 64, 4096, whole.len() / 2] {
        put(&format!("cut-{length}"), &whole[..length])?;
    }
    put("sections-beyond", &with(&whole, |elf| elf[SECTIONS..SECTIONS + 2].fill(0xff)))?;
    put("sections-at-the-end-of-all", &with(&whole, |elf| elf[SECTIONS_AT..SECTIONS_AT + 8].fill(0xff)))?;
    put("segments-beyond", &with(&whole, |elf| elf[SEGMENTS..SEGMENTS + 2].fill(0xff)))?;
    // Offset and size of each section.
    put(
        "sections-of-any-size",
        &with(&whole, |elf| each_section(elf, |section| section[24..40].fill(0xff))),
    )?;
    // Entries of no size at all.
    put("entries-of-nothing", &with(&whole, |elf| each_section(elf, |section| section[56..64].fill(0))))?;
    sparse(&directory.join("files/sparse"), &whole)?;

    let program = directory.join("programs");
    fs::create_dir_all(&program)?;
    let client = directory.with_file_name("programs").join("openssl-static");
    let absurd = with(&fs::read(&client)?, |elf| {
        elf[SECTIONS..SECTIONS + 2].fill(0xff);
        elf[NAMES..NAMES + 2].fill(0xff);
    });
    fs::write(program.join("openssl-static"), absurd)?;
    fs::set_permissions(program.join("openssl-static"), fs::metadata(client)?.permissions())?;
    many(directory, copies)
}

/// Four gigabytes that take no room, and a table of symbols that is said to fill them.
fn sparse(below: &Path, whole: &[u8]) -> Result<()> {
    const LENGTH: u64 = 4 << 30;
    fs::create_dir_all(below)?;
    let mut sections = 0;
    let elf = with(whole, |elf| {
        each_section(elf, |section| {
            // SHT_SYMTAB, SHT_STRTAB, SHT_DYNSYM.
            if matches!(section[4], 2 | 3 | 11) {
                section[24..32].copy_from_slice(&0x1000_u64.to_le_bytes());
                section[32..40].copy_from_slice(&(LENGTH - 0x2000).to_le_bytes());
                sections += 1;
            }
        });
    });
    anyhow::ensure!(sections > 0, "the library has no symbols");
    let file = File::create(below.join(NAME))?;
    file.write_all_at(&elf, 0)?;
    Ok(file.set_len(LENGTH)?)
}

/// Copies of a small library, each a file of its own.
fn many(directory: &Path, copies: u32) -> Result<()> {
    let (source, library) = (directory.join("library.c"), directory.join(NAME));
    fs::write(&source, include_str!("library.c"))?;
    let (from, to) = (source.display().to_string(), library.display().to_string());
    let how = ["-shared", "-nostdlib", "-s", "-O2", "-fPIC", "-Wl,--build-id=none", "-Wl,-z,noseparate-code"];
    run("cc", how.iter().copied().chain(["-o", &to, &from]))?;
    let bytes = fs::read(&library)?;
    for number in 0..copies {
        let below = directory.join(format!("many/{number}"));
        fs::create_dir_all(&below)?;
        fs::write(below.join(NAME), &bytes)?;
    }
    Ok(())
}

fn with(whole: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut elf = whole.to_vec();
    change(&mut elf);
    elf
}

fn each_section(elf: &mut [u8], mut change: impl FnMut(&mut [u8])) {
    let number = |at: usize, length: usize| {
        let mut bytes = [0; 8];
        bytes[..length].copy_from_slice(&elf[at..at + length]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX)
    };
    let (at, size, count) = (number(SECTIONS_AT, 8), number(SECTION_SIZE, 2), number(SECTIONS, 2));
    assert_eq!(size, HEADER, "of a 64-bit ELF file");
    for section in elf[at..].chunks_exact_mut(HEADER).take(count) {
        change(section);
    }
}
