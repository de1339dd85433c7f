//! Which crate may know which: the directions that the design gives, read from cargo and the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

/// Every crate of the workspace with the crates of this checkout that it may name, for itself or for its build script.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("sluice-abi", &[]),
    ("sluice-api", &[]),
    ("sluice-policy", &[]),
    ("sluice-requests", &[]),
    ("sluice-ebpf-build", &[]),
    ("sluice-parse", &["sluice-abi"]),
    ("sluice-cni", &["sluice-api"]),
    ("sluice-crds", &["sluice-policy"]),
    (
        "sluice",
        &[
            "sluice-abi",
            "sluice-api",
            "sluice-parse",
            "sluice-policy",
            "sluice-requests",
            "sluice-ebpf-build",
        ],
    ),
    // It runs built programs, and knows nothing of what is inside them.
    ("sluice-conformance", &["sluice-abi", "sluice-api"]),
    ("sluice-probe", &[]),
    ("sluice-rustls-client", &[]),
    ("xtask", &["sluice-ebpf-build"]),
];

/// What must not be linked into a crate, however far away: the crate, the packages (a final `*` stands for any rest),
/// and why.
const MUST_NOT_LINK: &[(&str, &[&str], &str)] = &[
    (
        "sluice-cni",
        &["tokio", "async-std", "smol", "kube*", "k8s-openapi", "aya*"],
        "the runtime waits for it on every pod",
    ),
    (
        "sluice-probe",
        &["tokio", "async-std", "smol", "kube*", "aya*"],
        "it must send from its first instruction",
    ),
    (
        "sluice-policy",
        &["tokio", "kube*", "k8s-openapi", "aya*", "nix", "libc", "rand", "chrono", "time"],
        "it is pure",
    ),
    ("sluice-requests", &["tokio", "kube*", "aya*", "nix", "libc", "hyper", "h2"], "it is pure"),
    ("sluice-api", &["tokio", "kube*", "k8s-openapi", "aya*"], "the plugin links it"),
    ("sluice-abi", &["tokio", "kube*", "serde"], "the kernel programs link it"),
    ("sluice-parse", &["tokio", "kube*", "serde", "aya*"], "the kernel programs link it"),
];

/// Crates that may name aya themselves; the ABI for a trait on its structures only, behind a feature.
const MAY_NAME_AYA: &[&str] = &["sluice", "sluice-abi", "sluice-conformance"];

/// Crates of which the agent names each in a single module of its own.
const IN_ONE_MODULE: &[&str] = &["aya", "kube"];

/// What the pure crates never name: I/O, clocks and the environment.
const IMPURE: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout")
}

/// What cargo prints with those arguments.
fn cargo(dir: &Path, args: &[&str]) -> String {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let output = cargo.current_dir(dir).args(args).output().expect("cargo starts");
    assert!(output.status.success(), "{cargo:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

fn metadata(dir: &Path) -> Value {
    let said = cargo(dir, &["metadata", "--format-version=1", "--no-deps"]);
    serde_json::from_str(&said).expect("cargo metadata prints JSON")
}

fn array<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

/// The packages of the workspace, each with what its manifest names: (name, kind). The kind is `normal`, `build` or `dev`.
fn manifests(metadata: &Value) -> BTreeMap<&str, Vec<(&str, &str)>> {
    array(metadata, "packages")
        .iter()
        .map(|package| {
            let named = array(package, "dependencies")
                .iter()
                .map(|dep| (text(dep, "name"), dep["kind"].as_str().unwrap_or("normal")))
                .collect();
            (text(package, "name"), named)
        })
        .collect()
}

#[test]
fn crates_know_only_those_they_may() {
    let metadata = metadata(&root());
    let manifests = manifests(&metadata);
    let own: BTreeSet<&str> = manifests.keys().copied().collect();
    let rules: BTreeMap<_, _> = MAY_KNOW.iter().copied().collect();
    for (&name, named) in &manifests {
        let allowed =
            rules.get(name).unwrap_or_else(|| panic!("{name} is new: say in MAY_KNOW whom it may know"));
        for (dep, _) in named.iter().filter(|(dep, kind)| own.contains(dep) && *kind != "dev") {
            assert!(allowed.contains(dep), "{name} must not depend on {dep}: see MAY_KNOW for the direction");
        }
        let aya = named.iter().any(|(dep, _)| *dep == "aya");
        assert!(
            !aya || MAY_NAME_AYA.contains(&name),
            "{name} must not depend on aya: it belongs to the agent"
        );
    }
}

#[test]
fn kernel_programs_know_only_the_abi_and_the_readers() {
    let programs = root().join("ebpf/programs");
    let metadata = metadata(&programs);
    for (name, named) in manifests(&metadata) {
        let own: Vec<_> = named.iter().map(|(dep, _)| *dep).filter(|dep| dep.starts_with("sluice")).collect();
        let may = ["sluice-abi", "sluice-parse"];
        assert!(own.iter().all(|dep| may.contains(dep)), "{name} may share {may:?} only, not {own:?}");
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// The names of all packages that are linked into that one when it is built by itself, with its default features.
fn linked(package: &str) -> BTreeSet<String> {
    let args =
        ["tree", "--edges=normal,no-proc-macro", "--prefix=none", "--format={p}", "--package", package];
    let tree = cargo(&root(), &args);
    tree.lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| *name != package)
        .map(str::to_owned)
        .collect()
}

#[test]
fn crates_link_nothing_that_they_must_not() {
    for (package, patterns, why) in MUST_NOT_LINK {
        for name in linked(package) {
            let bad = patterns.iter().any(|pattern| matches(pattern, &name));
            assert!(
                !bad,
                "{package} must not link {name}: {why}. See `cargo tree -p {package} -e normal -i {name}`"
            );
        }
    }
}

/// The lines of code below `dir`, without comments: (file relative to it, line).
fn code(dir: &Path) -> Vec<(PathBuf, String)> {
    fn walk(base: &Path, dir: &Path, lines: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(base, &path, lines);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(base).expect("below").to_path_buf();
                let text = fs::read_to_string(&path).expect("UTF-8");
                let code = text.lines().map(|line| line.split("//").next().unwrap_or_default());
                lines.extend(code.map(|line| (file.clone(), line.to_owned())));
            }
        }
    }
    let mut lines = Vec::new();
    walk(dir, dir, &mut lines);
    lines
}

/// Whether a line of code names that crate in a path or an import.
fn names_crate(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let starts =
            line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':');
        let rest = &line[at + name.len()..];
        let import = line[..at].trim_end().ends_with("use") && rest.starts_with([';', ' ']);
        starts && (rest.starts_with("::") || import)
    })
}

#[test]
fn agent_names_aya_and_kube_in_one_module_each() {
    let lines = code(&root().join("nodeagent/src"));
    for name in IN_ONE_MODULE {
        let modules: BTreeSet<PathBuf> = lines
            .iter()
            .filter(|(_, line)| names_crate(line, name))
            .map(|(file, _)| Path::new(file.iter().next().expect("a name")).with_extension(""))
            .collect();
        assert!(modules.len() <= 1, "the agent names {name} in {modules:?}: keep it behind one module");
    }
}

#[test]
fn pure_crates_do_nothing_outside_themselves() {
    let dir = root().join("nodeagent/policy/src");
    let lines = code(&dir);
    assert!(
        lines.iter().any(|(_, line)| line.contains("forbid(unsafe_code)")),
        "sluice-policy must forbid unsafe code"
    );
    for (file, line) in
        lines.iter().filter(|(file, _)| !file.iter().any(|part| part.to_string_lossy().contains("test")))
    {
        let found = IMPURE.iter().find(|name| line.contains(*name));
        assert!(
            found.is_none(),
            "sluice-policy must stay pure, but {} says: {}",
            file.display(),
            line.trim()
        );
    }
}

#[test]
fn crate_names_are_seen_in_paths_and_imports_only() {
    for (line, named) in [
        ("use aya::maps::Map;", true),
        ("    aya::Ebpf::load(&bytes)?;", true),
        ("pub use aya;", true),
        ("use crate::kernel::aya::Thing;", false),
        ("let maya::x = 1;", false),
        ("use aya_obj::btf;", false),
    ] {
        assert_eq!(names_crate(line, "aya"), named, "{line}");
    }
}
