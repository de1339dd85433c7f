//! How full the maps are, as far as policies and pods fill them.

use super::Node;

impl Node {
    /// Entries of the maps of [`crate::datapath::CAPPED_MAPS`], by what was written there: nobody else writes them.
    pub fn map_entries(&self) -> [(&'static str, u64); 3] {
        let installed = self.installed.values().map(|installed| &installed.ruleset);
        let retired = self.retired.iter().filter_map(|retired| retired.ruleset.as_ref());
        let (mut addresses, mut ports) = (0, 0);
        for ruleset in installed.chain(retired) {
            let (of_addresses, of_ports) = ruleset.entries();
            addresses += of_addresses as u64;
            ports += of_ports as u64;
        }
        let endpoints = (self.endpoints.len() + self.orphans.len()) as u64;
        [("endpoints", endpoints), ("addresses", addresses), ("ports", ports)]
    }
}
