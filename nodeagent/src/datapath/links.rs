//! Pinned links, and the guard at the host's end of a pod's link.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::Ebpf;
use aya::programs::tc::{NlOptions, TcAttachOptions, qdisc_add_clsact};
use aya::programs::{Program, ProgramError, SchedClassifier, TcAttachType};
use nix::libc;
use nix::net::if_::if_indextoname;

use super::sys::{self, AttachType, Target};
use super::{Datapath, DatapathError, map_error};

/// The classifier's name in the object, and in the pins' names.
const WIRE: &str = "wire";

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

/// Loads the classifier; it is attached for each pod.
pub(super) fn load_wire(object: &mut Ebpf) -> Result<(), DatapathError> {
    let refused = |source| DatapathError::Program { name: WIRE, source: Box::new(source) };
    wire(object)?.load().map_err(refused)
}

fn wire(object: &mut Ebpf) -> Result<&mut SchedClassifier, DatapathError> {
    match object.program_mut(WIRE) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(DatapathError::Missing(WIRE)),
    }
}

impl Datapath {
    /// Watches the host's end of a pod's link for what the cgroup hooks do not see.
    pub fn guard(&mut self, interface: u32, cgroup: u64) -> Result<(), DatapathError> {
        self.links.insert(interface, cgroup, 0).map_err(map_error("LINKS"))?;
        let pin = self.guards.join(format!("{WIRE}-{interface}"));
        let program = wire(&mut self.object)?;
        let refused = |source| DatapathError::Program { name: WIRE, source: Box::new(source) };
        let fd = program.fd().map_err(refused)?.as_fd();
        let target = Target::Interface(interface);
        match put(fd, WIRE, AttachType::TcxIngress, target, interface.into(), &pin) {
            // Before 6.6 an interface takes classifiers by netlink only. They go with the interface, and are found
            // again by their place.
            Err(DatapathError::Link { action: "create", source, .. })
                if source.raw_os_error() == Some(libc::EINVAL) =>
            {
                attach_by_netlink(program, interface).map_err(refused)
            }
            done => done,
        }
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
        super::install::gone(self.links.remove(&interface), "LINKS")?;
        let pin = self.guards.join(format!("{WIRE}-{interface}"));
        match sys::open_pin(&pin).and_then(|link| remove(&link, &pin)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(DatapathError::Link { action: "remove", name: WIRE, source: error })
            }
            _ => Ok(()),
        }
    }
}

fn attach_by_netlink(program: &mut SchedClassifier, interface: u32) -> Result<(), ProgramError> {
    let name = if_indextoname(interface).map_err(|error| ProgramError::IOError(error.into()))?;
    let name = name.to_string_lossy();
    // A queueing discipline that is there already is as good as ours.
    let _ = qdisc_add_clsact(&name);
    let options = NlOptions { priority: 1, ..NlOptions::default() };
    let link =
        program.attach_with_options(&name, TcAttachType::Ingress, TcAttachOptions::Netlink(options))?;
    // The filter stays with the interface, whatever becomes of this agent.
    std::mem::forget(program.take_link(link)?);
    Ok(())
}
