//! The fast path: an established flow costs one look-up of socket storage and one read of an array, and as little of the
//! packet as tells that it is of that flow. A socket is not a flow: it may send anywhere.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::bpf_sk_fullsock;
use sluice_abi::{FlowValue, SlotWord, class, counter, direction, shown, shown_by, state};
use sluice_parse::dns::PORT;

use crate::address::Address;
use crate::endpoint::{self, Endpoint};
use crate::judge::Verdict;
use crate::maps::count;
use crate::packet::{Ipv4, Ipv6, Packet};
use crate::room;
use crate::socket;

/// The ports of HTTP, and of HTTP over TLS or QUIC.
pub const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// Version and header length of an IPv4 header without options.
const PLAIN_V4: u8 = 0x45;

/// An IP header and the ports behind it.
#[repr(C)]
struct WithPorts<T> {
    header: T,
    source_port: u16,
    destination_port: u16,
}

/// The state of the packet's flow, if it was judged under the policy in force and allowed for good. The packet starts at
/// byte `start` of its buffer. None says nothing: ask [`is_same`] once the packet is read whole.
#[inline(always)]
pub fn established(skb: *mut __sk_buff, start: usize) -> Option<u8> {
    // SAFETY: `skb` is the program's context.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return None;
    }
    // SAFETY: live socket storage, of which nothing but the state changes once it is there.
    let flow = unsafe { &*socket::flow(sk)? };
    let state = flow.state;
    if !state::is_free(state) || !is_current(flow) {
        return None;
    }
    let is_of = if flow.version == 4 { is_of_v4(flow, skb, start) } else { is_of_v6(flow, skb, start) };
    if is_of { Some(state) } else { None }
}

#[inline(always)]
fn is_of_v4(flow: &FlowValue, skb: *mut __sk_buff, start: usize) -> bool {
    let Some(packet) = view::<WithPorts<Ipv4>>(skb, start) else { return false };
    // SAFETY: `view` has checked that the packet holds it.
    let packet = unsafe { &*packet };
    packet.header.version_ihl == PLAIN_V4
        && packet.header.is_whole()
        && packet.header.protocol == flow.protocol
        && packet.header.destination == word(&flow.remote, 3)
        && packet.header.source == word(&flow.local, 3)
        && u16::from_be(packet.destination_port) == flow.remote_port
}

#[inline(always)]
fn is_of_v6(flow: &FlowValue, skb: *mut __sk_buff, start: usize) -> bool {
    let Some(packet) = view::<WithPorts<Ipv6>>(skb, start) else { return false };
    // SAFETY: `view` has checked that the packet holds it.
    let packet = unsafe { &*packet };
    let (destination, source) = (&packet.header.destination, &packet.header.source);
    packet.header.next_header == flow.protocol
        && (0..4).all(|index| destination[index] == word(&flow.remote, index))
        && (0..4).all(|index| source[index] == word(&flow.local, index))
        && u16::from_be(packet.destination_port) == flow.remote_port
}

/// A word of an address, in network order.
#[inline(always)]
fn word(address: &[u8; 16], index: usize) -> u32 {
    // SAFETY: `index` is below 4; addresses lie at multiples of 8 in a flow.
    unsafe { *address.as_ptr().cast::<u32>().add(index) }
}

/// The packet's bytes in place, if its linear part holds as many. Headers are aligned to 4 bytes there (`NET_IP_ALIGN`).
#[inline(always)]
fn view<T>(skb: *mut __sk_buff, start: usize) -> Option<*const T> {
    // SAFETY: `skb` is the program's context.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    // VERIFIER: this very comparison is what lets the bytes be read.
    if data + start + size_of::<T>() > end { None } else { Some((data + start) as *const T) }
}

/// Was it judged under the policy that is in force now?
#[inline(always)]
pub fn is_current(flow: &FlowValue) -> bool {
    endpoint::word(flow.slot).0 == flow.word
}

/// Has egress let the packet of this flow through, under the policy in force? What it looks at in each packet it has
/// looked at in this one.
#[inline(always)]
pub fn is_let_through(flow: *const FlowValue) -> bool {
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    flow.state != state::DENIED && is_current(flow)
}

/// Is this packet of the flow that was judged?
#[inline(always)]
pub fn is_same(flow: *const FlowValue, packet: &Packet) -> bool {
    // SAFETY: live socket storage, never changed once it is there.
    let flow = unsafe { &*flow };
    packet.class != class::OPAQUE
        && flow.protocol == packet.protocol
        && flow.remote_port == packet.destination_port
        && Address::from_bytes(&flow.remote) == packet.destination
        && Address::from_bytes(&flow.local) == packet.source
}

/// Keeps a verdict with the socket. One that is there already stays. Gives the state that is kept; `opens` says that the
/// packet opens a TCP connection.
#[inline(always)]
pub fn remember(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    packet: &Packet,
    (endpoint, verdict): (&Endpoint, &Verdict),
    is_reply: bool,
    opens: bool,
) -> u8 {
    let known = socket::flow(sk).filter(|flow| is_same(*flow, packet));
    // SAFETY: live socket storage, of which nothing but the state changes once it is there.
    let known = known.map(|flow| unsafe { &*flow });
    let direction = if is_reply { direction::REPLY } else { direction::OWN };
    let mut state = verdict.state;
    if state == state::SETTLED && !is_reply {
        state = allowed_state(skb, packet.destination_port.into(), packet.class.into(), opens.into()) as u8;
    }
    if known
        .is_some_and(|flow| flow.word == verdict.word.0 && flow.direction == direction && flow.state == state)
    {
        return state;
    }
    let was_allowed = !verdict.denied() || known.is_some_and(|flow| flow.was_allowed != 0);
    let SlotWord(word) = verdict.word;
    let number = room::take_room();
    if let Some(flow) = room::flow(number) {
        // SAFETY: the room is nobody else's until it is left; the helper copies what is in it.
        unsafe {
            #[cfg(feature = "rehearsal")]
            {
                (*flow).rehearsal = u64::MAX;
            }
            (*flow).word = word;
            (*flow).slot = endpoint.slot;
            (*flow).remote_port = packet.destination_port;
            (*flow).protocol = packet.protocol;
            (*flow).direction = direction;
            (*flow).remote = packet.destination.bytes();
            (*flow).local = packet.source.bytes();
            (*flow).ruling = verdict.ruling;
            (*flow).was_allowed = u8::from(was_allowed);
            (*flow).version = packet.version;
            (*flow).state = state;
            (*flow).pad = 0;
            socket::set_flow(sk, &mut *flow);
        }
    } else {
        count(counter::STORAGE_FAILED);
    }
    room::leave_room(number);
    state
}

/// The state of a flow of the pod's own that is allowed for good, by its port and class, and by what is kept with its
/// socket.
///
/// VERIFIER: a global function, which it walks once: what state it is makes no difference after.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn allowed_state(skb: *mut __sk_buff, port: u32, class: u32, opens: u32) -> u32 {
    // A conversation with a resolver is read packet by packet.
    if port == PORT.into() {
        return state::READ.into();
    }
    // SAFETY: `skb` is the program's context; a null socket is not given to the helper.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() { sk } else { bpf_sk_fullsock(sk) }
    };
    if sk.is_null() {
        return state::SETTLED.into();
    }
    if class == class::TCP.into()
        && let Some(shown) = socket::shown(sk)
    {
        // SAFETY: live socket storage.
        let (shown, by) = unsafe { ((*shown).state, (*shown).by) };
        if shown != shown::MORE {
            return state_after(shown, by).into();
        }
    }
    // SAFETY: live socket storage.
    let before = socket::flow(sk).map(|flow| unsafe { (*flow).state });
    let is_first = match before {
        Some(before) => opens != 0 || matches!(before, state::UNTOLD | state::OPENING),
        None => opens != 0 || class == class::UDP.into(),
    };
    if is_first && is_told(port as u16, class as u8) { state::UNTOLD.into() } else { state::SETTLED.into() }
}

/// The state of an allowed flow that has shown what it shows.
#[inline(always)]
pub fn state_after(shown: u8, by: u8) -> u8 {
    let is_request = by == shown_by::HTTP && matches!(shown, shown::NAME | shown::NONE);
    if is_request { state::REQUESTS } else { state::SETTLED }
}

/// Is it of a flow whose first payload is told of, whatever the policy? What is on these ports is TLS, HTTP or QUIC.
#[inline(always)]
pub fn shows(packet: &Packet) -> bool {
    is_told(packet.destination_port, packet.class)
}

#[inline(always)]
fn is_told(port: u16, class: u8) -> bool {
    match class {
        class::TCP => matches!(port, HTTP | HTTPS),
        class::UDP => port == HTTPS,
        _ => false,
    }
}
