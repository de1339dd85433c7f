//! Copying a write: as much of it as may hold requests, as long as the connection shows any.

use core::arch::asm;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{
    bpf_get_attach_cookie, bpf_get_current_comm, bpf_ktime_get_boot_ns, bpf_probe_read_user,
    bpf_ringbuf_discard, bpf_ringbuf_reserve, bpf_ringbuf_submit,
};
use aya_ebpf::programs::ProbeContext;
use sluice_abi::{
    CHUNK, CHUNKS, ConnectionKey, ConnectionValue, CopyBudgetValue, GLIMPSE, PATIENCE, Plaintext,
    PlaintextHeader, SHORT, ShortPlaintext, connection, cookie, plaintext_counter as counter, written,
};

use crate::has_ancestors;
use crate::maps::{CONNECTIONS, COPIES, PLAINTEXT, count};
use crate::pod::Pod;

const SECOND_NS: u64 = 1_000_000_000;
/// Bytes of the ring buffer that one endpoint may take in a second.
const BUDGET: u64 = 32 << 20;
/// Two probes in one function run one after the other, with nothing of the process between them.
const AT_ONCE_NS: u64 = 100_000;
/// Bytes in which a request's method must end.
const METHOD: usize = 16;

/// What an application hands over.
pub struct Write {
    pub connection: u64,
    pub buffer: u64,
    pub length: u64,
    /// One of [`sluice_abi::library`].
    pub library: u8,
}

/// Copies a write of a governed pod.
#[inline(always)]
pub fn try_write(ctx: &ProbeContext, write: &Write) -> Option<()> {
    let pod = Pod::of_caller()?;
    // A length that no write has, such as a negative `int`, is refused by the library too.
    let length = write.length as u32;
    if length == 0 || write.length > i32::MAX as u64 {
        return None;
    }
    let thread = bpf_get_current_pid_tgid();
    let key = ConnectionKey { connection: write.connection, pid: (thread >> 32) as u32, pad: 0 };
    // SAFETY: reads a clock.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let (stack, probe) = (stack_pointer(ctx), probe(ctx));

    let known = CONNECTIONS.get_ptr_mut(key);
    let mut before = ConnectionValue {
        position: 0,
        buffer: 0,
        time_ns: 0,
        stack: 0,
        probe: 0,
        length: 0,
        writes: 0,
        state: connection::NEW,
        misses: 0,
    };
    if let Some(known) = known {
        // SAFETY: a live element. Its connection's writes come one after the other, as the libraries demand.
        before = unsafe { *known };
        let is_second = before.probe != probe && before.stack == stack && before.buffer == write.buffer;
        if is_second && now.wrapping_sub(before.time_ns) < AT_ONCE_NS {
            count(counter::TWICE);
            return None;
        }
    }
    count(counter::WRITES);

    let mut first = [0_u8; METHOD];
    let head = bounded::<{ METHOD as u32 - 1 }>(if length < METHOD as u32 { length } else { METHOD as u32 });
    // SAFETY: the destination has room for `head` bytes; the helper checks the source.
    if unsafe { bpf_probe_read_user((&raw mut first).cast(), head, write.buffer as *const _) } != 0 {
        // It is counted as a write all the same, so that whoever reads knows that one is missing.
        count(counter::UNREADABLE);
    }
    let is_start = is_request(&first);
    let mut after = ConnectionValue {
        position: before.position + u64::from(length),
        buffer: write.buffer,
        time_ns: now,
        stack,
        probe,
        length,
        writes: before.writes + 1,
        state: before.state,
        misses: before.misses,
    };
    if is_start {
        let is_preface = first[0] == b'P' && first[1] == b'R' && first[2] == b'I' && first[3] == b' ';
        // Inside HTTP/2 anything may begin so.
        if before.state != connection::HTTP2 || is_preface {
            after.state = if is_preface { connection::HTTP2 } else { connection::HTTP1 };
        }
        after.misses = 0;
    } else if before.state == connection::NEW {
        after.misses += 1;
        if after.misses >= PATIENCE {
            after.state = connection::OVER;
        }
    }
    match known {
        // SAFETY: as above.
        Some(known) => unsafe { *known = after },
        None => drop(CONNECTIONS.insert(key, after, u64::from(BPF_ANY))),
    }
    if before.state == connection::OVER && !is_start {
        count(counter::PASSED_OVER);
        return None;
    }

    let whole = CHUNKS * CHUNK as u32;
    let copied = if is_start || after.state == connection::HTTP2 || length <= CHUNK as u32 {
        if length < whole { length } else { whole }
    } else {
        // The middle of a body, most likely.
        GLIMPSE
    };
    let mut flags = if is_start { written::START } else { 0 };
    if is_shaking_hands(write.connection, probe) {
        flags |= written::HANDSHAKE;
    }
    let same = before.writes > 0 && before.buffer == write.buffer && before.length == length;
    let header = PlaintextHeader {
        time_ns: now,
        endpoint: pod.id,
        connection: write.connection,
        position: before.position,
        pid: key.pid,
        tid: thread as u32,
        write: after.writes,
        total: length,
        copied,
        offset: 0,
        length: 0,
        library: write.library,
        flags: if same { flags | written::SAME_BUFFER } else { flags },
        pad: [0; 2],
        comm: [0; 16],
    };
    if copied <= SHORT as u32 {
        return copy_short(&pod, header, write.buffer);
    }
    // VERIFIER: constant bound, so that 5.10 can unroll it.
    for chunk in 0..CHUNKS {
        let offset = chunk * CHUNK as u32;
        if offset >= copied {
            break;
        }
        copy(&pod, PlaintextHeader { offset, ..header }, write.buffer)?;
    }
    Some(())
}

/// A connection has ended: what is made at its address next is another one. That of a process of no pod is not known.
#[inline(always)]
pub fn end(connection: u64) {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let _ = CONNECTIONS.remove(ConnectionKey { connection, pid, pad: 0 });
}

#[inline(always)]
fn copy_short(pod: &Pod, header: PlaintextHeader, buffer: u64) -> Option<()> {
    let record: *mut ShortPlaintext = reserve(pod, header.time_ns)?;
    let length = bounded::<511>(header.copied);
    // SAFETY: `record` is that much of the ring buffer, and the caller saw that the bytes have room in it.
    unsafe {
        fill(&raw mut (*record).header, header, length);
        let bytes = (&raw mut (*record).bytes).cast();
        // VERIFIER: it knows of 512 bytes at most, and of less room.
        let length = if length > SHORT as u32 { SHORT as u32 } else { length };
        give(record.cast(), bpf_probe_read_user(bytes, length, buffer as *const _))
    }
}

#[inline(always)]
fn copy(pod: &Pod, header: PlaintextHeader, buffer: u64) -> Option<()> {
    let record: *mut Plaintext = reserve(pod, header.time_ns)?;
    let left = header.copied - header.offset;
    let length = bounded::<0xfff>(if left < CHUNK as u32 { left } else { CHUNK as u32 });
    // SAFETY: `record` is that much of the ring buffer, and a chunk has room in it.
    unsafe {
        fill(&raw mut (*record).header, header, length);
        let bytes = (&raw mut (*record).bytes).cast();
        give(
            record.cast(),
            bpf_probe_read_user(bytes, length, (buffer + u64::from(header.offset)) as *const _),
        )
    }
}

/// Takes a record's room, within the endpoint's budget.
#[inline(always)]
fn reserve<T>(pod: &Pod, now: u64) -> Option<*mut T> {
    let budget = COPIES.get_ptr_mut(pod.slot)?;
    // SAFETY: a live array element. CPUs race for the same budget; at worst it is a few records larger.
    unsafe {
        if now.wrapping_sub((*budget).since_ns) >= SECOND_NS {
            *budget = CopyBudgetValue { since_ns: now, taken: 0 };
        }
        (*budget).taken += size_of::<T>() as u64;
        if (*budget).taken > BUDGET {
            count(counter::OVER_BUDGET);
            return None;
        }
    }
    // SAFETY: the map is a ring buffer.
    let record = unsafe {
        bpf_ringbuf_reserve(core::ptr::from_ref(&PLAINTEXT).cast_mut().cast(), size_of::<T>() as u64, 0)
    };
    if record.is_null() {
        count(counter::LOST);
        return None;
    }
    Some(record.cast())
}

/// Writes a record's header. The caller's room must be that of a header.
#[inline(always)]
unsafe fn fill(to: *mut PlaintextHeader, header: PlaintextHeader, length: u32) {
    // SAFETY: room of a header, as the caller says.
    unsafe {
        to.write(PlaintextHeader { length, ..header });
        bpf_get_current_comm((&raw mut (*to).comm).cast(), 16);
    }
}

/// Gives a record away, or takes it back if its bytes could not be read. `record` must have been reserved.
#[inline(always)]
unsafe fn give(record: *mut core::ffi::c_void, read: i64) -> Option<()> {
    // SAFETY: a reserved record, of which this is the only owner.
    unsafe {
        if read != 0 {
            bpf_ringbuf_discard(record, 0);
            count(counter::UNREADABLE);
            return None;
        }
        bpf_ringbuf_submit(record, 0);
    }
    count(counter::RECORDS);
    Some(())
}

/// The number, which is from 1 to `MASK + 1`, in a form that the verifier can follow.
#[inline(always)]
fn bounded<const MASK: u32>(number: u32) -> u32 {
    let mut less = u64::from(number) - 1;
    // VERIFIER: in assembly, so that LLVM does not drop a mask that it knows to change nothing.
    // SAFETY: one instruction on one register.
    unsafe { asm!("{0} &= {1}", inout(reg) less, const MASK) };
    less as u32 + 1
}

/// A word of capitals and hyphens, and a space: a method, or the preface of HTTP/2.
#[inline(always)]
fn is_request(first: &[u8; METHOD]) -> bool {
    // VERIFIER: constant bound, so that 5.10 can unroll it.
    for (index, byte) in first.iter().enumerate() {
        if *byte == b' ' {
            return index >= 3;
        }
        if !byte.is_ascii_uppercase() && *byte != b'-' {
            return false;
        }
    }
    false
}

/// Does the connection say that its handshake goes on? Only if its library's probe knows where it says so.
#[inline(always)]
fn is_shaking_hands(connection: u64, probe: u64) -> bool {
    let place = probe >> cookie::SHIFT;
    if place & cookie::HANDSHAKE == 0 {
        return false;
    }
    let mut state = 0_u32;
    let from = connection + (place & !cookie::HANDSHAKE);
    // SAFETY: the destination is four bytes; the helper checks the source.
    let read = unsafe { bpf_probe_read_user((&raw mut state).cast(), 4, from as *const _) };
    read == 0 && state != 0
}

/// Which probe this is; 0 where that cannot be asked.
#[inline(always)]
fn probe(ctx: &ProbeContext) -> u64 {
    if has_ancestors() {
        // SAFETY: the context of this program.
        unsafe { bpf_get_attach_cookie(ctx.as_ptr()) }
    } else {
        0
    }
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: the context of a uprobe is the registers of the task.
    unsafe { (*ctx.regs).rsp }
}

#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn stack_pointer(ctx: &ProbeContext) -> u64 {
    // SAFETY: as above.
    unsafe { (*ctx.regs).sp }
}
