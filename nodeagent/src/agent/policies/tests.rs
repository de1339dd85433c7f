//! What the policy directory makes of good and bad files.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

const GOOD: &str = "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {}
  rules: []
";

struct Fixture {
    root: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("policies")).expect("a directory");
        Self { root }
    }

    fn open(&self) -> PolicyDirectory {
        PolicyDirectory::open(&self.file(""), &self.root.path().join("state")).expect("a policy directory")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("policies").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.file(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
    }
}

fn count(loaded: &Loaded) -> usize {
    loaded.policies.as_ref().map_or(0, |set| set.policies().len())
}

#[test]
fn a_broken_edit_keeps_the_last_good() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    fixture.write("a.yaml", GOOD);
    assert_eq!(count(&directory.load()), 1);
    fixture.write("a.yaml", "kind: EgressPolicy\n  broken");
    let loaded = directory.load();
    assert_eq!(count(&loaded), 1);
    assert!(loaded.errors[0].to_string().contains("a.yaml"), "{}", loaded.errors[0]);
}

#[test]
fn the_last_good_outlives_the_agent() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", GOOD);
    fixture.open().load();
    fixture.write("a.yaml", "spec: {");
    let loaded = fixture.open().load();
    assert_eq!((count(&loaded), loaded.errors.len()), (1, 1));
}

#[test]
fn a_removed_file_takes_its_policies_along() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", GOOD);
    fixture.open().load();
    fs::remove_file(fixture.file("a.yaml")).expect("removed");
    assert_eq!(count(&fixture.open().load()), 0);
    fixture.write("a.yaml", "spec: {");
    assert_eq!(count(&fixture.open().load()), 0, "a copy from before the removal must not come back");
}

#[test]
fn a_lost_directory_changes_nothing() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    fixture.write("a.yaml", GOOD);
    directory.load();
    fs::remove_dir_all(fixture.file("")).expect("removed");
    let loaded = directory.load();
    assert_eq!((count(&loaded), loaded.errors.len()), (1, 1));
}

#[test]
fn files_that_others_can_write_and_links_do_not_count() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    fixture.write("a.yaml", GOOD);
    fs::set_permissions(fixture.file("a.yaml"), fs::Permissions::from_mode(0o666)).expect("permissions");
    fixture.write("real", GOOD);
    symlink(fixture.file("real"), fixture.file("b.yaml")).expect("a link");
    nix::unistd::mkfifo(&fixture.file("c.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let loaded = directory.load();
    assert_eq!(count(&loaded), 0);
    let text: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    assert!(text[0].contains("chmod go-w"), "{text:?}");
    assert!(text[1].contains("b.yaml is not a regular file"), "{text:?}");
    assert!(text[2].contains("c.yaml is not a regular file"), "{text:?}");
}

#[test]
fn the_same_policy_in_two_files_changes_nothing() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    fixture.write("a.yaml", GOOD);
    directory.load();
    fixture.write("b.yaml", GOOD);
    let loaded = directory.load();
    assert_eq!(count(&loaded), 1);
    assert_eq!(count(&fixture.open().load()), 1, "nor does a restart change anything");
    let text = loaded.errors[0].to_string();
    assert!(text.contains("a.yaml") && text.contains("b.yaml"), "{text}");
}

#[test]
fn files_that_never_went_together_give_nothing_to_put_in_force() {
    let fixture = Fixture::new();
    fixture.write("a.yaml", GOOD);
    fixture.write("b.yaml", GOOD);
    assert!(fixture.open().load().policies.is_none());
}

#[test]
fn hidden_files_and_other_names_do_not_count() {
    assert!(is_policy_file(Path::new("/p/a.yaml")) && is_policy_file(Path::new("/p/a.json")));
    assert!(!is_policy_file(Path::new("/p/.a.yaml")) && !is_policy_file(Path::new("/p/a.yaml~")));
}

/// The policies of a look, in the order of their files.
fn policies(loaded: &Loaded) -> Vec<Arc<Policy>> {
    loaded.policies.as_ref().map(|set| set.policies().to_vec()).expect("policies")
}

#[test]
fn an_edit_makes_only_its_own_policies_anew() {
    let fixture = Fixture::new();
    let second = GOOD.replace("name: web", "name: api");
    fixture.write("a.yaml", GOOD);
    fixture.write("b.yaml", &format!("{second}---\n{}", GOOD.replace("name: web", "name: db")));
    let mut directory = fixture.open();
    let before = policies(&directory.load());
    fixture.write("b.yaml", &format!("{second}---\n{}", GOOD.replace("name: web", "name: cache")));
    let after = policies(&directory.load_if_changed().expect("a change"));
    let same: Vec<bool> = before.iter().zip(&after).map(|(old, new)| Arc::ptr_eq(old, new)).collect();
    assert_eq!(same, [true, true, false]);
    assert_eq!(after[2].name, "cache");
}

#[test]
fn a_second_edit_in_the_same_moment_is_seen() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    // As long as the other, in the same file: only its times tell, and they may not.
    for name in ["one", "two"].into_iter().cycle().take(20) {
        fixture.write("a.yaml", &GOOD.replace("name: web", &format!("name: {name}")));
        let loaded = directory.load_if_changed().expect("a change");
        assert_eq!(policies(&loaded)[0].name, name);
    }
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let fixture = Fixture::new();
    let mut directory = fixture.open();
    assert!(!directory.lacks_a_file());
    fixture.write("a.yaml", GOOD);
    directory.load();
    assert!(!directory.lacks_a_file());
    fs::remove_file(fixture.file("a.yaml")).expect("removed");
    assert!(directory.lacks_a_file());
    directory.load();
    assert!(!directory.lacks_a_file());
}
