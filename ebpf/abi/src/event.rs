//! What the programs tell the agent through the ring buffer.

use crate::maps::RulingValue;

/// Kinds of event: [`FlowEvent::kind`].
pub mod kind {
    /// A connection that policy allows is being opened.
    pub const CONNECT: u8 = 1;
    /// A flow was denied, or would be if audited policies were enforced.
    pub const DENY: u8 = 2;
    /// A name was asked for: a [`crate::NameEvent`], as are the following.
    pub const QUESTION: u8 = 3;
    /// A trusted resolver answered a question.
    pub const ANSWER: u8 = 4;
    /// Addresses of an answer found no place, or took the place of some learned before them.
    pub const FORGOTTEN: u8 = 7;
    /// A `ClientHello` showed a name, or none.
    pub const TLS: u8 = 5;
    /// An HTTP/1 request showed a name, or none.
    pub const HTTP: u8 = 6;
}

/// Where in the datapath an event was made: [`FlowEvent::hook`].
pub mod hook {
    /// `connect4` or `connect6`.
    pub const CONNECT: u8 = 1;
    /// `sendmsg4` or `sendmsg6`.
    pub const SENDMSG: u8 = 2;
    /// `cgroup_skb/egress`.
    pub const EGRESS: u8 = 3;
    /// The host's end of the pod's link.
    pub const WIRE: u8 = 4;
    /// `cgroup_skb/ingress`.
    pub const INGRESS: u8 = 5;
}

/// Why a verdict fell: [`FlowEvent::reason`].
pub mod reason {
    /// The rule named, or the default of the policy named.
    pub const POLICY: u8 = 1;
    /// The compiled policy was not in the maps: denied, to be safe.
    pub const POLICY_MISSING: u8 = 2;
    /// A question for a name that no rule could open, under `dns.queries: RuleNames`, or one that cannot be read.
    pub const QUESTION: u8 = 3;
    /// As [`POLICY`], if the flow goes on to show a name that it may: it has shown none yet.
    pub const NAME_AWAITED: u8 = 4;
    /// As [`POLICY`], for the name that the flow shows, or because it shows none that can be read.
    pub const NAME_SHOWN: u8 = 5;
}

/// One judged flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEvent {
    /// Boot clock, nanoseconds.
    pub time_ns: u64,
    /// The endpoint's cgroup id.
    pub endpoint: u64,
    /// Packets of the same flow denied since the last event about it.
    pub repeats: u64,
    /// Compiled policy that judged; its rules give the ruling's indices a meaning.
    pub policy: u32,
    /// Process id, or 0 where it is not known.
    pub pid: u32,
    /// Source address; zero where the hook does not know it yet.
    pub source: [u8; 16],
    /// Destination address.
    pub remote: [u8; 16],
    /// Source port; 0 where the hook does not know it yet.
    pub local_port: u16,
    /// Destination port.
    pub remote_port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// One of [`hook`].
    pub hook: u8,
    /// One of [`reason`].
    pub reason: u8,
    /// What the policies said.
    pub ruling: RulingValue,
    /// One of [`crate::opaque`].
    pub opaque: u8,
    /// Which name led to the destination: its place among those of `LEARNED` where the address may lie, from 1; or
    /// [`BOUND_NAME`]; or 0 if none did.
    pub name: u8,
    /// Zero.
    pub pad: [u8; 2],
    /// Command name of the process, padded with zeros.
    pub comm: [u8; 16],
}

/// [`FlowEvent::name`] of the name that the flow has been allowed by before.
pub const BOUND_NAME: u8 = u8::MAX;

const _: () = assert!(size_of::<FlowEvent>() == 104);
