//! Pods that no CNI call told of: in the host's network, older than Sluice, or added while it was not in the chain.
//!
//! They are found by their cgroup, as kubelet names it, and registered with what the cgroup and the network namespace
//! show. Nobody says who they are, so only cluster policies judge them, and an alert is given for each. A CNI call for
//! the same cgroup later replaces what was found.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::libc;
use nix::net::if_::{if_indextoname, if_nametoindex};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Shared;
use super::node::is_populated;
use crate::netlink::{Netlink, find, in_namespace};

/// How often the cgroups are looked at without any notice.
const LOOK: Duration = Duration::from_secs(10);
/// A notice is waited after for this long: a starting pod gives many, and a CNI call may be on its way.
const SETTLE: Duration = Duration::from_millis(20);
/// Deepest level below the root at which pods' cgroups are looked for: kind nests kubepods four deep.
const DEPTH: usize = 8;

// Link attributes: include/uapi/linux/if_link.h.
const IFLA_LINK: u16 = 5;
/// `struct ifinfomsg`.
const LINK_MESSAGE: usize = 16;

/// A pod as its cgroup shows it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) cgroup: u64,
    pub(super) path: PathBuf,
    /// As the cgroup's name has it; for a static pod that is the hash of its configuration.
    pub(super) uid: String,
    /// It is in the host's network namespace.
    pub(super) host_network: bool,
    pub(super) network: Network,
}

/// What a network namespace shows.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    /// A path to the namespace.
    pub(super) netns: PathBuf,
    /// The interface that the addresses are on.
    pub(super) ifname: String,
    pub(super) ips: Vec<IpAddr>,
    /// The host's end of its link, if that is a pair with one end here.
    pub(super) host_interface: Option<String>,
}

/// Looks whenever a cgroup is made or comes to life, and from time to time.
pub(super) async fn run(shared: Arc<Shared>) -> anyhow::Result<()> {
    let (notices, mut changed) = mpsc::channel(1);
    let mut inotify = notify::recommended_watcher(move |told: notify::Result<notify::Event>| {
        // That a directory is read is told of, too: looking would be followed by looking, without an end.
        if told.is_ok_and(|event| event.kind.is_access()) {
            return;
        }
        // A full channel holds a notice already.
        let _ = notices.try_send(());
    })?;
    let mut watched = BTreeSet::new();
    let mut told = HashMap::new();
    loop {
        let pods = pods(&shared.cgroup_root);
        // The pods' directories tell of life in them, those above of new ones.
        let wanted: BTreeSet<PathBuf> = pods
            .iter()
            .flat_map(|(path, _)| path.ancestors().take_while(|above| *above != shared.cgroup_root))
            .chain([shared.cgroup_root.as_path()])
            .map(Path::to_owned)
            .collect();
        watched.retain(|path| wanted.contains(path));
        for path in wanted {
            if !watched.contains(&path) && inotify.watch(&path, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(path);
            }
        }
        register(&shared, &pods, &mut told);
        tokio::select! {
            _ = changed.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changed.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Registers what is not known yet, once.
pub(super) fn look(shared: &Shared) {
    register(shared, &pods(&shared.cgroup_root), &mut HashMap::new());
}

/// Registers what is not known yet. `told` holds the failures that were told of, so that each is told once.
fn register(shared: &Shared, pods: &[(PathBuf, String)], told: &mut HashMap<PathBuf, String>) {
    told.retain(|path, _| pods.iter().any(|(pod, _)| pod == path));
    for (path, uid) in pods {
        let Ok(cgroup) = fs::metadata(path).map(|metadata| metadata.ino()) else { continue };
        if shared.node().record(cgroup).is_some() || !is_populated(path) {
            continue;
        }
        let failed = match inspect(path) {
            // It ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => error.to_string(),
            Ok((host_network, network)) => {
                let found = Found { cgroup, path: path.clone(), uid: uid.clone(), host_network, network };
                match shared.node().add_found(&found) {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                }
            }
        };
        if told.get(path) != Some(&failed) {
            tracing::error!(cgroup = %path.display(), error = failed, "ALERT: a pod that no CNI call told of is not governed");
            told.insert(path.clone(), failed);
        }
    }
}

/// Pods' cgroups below a directory with the pods' uids, by the names that kubelet's cgroup drivers give: `pod<uid>` below
/// `kubepods`, or `kubepods-burstable-pod<uid>.slice` (kubernetes `pkg/kubelet/cm/pod_container_manager_linux.go`).
fn pods(root: &Path) -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, depth: usize, found: &mut Vec<(PathBuf, String)>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let (path, name) = (entry.path(), entry.file_name());
            match uid(&path, &name.to_string_lossy()) {
                Some(uid) => found.push((path, uid)),
                None if depth > 0 => walk(&path, depth - 1, found),
                None => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(root, DEPTH, &mut found);
    found
}

fn uid(path: &Path, name: &str) -> Option<String> {
    let (prefix, uid) = name.strip_suffix(".slice").unwrap_or(name).rsplit_once("pod")?;
    let is_below = |part: &Path| part.to_string_lossy().contains("kubepods");
    let is_named = prefix.is_empty() && path.parent().is_some_and(is_below)
        || prefix.contains("kubepods") && prefix.ends_with('-');
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || b"-_".contains(&byte));
    (is_named && is_uid).then(|| uid.replace('_', "-"))
}

/// Whether a pod is in the host's network, and what its network shows.
fn inspect(cgroup: &Path) -> io::Result<(bool, Network)> {
    let pid = first_process(cgroup, DEPTH).ok_or(io::ErrorKind::NotFound)?;
    let process = PathBuf::from(format!("/proc/{pid}/ns/net"));
    let namespace = fs::metadata(&process)?.ino();
    if namespace == fs::metadata("/proc/self/ns/net")?.ino() {
        let mut network = Network { netns: "/proc/self/ns/net".into(), ..Network::default() };
        network.ips = addresses()?.into_iter().map(|(_, address)| address).collect();
        return Ok((true, network));
    }
    // A mount outlives the process.
    let netns = mounted(namespace)?.unwrap_or(process);
    let (addresses, peers) = in_namespace(&netns, || Ok((addresses()?, peers()?)))?;
    let ifname = addresses.first().map(|(name, _)| name.clone()).unwrap_or_default();
    let host_interface = peers
        .iter()
        .find(|(name, _, _)| *name == ifname)
        .and_then(|(_, index, peer)| host_end(*index, *peer));
    let ips = addresses.into_iter().map(|(_, address)| address).collect();
    Ok((false, Network { netns, ifname, ips, host_interface }))
}

/// A process of a cgroup or of one below.
fn first_process(cgroup: &Path, depth: usize) -> Option<u32> {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).ok();
    // 0 is a process of another pid namespace, of which nothing can be asked.
    if let Some(pid) =
        own.iter().flat_map(|text| text.lines()).find_map(|line| line.parse().ok().filter(|pid| *pid != 0))
    {
        return Some(pid);
    }
    let below = fs::read_dir(cgroup)
        .ok()?
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below
        .map(|entry| entry.path())
        .find_map(|path| if depth > 0 { first_process(&path, depth - 1) } else { None })
}

/// Where a network namespace is mounted, as container runtimes do (`/run/netns/cni-…`).
fn mounted(namespace: u64) -> io::Result<Option<PathBuf>> {
    let root = format!("net:[{namespace}]");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut places = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(3);
        (fields.next()? == root).then(|| fields.next().map(PathBuf::from)).flatten()
    });
    Ok(places.next())
}

/// The addresses of this namespace that others can reach, with their interfaces.
fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let all = getifaddrs().map_err(io::Error::from)?.filter_map(|interface| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        let address = v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))?;
        Some((interface.interface_name, address))
    });
    let is_reachable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    };
    Ok(all.filter(|(_, address)| is_reachable(address)).collect())
}

/// The interfaces of this namespace that have another end: name, index, and the other end's index.
fn peers() -> io::Result<Vec<(String, u32, u32)>> {
    let mut links = Vec::new();
    let request = [0; LINK_MESSAGE];
    Netlink::open(libc::NETLINK_ROUTE)?.dump(libc::RTM_GETLINK, &request, |message| {
        let index =
            message.get(4..8).and_then(|bytes| bytes.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
        let peer = message.get(LINK_MESSAGE..).and_then(|attributes| find(attributes, IFLA_LINK));
        let peer = peer.and_then(|value| value.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
        links.extend(index.zip(peer));
    })?;
    let name = |index| if_indextoname(index).ok().map(|name| name.to_string_lossy().into_owned());
    Ok(links.into_iter().filter_map(|(index, peer)| Some((name(index)?, index, peer))).collect())
}

/// The interface of the host whose other end is `index` of some namespace, if it is `peer`.
fn host_end(index: u32, peer: u32) -> Option<String> {
    let name = if_indextoname(peer).ok()?.to_string_lossy().into_owned();
    let other = fs::read_to_string(Path::new("/sys/class/net").join(&name).join("iflink")).ok()?;
    (other.trim().parse() == Ok(index) && if_nametoindex(name.as_str()) == Ok(peer)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_known_by_kubelets_names() {
        let uid_of = |path: &str| {
            let path = Path::new(path);
            uid(path, &path.file_name().expect("a name").to_string_lossy())
        };
        let id = "3f1c0b7e-9a55-4a0e-8f0a-5d6c7b8a9f10";
        let named = id.replace('-', "_");
        for path in [
            format!("/c/kubepods/burstable/pod{id}"),
            format!("/c/kubepods/pod{id}"),
            format!("/c/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{named}.slice"),
            format!("/c/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{named}.slice"),
        ] {
            assert_eq!(uid_of(&path).as_deref(), Some(id), "{path}");
        }
        // A static pod's is the hash of its configuration.
        let hash = "0123456789abcdef0123456789abcdef";
        assert_eq!(uid_of(&format!("/c/kubepods/besteffort/pod{hash}")).as_deref(), Some(hash));
        for path in [
            "/c/system.slice/podman.service",
            "/c/kubepods/burstable",
            "/c/user/pod3f1c",
            &format!("/c/mine/pod{id}"),
        ] {
            assert_eq!(uid_of(path), None, "{path}");
        }
    }
}
