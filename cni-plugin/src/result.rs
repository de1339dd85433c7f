//! The previous plugin's result (CNI 1.1.0, "Section 5: Result Types"): read for the pod's addresses and the host's end of
//! its link, and passed on as it came.

use std::collections::HashSet;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use serde_json::{Map, Value};

use crate::env::is_ifname;

/// The pod's own addresses: those of `ips` that belong to an interface in the pod's network namespace, or that name
/// no interface. In the order of the result, each once.
pub fn pod_ips(result: &Map<String, Value>, netns: &str) -> Vec<IpAddr> {
    let ours: Vec<bool> =
        list(result, "interfaces").iter().map(|interface| is_in(interface, netns)).collect();
    let is_ours = |entry: &Value| match entry.get("interface") {
        None | Some(Value::Null) => true,
        Some(index) => {
            let index = index.as_u64().and_then(|index| usize::try_from(index).ok());
            index.and_then(|index| ours.get(index)).is_some_and(|ours| *ours)
        }
    };
    let entries = list(result, "ips").iter().filter(|entry| is_ours(entry));
    let addresses = entries.filter_map(|entry| address(entry.get("address")?.as_str()?));
    let mut seen = HashSet::new();
    addresses.filter(|ip| seen.insert(*ip)).collect()
}

/// The host's end of the pod's link: the interface listed directly before the pod's own, if it is on the host. So it
/// is in what the bridge plugin writes (bridge, host end, pod's end), ptp (host end, pod's end) and those that follow
/// them. `None` where the result does not say: the agent can ask the kernel.
pub fn host_interface(result: &Map<String, Value>, netns: &str, ifname: &str) -> Option<String> {
    let interfaces = list(result, "interfaces");
    let named = |interface: &Value| name(interface) == Some(ifname) && is_in(interface, netns);
    let pod_end = interfaces
        .iter()
        .position(named)
        .or_else(|| interfaces.iter().position(|interface| is_in(interface, netns)))?;
    let before = interfaces.get(pod_end.checked_sub(1)?)?;
    let on_host = sandbox(before).is_empty();
    name(before).filter(|name| on_host && is_ifname(name)).map(str::to_owned)
}

/// The result to answer with: the previous one, in the configuration's version.
pub fn pass_on(mut result: Map<String, Value>, version: &str) -> Value {
    result.insert("cniVersion".to_owned(), version.into());
    Value::Object(result)
}

fn list<'a>(result: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    result.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn name(interface: &Value) -> Option<&str> {
    interface.get("name")?.as_str()
}

fn sandbox(interface: &Value) -> &str {
    interface.get("sandbox").and_then(Value::as_str).unwrap_or_default()
}

/// Is the interface in this namespace? Two paths may name one: `/var/run` is a link to `/run`.
fn is_in(interface: &Value, netns: &str) -> bool {
    let identity = |path: &str| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let sandbox = sandbox(interface);
    !sandbox.is_empty()
        && (sandbox == netns
            || sandbox.starts_with('/') && identity(sandbox).is_some_and(|id| identity(netns) == Some(id)))
}

fn address(cidr: &str) -> Option<IpAddr> {
    cidr.split_once('/').map_or(cidr, |(ip, _)| ip).parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NETNS: &str = "/nowhere/netns/a";

    fn result(value: Value) -> Map<String, Value> {
        let Value::Object(map) = value else { panic!("no object") };
        map
    }

    fn ips(value: Value) -> Vec<String> {
        pod_ips(&result(value), NETNS).iter().map(IpAddr::to_string).collect()
    }

    fn peer(interfaces: &Value) -> Option<String> {
        host_interface(&result(json!({ "interfaces": interfaces })), NETNS, "eth0")
    }

    #[test]
    fn addresses_of_the_pod_only() {
        let interfaces = json!([{"name": "br0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": NETNS}]);
        let given = json!({"interfaces": interfaces, "ips": [
            {"address": "10.0.0.1/24", "interface": 0},
            {"address": "10.0.0.7/24", "interface": 2, "version": "4"},
            {"address": "fd00::7/64", "interface": 2, "version": "6"},
            {"address": "10.0.0.7/24", "interface": 2},
            {"address": "10.0.0.8/24"},
            {"address": "10.0.0.9/24", "interface": null},
            {"address": "10.0.0.10/24", "interface": 3},
            {"address": "10.0.0.11/24", "interface": -1},
            {"address": "10.0.0.12/24", "interface": "2"},
            {"address": "nonsense", "interface": 2},
            {"address": 7},
            null,
            {"address": "10.0.0.13", "interface": 2},
        ]});
        assert_eq!(ips(given), ["10.0.0.7", "fd00::7", "10.0.0.8", "10.0.0.9", "10.0.0.13"]);
        for odd in
            [json!({}), json!({"ips": null}), json!({"ips": {}, "interfaces": 3}), json!({"ips": [[]]})]
        {
            assert_eq!(ips(odd), Vec::<String>::new());
        }
    }

    #[test]
    fn one_namespace_by_two_paths() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("netns"), directory.path().join("link"));
        fs::write(&real, "").unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let given = json!({
            "interfaces": [{"name": "eth0", "sandbox": real}],
            "ips": [{"address": "10.0.0.7/24", "interface": 0}],
        });
        assert_eq!(pod_ips(&result(given), link.to_str().unwrap()).len(), 1);
    }

    #[test]
    fn the_peer_is_what_stands_before_the_pods_own() {
        let pod = json!({"name": "eth0", "sandbox": NETNS});
        let cases = [
            (json!([{"name": "br0"}, {"name": "veth1"}, pod]), Some("veth1")),
            (json!([{"name": "veth1", "sandbox": ""}, pod]), Some("veth1")),
            (json!([{"name": "veth1"}, pod, {"name": "net1", "sandbox": NETNS}]), Some("veth1")),
            (json!([{"name": "veth1"}, {"name": "lo", "sandbox": NETNS}, pod]), None),
            (json!([{"name": "veth1"}, {"name": "eth1", "sandbox": NETNS}]), Some("veth1")),
            (json!([pod]), None),
            (json!([{"name": "cali1"}]), None),
            (json!([{"name": "veth1"}, {"name": "eth0", "sandbox": "/other"}]), None),
            (json!([{"name": "../../x"}, pod]), None),
            (json!([{}, pod]), None),
            (json!(null), None),
        ];
        for (interfaces, expected) in cases {
            assert_eq!(peer(&interfaces).as_deref(), expected, "{interfaces}");
        }
    }

    #[test]
    fn passing_on_keeps_everything_and_its_order() {
        let text =
            r#"{"z":1,"cniVersion":"0.3.1","a":[{"mtu":1500,"socketPath":"/x"}],"big":18446744073709551615}"#;
        let passed = pass_on(result(serde_json::from_str(text).unwrap()), "0.3.1");
        assert_eq!(passed.to_string(), text);
        assert_eq!(pass_on(Map::new(), "1.0.0"), json!({"cniVersion": "1.0.0"}));
    }
}
