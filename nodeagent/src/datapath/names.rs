//! Resolvers, learned names and the programs that read DNS.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::Program;
use sluice_abi::{
    LEARNED_BUCKETS, LEARNED_PROBES, LearnedKey, LearnedValue, NO_POLICY, NameKey, NamesConfigValue,
    ResolverKey, address_words, learned_bucket, names_config, resolver, reversed,
};
use sluice_policy::Name;

use super::{Datapath, DatapathError, TAILS, address_bytes, address_from, install, map_error, take};

/// The port that resolvers are asked at.
const DNS_PORT: u16 = 53;

/// What the programs know of names.
pub(super) struct Names {
    config: Array<MapData, NamesConfigValue>,
    resolvers: HashMap<MapData, ResolverKey, u32>,
    node_addresses: HashMap<MapData, [u64; 2], u32>,
    learned: HashMap<MapData, LearnedKey, LearnedValue>,
}

/// A name that led a pod to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// The name that was asked for.
    pub name: String,
    /// The address that it led to.
    pub address: IpAddr,
    /// Who answered.
    pub resolver: IpAddr,
    /// When it was learned last, on the boot clock.
    pub learned_ns: u64,
    /// Until when it counts for new flows, on the boot clock.
    pub until_ns: u64,
}

impl Names {
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            config: take(object, "NAMES_CONFIG")?,
            resolvers: take(object, "RESOLVERS")?,
            node_addresses: take(object, "NODE_ADDRESSES")?,
            learned: take(object, "LEARNED")?,
        })
    }
}

impl Datapath {
    /// Puts the programs that others hand packets on to into their arrays.
    pub(super) fn fill_tails(&mut self) -> Result<(), DatapathError> {
        for (name, array, index) in TAILS {
            if let Some(map) = self.object.take_map(array) {
                self.tails.insert(array, ProgramArray::try_from(map).map_err(map_error(array))?);
            }
            let program = match self.object.program(name) {
                Some(Program::CgroupSkb(program)) => program.fd(),
                _ => return Err(DatapathError::Missing(name)),
            };
            let program =
                program.map_err(|source| DatapathError::Program { name, source: Box::new(source) })?;
            let tails = self.tails.get_mut(array).ok_or(DatapathError::Missing(array))?;
            tails.set(index, program, 0).map_err(map_error(array))?;
        }
        Ok(())
    }

    /// How long an address that a name led to counts: at least `floor`, and `grace` past its TTL. And whether a hello with
    /// an encrypted one in it goes by the name outside of that.
    pub fn configure_names(
        &mut self,
        floor: Duration,
        grace: Duration,
        outer_names: bool,
    ) -> Result<(), DatapathError> {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 2);
        let flags = if outer_names { names_config::OUTER_NAMES } else { 0 };
        let value = NamesConfigValue { floor_ns: ns(floor), grace_ns: ns(grace), flags };
        self.names.config.set(0, value, 0).map_err(map_error("NAMES_CONFIG"))
    }

    /// Whose answers are believed.
    pub fn set_resolvers(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DatapathError> {
        let key = |address: &IpAddr| ResolverKey { address: address_bytes(*address), port: DNS_PORT, pad: 0 };
        let wanted: Vec<ResolverKey> = addresses.iter().map(key).collect();
        let map = &mut self.names.resolvers;
        for key in &wanted {
            map.insert(key, resolver::TRUSTED, 0).map_err(map_error("RESOLVERS"))?;
        }
        let there: Result<Vec<ResolverKey>, _> = map.keys().collect();
        for key in there.map_err(map_error("RESOLVERS"))?.iter().filter(|key| !wanted.contains(key)) {
            install::gone(map.remove(key), "RESOLVERS")?;
        }
        Ok(())
    }

    /// The node's own addresses, which no name may open.
    pub fn set_node_addresses(&mut self, addresses: &BTreeSet<IpAddr>) -> Result<(), DatapathError> {
        let wanted: Vec<[u64; 2]> =
            addresses.iter().map(|address| address_words(address_bytes(*address))).collect();
        let map = &mut self.names.node_addresses;
        for key in &wanted {
            map.insert(key, 0, 0).map_err(map_error("NODE_ADDRESSES"))?;
        }
        let there: Result<Vec<[u64; 2]>, _> = map.keys().collect();
        for key in there.map_err(map_error("NODE_ADDRESSES"))?.iter().filter(|key| !wanted.contains(key)) {
            install::gone(map.remove(key), "NODE_ADDRESSES")?;
        }
        Ok(())
    }

    /// What an endpoint has learned. Entries that ran out stay until their place is needed.
    pub fn learned(&self, cgroup: u64) -> Result<Vec<Learned>, DatapathError> {
        let mut found = Vec::new();
        for bucket in 0..LEARNED_BUCKETS {
            match self.names.learned.get(&LearnedKey { endpoint: cgroup, bucket, pad: 0 }, 0) {
                Ok(value) => found.push(Learned {
                    name: name_text(&value.name, value.name_length),
                    address: address_from(value.address),
                    resolver: address_from(value.resolver),
                    learned_ns: value.learned_ns,
                    until_ns: value.until_ns,
                }),
                Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(map_error("LEARNED")(error)),
            }
        }
        Ok(found)
    }

    /// The name that led an endpoint to an address, by its place as [`FlowEvent::name`] has it; any of its names, if the
    /// place tells of none.
    ///
    /// [`FlowEvent::name`]: sluice_abi::FlowEvent::name
    pub fn learned_name(&self, cgroup: u64, address: [u8; 16], place: u8) -> Option<String> {
        let first = learned_bucket(address_words(address));
        let at = |place: u32| {
            let bucket = (first + place - 1) & (LEARNED_BUCKETS - 1);
            let value = self.names.learned.get(&LearnedKey { endpoint: cgroup, bucket, pad: 0 }, 0).ok()?;
            (value.address == address).then(|| name_text(&value.name, value.name_length))
        };
        match u32::from(place) {
            0 => None,
            place @ 1..=LEARNED_PROBES => at(place),
            _ => (1..=LEARNED_PROBES).find_map(at),
        }
    }

    /// The names that led an endpoint to an address.
    pub fn learned_names(&self, cgroup: u64, address: [u8; 16]) -> Vec<String> {
        let places = 1..=LEARNED_PROBES as u8;
        places.filter_map(|place| self.learned_name(cgroup, address, place)).collect()
    }

    /// Writes down what an address was learned from, in place of what was known of it: for a test of the programs.
    pub fn plant_learned(
        &mut self,
        cgroup: u64,
        address: IpAddr,
        names: &[Name],
        until_ns: u64,
    ) -> Result<(), DatapathError> {
        let address = address_bytes(address);
        let first = learned_bucket(address_words(address));
        for place in 0..LEARNED_PROBES {
            let bucket = (first + place) & (LEARNED_BUCKETS - 1);
            let key = LearnedKey { endpoint: cgroup, bucket, pad: 0 };
            let Some(name) = names.get(place as usize) else {
                install::gone(self.names.learned.remove(&key), "LEARNED")?;
                continue;
            };
            let (reversed, length) =
                reversed(name.as_str().as_bytes()).ok_or_else(|| DatapathError::Name(name.to_string()))?;
            let value = LearnedValue {
                until_ns,
                learned_ns: 0,
                address,
                resolver: [0; 16],
                name_length: length as u8,
                pad: [0; 7],
                prefix_length: NameKey::BITS,
                policy: NO_POLICY,
                name: reversed,
                pad2: 0,
            };
            self.names.learned.insert(key, value, 0).map_err(map_error("LEARNED"))?;
        }
        Ok(())
    }

    /// Forgets what an endpoint has learned.
    pub(super) fn forget_learned(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        for bucket in 0..LEARNED_BUCKETS {
            let key = LearnedKey { endpoint: cgroup, bucket, pad: 0 };
            install::gone(self.names.learned.remove(&key), "LEARNED")?;
        }
        Ok(())
    }
}

/// A reversed name as people read it. Only what stands in names comes out of the kernel; a terminal is safe with it.
pub fn name_text(name: &[u8], length: u8) -> String {
    let reversed = name.get(..usize::from(length)).unwrap_or_default();
    let text: String = reversed
        .iter()
        .rev()
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' })
        .collect();
    text.strip_prefix('.').unwrap_or(&text).to_owned()
}
