//! Pinned links, and the guard at the host's end of a pod's link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcHandle, qdisc_add_clsact,
    qdisc_detach_program,
};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType};
use nix::libc;
use nix::net::if_::if_indextoname;

use super::sys::{self, AttachType, Target};
use super::{Datapath, DatapathError, map_error};
use crate::netlink::Netlink;

/// The classifiers by their names in the object and in the pins' names. What is heard is noted before it is relied on.
const GUARDS: [(&str, AttachType); 2] = [("heard", AttachType::TcxEgress), ("wire", AttachType::TcxIngress)];

/// The place of a guard among the filters of an interface, by which it is found again. The handle is nobody else's: others
/// take small ones.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x736c);

// Where clsact is, and its two sides: include/uapi/linux/pkt_sched.h.
const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_SIDES: [u32; 2] = [0xffff_fff2, 0xffff_fff3];

/// Puts a program behind its pinned link: exchanges it where the link is already at `wanted`, makes the link where there
/// is none.
pub(super) fn put(
    program: BorrowedFd<'_>,
    name: &'static str,
    at: AttachType,
    target: Target<'_>,
    wanted: u64,
    pin: &Path,
) -> Result<(), DatapathError> {
    let failed = |action| move |source| DatapathError::Link { action, name, source };
    match sys::open_pin(pin) {
        Ok(link) => {
            let info = sys::link_info(link.as_fd()).map_err(failed("inspect"))?;
            if info.target(at) == wanted && info.is(at) {
                return sys::link_update(link.as_fd(), program).map_err(failed("update"));
            }
            // At another place, or at one that is gone: this link governs nothing that we are asked to.
            tracing::warn!(program = name, at = info.target(at), "replacing a link that is elsewhere");
            remove(&link, pin).map_err(failed("detach"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("open")(error)),
    }
    let link = sys::link_create(program, target, at).map_err(failed("create"))?;
    sys::pin(link.as_fd(), pin).map_err(failed("pin"))
}

fn remove(link: &impl AsFd, pin: &Path) -> io::Result<()> {
    match sys::link_detach(link.as_fd()) {
        // Its device or cgroup has gone already.
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
        other => other?,
    }
    fs::remove_file(pin)
}

/// Loads the classifiers; they are attached for each pod.
pub(super) fn load_guards(object: &mut Ebpf) -> Result<(), DatapathError> {
    for (name, _) in GUARDS {
        classifier(object, name)?
            .load()
            .map_err(|source| DatapathError::Program { name, source: Box::new(source) })?;
    }
    Ok(())
}

fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    match object.program_mut(name) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(DatapathError::Missing(name)),
    }
}

impl Datapath {
    /// Watches the host's end of a pod's link for what the cgroup hooks do not see.
    ///
    /// An interface that has no queueing discipline of anybody's gets one with our filters. Otherwise a link is made, with
    /// which no other software's filters can interfere; but a link waits until every CPU has passed by (`tcx_entry_sync`: 8
    /// to 20 ms), with the lock of the network's configuration held, for each direction, when it is made and when the
    /// interface goes. What an earlier agent made is exchanged as it is.
    pub fn guard(&mut self, interface: u32, cgroup: u64) -> Result<(), DatapathError> {
        self.links.insert(interface, cgroup, 0).map_err(map_error("LINKS"))?;
        let device = if_indextoname(interface).map_err(|error| DatapathError::Link {
            action: "find the interface of",
            name: GUARDS[0].0,
            source: error.into(),
        })?;
        let device = device.to_string_lossy();
        let is_ours = qdisc_add_clsact(&device).is_ok();
        for (name, at) in GUARDS {
            let pin = self.place.links().join(format!("{name}-{interface}"));
            let program = classifier(&mut self.object, name)?;
            let refused = |source| DatapathError::Program { name, source: Box::new(source) };
            let done =
                if is_ours { add_filter(program, at, &device) } else { replace_filter(program, at, &device) };
            if done.is_ok() && !pin.exists() {
                continue;
            }
            let fd = program.fd().map_err(refused)?.as_fd();
            match put(fd, name, at, Target::Interface(interface), interface.into(), &pin) {
                // Before 6.6 an interface takes classifiers by netlink only.
                Err(DatapathError::Link { action: "create", source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    add_filter(program, at, &device).map_err(refused)?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// The program of a guard, `wire` or `heard`, whichever way it is attached.
    pub fn guard_program(&mut self, name: &'static str) -> Result<OwnedFd, DatapathError> {
        let program = classifier(&mut self.object, name)?.fd();
        let program = program.map_err(|source| DatapathError::Program { name, source: Box::new(source) })?;
        let action = "open the program of";
        program.as_fd().try_clone_to_owned().map_err(|source| DatapathError::Link { action, name, source })
    }

    /// Does this kernel know links on interfaces (6.6)? One that does looks for the interface, which cannot be.
    pub fn has_links_on_interfaces(&self) -> bool {
        let [(name, at), _] = GUARDS;
        let Some(Program::SchedClassifier(program)) = self.object.program(name) else { return false };
        let Ok(program) = program.fd() else { return false };
        let nowhere = Target::Interface(libc::c_int::MAX.cast_unsigned());
        let made = sys::link_create(program.as_fd(), nowhere, at);
        made.is_err_and(|error| error.raw_os_error() == Some(libc::ENODEV))
    }

    /// Ends the watch on every link of a cgroup that is gone.
    pub fn unguard(&mut self, cgroup: u64) -> Result<(), DatapathError> {
        let interfaces: Result<Vec<(u32, u64)>, _> = self.links.iter().collect();
        for (interface, owner) in interfaces.map_err(map_error("LINKS"))? {
            if owner == cgroup {
                self.remove_guard(interface)?;
            }
        }
        Ok(())
    }

    /// Removes what is left of links whose device is gone.
    pub(super) fn drop_dead_guards(&mut self) -> Result<(), DatapathError> {
        let interfaces: Result<Vec<u32>, _> = self.links.keys().collect();
        for interface in interfaces.map_err(map_error("LINKS"))? {
            if if_indextoname(interface).is_err() {
                self.remove_guard(interface)?;
            }
        }
        Ok(())
    }

    fn remove_guard(&mut self, interface: u32) -> Result<(), DatapathError> {
        detach_by_netlink(interface);
        super::install::gone(self.links.remove(&interface), "LINKS")?;
        for (name, _) in GUARDS {
            let pin = self.place.links().join(format!("{name}-{interface}"));
            match sys::open_pin(&pin).and_then(|link| remove(&link, &pin)) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(DatapathError::Link { action: "remove", name, source });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds our filter where there is none of ours. It goes with the interface, and is found again by its place.
fn add_filter(program: &mut SchedClassifier, at: AttachType, device: &str) -> Result<(), ProgramError> {
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, ..NlOptions::default() };
    let link = program.attach_with_options(device, side(at), TcAttachOptions::Netlink(options))?;
    keep(program, link)
}

/// Puts a program into our filter of before in one step. Where there is none the kernel says so.
fn replace_filter(program: &mut SchedClassifier, at: AttachType, device: &str) -> Result<(), ProgramError> {
    let before = SchedClassifierLink::attached(device, side(at), PRIORITY, HANDLE, None);
    let link = program.attach_to_link(before.map_err(ProgramError::IOError)?)?;
    keep(program, link)
}

/// The filter stays with the interface, whatever becomes of this agent.
fn keep(program: &mut SchedClassifier, link: SchedClassifierLinkId) -> Result<(), ProgramError> {
    std::mem::forget(program.take_link(link)?);
    Ok(())
}

/// The interface from which a notice of `rtnetlink(7)` says that a guard has gone.
pub fn guard_gone(kind: u16, message: &[u8]) -> Option<u32> {
    // `struct tcmsg` (include/uapi/linux/rtnetlink.h): after a word, the interface, handle, parent, and the priority in
    // the upper half of a word.
    let word = |at: usize| Some(u32::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let is_guards = match kind {
        libc::RTM_DELQDISC => word(12)? == TC_H_CLSACT,
        // All filters of a priority go under the handle 0 (`tfilter_notify_chain` in net/sched/cls_api.c).
        libc::RTM_DELTFILTER => {
            [0, HANDLE.into()].contains(&word(8)?) && word(16)? >> 16 == u32::from(PRIORITY)
        }
        _ => false,
    };
    if is_guards { word(4) } else { None }
}

/// Takes a queueing discipline for filters away, if nothing is in it.
fn drop_clsact(interface: u32) -> io::Result<()> {
    let message = |parent: u32| {
        let mut message = [0; 20];
        message[4..8].copy_from_slice(&interface.to_ne_bytes());
        message[12..16].copy_from_slice(&parent.to_ne_bytes());
        message
    };
    let netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    let mut filters = 0;
    for parent in TC_H_SIDES {
        netlink.dump(libc::RTM_GETTFILTER, &message(parent), |_| filters += 1)?;
    }
    if filters > 0 { Ok(()) } else { netlink.ask(libc::RTM_DELQDISC, &message(TC_H_CLSACT)) }
}

/// Takes the filters of an interface away. Where there are none, or no interface, there is nothing to do.
fn detach_by_netlink(interface: u32) {
    let Ok(name) = if_indextoname(interface) else { return };
    for (program, at) in GUARDS {
        let _ = qdisc_detach_program(&name.to_string_lossy(), side(at), program);
    }
}

fn side(at: AttachType) -> TcAttachType {
    if at == AttachType::TcxEgress { TcAttachType::Egress } else { TcAttachType::Ingress }
}

/// Takes away every filter that the maps of guarded links in `maps` name, for kernels without links on interfaces.
pub(super) fn detach_guards(maps: &Path) -> Result<(), DatapathError> {
    let pins = fs::read_dir(maps).into_iter().flatten().flatten();
    let is_links = |pin: &fs::DirEntry| pin.file_name().to_string_lossy().starts_with("LINKS-");
    for pin in pins.filter(is_links) {
        let map = MapData::from_pin(pin.path()).map_err(map_error("LINKS"))?;
        let links: HashMap<_, u32, u64> = Map::HashMap(map).try_into().map_err(map_error("LINKS"))?;
        for interface in links.keys() {
            let interface = interface.map_err(map_error("LINKS"))?;
            detach_by_netlink(interface);
            // Where there is none, or no interface, there is nothing to do.
            let _ = drop_clsact(interface);
        }
    }
    Ok(())
}
