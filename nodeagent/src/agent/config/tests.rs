//! Where an option is taken from, and what is refused.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use clap::{Args, Command, FromArgMatches};
use sluice_policy::NamePattern;

use super::*;

const SAMPLE: &str = include_str!("../../../../install/host/agent.yaml");
const HEAD: &str = "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfiguration\n";

fn parse(body: &str) -> Result<Settings, ConfigError> {
    Settings::parse(Path::new("/etc/sluice/agent.yaml"), &format!("{HEAD}{body}"))
}

fn refused(body: &str) -> String {
    parse(body).expect_err("refused").to_string()
}

/// The settings of a command line.
fn given(arguments: &[&str]) -> Settings {
    let command = Settings::augment_args(Command::new("agent").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).expect("a command line");
    Settings::from_arg_matches(&matches).expect("settings")
}

#[test]
fn a_flag_wins_over_the_file_and_that_over_the_default() {
    let file = parse("posture: log\nnodeName: of-file\nmetricsAddress: 127.0.0.1:1\n").expect("a file");
    let (options, _) =
        given(&["--posture", "observe", "--metrics-address", ""]).over(file).resolve().expect("options");
    assert_eq!(options.posture, Posture::Observe);
    assert_eq!(options.metrics_address, None);
    assert_eq!(options.node_name, "of-file");
    assert_eq!(options.run_dir, Path::new("/run/sluice"));
}

#[test]
fn what_is_excluded_can_be_given_list_by_list() {
    let file = parse("events: {exclude: {networks: [10.0.0.0/8], domains: ['*.a.test']}}\n").expect("a file");
    let (options, _) =
        given(&["--exclude-domains", "b.test,*.c.test"]).over(file).resolve().expect("options");
    let text = |all: &[NamePattern]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&options.exclude.domains), ["b.test", "*.c.test"]);
    assert_eq!(options.exclude.networks.len(), 1);
}

#[test]
fn nothing_listens_beyond_loopback_by_default() {
    let (options, _) = Settings::default().resolve().expect("options");
    assert!(options.metrics_address.is_some_and(|address| address.ip().is_loopback()));
}

#[test]
fn the_sample_shows_every_key_with_its_default() {
    let shown: String = SAMPLE
        .lines()
        .map(|line| {
            let is_key = |rest: &&str| !rest.is_empty() && (!rest.starts_with(' ') || rest.starts_with("  "));
            line.strip_prefix('#').filter(is_key).unwrap_or(line)
        })
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    let sample = Settings::parse(Path::new("agent.yaml"), &shown).expect("the sample");
    let default = Settings::default().or_default();
    let without_machine = |settings: Settings| Settings { cgroup_root: None, node_name: None, ..settings };
    assert_eq!(without_machine(sample.clone()), without_machine(default));
    let keys = |settings: &Settings| -> BTreeSet<String> {
        let value = serde_json::to_value(settings).expect("JSON");
        let fields = value.as_object().expect("an object").iter();
        fields.filter(|(_, value)| !value.is_null()).map(|(key, _)| key.clone()).collect()
    };
    let all: BTreeSet<String> = serde_json::to_value(Settings::default())
        .expect("JSON")
        .as_object()
        .expect("an object")
        .keys()
        .cloned()
        .collect();
    assert_eq!(keys(&sample), all, "install/host/agent.yaml must show every key");
}

#[test]
fn every_option_is_a_flag_a_variable_and_a_key() {
    let command = Settings::augment_args(Command::new("agent"));
    let value = serde_json::to_value(Settings::default()).expect("JSON");
    let mut keys: BTreeSet<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    for argument in command.get_arguments() {
        let flag = argument.get_long().expect("a flag");
        let variable = argument.get_env().and_then(|name| name.to_str()).expect("a variable");
        assert_eq!(variable, format!("SLUICE_{}", flag.replace('-', "_").to_uppercase()));
        let mut words = flag.split('-');
        let mut key = words.next().expect("a word").to_owned();
        key.extend(words.map(|word| word[..1].to_uppercase() + &word[1..]));
        // Those of events are in a list of their own.
        let is_listed = key
            .strip_prefix("exclude")
            .is_some_and(|list| SAMPLE.contains(&format!("#    {}: []", list.to_lowercase())));
        assert!(is_listed || keys.remove(key.as_str()), "the file has no {key} for --{flag}");
    }
    assert_eq!(keys, BTreeSet::from(["apiVersion", "kind", "events"]));
}

#[test]
fn an_error_names_file_line_and_fix() {
    for (body, line, words) in [
        ("postur: log\n", 3, &["unknown field `postur`", "posture", "metricsAddress"][..]),
        ("posture: Enforce\n", 3, &["unknown variant `Enforce`", "observe, log, enforce"]),
        ("output: text\nmetricsAddress: everywhere\n", 4, &["metricsAddress", "127.0.0.1:9470"]),
        ("events:\n  exclude:\n    networks:\n    - 10.0.0.1/8\n", 6, &["networks", "write 10.0.0.0/8"]),
        (
            "events:\n  exclude:\n    domains:\n    - '*'\n",
            6,
            &["exclude.domains", "write `*.` before a domain"],
        ),
        ("events:\n  exclude:\n    domains: [10.0.0.1]\n", 5, &["exclude.domains", "under networks"]),
        ("events:\n  exlude: {}\n", 4, &["unknown field `exlude`", "exclude"]),
        ("output: text\noutput: json\n", 4, &["output"]),
        ("runDir: [/a, /b]\n", 3, &[]),
    ] {
        let error = refused(body);
        assert!(error.starts_with(&format!("/etc/sluice/agent.yaml:{line}: ")), "{error}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}: {words:?}");
    }
    let error = parse("log: loud=maybe\n").expect("a file").resolve().expect_err("refused").to_string();
    assert!(error.starts_with("log: `loud=maybe`") && error.contains("debug"), "{error}");
}

#[test]
fn the_file_says_what_it_is() {
    for (text, word) in [
        ("posture: log\n", "apiVersion"),
        ("apiVersion: v1\nkind: AgentConfiguration\n", "sluice.dev/v1alpha1"),
        ("apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\n", "AgentConfiguration"),
    ] {
        let error = Settings::parse(Path::new("x"), text).expect_err("refused").to_string();
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn a_file_counts_only_if_nobody_else_could_have_written_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.yaml");
    let read = |path: &Path| Settings::from_file(Some(path)).map_err(|error| error.to_string());
    assert!(read(&path).expect_err("asked for, and missing").contains("No such file"));
    fs::write(&path, HEAD).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("permissions");
    assert_eq!(read(&path), Ok(Settings::default()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("permissions");
    assert!(read(&path).expect_err("writable by others").contains("chmod go-w"));
    let link = directory.path().join("link.yaml");
    symlink(&path, &link).expect("a link");
    assert!(read(&link).expect_err("a link").contains("not a regular file"));
}
