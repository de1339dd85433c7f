//! Which files processes map as code: asked for ([`of_process`]), and told by the kernel as it happens ([`start`]).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::ProtFlags;
use nix::sys::stat::makedev;
use perf_event::data::{Mmap2, Record};
use perf_event::events::Software;
use perf_event::{Builder, Sampler};
use tokio::sync::{Notify, mpsc};

use super::registry::Settled;

/// Bytes of the buffer of each processor: some hundred mappings.
const BUFFER: usize = 128 << 10;

/// A part of a process's memory that holds code out of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    /// As the kernel tells it: of a file in an overlay that may be the overlay's number, or that of the layer.
    pub(super) device: u64,
    pub(super) inode: u64,
    /// As the process sees it. Anything may be written there.
    pub(super) path: PathBuf,
}

impl Mapping {
    /// The file behind it, without looking it up by any path.
    pub(super) fn link(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/map_files/{:x}-{:x}", self.pid, self.start, self.end))
    }
}

/// What a process maps as code, each file once.
pub(super) fn of_process(pid: u32) -> Vec<Mapping> {
    let text = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    let mut found: Vec<Mapping> = Vec::new();
    for mapping in text.split(|byte| *byte == b'\n').filter_map(|line| parse(pid, line)) {
        if !found.iter().any(|one| (one.device, one.inode) == (mapping.device, mapping.inode)) {
            found.push(mapping);
        }
    }
    found
}

/// A line of `/proc/<pid>/maps` (proc(5)) about code out of a file.
fn parse(pid: u32, line: &[u8]) -> Option<Mapping> {
    let path = line.iter().position(|byte| *byte == b'/')?;
    let (device, inode) = file_of(line)?;
    let mut fields = std::str::from_utf8(&line[..path]).ok()?.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let is_code = fields.next()?.as_bytes().get(2) == Some(&b'x');
    is_code.then_some(())?;
    let path = PathBuf::from(OsStr::from_bytes(&line[path..]));
    Some(Mapping { pid, start: hex(start)?, end: hex(end)?, device, inode, path })
}

/// Device and inode of a line of `/proc/<pid>/maps`.
pub(super) fn file_of(line: &[u8]) -> Option<(u64, u64)> {
    let end = line.iter().position(|byte| *byte == b'/').unwrap_or(line.len());
    let mut fields = std::str::from_utf8(&line[..end]).ok()?.split_ascii_whitespace().skip(3);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode = fields.next()?.parse().ok().filter(|inode| *inode != 0)?;
    Some((makedev(hex(major)?, hex(minor)?), inode))
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Tells of mappings of code on the node as they are made, but for files that are settled. What finds `mappings` full is not
/// told: `missed` is.
pub(super) fn start(
    mappings: mpsc::Sender<Mapping>,
    missed: Arc<Notify>,
    settled: Settled,
) -> io::Result<()> {
    let mut samplers = Vec::new();
    for cpu in online()? {
        let mut builder = Builder::new(Software::DUMMY);
        builder.any_pid().one_cpu(cpu).mmap(true).mmap2(true).wakeup_watermark(1);
        let mut sampler = builder.build()?.sampled(BUFFER)?;
        sampler.enable()?;
        samplers.push(sampler);
    }
    std::thread::Builder::new()
        .name("mappings".to_owned())
        .spawn(move || listen(samplers, &mappings, &missed, &settled))?;
    Ok(())
}

fn listen(mut samplers: Vec<Sampler>, mappings: &mpsc::Sender<Mapping>, missed: &Notify, settled: &Settled) {
    while !mappings.is_closed() {
        let waiting = samplers.iter().map(|sampler| {
            // SAFETY: the descriptor is the sampler's, which outlives this list.
            let descriptor = unsafe { BorrowedFd::borrow_raw(sampler.as_raw_fd()) };
            PollFd::new(descriptor, PollFlags::POLLIN)
        });
        let mut waiting: Vec<PollFd<'_>> = waiting.collect();
        // With an end, to see that nobody listens any more.
        if poll(&mut waiting, PollTimeout::from(1000_u16)).is_err() {
            continue;
        }
        for sampler in &mut samplers {
            while let Some(record) = sampler.next_record() {
                let is_told = match record.parse_record() {
                    Ok(Record::Mmap2(record)) => of_record(&record)
                        .filter(|mapping| !settled.has((mapping.device, mapping.inode)))
                        .is_none_or(|mapping| mappings.try_send(mapping).is_ok()),
                    Ok(Record::Lost(_)) => false,
                    _ => true,
                };
                if !is_told {
                    missed.notify_one();
                }
            }
        }
    }
}

/// The mapping, if it is of code out of a file.
fn of_record(record: &Mmap2<'_>) -> Option<Mapping> {
    let rights = ProtFlags::from_bits_truncate(record.prot.cast_signed());
    let is_code = rights.contains(ProtFlags::PROT_EXEC) && record.filename.starts_with(b"/");
    is_code.then_some(())?;
    Some(Mapping {
        pid: record.pid,
        start: record.addr,
        end: record.addr.saturating_add(record.len),
        device: makedev(record.maj()?.into(), record.min()?.into()),
        inode: record.ino().filter(|inode| *inode != 0)?,
        path: PathBuf::from(record.filename_os()),
    })
}

/// The processors that run (`/sys/devices/system/cpu/online`: `0-3,6`).
fn online() -> io::Result<Vec<usize>> {
    let text = fs::read_to_string("/sys/devices/system/cpu/online")?;
    Ok(cpus(&text))
}

fn cpus(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        Some(from.parse::<usize>().ok()?..=to.parse::<usize>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read() {
        let line = b"7f9ec0d30000-7f9ec0d8e000 r-xp 0001f000 fe:00 326279                     /usr/lib/a b (deleted)";
        let mapping = parse(7, line).expect("a mapping of code");
        assert_eq!(mapping.link(), PathBuf::from("/proc/7/map_files/7f9ec0d30000-7f9ec0d8e000"));
        assert_eq!((mapping.device, mapping.inode), (makedev(0xfe, 0), 326_279));
        assert_eq!(mapping.path, PathBuf::from("/usr/lib/a b (deleted)"));
        assert_eq!(parse(7, b"7f9ec0d11000-7f9ec0d30000 r--p 00000000 fe:00 326279 /usr/lib/a"), None);
        assert_eq!(parse(7, b"7ffd1000-7ffd3000 r-xp 00000000 00:00 0 [vdso]"), None);
    }

    #[test]
    fn ranges_of_processors_are_read() {
        assert_eq!(cpus("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(cpus("0\n"), [0]);
    }

    #[test]
    fn this_process_maps_its_own_program() {
        let own = std::env::current_exe().expect("a program");
        assert!(of_process(std::process::id()).iter().any(|mapping| mapping.path == own));
    }
}
