//! Ends connections that an edit denies, apart from the edit itself: the kernel lets nothing of them through from the
//! flip on, and what is left is to tell both ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use sluice_policy::{Action, Compiled, Flow, FlowProtocol, Names};

use super::sockets::{self, Socket};

/// A pod whose policy has changed.
pub(super) struct Cut {
    /// Its cgroup: of several cuts of one pod only the last counts.
    pub(super) cgroup: u64,
    /// Its slot: a namespace may hold sockets of others.
    pub(super) slot: u32,
    /// Its name.
    pub(super) pod: String,
    /// Its network namespaces.
    pub(super) namespaces: BTreeSet<PathBuf>,
    /// Its own addresses.
    pub(super) own: Vec<IpAddr>,
    /// What governs it now.
    pub(super) compiled: Arc<Compiled>,
}

impl Cut {
    fn denies(&self, socket: &Socket) -> bool {
        let remote = socket.remote.ip();
        let flow = Flow {
            destination: remote,
            protocol: FlowProtocol::Tcp,
            port: socket.remote.port(),
            opaque: false,
            names: Names::default(),
            request: None,
        };
        socket.own_of == Some(self.slot)
            && !socket.is_listener()
            && !remote.is_loopback()
            && !self.own.contains(&remote)
            && if self.compiled.goes_by_name(&flow) {
                // What it showed is known to the kernel alone, which judges it again when it sends something.
                socket.is_denied
            } else {
                self.compiled.judge(&flow).applied == Action::Deny
            }
    }
}

/// Starts the thread that ends connections; it stops with the sender.
pub(super) fn start(flows: BorrowedFd<'_>) -> io::Result<Sender<Cut>> {
    let flows = flows.try_clone_to_owned()?;
    let (sender, cuts) = channel();
    std::thread::Builder::new().name("cutter".to_owned()).spawn(move || run(&flows, &cuts))?;
    Ok(sender)
}

fn run(flows: &OwnedFd, cuts: &Receiver<Cut>) {
    while let Ok(first) = cuts.recv() {
        let mut latest = BTreeMap::from([(first.cgroup, first)]);
        latest.extend(cuts.try_iter().map(|cut| (cut.cgroup, cut)));
        for cut in latest.values() {
            for netns in &cut.namespaces {
                match sockets::destroy(netns, flows.as_raw_fd(), |socket| cut.denies(socket)) {
                    Ok(0) => {}
                    Ok(ended) => {
                        tracing::info!(pod = cut.pod, ended, "connections that are now denied were ended");
                    }
                    // The pod is going.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => {
                        tracing::error!(pod = cut.pod, %error, "cannot end connections that are now denied");
                    }
                }
            }
        }
    }
}
