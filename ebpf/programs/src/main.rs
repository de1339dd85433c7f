//! Sluice's kernel programs: one set at the cgroup root serves every pod of the node.
//!
//! | program | hook | what it does | minimum kernel |
//! | --- | --- | --- | --- |
//! | `egress` | `cgroup_skb/egress` | judges every packet that a pod's socket sends | 5.10 |
//! | `ingress` | `cgroup_skb/ingress` | notes who spoke first, so that replies pass | 5.10 |
//! | `question`, `asked` | after `egress` | read what is asked of a trusted resolver, and note it | 5.10 |
//! | `hello`, `named` | after `egress` | read the name that a flow shows, and judge the flow by it | 5.10 |
//! | `payload` | after `egress` | tells of requests, and of what an allowed flow sends first | 5.10 |
//! | `answer`, `walk`, `learn` | after `ingress` | read its answers, and write down the addresses | 5.10 |
//! | `connect4`, `connect6` | `cgroup/connect*` | notes the process, refuses a denied TCP connect with EPERM | 5.10 |
//! | `sendmsg4`, `sendmsg6` | `cgroup/sendmsg*` | the same for datagrams sent by address | 5.10 |
//! | `wire` | `tc` ingress of the host's end of a pod's link | judges what cgroup hooks do not see | 5.10 |
//! | `heard` | `tc` egress there | notes who speaks to the pod | 5.10 |
//! | `sock_create` | `cgroup/sock_create` | notes the process behind raw and ping sockets | 5.10 |
//!
//! The entry points are thin; each calls a function of its module that can give up with `None`, which means "not a
//! governed pod, or nothing to do": let it pass.

#![no_std]
#![no_main]
// For one instruction in `event`. Every toolchain that compiles `core` for BPF takes unstable features.
#![feature(asm_experimental_arch)]

mod address;
mod connect;
mod decide;
mod dns;
mod egress;
mod endpoint;
mod event;
mod flow;
mod hello;
mod ingress;
mod judge;
mod maps;
mod names;
mod packet;
mod payload;
mod room;
mod socket;
mod tell;
mod wire;

use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, TcContext};

/// What a cgroup program answers to let the packet or the call through.
const PASS: i32 = 1;
/// What it answers to drop the packet, or to fail the call with EPERM.
const DROP: i32 = 0;

#[cgroup_skb(egress)]
fn egress(ctx: SkBuffContext) -> i32 {
    egress::try_egress(&ctx).unwrap_or(PASS)
}

#[cgroup_skb(ingress)]
fn ingress(ctx: SkBuffContext) -> i32 {
    // Nothing that comes in is ever dropped: Sluice governs egress.
    let _ = ingress::try_ingress(&ctx);
    PASS
}

#[cgroup_skb(egress)]
fn question(ctx: SkBuffContext) -> i32 {
    dns::question::try_question(&ctx).unwrap_or(PASS)
}

#[cgroup_skb(egress)]
fn asked(ctx: SkBuffContext) -> i32 {
    dns::asked::try_asked(&ctx).unwrap_or(DROP)
}

#[cgroup_skb(egress)]
fn hello(ctx: SkBuffContext) -> i32 {
    hello::try_hello(&ctx).unwrap_or(DROP)
}

#[cgroup_skb(egress)]
fn named(ctx: SkBuffContext) -> i32 {
    egress::judge_named(&ctx).unwrap_or(PASS)
}

#[cgroup_skb(egress)]
fn payload(ctx: SkBuffContext) -> i32 {
    payload::try_payload(&ctx).unwrap_or(DROP)
}

#[cgroup_skb(ingress)]
fn answer(ctx: SkBuffContext) -> i32 {
    let _ = dns::answer::try_answer(&ctx);
    PASS
}

#[cgroup_skb(ingress)]
fn walk(ctx: SkBuffContext) -> i32 {
    let _ = dns::walk::try_walk(&ctx);
    PASS
}

#[cgroup_skb(ingress)]
fn learn(ctx: SkBuffContext) -> i32 {
    let _ = dns::learn::try_learn(&ctx);
    PASS
}

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connect::try_connect(&ctx, address::Family::V4).unwrap_or(PASS)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connect::try_connect(&ctx, address::Family::V6).unwrap_or(PASS)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    connect::try_sendmsg(&ctx, address::Family::V4).unwrap_or(PASS)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    connect::try_sendmsg(&ctx, address::Family::V6).unwrap_or(PASS)
}

#[classifier]
fn wire(ctx: TcContext) -> i32 {
    wire::try_wire(&ctx).unwrap_or(wire::NEXT)
}

#[classifier]
fn heard(ctx: TcContext) -> i32 {
    let _ = wire::try_heard(&ctx);
    wire::NEXT
}

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    let _ = socket::try_create(&ctx);
    PASS
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
