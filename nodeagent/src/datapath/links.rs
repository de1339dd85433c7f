//! Pinned links, and the guard at the host's end of a pod's link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData};
use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact, qdisc_detach_program,
};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType};
use nix::libc;
use nix::net::if_::if_indextoname;

use super::sys::{self, AttachType, Target};
use super::{Datapath, DatapathError, map_error};

/// The classifiers by their names in the object and in the pins' names. What is heard is noted before it is relied on.
const GUARDS: [(&str, AttachType); 2] = [("heard", AttachType::TcxEgress), ("wire", AttachType::TcxIngress)];

/// The place of a guard among the filters of an interface, by which it is found again.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

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
    pub fn guard(&mut self, interface: u32, cgroup: u64) -> Result<(), DatapathError> {
        self.links.insert(interface, cgroup, 0).map_err(map_error("LINKS"))?;
        for (name, at) in GUARDS {
            let pin = self.place.links().join(format!("{name}-{interface}"));
            let program = classifier(&mut self.object, name)?;
            let refused = |source| DatapathError::Program { name, source: Box::new(source) };
            let fd = program.fd().map_err(refused)?.as_fd();
            match put(fd, name, at, Target::Interface(interface), interface.into(), &pin) {
                // Before 6.6 an interface takes classifiers by netlink only. They go with the interface, and are found
                // again by their place.
                Err(DatapathError::Link { action: "create", source, .. })
                    if source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    attach_by_netlink(program, at, interface).map_err(refused)?;
                }
                done => done?,
            }
        }
        Ok(())
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

fn attach_by_netlink(
    program: &mut SchedClassifier,
    at: AttachType,
    interface: u32,
) -> Result<(), ProgramError> {
    let name = if_indextoname(interface).map_err(|error| ProgramError::IOError(error.into()))?;
    let name = name.to_string_lossy();
    let side = side(at);
    // Our filter of before, if there is one, is replaced in one step. Where there is none the kernel says so.
    let before =
        SchedClassifierLink::attached(&name, side, PRIORITY, HANDLE, None).map_err(ProgramError::IOError)?;
    let link = if let Ok(link) = program.attach_to_link(before) {
        link
    } else {
        // A queueing discipline that is there already is as good as ours.
        let _ = qdisc_add_clsact(&name);
        let options = NlOptions { priority: PRIORITY, handle: HANDLE, ..NlOptions::default() };
        program.attach_with_options(&name, side, TcAttachOptions::Netlink(options))?
    };
    // The filter stays with the interface, whatever becomes of this agent.
    std::mem::forget(program.take_link(link)?);
    Ok(())
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
            detach_by_netlink(interface.map_err(map_error("LINKS"))?);
        }
    }
    Ok(())
}
