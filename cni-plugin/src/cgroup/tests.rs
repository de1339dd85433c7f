use std::time::Duration;

use super::*;

fn places(declared: &str) -> Vec<String> {
    declared_places(declared).iter().map(|place| place.display().to_string()).collect()
}

#[test]
fn declared_by_containerd() {
    let slice = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice";
    assert_eq!(places(&format!("/{slice}")), [slice]);
    assert_eq!(places("/kubepods/burstable/pod1-2"), ["kubepods/burstable/pod1-2"]);
    assert_eq!(places("kubepods/burstable/pod1-2/"), ["kubepods/burstable/pod1-2"]);
}

#[test]
fn declared_as_a_lone_slice() {
    let tree = "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice";
    let lone = "kubepods-besteffort-pod1_2.slice";
    assert_eq!(places(lone), [lone, tree]);
    assert_eq!(places("system.slice"), ["system.slice"]);
}

#[test]
fn declared_as_slice_prefix_name() {
    assert_eq!(places("kubepods-pod1_2.slice:crio:c0ffee"), ["kubepods.slice/kubepods-pod1_2.slice"]);
    assert_eq!(
        places("/kubepods.slice/kubepods-pod1_2.slice:crio:c0ffee"),
        ["kubepods.slice/kubepods-pod1_2.slice"]
    );
    assert_eq!(places("system.slice:nerdctl:c0ffee"), ["system.slice/nerdctl-c0ffee.scope"]);
    assert_eq!(places("system.slice:../..:c0ffee"), Vec::<String>::new());
}

#[test]
fn what_is_declared_stays_below_the_root() {
    for odd in ["", "/", "///", ".", "..", "/../a", "a/../..", "a/../b", ":::", "::", ".slice", "-.slice"] {
        for place in places(odd) {
            let parts: Vec<_> = Path::new(&place).components().collect();
            assert!(
                !parts.is_empty() && parts.iter().all(|part| matches!(part, Component::Normal(_))),
                "{odd}"
            );
        }
    }
    for none in ["", "/", "..", "/../a", "a/../.."] {
        assert_eq!(places(none), Vec::<String>::new(), "{none}");
    }
}

#[test]
fn every_place_of_the_kubelet() {
    let found: Vec<_> = uid_places("ab-12").iter().map(|place| place.display().to_string()).collect();
    assert_eq!(
        found,
        [
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_12.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_12.slice",
            "kubepods.slice/kubepods-podab_12.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podab_12.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-podab_12.slice",
            "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podab_12.slice",
            "kubepods/burstable/podab-12",
            "kubepods/besteffort/podab-12",
            "kubepods/podab-12",
            "kubelet/kubepods/burstable/podab-12",
            "kubelet/kubepods/besteffort/podab-12",
            "kubelet/kubepods/podab-12",
        ]
    );
    for odd in ["", "-", "..", "a/b", "../a", "a\0", "ä"] {
        assert!(uid_places(odd).is_empty() && uid_names(odd).is_none(), "{odd}");
    }
}

#[test]
fn the_search_is_bounded_and_takes_the_shallowest() {
    let root = tempfile::tempdir().unwrap();
    let make = |path: &str| fs::create_dir_all(root.path().join(path)).unwrap();
    let names = uid_names("u-1").unwrap();
    let look = |left| search(root.path(), &names, Instant::now() + left);
    let second = Duration::from_secs(1);

    make("1/2/3/4/5/6/podu-1");
    fs::write(root.path().join("podu-1"), "").unwrap();
    assert_eq!(look(second), None, "one level too deep, and a file");
    make("1/2/3/4/5/x-podu_1.slice");
    assert_eq!(look(second), Some(root.path().join("1/2/3/4/5/x-podu_1.slice")));
    make("z/podu-1");
    assert_eq!(look(second), Some(root.path().join("z/podu-1")));
    assert_eq!(look(Duration::ZERO), None, "no time");
}

#[test]
fn a_process_is_named_by_one_form_only() {
    assert_eq!(process_of("/proc/12/ns/net"), Some(12));
    for other in
        ["/var/run/netns/a", "/proc/self/ns/net", "/proc/1/2/ns/net", "/proc/12/ns/mnt", "/proc//ns/net", ""]
    {
        assert_eq!(process_of(other), None, "{other}");
    }
    assert_eq!(unified_path("9:name=systemd:/x\n0::/a/b\n"), Some("/a/b"));
    assert_eq!(unified_path("9:name=systemd:/x\n"), None);
}

#[test]
fn a_root_that_is_no_cgroup2_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let wanted =
        |root| Wanted { root: Some(root), declared: None, uid: "u", netns: "", until: Instant::now() };
    assert!(matches!(find(wanted(directory.path())), Err(CgroupError::NotCgroup2(_))));
    assert!(matches!(find(wanted(Path::new("/none"))), Err(CgroupError::Unreadable { .. })));
    assert!(matches!(find(wanted(Path::new("/proc/self/mountinfo"))), Err(CgroupError::Unreadable { .. })));
}
