//! The agent's configuration and the commands that ask it, as far as they go without a kernel and an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const CONFIGURATION: &str = "\
apiVersion: sluice.dev/v1alpha1
kind: AgentConfiguration
posture: log
nodeName: of-file
events: {exclude: {networks: [10.0.0.0/8]}}
";

fn sluice(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().copied()).output().expect("sluice starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

fn configuration(directory: &TempDir, text: &str) -> PathBuf {
    let path = directory.path().join("agent.yaml");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("permissions");
    path
}

fn checked(file: &Path, more: &[&str], environment: &[(&str, &str)]) -> String {
    let file = file.display().to_string();
    let arguments = [&["agent", "--check-config", "--config", &file], more].concat();
    let output = sluice(&arguments, environment);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let directory = TempDir::new().expect("a directory");
    let file = configuration(&directory, CONFIGURATION);
    let by_file = checked(&file, &[], &[]);
    for line in ["posture: log", "nodeName: of-file", "10.0.0.0/8", "runDir: /run/sluice", "output: text"] {
        assert!(by_file.contains(line), "{line}: {by_file}");
    }
    let environment = [("SLUICE_POSTURE", "observe"), ("SLUICE_EXCLUDE_NETWORKS", "192.0.2.0/24,::/0")];
    let by_environment = checked(&file, &[], &environment);
    for line in ["posture: observe", "nodeName: of-file", "192.0.2.0/24", "::/0"] {
        assert!(by_environment.contains(line), "{line}: {by_environment}");
    }
    assert!(!by_environment.contains("10.0.0.0/8"));
    let by_flag = checked(&file, &["--posture", "enforce", "--metrics-address="], &environment);
    assert!(by_flag.contains("posture: enforce") && !by_flag.contains("9470"), "{by_flag}");
}

#[test]
fn what_is_printed_is_a_configuration() {
    let directory = TempDir::new().expect("a directory");
    let file = configuration(&directory, CONFIGURATION);
    let printed = checked(&file, &[], &[]);
    let again = configuration(&directory, &printed);
    assert_eq!(checked(&again, &[], &[]), printed);
}

#[test]
fn the_file_can_be_named_by_the_environment_and_must_be_there_then() {
    let directory = TempDir::new().expect("a directory");
    let missing = directory.path().join("missing.yaml").display().to_string();
    let output = sluice(&["agent", "--check-config"], &[("SLUICE_CONFIG", &missing)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("missing.yaml"), "{}", text(&output.stderr));
}

#[test]
fn wrong_flags_are_wrong_usage() {
    for (arguments, word) in [
        (&["agent", "--posture", "loud"][..], "enforce"),
        (&["agent", "--metrics-address", "everywhere"], "127.0.0.1:9470"),
        (&["agent", "--exclude-networks", "10.0.0.1/8"], "10.0.0.0/8"),
        (&["observe", "--verdict", "maybe"], "audit"),
        (&["observe", "--since", "yesterday"], "5m"),
        (&["observe", "--pod", "a/b/c"], "NAMESPACE/NAME"),
        (&["pods", "-A", "-n", "shop"], "--namespace"),
    ] {
        let output = sluice(arguments, &[]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{arguments:?}: {said}");
    }
}

#[test]
fn without_an_agent_the_exit_code_says_so() {
    let directory = TempDir::new().expect("a directory");
    let run_dir = directory.path().display().to_string();
    for command in ["status", "pods", "observe"] {
        let output = sluice(&[command, "--run-dir", &run_dir], &[]);
        assert_eq!(output.status.code(), Some(3), "{command}");
        let said = text(&output.stderr);
        assert!(said.contains("no agent answers") && said.contains("admin.sock"), "{command}: {said}");
    }
}

#[test]
fn every_command_for_operators_has_examples_and_is_completed() {
    for command in ["agent", "status", "pods", "observe"] {
        let help = text(&sluice(&[command, "--help"], &[]).stdout);
        assert!(help.contains("Examples:") && help.contains(&format!("sluice {command}")), "{help}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&sluice(&["completions", shell], &[]).stdout);
        for word in ["observe", "pods", "no-follow", "exclude-networks", "check-config"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
