//! Probes in TLS libraries. They load and end apart from everything that enforces: nothing of them is pinned.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf};
use aya::programs::uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope};
use aya::programs::{Program, UProbe};
use aya::{Ebpf, EbpfLoader};
use sluice_abi::{ConnectionKey, ConnectionValue, PlaintextHeader, connection, cookie, plaintext_counter};

use super::{DatapathError, Place, install, map_error, take};

/// The probes, as `ebpf/build` compiled them.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-uprobes.bpf.o"));

/// Every program.
const PROGRAMS: [&str; 6] = ["openssl_write", "gnutls_write", "go_write", "rustls_write", "c_end", "go_end"];

/// What a function that is probed takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed {
    /// `SSL_write` and `SSL_write_ex`.
    OpenSsl,
    /// `gnutls_record_send`.
    GnuTls,
    /// `crypto/tls.(*Conn).Write`.
    Go,
    /// `write` behind `rustls::Writer`.
    Rustls,
    /// `SSL_free` and `gnutls_deinit`.
    End,
    /// `crypto/tls.(*Conn).Close`.
    GoEnd,
}

impl Probed {
    fn program(self) -> &'static str {
        match self {
            Self::OpenSsl => "openssl_write",
            Self::GnuTls => "gnutls_write",
            Self::Go => "go_write",
            Self::Rustls => "rustls_write",
            Self::End => "c_end",
            Self::GoEnd => "go_end",
        }
    }
}

/// The records of the probes.
pub type Plaintexts = RingBuf<MapData>;

/// An attached probe. Dropping it detaches it, which takes the kernel some milliseconds.
pub struct Probe(#[expect(dead_code, reason = "it is held for its end")] UProbeLink);

/// The loaded probes.
pub struct Uprobes {
    counters: PerCpuArray<MapData, u64>,
    connections: HashMap<MapData, ConnectionKey, ConnectionValue>,
    leaves: HashMap<MapData, u64, u64>,
    /// The kernel tells the probes' programs the ancestors of a process, and which probe they run for (Linux 5.15).
    has_ancestors: bool,
    /// How many probes there ever were: the number of the last one, by which its program knows it.
    attached: u32,
    pub(super) object: Ebpf,
}

impl Uprobes {
    /// Loads the programs. `CONFIG` and `ENDPOINTS` must have been made by [`super::Datapath::open`].
    pub fn open(place: &Place) -> Result<(Self, Plaintexts), DatapathError> {
        let (mut object, has_ancestors) = match load(place, true) {
            Ok(object) => (object, true),
            Err(refused) => {
                let object = load(place, false);
                (object.map_err(|_| refused)?, false)
            }
        };
        let records = take(&mut object, "PLAINTEXT")?;
        let uprobes = Self {
            counters: take(&mut object, "PLAINTEXT_COUNTERS")?,
            connections: take(&mut object, "CONNECTIONS")?,
            leaves: take(&mut object, "LEAVES")?,
            has_ancestors,
            attached: 0,
            object,
        };
        Ok((uprobes, records))
    }

    /// Does the agent have to say which cgroup is in which pod ([`Self::set_leaf`])?
    pub fn needs_leaves(&self) -> bool {
        !self.has_ancestors
    }

    /// Says in which pod's cgroup others lie, and forgets what was said before.
    pub fn set_leaves(&mut self, wanted: &BTreeMap<u64, u64>) -> Result<(), DatapathError> {
        let there: Result<Vec<u64>, _> = self.leaves.keys().collect();
        for leaf in there.map_err(map_error("LEAVES"))?.iter().filter(|leaf| !wanted.contains_key(leaf)) {
            install::gone(self.leaves.remove(leaf), "LEAVES")?;
        }
        for (leaf, endpoint) in wanted {
            self.leaves.insert(leaf, endpoint, 0).map_err(map_error("LEAVES"))?;
        }
        Ok(())
    }

    /// Puts a probe where a function begins, for all processes that map the file. `handshake`: where in the structure of a
    /// connection a number says that its handshake goes on.
    pub fn attach(
        &mut self,
        what: Probed,
        file: BorrowedFd<'_>,
        offset: u64,
        handshake: Option<u32>,
    ) -> Result<Probe, DatapathError> {
        self.attached = self.attached.wrapping_add(1);
        let place = handshake.map_or(0, |offset| cookie::HANDSHAKE | u64::from(offset));
        let cookie = place << cookie::SHIFT | u64::from(self.attached);
        let name = what.program();
        let program = program(&mut self.object, name)?;
        let point = UProbeAttachPoint {
            location: UProbeAttachLocation::AbsoluteOffset(offset),
            cookie: self.has_ancestors.then_some(cookie),
        };
        // The file itself, whatever its path has become.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let refused = |source| DatapathError::Probe { name, source: Box::new(source) };
        let link = program.attach(point, Path::new(&path), UProbeScope::AllProcesses).map_err(refused)?;
        program.take_link(link).map(Probe).map_err(refused)
    }

    /// Says that a connection shows no requests: nothing more of it is copied until one begins.
    pub fn pass_over(&mut self, key: ConnectionKey) -> Result<(), DatapathError> {
        let mut value = match self.connections.get(&key, 0) {
            Ok(value) => value,
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(map_error("CONNECTIONS")(error)),
        };
        // A write between the two calls is counted as lost.
        value.state = connection::OVER;
        self.connections.insert(key, value, 0).map_err(map_error("CONNECTIONS"))
    }

    /// The counters of [`plaintext_counter`], summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; plaintext_counter::COUNT as usize], DatapathError> {
        let mut sums = [0; plaintext_counter::COUNT as usize];
        for (index, sum) in sums.iter_mut().enumerate() {
            let values = self.counters.get(&(index as u32), 0).map_err(map_error("PLAINTEXT_COUNTERS"))?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }
}

fn load(place: &Place, has_ancestors: bool) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    for name in ["CONFIG", "ENDPOINTS"] {
        loader.map_pin_path(name, place.map(name));
    }
    let value = u8::from(has_ancestors);
    let mut object = loader.override_global("HAS_ANCESTORS", &value, true).load(OBJECT).map_err(Box::new)?;
    for name in PROGRAMS {
        let taken = program(&mut object, name)?.load();
        taken.map_err(|source| DatapathError::Program { name, source: Box::new(source) })?;
    }
    Ok(object)
}

fn program<'a>(object: &'a mut Ebpf, name: &'static str) -> Result<&'a mut UProbe, DatapathError> {
    match object.program_mut(name) {
        Some(Program::UProbe(program)) => Ok(program),
        _ => Err(DatapathError::Missing(name)),
    }
}

/// Reads a record: its header, and its bytes.
pub fn read_plaintext(record: &[u8]) -> Option<(PlaintextHeader, &[u8])> {
    let header: PlaintextHeader = super::read_as(record)?;
    let bytes = record.get(size_of::<PlaintextHeader>()..)?.get(..header.length as usize)?;
    Some((header, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_says_more_than_it_holds_is_none() {
        let mut record = vec![0; size_of::<PlaintextHeader>() + 8];
        let at = std::mem::offset_of!(PlaintextHeader, length);
        record[at] = 8;
        assert_eq!(read_plaintext(&record).map(|(_, bytes)| bytes.len()), Some(8));
        record[at] = 9;
        assert!(read_plaintext(&record).is_none());
        assert!(read_plaintext(&record[..40]).is_none());
    }
}
