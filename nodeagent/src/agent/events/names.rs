//! What an event with a name tells beside its flow.

use std::borrow::Cow;
use std::net::IpAddr;

use sluice_abi::{NameEvent, kind, shown};

use super::Line;
use crate::datapath::{address_from, name_text};

/// Adds it to the line of the flow.
pub(super) fn describe(event: &NameEvent, mut line: Line) -> Line {
    let name = name_text(&event.name, event.name_length);
    line.domain = Some(name).filter(|name| !name.is_empty());
    match event.flow.kind {
        kind::QUESTION => {
            line.dns_type = Some(type_name(event.dns_type).into_owned());
            "asked".clone_into(&mut line.reason);
        }
        kind::ANSWER => {
            let answers: Vec<IpAddr> = event
                .addresses
                .iter()
                .take(event.answers.into())
                .map(|address| address_from(*address))
                .collect();
            line.dns_type = Some(type_name(event.dns_type).into_owned());
            line.dns_code = Some(code_name(event.response_code).into_owned());
            line.reason = answered(event, &answers);
            line.answers = Some(answers);
        }
        kind::FORGOTTEN => {
            "the pod has learned too many names of an address: older ones were forgotten"
                .clone_into(&mut line.reason);
        }
        kind::TLS | kind::HTTP => shown_name(event.shown).clone_into(&mut line.reason),
        _ => {}
    }
    line
}

fn answered(event: &NameEvent, answers: &[IpAddr]) -> String {
    let code = code_name(event.response_code);
    let more = usize::from(event.answers).saturating_sub(answers.len());
    let addresses: Vec<String> = answers.iter().map(IpAddr::to_string).collect();
    match (addresses.is_empty(), more) {
        (true, _) => format!("answered: {code}, no address"),
        (false, 0) => format!("answered: {}", addresses.join(", ")),
        (false, more) => format!("answered: {} and {more} more", addresses.join(", ")),
    }
}

fn shown_name(state: u8) -> &'static str {
    match state {
        shown::NAME | shown::SO_FAR => "it shows this name",
        shown::NONE => "it shows no name",
        shown::OUTER => "it shows this name, and maybe hides another (ECH)",
        shown::ENCRYPTED => "its name is encrypted (ECH); one that stands outside does not count",
        _ => "its name cannot be read",
    }
}

/// A type as zone files have it (IANA's registry of resource record types); unknown ones as RFC 3597 has them.
fn type_name(number: u16) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        35 => "NAPTR",
        43 => "DS",
        46 => "RRSIG",
        48 => "DNSKEY",
        52 => "TLSA",
        64 => "SVCB",
        65 => "HTTPS",
        255 => "ANY",
        257 => "CAA",
        _ => return Cow::Owned(format!("TYPE{number}")),
    })
}

/// A response code as resolvers write it (RFC 6895, section 2.3).
fn code_name(number: u8) -> Cow<'static, str> {
    Cow::Borrowed(match number {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        _ => return Cow::Owned(format!("RCODE{number}")),
    })
}
