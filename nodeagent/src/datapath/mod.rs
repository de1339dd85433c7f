//! The kernel side: programs, links and maps. The only module that knows aya.
//!
//! ```text
//! <bpffs>/sluice/<ABI version>/maps/<NAME>-<layout>   the maps, shared by every build that lays them out so
//! <bpffs>/sluice/<ABI version>/links/<program>        the links; what is pinned keeps working without an agent
//! ```
//!
//! Starting again changes nothing that packets notice. Maps are opened; those that no earlier agent laid out as this one
//! does are made beside the old ones, and filled. Then [`Datapath::attach`] exchanges the program behind each pinned link
//! in one step, and the old maps go. Until then the programs of the earlier agent go on with what they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, LpmTrie, MapData, MapError, MapInfo, PerCpuArray, ProgramArray, RingBuf};
use aya::programs::{Program, ProgramError, loaded_programs};
use aya::{Ebpf, EbpfError, EbpfLoader};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sluice_abi::{
    ABI_VERSION, AddressKey, ConfigValue, ConversationKey, EndpointValue, FlowEvent, MAX_ENDPOINTS,
    MAX_OWN_ADDRESSES, NameEvent, NameKey, NamedValue, PayloadEvent, PortKey, PortValue, SlotWord, StepsKey,
    StepsValue, V4_MAPPED, counter, endpoint, layout, tail,
};

mod flows;
mod install;
mod links;
mod names;
mod programs;
mod shared;
mod sys;
mod uprobes;
mod usage;

pub use flows::{FlowMaps, Storage};
pub use install::Ruleset;
pub use links::guard_gone;
use names::Names;
pub use names::{Learned, name_text};
pub use programs::LoadedProgram;
use shared::Shared;
pub use sys::TestRun;
use sys::{AttachType, Target};
pub use uprobes::{Plaintexts, Probe, Probed, Uprobes, read_plaintext};
pub use usage::{CAPPED_MAPS, capacities};

/// The kernel programs, as `ebpf/build` compiled them.
const OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.bpf.o"));

/// Every program and its place. Egress comes last: when it judges, all that it leans on is there.
const PROGRAMS: [(&str, AttachType); 7] = [
    ("sock_create", AttachType::SockCreate),
    ("connect4", AttachType::Inet4Connect),
    ("connect6", AttachType::Inet6Connect),
    ("sendmsg4", AttachType::Udp4Sendmsg),
    ("sendmsg6", AttachType::Udp6Sendmsg),
    ("ingress", AttachType::InetIngress),
    ("egress", AttachType::InetEgress),
];

/// The programs that others hand packets on to: by name, in which array, at which index.
const TAILS: [(&str, &str, u32); 8] = [
    ("question", "EGRESS_TAILS", tail::QUESTION),
    ("asked", "EGRESS_TAILS", tail::ASKED),
    ("hello", "EGRESS_TAILS", tail::HELLO),
    ("named", "EGRESS_TAILS", tail::NAMED),
    ("payload", "EGRESS_TAILS", tail::PAYLOAD),
    ("answer", "INGRESS_TAILS", tail::ANSWER),
    ("walk", "INGRESS_TAILS", tail::WALK),
    ("learn", "INGRESS_TAILS", tail::LEARN),
];

/// Why the kernel side is not as it was asked to be.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The directory for pins is not on a bpffs.
    #[error(
        "{path} is not on a BPF file system; mount one with `mount -t bpf bpf {path}` or give another --bpffs"
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The cgroup root is not a cgroup v2 directory.
    #[error(
        "{path} is not a directory of cgroup v2; give the unified hierarchy's directory as --cgroup-root"
    )]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
    /// Another agent has these pins.
    #[error("another agent runs with the pins in {path}; stop it first, or give another --bpffs")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The object could not be loaded: the maps, or its BTF.
    #[error("cannot load the kernel programs: {0}")]
    Load(#[from] Box<EbpfError>),
    /// The verifier or the kernel refused a program.
    #[error(
        "the kernel refuses the program `{name}` (Linux 5.10 or later with cgroup BPF is needed): {source}"
    )]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A program could not be attached, or its link not kept.
    #[error("cannot {action} the link of `{name}`: {source}")]
    Link {
        /// What was tried.
        action: &'static str,
        /// The program.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map did not take or give what it should.
    #[error("map {name}: {source}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A probe could not be attached.
    #[error("cannot attach the probe `{name}`: {source}")]
    Probe {
        /// Its program.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A program could not be run on a packet.
    #[error("cannot run a program on a test packet: {source}")]
    TestRun {
        /// What the kernel said.
        source: io::Error,
    },
    /// A pattern whose name the kernel's keys do not take.
    #[error("`{0}` is no name that the kernel can hold; remove it from the policy")]
    Name(String),
    /// A map is missing from the object: the build is broken.
    #[error("the kernel object has no `{0}`; build again from a clean tree")]
    Missing(&'static str),
}

/// An open datapath. Dropping it changes nothing in the kernel.
pub struct Datapath {
    endpoints: HashMap<MapData, u64, EndpointValue>,
    addresses: LpmTrie<MapData, AddressKey, u32>,
    ports: LpmTrie<MapData, PortKey, PortValue>,
    steps: HashMap<MapData, StepsKey, StepsValue>,
    patterns: LpmTrie<MapData, NameKey, NamedValue>,
    links: HashMap<MapData, u32, u64>,
    replies: HashMap<MapData, ConversationKey, u64>,
    counters: PerCpuArray<MapData, u64>,
    names: Names,
    /// The arrays of [`TAILS`], once they are filled.
    tails: BTreeMap<&'static str, ProgramArray<MapData>>,
    config: Shared,
    slots: Shared,
    next_policy: u32,
    next_list: u32,
    next_generation: u32,
    /// No packet meets what is in the maps: they are to be filled before one does.
    is_fresh: bool,
    place: Place,
    object: Ebpf,
    _lock: Flock<fs::File>,
}

/// Where the programs are attached and where that is kept.
#[derive(Clone, Debug)]
pub struct Place {
    /// A cgroup v2 directory.
    pub cgroup_root: PathBuf,
    /// A directory on a bpffs.
    pub bpffs: PathBuf,
}

impl Place {
    fn base(&self) -> PathBuf {
        self.bpffs.join("sluice").join(ABI_VERSION.to_string())
    }

    fn maps(&self) -> PathBuf {
        self.base().join("maps")
    }

    /// Where a map of the layout that this build knows is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        let layout = layout::MAPS.iter().find(|(map, _)| *map == name).map_or(0, |(_, layout)| *layout);
        self.maps().join(pin_name(name, layout))
    }

    fn links(&self) -> PathBuf {
        self.base().join("links")
    }
}

/// A ring of events.
pub type Ring = RingBuf<MapData>;

/// The events of a datapath.
pub struct Events {
    /// About flows and names.
    pub flows: Ring,
    /// With payloads to be read: long ones, which must not take the place of the others.
    pub payloads: Ring,
}

impl Datapath {
    /// Opens or makes the maps and loads the programs. What packets meet is not changed before [`Self::attach`].
    pub fn open(place: &Place) -> Result<(Self, Events), DatapathError> {
        check_place(place)?;
        for directory in [place.maps(), place.links()] {
            fs::create_dir_all(&directory).map_err(|source| DatapathError::Io {
                action: "create",
                path: directory,
                source,
            })?;
        }
        let lock = lock(&place.bpffs.join("sluice"))?;
        let is_fresh = drop_unused_maps(place)?;
        let mut loader = EbpfLoader::new();
        loader.allow_unsupported_maps();
        for (name, _) in layout::MAPS {
            loader.map_pin_path(name, place.map(name));
        }
        let mut object = loader.load(OBJECT).map_err(Box::new)?;
        for name in PROGRAMS.iter().map(|(name, _)| *name).chain(TAILS.iter().map(|(name, ..)| *name)) {
            load(&mut object, name)?;
        }
        links::load_guards(&mut object)?;
        let events = Events { flows: take(&mut object, "EVENTS")?, payloads: take(&mut object, "PAYLOADS")? };
        let mut datapath = Self::from_maps(object, lock, place, is_fresh)?;
        datapath.find_next_ids()?;
        Ok((datapath, events))
    }

    fn from_maps(
        mut loaded: Ebpf,
        lock: Flock<fs::File>,
        place: &Place,
        is_fresh: bool,
    ) -> Result<Self, DatapathError> {
        let object = &mut loaded;
        let shared = |name: &'static str, words: usize| {
            let path = place.map(name);
            let opened = sys::open_pin(&path).and_then(|map| Shared::map(map.as_fd(), words));
            opened.map_err(|source| DatapathError::Io { action: "map into memory", path, source })
        };
        Ok(Self {
            endpoints: take(object, "ENDPOINTS")?,
            addresses: take(object, "ADDRESSES")?,
            ports: take(object, "PORTS")?,
            steps: take(object, "STEPS")?,
            patterns: take(object, "NAMES")?,
            links: take(object, "LINKS")?,
            replies: take(object, "REPLIES")?,
            counters: take(object, "COUNTERS")?,
            names: Names::take(object)?,
            tails: BTreeMap::new(),
            slots: shared("SLOTS", MAX_ENDPOINTS as usize)?,
            config: shared("CONFIG", size_of::<ConfigValue>() / size_of::<u64>())?,
            next_policy: 1,
            next_list: 1,
            next_generation: 1,
            is_fresh,
            place: place.clone(),
            object: loaded,
            _lock: lock,
        })
    }

    /// Are there no endpoints in the maps only because this build lays them out in another way, or because nobody was
    /// here before?
    pub fn is_fresh(&self) -> bool {
        self.is_fresh
    }

    /// Puts every program behind its pinned link, and removes the maps that only an earlier agent's programs used. What
    /// packets are to meet must be in the maps by then.
    pub fn attach(&mut self) -> Result<(), DatapathError> {
        let root = &self.place.cgroup_root;
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |source| DatapathError::Io { action, path, source }
        };
        let cgroup = fs::File::open(root).map_err(io("open", root))?;
        let wanted = cgroup.metadata().map_err(io("look at", root))?.ino();
        self.fill_tails()?;
        for (name, at) in PROGRAMS {
            let program = self.object.program(name).ok_or(DatapathError::Missing(name))?;
            let refused = |source| DatapathError::Program { name, source: Box::new(source) };
            let program = program.fd().map_err(refused)?.as_fd();
            let pin = self.place.links().join(name);
            links::put(program, name, at, Target::Cgroup(cgroup.as_fd()), wanted, &pin)?;
        }
        self.drop_dead_guards()?;
        self.drop_old_maps()
    }

    fn drop_old_maps(&self) -> Result<(), DatapathError> {
        let directory = self.place.maps();
        let ours: BTreeSet<PathBuf> = layout::MAPS.iter().map(|(name, _)| self.place.map(name)).collect();
        let pins = fs::read_dir(&directory).map_err(|source| DatapathError::Io {
            action: "read",
            path: directory.clone(),
            source,
        })?;
        for pin in pins.flatten().map(|pin| pin.path()).filter(|pin| !ours.contains(pin)) {
            tracing::info!(pin = %pin.display(), "removing a map that an earlier agent laid out in another way");
            remove(&pin, fs::remove_file)?;
        }
        Ok(())
    }

    /// Ids are not used again while anything in the kernel may still hold them.
    fn find_next_ids(&mut self) -> Result<(), DatapathError> {
        for entry in &self.addresses {
            let (key, list) = entry.map_err(map_error("ADDRESSES"))?;
            self.next_policy = self.next_policy.max({ key.data() }.policy + 1);
            self.next_list = self.next_list.max(list + 1);
        }
        for entry in &self.patterns {
            let (key, value) = entry.map_err(map_error("NAMES"))?;
            self.next_policy = self.next_policy.max({ key.data() }.policy + 1);
            self.next_list = self.next_list.max(value.list + 1);
        }
        for key in self.steps.keys() {
            self.next_policy = self.next_policy.max(key.map_err(map_error("STEPS"))?.policy + 1);
        }
        for key in self.ports.keys() {
            self.next_list = self.next_list.max({ key.map_err(map_error("PORTS"))?.data() }.list + 1);
        }
        for slot in 0..MAX_ENDPOINTS {
            let word = self.slot(slot);
            self.next_generation = self.next_generation.max(word.generation().wrapping_add(1));
            self.next_policy = self.next_policy.max(word.policy() + 1);
        }
        Ok(())
    }

    /// Gives no policy an id up to this one: an earlier agent's rules are still known by it.
    pub fn skip_ids(&mut self, policy: u32) {
        self.next_policy = self.next_policy.max(policy + 1);
    }

    /// The policy in force for a slot.
    pub fn slot(&self, slot: u32) -> SlotWord {
        SlotWord(self.slots.load(slot as usize))
    }

    /// Puts a policy in force for a slot: one store, seen whole by every packet from now on.
    pub fn flip(&mut self, slot: u32, policy: u32) {
        self.slots.store(slot as usize, SlotWord::new(policy, self.next_generation).0);
        self.next_generation = self.next_generation.wrapping_add(1).max(1);
    }

    /// Says at which levels of the cgroup tree endpoints are.
    pub fn set_levels(&mut self, levels: &BTreeSet<u32>) {
        self.config.store(0, levels.iter().fold(0, |mask, level| mask | 1 << level));
    }

    /// Makes a cgroup an endpoint. Its slot's word must be in place by then. One in the host's network may have other
    /// addresses beside its `own`.
    pub fn set_endpoint(
        &mut self,
        cgroup: u64,
        slot: u32,
        own: &[IpAddr],
        host_network: bool,
    ) -> Result<(), DatapathError> {
        let mut value = EndpointValue {
            slot,
            own_count: own.len().min(MAX_OWN_ADDRESSES) as u32,
            flags: if host_network { endpoint::HOST_NETWORK } else { 0 },
            pad: 0,
            #[cfg(feature = "rehearsal")]
            rehearsal: u64::MAX,
            own: [[0; 16]; MAX_OWN_ADDRESSES],
        };
        for (place, address) in value.own.iter_mut().zip(own) {
            *place = address_bytes(*address);
        }
        self.endpoints.insert(cgroup, value, 0).map_err(map_error("ENDPOINTS"))
    }

    /// Makes a cgroup an endpoint no longer. What was never one is no error.
    pub fn remove_endpoint(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        install::gone(self.endpoints.remove(&cgroup), "ENDPOINTS")?;
        self.forget_learned(cgroup)
    }

    /// Every endpoint that the kernel knows: cgroup id and slot.
    pub fn endpoints(&self) -> Result<Vec<(u64, u32)>, DatapathError> {
        self.endpoints
            .iter()
            .map(|entry| entry.map(|(cgroup, value)| (cgroup, value.slot)).map_err(map_error("ENDPOINTS")))
            .collect()
    }

    /// The program behind a pinned link, by the link's name: what packets meet.
    pub fn program(&self, place: &Place, link: &str) -> Result<OwnedFd, DatapathError> {
        let path = place.links().join(link);
        let opened = sys::open_pin(&path)
            .and_then(|link| sys::link_info(link.as_fd()))
            .and_then(|info| sys::program_by_id(info.program));
        opened.map_err(|source| DatapathError::Io { action: "open the program behind", path, source })
    }

    /// The maps of flows, for whoever asks the kernel for a socket's.
    pub fn flow_maps(&self) -> Result<FlowMaps, DatapathError> {
        FlowMaps::open(&self.place)
    }

    /// Counts a conversation that is older than Sluice as one that the peer began.
    pub fn note_reply(&mut self, conversation: ConversationKey, now_ns: u64) -> Result<(), DatapathError> {
        self.replies.insert(conversation, now_ns, 0).map_err(map_error("REPLIES"))
    }

    /// The counters of [`sluice_abi::counter`], summed over the CPUs.
    pub fn counters(&self) -> Result<[u64; counter::COUNT as usize], DatapathError> {
        let mut sums = [0; counter::COUNT as usize];
        for (index, sum) in sums.iter_mut().enumerate() {
            let values = self.counters.get(&(index as u32), 0).map_err(map_error("COUNTERS"))?;
            *sum = values.iter().sum();
        }
        Ok(sums)
    }
}

/// Runs an egress or ingress program on a packet `repeat` times (`BPF_PROG_TEST_RUN`). The first 14 bytes of `packet`
/// are an Ethernet header; `interface` is the index of the device by which it goes.
pub fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    interface: u32,
    repeat: u32,
) -> Result<TestRun, DatapathError> {
    sys::test_run(program, packet, interface, repeat).map_err(|source| DatapathError::TestRun { source })
}

/// An event out of the ring buffer.
#[derive(Clone, Debug)]
pub enum Event {
    /// About a flow.
    Flow(FlowEvent),
    /// About a name, or about a flow that one led to.
    Name(Box<NameEvent>),
    /// With a payload.
    Payload(Box<PayloadEvent>),
}

impl Event {
    /// What any event has.
    pub fn flow(&self) -> &FlowEvent {
        match self {
            Self::Flow(flow) => flow,
            Self::Name(event) => &event.flow,
            Self::Payload(event) => &event.event.flow,
        }
    }
}

/// Reads an event out of the ring buffer's bytes.
pub fn read_event(bytes: &[u8]) -> Option<Event> {
    read_as(bytes)
        .map(|event| Event::Payload(Box::new(event)))
        .or_else(|| read_as(bytes).map(|event| Event::Name(Box::new(event))))
        .or_else(|| read_as(bytes).map(Event::Flow))
}

fn read_as<T: aya::Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: at least as many readable bytes as the struct has, every pattern of which is a value of it; the read asks
    // for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// An address as the maps hold it.
pub fn address_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address out of the maps' form.
pub fn address_from(bytes: [u8; 16]) -> IpAddr {
    let v6 = std::net::Ipv6Addr::from(bytes);
    if bytes[..12] == V4_MAPPED {
        v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4)
    } else {
        IpAddr::V6(v6)
    }
}

/// Takes everything of Sluice out of the kernel: programs are detached, whoever holds them, then all pins removed.
/// Says what it removed.
pub fn detach(bpffs: &Path) -> Result<Vec<PathBuf>, DatapathError> {
    let base = bpffs.join("sluice");
    let mut removed = Vec::new();
    let versions = match fs::read_dir(&base) {
        Ok(versions) => versions,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        Err(source) => return Err(DatapathError::Io { action: "read", path: base, source }),
    };
    for version in versions.flatten() {
        links::detach_guards(&version.path().join("maps"))?;
        for part in ["links", "maps"] {
            let directory = version.path().join(part);
            for pin in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = pin.path();
                if part == "links" {
                    sys::open_pin(&path).and_then(|link| sys::link_detach(link.as_fd())).map_err(
                        |source| DatapathError::Io { action: "detach", path: path.clone(), source },
                    )?;
                }
                remove(&path, fs::remove_file)?;
                removed.push(path);
            }
            remove(&directory, fs::remove_dir)?;
        }
        remove(&version.path(), fs::remove_dir)?;
    }
    remove(&base, fs::remove_dir)?;
    Ok(removed)
}

fn remove(path: &Path, how: impl Fn(PathBuf) -> io::Result<()>) -> Result<(), DatapathError> {
    match how(path.to_owned()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Io { action: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Two agents on the same maps would each take the other's endpoints for nobody's.
fn lock(directory: &Path) -> Result<Flock<fs::File>, DatapathError> {
    let failed = |source| DatapathError::Io { action: "lock", path: directory.to_owned(), source };
    let file = fs::File::open(directory).map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => DatapathError::InUse { path: directory.to_owned() },
        error => failed(error.into()),
    })
}

fn check_place(place: &Place) -> Result<(), DatapathError> {
    let file_system = |path: &Path| nix::sys::statfs::statfs(path).map(|stat| stat.filesystem_type());
    if file_system(&place.bpffs) != Ok(nix::sys::statfs::BPF_FS_MAGIC) {
        return Err(DatapathError::NotBpffs { path: place.bpffs.clone() });
    }
    if file_system(&place.cgroup_root) != Ok(nix::sys::statfs::CGROUP2_SUPER_MAGIC) {
        return Err(DatapathError::NotCgroup2 { path: place.cgroup_root.clone() });
    }
    Ok(())
}

/// The maps that say what is done with a packet. The program at egress reads all of them.
const IN_FORCE: [&str; 7] = ["ENDPOINTS", "SLOTS", "ADDRESSES", "PORTS", "STEPS", "NAMES", "FLOWS"];

/// Removes those of [`IN_FORCE`] that the program at egress does not read: an agent that died before it attached its
/// programs may have filled them by half. Says whether there were any, or none at all: whether what packets meet is not in
/// the maps that this build will open.
fn drop_unused_maps(place: &Place) -> Result<bool, DatapathError> {
    let pin = place.links().join("egress");
    let program = match sys::open_pin(&pin).and_then(|link| sys::link_info(link.as_fd())) {
        Ok(info) => Some(info.program),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(DatapathError::Io { action: "look at", path: pin, source }),
    };
    let attached = loaded_programs().flatten().find(|loaded| Some(loaded.id()) == program);
    let read = attached.and_then(|program| program.map_ids().ok().flatten()).unwrap_or_default();
    let mut is_fresh = false;
    for name in IN_FORCE {
        let pin = place.map(name);
        let id =
            if pin.exists() { Some(MapInfo::from_pin(&pin).map_err(map_error(name))?.id()) } else { None };
        if !id.is_some_and(|id| read.contains(&id)) {
            is_fresh = true;
            remove(&pin, fs::remove_file)?;
        }
    }
    Ok(is_fresh)
}

/// Loads one of [`PROGRAMS`].
fn load(object: &mut Ebpf, name: &'static str) -> Result<(), DatapathError> {
    match object.program_mut(name) {
        Some(Program::CgroupSkb(program)) => program.load(),
        Some(Program::CgroupSock(program)) => program.load(),
        Some(Program::CgroupSockAddr(program)) => program.load(),
        _ => return Err(DatapathError::Missing(name)),
    }
    .map_err(|source| DatapathError::Program { name, source: Box::new(source) })
}

/// The name of a map's pin. A dot is not allowed in it.
fn pin_name(map: &str, layout: u32) -> String {
    format!("{map}-{layout}")
}

fn take<M>(object: &mut Ebpf, name: &'static str) -> Result<M, DatapathError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(DatapathError::Missing(name))?;
    M::try_from(map).map_err(map_error(name))
}

fn map_error(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { name, source: Box::new(source) }
}
