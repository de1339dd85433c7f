//! Sluice's probes in TLS libraries: they copy what an application of a governed pod hands over to be encrypted.
//!
//! | program | where | its arguments |
//! | --- | --- | --- |
//! | `openssl_write` | `SSL_write`, `SSL_write_ex` | connection, buffer, length |
//! | `gnutls_write` | `gnutls_record_send` | the same |
//! | `rustls_write` | the methods `write` behind `rustls::Writer` | the same |
//! | `c_end` | `SSL_free`, `gnutls_deinit` | connection |
//! | `go_end` | Go's `crypto/tls.(*Conn).Close` | the same, in Go's register |
//! | `go_write` | Go's `crypto/tls.(*Conn).Write` | the same, in Go's registers |
//!
//! All of them run where the function is entered: a probe at its return would replace the return address, which crashes
//! Go programs, and those that seccomp does not allow `uretprobe`. So whether a write succeeded is not known.
//!
//! Minimum kernel: 5.10. What they need that is newer is asked for at load: see [`HAS_ANCESTORS`].

#![no_std]
#![no_main]
// For one instruction in `write`. Every toolchain that compiles `core` for BPF takes unstable features.
#![feature(asm_experimental_arch)]

mod maps;
mod pod;
mod write;

use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use sluice_abi::library;
use write::Write;

/// 1 where `bpf_get_current_ancestor_cgroup_id` and `bpf_get_attach_cookie` may be called in these programs (Linux 5.15).
/// Set by the agent at load, so that the verifier does not even look at what is not to be had.
#[unsafe(no_mangle)]
static HAS_ANCESTORS: u8 = 1;

/// May what came with Linux 5.15 be called?
#[inline(always)]
fn has_ancestors() -> bool {
    // SAFETY: a live static. Volatile, for the agent sets it after the compiler is done.
    unsafe { core::ptr::read_volatile(&raw const HAS_ANCESTORS) == 1 }
}

#[uprobe]
fn openssl_write(ctx: ProbeContext) -> u32 {
    c_write(&ctx, library::OPENSSL)
}

#[uprobe]
fn gnutls_write(ctx: ProbeContext) -> u32 {
    c_write(&ctx, library::GNUTLS)
}

#[uprobe]
fn rustls_write(ctx: ProbeContext) -> u32 {
    c_write(&ctx, library::RUSTLS)
}

/// A function of the C calling convention: connection, buffer, length.
#[inline(always)]
fn c_write(ctx: &ProbeContext, library: u8) -> u32 {
    let (Some(connection), Some(buffer), Some(length)) = (ctx.arg(0), ctx.arg(1), ctx.arg(2)) else {
        return 0;
    };
    let _ = write::try_write(ctx, &Write { connection, buffer, length, library });
    0
}

/// `func (c *Conn) Write(b []byte) (int, error)`, since Go 1.17 with its arguments in registers.
#[uprobe]
fn go_write(ctx: ProbeContext) -> u32 {
    let (connection, buffer, length) = go_arguments(&ctx);
    let _ = write::try_write(&ctx, &Write { connection, buffer, length, library: library::GO });
    0
}

/// A connection of the C libraries is freed: `SSL_free`, `gnutls_deinit`.
#[uprobe]
fn c_end(ctx: ProbeContext) -> u32 {
    write::end(ctx.arg(0).unwrap_or(0));
    0
}

/// `func (c *Conn) Close() error`.
#[uprobe]
fn go_end(ctx: ProbeContext) -> u32 {
    write::end(go_arguments(&ctx).0);
    0
}

/// The first three integer registers of Go's internal ABI (go.dev/s/regabi): AX, BX, CX.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn go_arguments(ctx: &ProbeContext) -> (u64, u64, u64) {
    // SAFETY: the context of a uprobe is the registers of the task.
    unsafe { ((*ctx.regs).rax, (*ctx.regs).rbx, (*ctx.regs).rcx) }
}

/// R0, R1, R2, as in C.
#[cfg(not(bpf_target_arch = "x86_64"))]
#[inline(always)]
fn go_arguments(ctx: &ProbeContext) -> (u64, u64, u64) {
    (ctx.arg(0).unwrap_or(0), ctx.arg(1).unwrap_or(0), ctx.arg(2).unwrap_or(0))
}

/// The kernel's name for the licence of these programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// A loop without an end: the verifier refuses a program that could reach it, so none can panic.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}
