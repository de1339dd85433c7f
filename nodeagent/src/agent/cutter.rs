//! Ends connections that an edit denies, apart from the edit itself: the kernel lets nothing of them through from the
//! flip on, and what is left is to tell both ends. They are judged here as the kernel judges them when they send
//! something: by the names that it keeps with them, and by those that led to their addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sluice_policy::{Action, Compiled, Flow, FlowProtocol, Name, Names, Shown};

use super::sockets::{self, Shows, Socket};
use crate::datapath::{FlowMaps, address_bytes};

/// A pod whose policy has changed.
pub(super) struct Cut {
    /// Its cgroup: of several cuts of one pod only the last counts.
    pub(super) cgroup: u64,
    /// Its slot: a namespace may hold sockets of others.
    pub(super) slot: u32,
    /// The slot's word.
    pub(super) word: u64,
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
    fn denies(&self, socket: &Socket, maps: &FlowMaps) -> bool {
        let remote = socket.remote.ip();
        let mut flow = Flow {
            destination: remote,
            protocol: FlowProtocol::Tcp,
            port: socket.remote.port(),
            opaque: false,
            names: Names::default(),
            request: None,
        };
        let is_free = socket.own_of != Some(self.slot)
            || socket.is_listener()
            || remote.is_loopback()
            || self.own.contains(&remote);
        if is_free {
            return false;
        }
        if self.compiled.goes_by_name(&flow) {
            if socket.denied_under == Some(self.word) {
                return true;
            }
            // A name that only the kernel can compare.
            let Some(names) = self.names(socket, maps) else { return false };
            flow.names = names;
        }
        self.compiled.judge(&flow).applied == Action::Deny
    }

    /// The names that the kernel goes by: first the one that the flow is bound to.
    fn names(&self, socket: &Socket, maps: &FlowMaps) -> Option<Names> {
        let address = address_bytes(socket.remote.ip());
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).ok()?;
        let learned = maps.learned_names(self.cgroup, address, now.as_nanos() as u64);
        let learned: Result<Vec<Name>, _> =
            socket.bound.iter().chain(&learned).map(|name| name.parse()).collect();
        let shown = match &socket.shows {
            Shows::Nothing => None,
            Shows::NoName => Some(Shown::Unreadable),
            Shows::Name(name) => Some(Shown::Name(name.parse().ok()?)),
        };
        Some(Names { learned: learned.ok()?, shown })
    }
}

/// Starts the thread that ends connections; it stops with the sender.
pub(super) fn start(maps: FlowMaps) -> io::Result<Sender<Cut>> {
    let (sender, cuts) = channel();
    std::thread::Builder::new().name("cutter".to_owned()).spawn(move || run(&maps, &cuts))?;
    Ok(sender)
}

fn run(maps: &FlowMaps, cuts: &Receiver<Cut>) {
    while let Ok(first) = cuts.recv() {
        let mut latest = BTreeMap::from([(first.cgroup, first)]);
        latest.extend(cuts.try_iter().map(|cut| (cut.cgroup, cut)));
        for cut in latest.values() {
            for netns in &cut.namespaces {
                match sockets::destroy(netns, maps, |socket| cut.denies(socket, maps)) {
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
