//! What the maps can hold.

use aya::maps::MapInfo;

use super::{DatapathError, Place, map_error};

/// The maps that grow with pods and policies, and refuse what is too much.
pub const CAPPED_MAPS: [(&str, &str); 3] =
    [("endpoints", "ENDPOINTS"), ("addresses", "ADDRESSES"), ("ports", "PORTS")];

/// What each of [`CAPPED_MAPS`] can hold, by the names that people read.
pub fn capacities(place: &Place) -> Result<Vec<(&'static str, u64)>, DatapathError> {
    let capacity = |(name, map): (&'static str, &'static str)| {
        let info = MapInfo::from_pin(place.maps().join(map)).map_err(map_error(map))?;
        Ok((name, u64::from(info.max_entries())))
    };
    CAPPED_MAPS.into_iter().map(capacity).collect()
}
