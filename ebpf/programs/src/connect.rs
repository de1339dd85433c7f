//! `connect4/6` and `sendmsg4/6`: the same verdict as at egress, in the context of the process that asks for it.
//!
//! Egress judges again whatever passes here. What these hooks add is the name of the process, an error at once, and the
//! mark that tells a connection of the pod's own from one that it answers.

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::SockAddrContext;
use sluice_abi::{REPLY_WINDOW_NS, class, hook, opaque, origin};

use crate::address::{Address, Family};
use crate::decide::{conversation, heard_within};
use crate::endpoint::Endpoint;
use crate::event;
use crate::judge::{self, Asker, Subject, Verdict};
use crate::maps::REPLIES;
use crate::packet::{IPPROTO_TCP, IPPROTO_UDP};
use crate::socket;
use crate::{DROP, PASS};

#[inline(always)]
pub fn try_connect(ctx: &SockAddrContext, family: Family) -> Option<i32> {
    let asked = Asked::read(ctx, family)?;
    let Some(endpoint) = Endpoint::of_caller() else {
        // A process outside may hold a pod's socket: what was judged on it does not hold for the new peer.
        socket::forget_flow(asked.sk);
        socket::forget_names(asked.sk);
        return None;
    };
    socket::note_caller(asked.sk, origin::CONNECTED);
    socket::forget_flow(asked.sk);
    socket::forget_names(asked.sk);
    // A connect of a datagram socket sends nothing. Resolvers do it only to learn a source address, and a refusal would
    // be a false alarm: egress judges what is sent.
    if asked.protocol != IPPROTO_TCP || asked.passes(&endpoint) {
        return None;
    }
    let verdict = asked.judge(&endpoint, class::TCP);
    Some(asked.tell(&endpoint, &verdict, hook::CONNECT))
}

#[inline(always)]
pub fn try_sendmsg(ctx: &SockAddrContext, family: Family) -> Option<i32> {
    let asked = Asked::read(ctx, family)?;
    let endpoint = Endpoint::of_caller()?;
    socket::note_caller(asked.sk, 0);
    if asked.protocol != IPPROTO_UDP || asked.passes(&endpoint) {
        return None;
    }
    let key = conversation(&endpoint, asked.remote, asked.remote_port, asked.local_port, asked.protocol);
    if heard_within(REPLIES.get_ptr(key), event::now(), REPLY_WINDOW_NS) {
        return None;
    }
    let verdict = asked.judge(&endpoint, class::UDP);
    if verdict.denied() { Some(asked.tell(&endpoint, &verdict, hook::SENDMSG)) } else { None }
}

/// What the process asks for.
struct Asked {
    sk: *mut bpf_sock,
    remote: Address,
    remote_port: u16,
    local_port: u16,
    /// IP protocol number.
    protocol: u8,
}

impl Asked {
    #[inline(always)]
    fn read(ctx: &SockAddrContext, family: Family) -> Option<Self> {
        let asked: *mut bpf_sock_addr = ctx.sock_addr;
        // SAFETY: `asked` is the program's context. Its fields are read one by one, as the verifier wants it.
        unsafe {
            let sk = (*asked).__bindgen_anon_1.sk;
            if sk.is_null() {
                return None;
            }
            let remote = match family {
                Family::V4 => Address::v4((*asked).user_ip4),
                Family::V6 => {
                    let word = |index: usize| core::ptr::read_volatile(&raw const (*asked).user_ip6[index]);
                    Address::v6([word(0), word(1), word(2), word(3)])
                }
            };
            Some(Self {
                sk,
                remote,
                remote_port: u16::from_be((*asked).user_port as u16),
                local_port: (*sk).src_port as u16,
                protocol: (*asked).protocol as u8,
            })
        }
    }

    /// Loopback and the pod's own addresses are free.
    #[inline(always)]
    fn passes(&self, endpoint: &Endpoint) -> bool {
        self.remote.is_local() || endpoint.owns(self.remote)
    }

    #[inline(always)]
    fn judge(&self, endpoint: &Endpoint, class: u8) -> Verdict {
        let subject = Subject { address: self.remote, port: self.remote_port, class };
        judge::judge(endpoint, subject, Asker::Call)
    }

    /// Tells of the verdict, and answers the hook.
    #[inline(always)]
    fn tell(&self, endpoint: &Endpoint, verdict: &Verdict, hook: u8) -> i32 {
        let subject = event::Subject {
            source: Address::NONE,
            remote: self.remote,
            local_port: self.local_port,
            remote_port: self.remote_port,
            protocol: self.protocol,
            opaque: opaque::NONE,
            hook,
        };
        let origin = socket::origin(self.sk);
        if verdict.told() {
            event::deny(endpoint, verdict, &subject, origin);
        }
        if verdict.denied() {
            return DROP;
        }
        event::connect(endpoint, verdict, &subject, origin);
        PASS
    }
}
