//! An attempt of one pod: with which addresses, how its calls went, and what of it arrived.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use rand::Rng;
use rand::rngs::SmallRng;
use serde_json::Value;

use super::list::{Escape, Way};
use super::recorder::{Frame, Seen};
use crate::rig::{Container, Pod};

/// The node's own addresses on the wire.
const NODE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];

const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Hands out addresses that no other attempt uses.
pub(super) struct Numbers {
    random: SmallRng,
    v4: u8,
    v6: u16,
}

impl Numbers {
    pub(super) fn new(random: SmallRng) -> Self {
        Self { random, v4: 0, v6: 0x100 }
    }

    /// For an attempt that uses these families.
    pub(super) fn side(&mut self, digit: Option<char>, way: Way) -> Side {
        self.v6 += 1;
        // Attempts by IPv6 use IPv4 only inside of other packets, where the tag tells whose they are.
        let last = if digit == Some('6') {
            u8::MAX - 1
        } else {
            self.v4 += 1;
            self.v4
        };
        let v6 = |prefix| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, prefix, 0, 0, 0, 0, self.v6));
        Side {
            tag: self.random.random(),
            allowed: [Ipv4Addr::new(203, 0, 113, last).into(), v6(0x203)],
            forbidden: [Ipv4Addr::new(198, 51, 100, last).into(), v6(0x198)],
            shared4: digit == Some('6'),
            way,
            from: 0,
            pod: String::new(),
            made: Vec::new(),
            stopped: String::new(),
            far: 0,
            bridge: 0,
            examples: Vec::new(),
        }
    }
}

/// One pod's side of an attempt.
pub(super) struct Side {
    pub(super) tag: u64,
    pub(super) allowed: [IpAddr; 2],
    pub(super) forbidden: [IpAddr; 2],
    shared4: bool,
    way: Way,
    /// Frames before this one do not count.
    pub(super) from: usize,
    /// The name of the pod.
    pub(super) pod: String,
    /// The decisive calls: what, and the outcome.
    pub(super) made: Vec<(String, String)>,
    /// Why it went no further, if so.
    pub(super) stopped: String,
    /// Frames that arrived at the far end.
    pub(super) far: usize,
    /// Frames that arrived on the bridge.
    pub(super) bridge: usize,
    /// The first of them.
    pub(super) examples: Vec<String>,
}

impl Side {
    /// The probe's options.
    pub(super) fn arguments(&self, name: &str, pod: &Pod, neighbour: &Pod) -> Result<Vec<String>> {
        let pairs = [
            ("own", [pod.ipv4()?, pod.ipv6()?]),
            ("neighbour", [neighbour.ipv4()?, neighbour.ipv6()?]),
            ("allowed", self.allowed),
            ("forbidden", self.forbidden),
        ];
        let mut arguments = vec!["escape".to_owned(), name.to_owned()];
        for (option, [v4, v6]) in pairs {
            arguments.extend([
                format!("--{option}4"),
                v4.to_string(),
                format!("--{option}6"),
                v6.to_string(),
            ]);
        }
        arguments.extend(["--tag".to_owned(), self.tag.to_string()]);
        Ok(arguments)
    }

    /// Reads what the probe told.
    pub(super) fn read(&mut self, container: &Container) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for line in container.json()? {
            if line["made"].is_string() {
                self.made.push((text(&line["made"]), text(&line["outcome"])));
            } else if line["stopped"].is_string() {
                self.stopped = text(&line["stopped"]);
            }
        }
        if self.made.is_empty() && self.stopped.is_empty() {
            self.stopped = format!("the probe said {:?}", container.log()?);
        }
        Ok(())
    }

    /// The outcomes of the calls, counted.
    pub(super) fn outcomes(&self) -> String {
        let mut counts = BTreeMap::new();
        for (_, outcome) in &self.made {
            *counts.entry(outcome.as_str()).or_insert(0) += 1;
        }
        let texts: Vec<String> = counts.iter().map(|(outcome, count)| format!("{count}×{outcome}")).collect();
        texts.join(" ")
    }

    pub(super) fn arrived(&self) -> usize {
        self.far.max(self.bridge)
    }

    /// Whether a frame that goes to the forbidden counts; one with the tag always does.
    fn counts(&self, frame: &Frame) -> bool {
        let flags = frame.tcp_flags();
        match self.way {
            // Answers to the far end's own connection do not.
            Way::Visited | Way::Crossing => flags.is_some_and(|flags| flags & (TCP_SYN | TCP_ACK) == TCP_SYN),
            // What tells the peer that the connection is over does not.
            Way::Later => flags.is_none_or(|flags| flags & TCP_RST == 0),
            // The other pod connects before it gives.
            Way::Given => false,
            _ => true,
        }
    }

    fn add(&mut self, frame: &Frame) {
        match frame.seen {
            Seen::Far => self.far += 1,
            Seen::Bridge => self.bridge += 1,
        }
        if self.examples.len() < 3 {
            let mut hex = String::new();
            for byte in frame.bytes.iter().take(80) {
                // Writing to a String does not fail.
                let _ = write!(hex, "{byte:02x}");
            }
            self.examples.push(format!("{:?} {hex}", frame.seen));
        }
    }
}

/// Gives every frame to the sides that it belongs to.
pub(super) fn sort(frames: &[Frame], sides: &mut [&mut Side]) {
    let mut tags: HashMap<[u8; 8], usize> = HashMap::new();
    let mut addresses: HashMap<IpAddr, usize> = HashMap::new();
    for (number, side) in sides.iter().enumerate() {
        tags.insert(side.tag.to_be_bytes(), number);
        for address in side.allowed.iter().filter(|_| side.way == Way::Foreign) {
            addresses.insert(*address, number);
        }
        for address in side.forbidden.iter().filter(|address| address.is_ipv6() || !side.shared4) {
            addresses.insert(*address, number);
        }
    }
    // What the node itself says is not the pod's: that it cannot reach a pod that is gone, for one.
    let of_pods = |frame: &Frame| !frame.source().is_some_and(|source| NODE.contains(&source));
    for (index, frame) in frames.iter().enumerate().filter(|(_, frame)| of_pods(frame)) {
        let tagged = frame.bytes.array_windows::<8>().find_map(|window| tags.get(window).copied());
        let by_address = frame.destination().and_then(|to| addresses.get(&to).copied());
        let owner = tagged.or(by_address.filter(|number| sides[*number].counts(frame)));
        if let Some(number) = owner.filter(|number| index >= sides[*number].from) {
            sides[number].add(frame);
        }
    }
    // The group that is joined holds the beginning of the tag.
    for side in sides.iter_mut().filter(|side| side.made.iter().any(|(what, _)| what == "join")) {
        let [a, b, c, ..] = side.tag.to_be_bytes();
        for frame in frames.iter().filter(|frame| frame.is_igmp() && frame.contains(&[239, a, b, c])) {
            side.add(frame);
        }
    }
}

/// An attempt, of a governed pod and of one without a policy.
pub(super) struct Attempt {
    pub(super) escape: &'static Escape,
    /// With the digit of the family.
    pub(super) name: String,
    pub(super) governed: Side,
    pub(super) control: Side,
}

impl Attempt {
    /// All attempts, or those whose names begin with one of these.
    pub(super) fn all(
        escapes: &'static [Escape],
        only: &[String],
        numbers: &mut Numbers,
    ) -> Result<Vec<Self>> {
        let mut attempts = Vec::new();
        for escape in escapes {
            let digits: Vec<Option<char>> = match escape.families {
                "" => vec![None],
                families => families.chars().map(Some).collect(),
            };
            for digit in digits {
                let name = format!("{}{}", escape.name, digit.map(String::from).unwrap_or_default());
                // Every attempt keeps its addresses, whichever are made.
                let governed = numbers.side(digit, escape.way);
                let control = numbers.side(digit, escape.way);
                if only.is_empty() || only.iter().any(|prefix| name.starts_with(prefix.as_str())) {
                    attempts.push(Self { escape, name, governed, control });
                }
            }
        }
        attempts.first().context("no attempt has such a name")?;
        Ok(attempts)
    }
}
