//! `events: {exclude: {networks: […], domains: […]}}`: what is not told, as long as it is allowed.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sluice_abi::kind;
use sluice_policy::{Name, NamePattern, Network};

use crate::agent::events::{Action, Line};

/// The options, as far as they were given in one place.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub(super) struct EventSettings {
    /// Give no events of what is allowed to these networks, separated by commas; they are counted as filtered.
    ///
    /// Verdicts are the same: this is about what is told, not about what is done. What is denied, or audited policies
    /// would deny, is told all the same. In the file: events.exclude.networks.
    #[arg(long, env = "SLUICE_EXCLUDE_NETWORKS", value_name = "CIDR", value_delimiter = ',')]
    exclude_networks: Option<Vec<Network>>,
    /// The same of what is allowed under these names, written as in rules: a.b, or *.b for all names below b.
    ///
    /// It is the name that was asked for or shown, or that led to the destination. In the file: events.exclude.domains.
    #[arg(long, env = "SLUICE_EXCLUDE_DOMAINS", value_name = "NAME", value_delimiter = ',')]
    exclude_domains: Option<Vec<NamePattern>>,
}

/// What is not told, as long as it is allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclude {
    /// Flows to these.
    pub networks: Vec<Network>,
    /// What has such a name.
    pub domains: Vec<NamePattern>,
}

impl EventSettings {
    /// These, and where they say nothing, those of the file.
    pub(super) fn over(self, file: Self) -> Self {
        Self {
            exclude_networks: self.exclude_networks.or(file.exclude_networks),
            exclude_domains: self.exclude_domains.or(file.exclude_domains),
        }
    }

    /// Nothing is excluded.
    pub(super) fn none() -> Self {
        Self { exclude_networks: Some(Vec::new()), exclude_domains: Some(Vec::new()) }
    }

    pub(super) fn resolve(self) -> Exclude {
        Exclude {
            networks: self.exclude_networks.unwrap_or_default(),
            domains: self.exclude_domains.unwrap_or_default(),
        }
    }
}

impl Exclude {
    /// Is this not to be told? Only what was allowed can be kept back, and no warning; `event` is one of
    /// [`sluice_abi::kind`].
    pub fn covers(&self, event: u8, line: &Line) -> bool {
        line.action == Action::Allow
            && event != kind::FORGOTTEN
            && (self.networks.iter().any(|network| network.covers(&Network::host(line.dst)))
                || line.domain.as_deref().is_some_and(|name| self.names(name)))
    }

    fn names(&self, name: &str) -> bool {
        let Ok(name) = name.parse::<Name>() else { return false };
        self.domains.iter().any(|pattern| match pattern {
            NamePattern::Exact(exact) => *exact == name,
            NamePattern::Below(domain) => name.domains().any(|above| above == domain.as_str()),
        })
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Events {
    #[serde(default)]
    exclude: Lists,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lists {
    #[serde(default)]
    networks: Option<Vec<Text<Network>>>,
    #[serde(default)]
    domains: Option<Vec<Text<NamePattern>>>,
}

/// What is a text in the file.
struct Text<T>(T);

/// The key that an entry stands under.
trait Listed: FromStr<Err: Display> + Display {
    const KEY: &'static str;
}

impl Listed for Network {
    const KEY: &'static str = "networks";
}

impl Listed for NamePattern {
    const KEY: &'static str = "domains";
}

impl<T: Listed> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: Listed> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let named = |error| serde::de::Error::custom(format_args!("events.exclude.{}: {error}", T::KEY));
        text.parse().map(Self).map_err(named)
    }
}

impl Serialize for EventSettings {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let networks = self.exclude_networks.as_ref().map(|all| all.iter().copied().map(Text).collect());
        let domains = self.exclude_domains.as_ref().map(|all| all.iter().cloned().map(Text).collect());
        Events { exclude: Lists { networks, domains } }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for EventSettings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Lists { networks, domains } = Events::deserialize(from)?.exclude;
        Ok(Self {
            exclude_networks: networks.map(|all| all.into_iter().map(|text| text.0).collect()),
            exclude_domains: domains.map(|all| all.into_iter().map(|text| text.0).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Exclude;

    #[test]
    fn names_are_covered_as_rules_write_them() {
        let exclude = Exclude {
            domains: ["*.cluster.local", "api.example"].map(|text| text.parse().expect("a pattern")).into(),
            ..Exclude::default()
        };
        for name in ["a.cluster.local", "a.b.cluster.local", "A.Cluster.Local", "api.example"] {
            assert!(exclude.names(name), "{name}");
        }
        for name in ["cluster.local", "xcluster.local", "a.api.example", "cluster.local.evil", "", "?"] {
            assert!(!exclude.names(name), "{name}");
        }
    }
}
