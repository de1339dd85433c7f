//! Compiled policies in the maps.

use std::collections::BTreeSet;

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use nix::libc;
use sluice_abi::{AddressKey, NO_RULE, PortKey, RulingValue, action, class};
use sluice_policy::{Action, Class, Compiled, CompiledRuling};

use super::{Datapath, DatapathError, map_error};

/// A compiled policy that is in the maps.
#[derive(Debug)]
pub struct Ruleset {
    /// Its id, the low half of a slot's word.
    pub id: u32,
    addresses: Vec<(u32, AddressKey)>,
    ports: Vec<(u32, PortKey)>,
}

impl Ruleset {
    /// How many entries it has in `ADDRESSES` and in `PORTS`.
    pub fn entries(&self) -> (usize, usize) {
        (self.addresses.len(), self.ports.len())
    }
}

impl Datapath {
    /// Writes a compiled policy under a fresh id. Nothing uses it until a slot is flipped to it; if it does not fit,
    /// what was written is taken back.
    pub fn install(&mut self, compiled: &Compiled) -> Result<Ruleset, DatapathError> {
        let id = self.next_policy;
        self.next_policy += 1;
        let first_list = self.next_list;
        self.next_list += compiled.lists.len() as u32;
        let mut ruleset = Ruleset { id, addresses: Vec::new(), ports: Vec::new() };
        match self.write(compiled, first_list, &mut ruleset) {
            Ok(()) => Ok(ruleset),
            Err(error) => {
                self.retire(&ruleset)?;
                Err(error)
            }
        }
    }

    fn write(
        &mut self,
        compiled: &Compiled,
        first_list: u32,
        ruleset: &mut Ruleset,
    ) -> Result<(), DatapathError> {
        for (list, number) in compiled.lists.iter().zip(first_list..) {
            for entry in &list.entries {
                let key = PortKey {
                    list: number,
                    class: class_number(entry.class),
                    pad: 0,
                    port: entry.port.to_be_bytes(),
                };
                let length = PortKey::HEADER_BITS + u32::from(entry.length);
                self.ports
                    .insert(&Key::new(length, key), ruling_value(entry.ruling), 0)
                    .map_err(map_error("PORTS"))?;
                ruleset.ports.push((length, key));
            }
        }
        for (prefix, list) in &compiled.prefixes {
            let key = AddressKey { policy: ruleset.id, address: prefix.address };
            let length = AddressKey::HEADER_BITS + u32::from(prefix.length);
            self.addresses
                .insert(&Key::new(length, key), first_list + list, 0)
                .map_err(map_error("ADDRESSES"))?;
            ruleset.addresses.push((length, key));
        }
        Ok(())
    }

    /// Takes a policy out of the maps. No slot may name it any more, and the last packet that read a slot which did
    /// must have been judged. What is not there any more is no error.
    pub fn retire(&mut self, ruleset: &Ruleset) -> Result<(), DatapathError> {
        for (length, key) in &ruleset.addresses {
            gone(self.addresses.remove(&Key::new(*length, *key)), "ADDRESSES")?;
        }
        for (length, key) in &ruleset.ports {
            gone(self.ports.remove(&Key::new(*length, *key)), "PORTS")?;
        }
        Ok(())
    }

    /// What earlier agents left in the maps, one ruleset for each policy id that is not among `live`.
    pub fn leftovers(&self, live: &BTreeSet<u32>) -> Result<Vec<Ruleset>, DatapathError> {
        let mut found = std::collections::BTreeMap::new();
        let mut kept_lists = BTreeSet::new();
        let mut old_lists = std::collections::BTreeMap::new();
        for entry in &self.addresses {
            let (key, list) = entry.map_err(map_error("ADDRESSES"))?;
            let data = key.data();
            if live.contains(&data.policy) {
                kept_lists.insert(list);
                continue;
            }
            let ruleset = found.entry(data.policy).or_insert_with(|| Ruleset {
                id: data.policy,
                addresses: Vec::new(),
                ports: Vec::new(),
            });
            ruleset.addresses.push((key.prefix_len(), data));
            old_lists.insert(list, data.policy);
        }
        for key in self.ports.keys() {
            let key = key.map_err(map_error("PORTS"))?;
            let data = key.data();
            if kept_lists.contains(&data.list) {
                continue;
            }
            // A list that no address leads to was left by an agent that died while it wrote: it is nobody's.
            let policy = old_lists.get(&data.list).copied().unwrap_or(0);
            let ruleset = found.entry(policy).or_insert_with(|| Ruleset {
                id: policy,
                addresses: Vec::new(),
                ports: Vec::new(),
            });
            ruleset.ports.push((key.prefix_len(), data));
        }
        Ok(found.into_values().collect())
    }
}

pub(super) fn gone(removed: Result<(), MapError>, name: &'static str) -> Result<(), DatapathError> {
    match removed {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        // aya gives an LPM trie's ENOENT as it came.
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(error) => Err(map_error(name)(error)),
    }
}

fn class_number(class: Class) -> u8 {
    match class {
        Class::Tcp => class::TCP,
        Class::Udp => class::UDP,
        Class::Sctp => class::SCTP,
        Class::Icmp => class::ICMP,
        Class::Other => class::OTHER,
        Class::Opaque => class::OPAQUE,
    }
}

fn ruling_value(ruling: CompiledRuling) -> RulingValue {
    let number = |action| if action == Action::Allow { action::ALLOW } else { action::DENY };
    RulingValue {
        applied: number(ruling.applied),
        reported: number(ruling.reported),
        pad: 0,
        applied_rule: ruling.applied_rule.unwrap_or(NO_RULE),
        reported_rule: ruling.reported_rule.unwrap_or(NO_RULE),
    }
}
