//! DNS as pods speak it: questions noted as they leave, answers read before the application reads them.
//!
//! ```text
//! egress ──► question   what is asked?
//!            └► asked   QUESTIONS: which socket asked whom for what
//! ingress ─► answer     was it asked?
//!            └► walk    the addresses that it leads to
//!               └► learn   LEARNED: address, name, until when
//! ```
//!
//! The five are programs of their own, reached by tail calls: each has its own million steps with the verifier, and a
//! packet that is no DNS pays for none of them. What one leaves to the next is in a [`DnsRoom`], which it holds.
//!
//! Only port 53 is looked at, and only trusted resolvers there. DNS to anywhere else is ordinary traffic.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::SkBuffContext;
use sluice_abi::{ResolverKey, class, resolver};
use sluice_parse::dns::PORT;

use crate::address::Address;
use crate::maps::RESOLVERS;
use crate::packet::Packet;

pub mod answer;
pub mod asked;
pub mod learn;
pub mod question;
mod room;
mod stream;
pub mod walk;

pub use room::DnsRoom;
pub use stream::Streams;

/// Could the packet be to a resolver?
#[inline(always)]
pub fn may_ask(packet: &Packet) -> bool {
    packet.destination_port == PORT && matches!(packet.class, class::UDP | class::TCP)
}

/// Could it be from one?
#[inline(always)]
pub fn may_answer(packet: &Packet) -> bool {
    packet.source_port == PORT && matches!(packet.class, class::UDP | class::TCP)
}

/// Are this resolver's answers believed?
#[inline(always)]
fn is_trusted(address: Address) -> bool {
    let key = ResolverKey { address: address.bytes(), port: PORT, pad: 0 };
    // SAFETY: a live hash element, an aligned word.
    RESOLVERS.get_ptr(key).is_some_and(|flags| unsafe { *flags } & resolver::TRUSTED != 0)
}

/// The packet that a program was called with.
#[inline(always)]
fn buffer(ctx: &SkBuffContext) -> *mut __sk_buff {
    ctx.skb.skb
}
