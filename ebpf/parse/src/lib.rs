//! Readers of untrusted bytes for the kernel programs: DNS messages, `ClientHello`s and HTTP/1 requests.
//!
//! The same source runs in the kernel and in this crate's tests. It is written for the verifier of Linux 5.10 and 6.1,
//! which follows every path through every turn of a loop:
//!
//! - What a loop carries from turn to turn lies in memory, read and written by [`bits::get`] and [`bits::put`]. The
//!   verifier knows nothing of a value that comes from a map, so that paths that meet are the same to it and it follows
//!   one of them.
//! - An offset into a buffer is masked right before it is used, by [`bits::keep`], which LLVM cannot move. The buffers
//!   have room for any masked offset and what is read from there on; whether that is part of the message is checked
//!   before, against its length.
//! - Decisions on each byte are made without branches.
//!
//! Nothing here allocates, panics or recurses.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![allow(
    clippy::inline_always,
    reason = "a call would hide from the verifier what is known of its arguments"
)]

pub mod bits;
pub mod dns;
pub mod hello;
pub mod turn;

/// The bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;
