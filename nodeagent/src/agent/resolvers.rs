//! Whose answers are believed, and which suffixes pods add to what they ask: as given, or as the node's own resolver
//! configuration says, read again whenever it has changed.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use sluice_policy::Name;

/// Where a node says whom it asks. The first is systemd-resolved's, which names the resolvers behind its own.
const FILES: [&str; 2] = ["/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"];

/// The resolvers of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// Their addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The suffixes.
    pub search: BTreeSet<Name>,
}

/// Where they are read.
#[derive(Debug)]
pub(super) struct Source {
    given: BTreeSet<IpAddr>,
    files: Vec<PathBuf>,
}

impl Source {
    /// The given ones; those of the node's files if none are given.
    pub(super) fn new(given: &[IpAddr]) -> Self {
        let given = given.iter().map(IpAddr::to_canonical).collect();
        Self { given, files: FILES.iter().map(PathBuf::from).collect() }
    }

    /// As they are now.
    pub(super) fn read(&self) -> Resolvers {
        let mut found = self.files.iter().find_map(|file| read(file)).unwrap_or_default();
        if !self.given.is_empty() {
            found.addresses.clone_from(&self.given);
        }
        found
    }
}

/// What a file says; none if there is none, or if it names no resolver that a pod could ask.
fn read(path: &Path) -> Option<Resolvers> {
    let found = parse(&fs::read_to_string(path).ok()?);
    (!found.addresses.is_empty()).then_some(found)
}

/// The lines of `resolv.conf(5)` that matter. A loopback address means the asker's own namespace, so never a pod's
/// resolver.
fn parse(text: &str) -> Resolvers {
    let mut found = Resolvers::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                let address = address.map(|address| address.to_canonical());
                found.addresses.extend(address.filter(|address| !address.is_loopback()));
            }
            // The last line wins.
            Some("search" | "domain") => found.search = words.filter_map(|word| word.parse().ok()).collect(),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_and_suffixes_are_read() {
        let found = parse(
            "# a comment\nnameserver 127.0.0.53\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\noptions edns0\n\
             domain old.test\nsearch Shop.svc.cluster.local svc.cluster.local . \nnameserver ::ffff:192.0.2.54\n",
        );
        let addresses: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["192.0.2.53", "192.0.2.54", "fe80::1"]);
        let search: Vec<&str> = found.search.iter().map(Name::as_str).collect();
        assert_eq!(search, ["shop.svc.cluster.local", "svc.cluster.local"]);
    }

    #[test]
    fn given_resolvers_go_before_those_of_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("resolv.conf");
        let source = |given: &[&str]| {
            let given: Vec<IpAddr> =
                given.iter().map(|address| address.parse().expect("an address")).collect();
            let files = vec![directory.path().join("missing"), file.clone()];
            Source { files, ..Source::new(&given) }
        };
        assert_eq!(source(&[]).read(), Resolvers::default());
        fs::write(&file, "nameserver 192.0.2.53\nsearch a.test\n").expect("written");
        assert_eq!(source(&[]).read().addresses, ["192.0.2.53".parse().expect("an address")].into());
        let given = source(&["10.96.0.10"]).read();
        assert_eq!(given.addresses, ["10.96.0.10".parse().expect("an address")].into());
        assert_eq!(given.search.len(), 1);
    }
}
