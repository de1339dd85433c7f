//! What a pod has learned from DNS, for `sluice dns`.

use std::net::IpAddr;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use sluice_api::{Refusal, RefusalKind};

use super::Shared;
use super::admin::Answer;
use crate::datapath::Learned;

/// A name that led a pod to an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LearnedName {
    /// The name that was asked for.
    pub name: String,
    /// The address that it led to.
    pub address: IpAddr,
    /// The resolver that answered.
    pub resolver: IpAddr,
    /// When it answered last.
    pub learned: Timestamp,
    /// Until when the address counts for new connections.
    pub until: Timestamp,
    /// That is over. The entry stays until its place is needed.
    pub expired: bool,
}

/// Answers what a pod has learned, by name and address.
pub(super) fn answer(shared: &Shared, namespace: &str, name: &str) -> Answer {
    let learned = shared.node().learned(namespace, name);
    match learned {
        None => {
            let message = format!("no pod {namespace}/{name} is governed here; see `sluice status`");
            Answer::Refused(Refusal { kind: RefusalKind::Unknown, message })
        }
        Some(Err(error)) => {
            Answer::Refused(Refusal { kind: RefusalKind::Failed, message: error.to_string() })
        }
        Some(Ok(learned)) => {
            let clocks = Clocks::now();
            let mut names: Vec<LearnedName> = learned.into_iter().map(|one| clocks.describe(one)).collect();
            names.sort_by(|one, other| (&one.name, one.address).cmp(&(&other.name, other.address)));
            Answer::Dns(names)
        }
    }
}

/// The wall clock and the boot clock at the same moment.
struct Clocks {
    wall: Timestamp,
    boot_ns: i64,
}

impl Clocks {
    fn now() -> Self {
        let boot = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).ok();
        let boot_ns = boot.map_or(0, |time| time.tv_sec() * 1_000_000_000 + time.tv_nsec());
        Self { wall: Timestamp::now(), boot_ns }
    }

    fn wall(&self, boot_ns: u64) -> Timestamp {
        let away = i64::try_from(boot_ns).unwrap_or(i64::MAX).saturating_sub(self.boot_ns);
        self.wall.checked_add(SignedDuration::from_nanos(away)).unwrap_or(Timestamp::MAX)
    }

    fn describe(&self, learned: Learned) -> LearnedName {
        let until = self.wall(learned.until_ns);
        LearnedName {
            name: learned.name,
            address: learned.address,
            resolver: learned.resolver,
            learned: self.wall(learned.learned_ns),
            until,
            expired: until <= self.wall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_boot_clock_become_times_of_day() {
        let clocks = Clocks { wall: "2026-01-01T00:00:10Z".parse().expect("a time"), boot_ns: 5_000_000_000 };
        let address = IpAddr::from([192, 0, 2, 1]);
        let learned = |until_ns| Learned {
            name: "a.example".to_owned(),
            address,
            resolver: address,
            learned_ns: 4_000_000_000,
            until_ns,
        };
        let one = clocks.describe(learned(65_000_000_000));
        assert_eq!(one.learned.to_string(), "2026-01-01T00:00:09Z");
        assert_eq!((one.until.to_string().as_str(), one.expired), ("2026-01-01T00:01:10Z", false));
        assert!(clocks.describe(learned(5_000_000_000)).expired);
    }
}
