//! Putting back the guard of a pod's link where other software has taken it away.
//!
//! On most links it is a filter in a queueing discipline of ours, which anybody who is root on the host can remove. The
//! kernel tells of it, and it is put back at once, with an alert.

use std::io;
use std::sync::Arc;

use nix::libc;

use super::Shared;
use crate::datapath::guard_gone;
use crate::netlink::Netlink;

/// Starts the thread that listens; it lives as long as the agent.
pub(super) fn start(shared: Arc<Shared>) -> io::Result<()> {
    let notices = Netlink::listen(libc::NETLINK_ROUTE, libc::RTMGRP_TC.cast_unsigned())?;
    std::thread::Builder::new().name("guards".to_owned()).spawn(move || {
        loop {
            let mut gone = Vec::new();
            match notices.hear(|kind, message| gone.extend(guard_gone(kind, message))) {
                Ok(()) => {}
                // Some were lost: any of them may be gone.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => gone = shared.node().guarded(),
                Err(error) => return tracing::error!(%error, "cannot hear when a guard is taken away"),
            }
            for interface in gone {
                renew(&shared, interface);
            }
        }
    })?;
    Ok(())
}

fn renew(shared: &Shared, interface: u32) {
    // Not in the match: it would hold the node.
    let renewed = shared.node().renew_guard(interface);
    match renewed {
        Ok(None) => {}
        Ok(Some(pod)) => tracing::warn!(
            pod,
            interface,
            "ALERT: other software took the guard at the host's end of a pod's link away; it is back"
        ),
        Err(error) => {
            let error =
                format!("the guard of interface {interface} was taken away, and cannot be put back: {error}");
            tracing::error!("ALERT: {error}");
            shared.errors().push(error);
        }
    }
}
