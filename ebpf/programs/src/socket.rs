//! What is remembered with a socket, and freed with it.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, generated::bpf_sk_storage_delete,
    generated::bpf_sk_storage_get,
};
use aya_ebpf::programs::SockContext;
use sluice_abi::{BoundValue, FlowValue, OriginValue, ShownValue, counter};

use crate::endpoint::Endpoint;
use crate::maps::{BOUND, FLOWS, HELLOS, ORIGINS, SHOWN, TOLD, count};

/// `TCP_LISTEN` (include/net/tcp_states.h).
pub const TCP_LISTEN: u32 = 10;
/// `SOCK_RAW` (include/linux/net.h).
pub const SOCK_RAW: u32 = 3;
/// `TCP_ESTABLISHED`, which a connected UDP socket has too.
pub const TCP_ESTABLISHED: u32 = 1;

/// Notes who opened the socket. A socket that is not an endpoint's is left alone.
#[inline(always)]
pub fn try_create(ctx: &SockContext) -> Option<()> {
    Endpoint::of_caller()?;
    note_caller(ctx.sock, 0);
    Some(())
}

/// Notes the calling process, and sets bits of [`sluice_abi::origin`].
#[inline(always)]
pub fn note_caller(sk: *mut bpf_sock, flags: u32) {
    let Some(origin) = get_or_create(&ORIGINS, sk) else {
        count(counter::STORAGE_FAILED);
        return;
    };
    let comm = bpf_get_current_comm().unwrap_or([0; 16]);
    // SAFETY: live socket storage; other programs of the same socket write the same fields, each of them whole words.
    unsafe {
        (*origin).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*origin).flags |= flags;
        (*origin).comm = comm;
    }
}

/// Who opened the socket, if that is known.
#[inline(always)]
pub fn origin(sk: *mut bpf_sock) -> Option<*const OriginValue> {
    get(&ORIGINS, sk).map(<*mut OriginValue>::cast_const)
}

/// The flow judged last on this socket.
#[inline(always)]
pub fn flow(sk: *mut bpf_sock) -> Option<*const FlowValue> {
    get(&FLOWS, sk).map(<*mut FlowValue>::cast_const)
}

/// Remembers a flow in place of the last one. A value is not changed once it is there, but for [`settle`], so that two
/// packets of one socket on two CPUs cannot mix the address of one with the verdict of the other.
#[inline(always)]
pub fn set_flow(sk: *mut bpf_sock, flow: &mut FlowValue) {
    forget_flow(sk);
    // SAFETY: `sk` is a socket of the program's context, `flow` a whole value that the helper copies.
    let made = unsafe {
        bpf_sk_storage_get(
            map(&FLOWS),
            sk.cast(),
            core::ptr::from_mut(flow).cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if made.is_null() {
        count(counter::STORAGE_FAILED);
    }
}

/// Nothing more of a flow is to be told than what `state` says: one that is allowed for good, as the flow is.
#[inline(always)]
pub fn settle(flow: *const FlowValue, state: u8) {
    // SAFETY: live socket storage. One byte is written: a new verdict would be a new value, and this one is then nobody's.
    unsafe { core::ptr::write_volatile(&raw mut (*flow.cast_mut()).state, state) };
}

/// The name by which the flow judged last was allowed.
#[inline(always)]
pub fn bound(sk: *mut bpf_sock) -> Option<*mut BoundValue> {
    get(&BOUND, sk)
}

/// Remembers the name by which a flow is allowed, unless one is remembered. It is copied, with the rest of its key.
#[inline(always)]
pub fn bind(sk: *mut bpf_sock, name: *const BoundValue) {
    // SAFETY: `sk` is a socket of the program's context, `name` a whole value in a map that the helper copies.
    let made = unsafe {
        bpf_sk_storage_get(
            map(&BOUND),
            sk.cast(),
            name.cast_mut().cast(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if made.is_null() {
        count(counter::STORAGE_FAILED);
    }
}

/// What is known of the name that the flow of a socket shows.
#[inline(always)]
pub fn shown(sk: *mut bpf_sock) -> Option<*const ShownValue> {
    get(&SHOWN, sk).map(<*mut ShownValue>::cast_const)
}

/// Forgets the names of the flow judged last.
#[inline(always)]
pub fn forget_names(sk: *mut bpf_sock) {
    delete(&BOUND, sk);
    delete(&SHOWN, sk);
    delete(&HELLOS, sk);
    delete(&TOLD, sk);
}

/// Forgets the flow judged last.
#[inline(always)]
pub fn forget_flow(sk: *mut bpf_sock) {
    delete(&FLOWS, sk);
}

/// Forgets what is kept with a socket in a map.
#[inline(always)]
pub fn delete<T>(storage: &SkStorage<T>, sk: *mut bpf_sock) {
    // SAFETY: `sk` is a socket of the program's context; deleting what is not there is an error that changes nothing.
    unsafe { bpf_sk_storage_delete(map(storage), sk.cast()) };
}

/// What is kept with a socket in a map, if anything is.
#[inline(always)]
pub fn get<T>(storage: &SkStorage<T>, sk: *mut bpf_sock) -> Option<*mut T> {
    // SAFETY: `sk` is a socket of the program's context; without a value and flags the helper only looks.
    let found = unsafe { bpf_sk_storage_get(map(storage), sk.cast(), core::ptr::null_mut(), 0) };
    if found.is_null() { None } else { Some(found.cast()) }
}

/// The same; made of zeros if there is nothing.
#[inline(always)]
pub fn get_or_create<T>(storage: &SkStorage<T>, sk: *mut bpf_sock) -> Option<*mut T> {
    // SAFETY: as in `get`; a value that is made is filled with zeros.
    let found = unsafe {
        bpf_sk_storage_get(
            map(storage),
            sk.cast(),
            core::ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if found.is_null() { None } else { Some(found.cast()) }
}

/// The map as helpers take it. aya's own methods take the context of one kind of program only.
#[inline(always)]
fn map<T>(storage: &SkStorage<T>) -> *mut core::ffi::c_void {
    core::ptr::from_ref(storage).cast_mut().cast()
}
