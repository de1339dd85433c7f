//! Compiled policies in the maps.

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::MapError;
use aya::maps::lpm_trie::Key;
use nix::libc;
use sluice_abi::{
    AddressKey, NO_LIST, NO_RULE, NO_STEPS, NameKey, NamedValue, PortKey, PortValue, RulingValue, StepsKey,
    StepsValue, action, class, first, named, reversed, ruling,
};
use sluice_policy::{Action, Class, Compiled, CompiledRuling, First, NamePattern, RuleAction};

use super::{Datapath, DatapathError, map_error};

/// A compiled policy that is in the maps.
#[derive(Debug, Default)]
pub struct Ruleset {
    /// Its id, the low half of a slot's word.
    pub id: u32,
    addresses: Vec<(u32, AddressKey)>,
    ports: Vec<(u32, PortKey)>,
    names: Vec<(u32, NameKey)>,
    steps: Vec<StepsKey>,
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
        let mut ruleset = Ruleset { id, ..Ruleset::default() };
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
        for (steps, number) in compiled.steps.iter().zip(NO_STEPS + 1..) {
            let key = StepsKey { policy: ruleset.id, steps: number };
            let encode = |firsts: &sluice_policy::Firsts| firsts.map(step_number);
            let value = StepsValue {
                shown: encode(&steps.shown),
                unread: encode(&steps.unread),
                learned: encode(&steps.learned),
            };
            self.steps.insert(key, value, 0).map_err(map_error("STEPS"))?;
            ruleset.steps.push(key);
        }
        for (list, number) in compiled.lists.iter().zip(first_list..) {
            for entry in &list.entries {
                let key = PortKey {
                    list: number,
                    class: class_number(entry.class),
                    pad: 0,
                    port: entry.port.to_be_bytes(),
                };
                let length = PortKey::HEADER_BITS + u32::from(entry.length);
                let value = PortValue {
                    ruling: ruling_value(entry.ruling, compiled.restricts_queries),
                    steps: entry.steps.map_or(NO_STEPS, |steps| NO_STEPS + 1 + steps),
                };
                self.ports.insert(&Key::new(length, key), value, 0).map_err(map_error("PORTS"))?;
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
        for entry in &compiled.names {
            let (length, key) = name_key(ruleset.id, &entry.pattern)?;
            let value = NamedValue {
                list: entry.list.map_or(NO_LIST, |list| first_list + list),
                flags: if entry.opens { named::OPENS } else { 0 },
            };
            self.patterns.insert(&Key::new(length, key), value, 0).map_err(map_error("NAMES"))?;
            ruleset.names.push((length, key));
        }
        Ok(())
    }

    /// Takes a policy out of the maps. No slot may name it any more, and the last packet that read a slot which did
    /// must have been judged. What is not there any more is no error.
    pub fn retire(&mut self, ruleset: &Ruleset) -> Result<(), DatapathError> {
        for (length, key) in &ruleset.names {
            gone(self.patterns.remove(&Key::new(*length, *key)), "NAMES")?;
        }
        for key in &ruleset.steps {
            gone(self.steps.remove(key), "STEPS")?;
        }
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
        let mut found: BTreeMap<u32, Ruleset> = BTreeMap::new();
        let mut kept_lists = BTreeSet::new();
        let mut old_lists = BTreeMap::new();
        let old = |found: &mut BTreeMap<u32, Ruleset>, id: u32, add: &dyn Fn(&mut Ruleset)| {
            add(found.entry(id).or_insert_with(|| Ruleset { id, ..Ruleset::default() }));
        };
        for entry in &self.patterns {
            let (key, value) = entry.map_err(map_error("NAMES"))?;
            let data = key.data();
            if live.contains(&data.policy) {
                kept_lists.insert(value.list);
                continue;
            }
            old(&mut found, data.policy, &|ruleset| ruleset.names.push((key.prefix_len(), data)));
            old_lists.insert(value.list, data.policy);
        }
        for key in self.steps.keys() {
            let key = key.map_err(map_error("STEPS"))?;
            if !live.contains(&key.policy) {
                old(&mut found, key.policy, &|ruleset| ruleset.steps.push(key));
            }
        }
        for entry in &self.addresses {
            let (key, list) = entry.map_err(map_error("ADDRESSES"))?;
            let data = key.data();
            if live.contains(&data.policy) {
                kept_lists.insert(list);
                continue;
            }
            old(&mut found, data.policy, &|ruleset| ruleset.addresses.push((key.prefix_len(), data)));
            old_lists.insert(list, data.policy);
        }
        for key in self.ports.keys() {
            let key = key.map_err(map_error("PORTS"))?;
            let data = key.data();
            if kept_lists.contains(&data.list) {
                continue;
            }
            // A list that nothing leads to was left by an agent that died while it wrote: it is nobody's.
            let policy = old_lists.get(&data.list).copied().unwrap_or(0);
            old(&mut found, policy, &|ruleset| ruleset.ports.push((key.prefix_len(), data)));
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

/// The key of a pattern, and how many of its bits count. An exact pattern's hold the zero that ends it.
fn name_key(policy: u32, pattern: &NamePattern) -> Result<(u32, NameKey), DatapathError> {
    let (name, end) = match pattern {
        NamePattern::Exact(name) => (name, 1),
        NamePattern::Below(domain) => (domain, 0),
    };
    let (name, length) =
        reversed(name.as_str().as_bytes()).ok_or_else(|| DatapathError::Name(pattern.to_string()))?;
    Ok((NameKey::HEADER_BITS + (length as u32 + end) * 8, NameKey { policy, name }))
}

/// A step as `STEPS` holds it.
fn step_number(step: Option<First>) -> u32 {
    step.map_or(first::NONE, |step| {
        let action = match step.action {
            RuleAction::Allow => first::ALLOW,
            RuleAction::Deny => first::DENY,
            RuleAction::Pass => first::PASS,
        };
        step.ordinal << first::SHIFT | action
    })
}

fn ruling_value(ruling: CompiledRuling, restricts_queries: bool) -> RulingValue {
    let number = |action| if action == Action::Allow { action::ALLOW } else { action::DENY };
    RulingValue {
        applied: number(ruling.applied),
        reported: number(ruling.reported),
        flags: if restricts_queries { ruling::RESTRICTS_QUERIES } else { 0 },
        applied_rule: ruling.applied_rule.unwrap_or(NO_RULE),
        reported_rule: ruling.reported_rule.unwrap_or(NO_RULE),
    }
}
