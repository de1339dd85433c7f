//! The pods, and what each of them has sent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{NAMESPACE, policies};
use crate::rig::net::{DESTINATIONS, Destinations};
use crate::rig::{Container, Pod, PodSpec, Rig};
use crate::suite::flood::{self, Line};

/// Rounds that a container sends at once with its first instructions,
const ROUNDS: u32 = 3;
/// and how long it waits after each of the others.
const PACE: Duration = Duration::from_millis(100);
/// Longer than any run: a container goes on until it is told to stop.
const ENDLESS: f64 = 1e6;
/// How long a container may take to stop. It waits for its last answers.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// What pods that may send nothing try besides [`DESTINATIONS`]'s forbidden.
const ALSO_FORBIDDEN: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 11)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x198, 0, 0, 0, 0, 0x11)),
];

/// What a pod is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// May send to one place and not to the other, whatever is edited.
    Steady,
    /// May send nothing, and answers whoever asks.
    Server,
    /// Is denied one place, until an edit allows it for a while.
    Flip,
}

impl Role {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Steady => policies::STEADY,
            Self::Server => policies::SERVER,
            Self::Flip => policies::FLIP,
        }
    }

    pub(super) fn destinations(self) -> Destinations {
        match self {
            Self::Steady | Self::Flip => DESTINATIONS,
            Self::Server => Destinations { allowed: ALSO_FORBIDDEN, ..DESTINATIONS },
        }
    }

    /// Whether policy allows what a line sent.
    pub(super) fn allows(self, line: &Line) -> bool {
        self != Self::Server && line.is_allowed()
    }
}

/// A pod that lives.
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) pod: Pod,
    flood: Option<Container>,
}

/// A pod that lives or has lived.
pub(super) struct Past {
    pub(super) role: Role,
    pub(super) ips: Vec<IpAddr>,
    pub(super) lines: Vec<Line>,
}

/// All of them.
pub(super) struct Cast<'a> {
    rig: &'a Rig,
    pub(super) members: Vec<Member>,
    pub(super) past: BTreeMap<String, Past>,
    made: u32,
    pub(super) containers: u64,
}

impl<'a> Cast<'a> {
    pub(super) fn new(rig: &'a Rig) -> Self {
        Self { rig, members: Vec::new(), past: BTreeMap::new(), made: 0, containers: 0 }
    }

    /// A pod to make; its name is like no other's.
    pub(super) fn spec(&mut self, role: Role) -> PodSpec {
        self.made += 1;
        let name = format!("{}-{}", role.label(), self.made);
        PodSpec::new(NAMESPACE, &name, &[("app", role.label())])
    }

    /// Makes a pod, and lets it send.
    pub(super) async fn make(&mut self, role: Role, tag: u64) -> Result<()> {
        let spec = self.spec(role);
        let pod = self.rig.run_pod(&spec).await?;
        self.adopt(spec.name, role, pod)?;
        self.start(self.members.len() - 1, tag).await
    }

    /// Takes in a pod that was made from a [`Self::spec`].
    pub(super) fn adopt(&mut self, name: String, role: Role, pod: Pod) -> Result<()> {
        let ips = pod.ips().to_vec();
        ensure!(ips.len() == 2, "{name} has the addresses {ips:?}, not one of each family");
        self.past.insert(name.clone(), Past { role, ips, lines: Vec::new() });
        self.members.push(Member { name, role, pod, flood: None });
        Ok(())
    }

    /// Starts a container that sends, until [`Self::stop`].
    pub(super) async fn start(&mut self, index: usize, tag: u64) -> Result<()> {
        let member = &mut self.members[index];
        let mut spec = flood::container("flood", tag, ROUNDS, ENDLESS, &member.role.destinations());
        spec.args.extend(["--pace-ms".to_owned(), PACE.as_millis().to_string()]);
        member.flood = Some(member.pod.start(&spec).await?);
        self.containers += 1;
        Ok(())
    }

    /// Stops the container that sends, and keeps what it reports.
    pub(super) async fn stop(&mut self, index: usize) -> Result<()> {
        let member = &mut self.members[index];
        if let Some(container) = member.flood.take() {
            container.stop(STOP_LIMIT).await?;
            let lines = flood::report(&container).await?;
            if let Some(past) = self.past.get_mut(&member.name) {
                past.lines.extend(lines);
            }
        }
        Ok(())
    }

    /// Removes a pod. Its packets are counted before that: what is still queued goes away with its interfaces.
    pub(super) async fn remove(&mut self, index: usize) -> Result<()> {
        self.stop(index).await?;
        self.rig.far().settle().await?;
        self.members.remove(index).pod.remove().await
    }

    /// Addresses of all pods of a role, the dead included.
    pub(super) fn ips(&self, role: Role) -> Vec<IpAddr> {
        self.past.values().filter(|past| past.role == role).flat_map(|past| past.ips.clone()).collect()
    }

    /// Pods of a role that live.
    pub(super) fn of(&self, role: Role) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |member| member.role == role)
    }
}
