//! What the kernel keeps with sockets, for whoever asks for it by `sock_diag(7)`.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use aya::maps::{HashMap, Map, MapData, MapInfo};
use sluice_abi::{LEARNED_BUCKETS, LEARNED_PROBES, LearnedKey, LearnedValue, address_words, learned_bucket};

use super::{DatapathError, Place, map_error, name_text, sys};

/// The maps of flows and of their names. Open for as long as this lives.
pub struct FlowMaps {
    /// Judged flows: values are [`sluice_abi::FlowValue`].
    pub flows: Storage,
    /// Names that flows are bound to: values are [`sluice_abi::BoundValue`].
    pub bound: Storage,
    /// Names that flows showed: values are [`sluice_abi::ShownValue`].
    pub shown: Storage,
    learned: HashMap<MapData, LearnedKey, LearnedValue>,
}

/// A map of what is kept with sockets.
pub struct Storage {
    fd: OwnedFd,
    /// The kernel's number of it.
    pub id: u32,
}

impl Storage {
    fn open(place: &Place, name: &'static str) -> Result<Self, DatapathError> {
        let path = place.map(name);
        let id = MapInfo::from_pin(&path).map_err(map_error(name))?.id();
        let opened = sys::open_pin(&path);
        let fd = opened.map_err(|source| DatapathError::Io { action: "open", path, source })?;
        Ok(Self { fd, id })
    }
}

impl AsRawFd for Storage {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl FlowMaps {
    /// Opens them by their pins.
    pub(super) fn open(place: &Place) -> Result<Self, DatapathError> {
        let learned = MapData::from_pin(place.map("LEARNED")).map_err(map_error("LEARNED"))?;
        Ok(Self {
            flows: Storage::open(place, "FLOWS")?,
            bound: Storage::open(place, "BOUND")?,
            shown: Storage::open(place, "SHOWN")?,
            learned: Map::HashMap(learned).try_into().map_err(map_error("LEARNED"))?,
        })
    }

    /// The names that led an endpoint to an address and still count, in the order in which the programs look at them.
    pub fn learned_names(&self, cgroup: u64, address: [u8; 16], now_ns: u64) -> Vec<String> {
        let first = learned_bucket(address_words(address));
        let at = |place: u32| {
            let bucket = (first + place) & (LEARNED_BUCKETS - 1);
            self.learned.get(&LearnedKey { endpoint: cgroup, bucket, pad: 0 }, 0).ok()
        };
        let counts = |value: &LearnedValue| value.address == address && value.until_ns > now_ns;
        let learned = (0..LEARNED_PROBES).map_while(at).filter(counts);
        learned.map(|value| name_text(&value.name, value.name_length)).collect()
    }
}
