//! Rules of the house that no linter knows, see the messages.

use std::fs;
use std::path::{Path, PathBuf};

/// The most lines that a source file may have; about 400 is usual.
const MAX_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the checkout")
}

/// All files of the checkout whose name ends so, without what git ignores.
fn files(end: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, end: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).expect("a readable folder").map(|e| e.expect("an entry")) {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && name != "target" && name != ".git" {
                walk(&entry.path(), end, found);
            } else if kind.is_file() && name.ends_with(end) {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), end, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {end} file in {}", root().display());
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn check(found: &[String], rule: &str) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn source_files_are_short() {
    let long: Vec<_> = files(".rs")
        .iter()
        .map(|path| (path, read(path).lines().count()))
        .filter(|(_, lines)| *lines > MAX_LINES)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    check(&long, "split these files (tests can go to a sibling `tests.rs`)");
}

#[test]
fn nothing_is_left_to_do() {
    // Put together here, so that this file does not find itself.
    let marks = [["to", "do!("], ["unimple", "mented!("], ["TO", "DO"], ["FIX", "ME"], ["XX", "X "]]
        .map(|m| m.concat());
    let mut found = Vec::new();
    for path in files(".rs") {
        for (index, line) in read(&path).lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), index + 1, line.trim()));
            }
        }
    }
    check(&found, "do it now, or file an issue and remove the mark");
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    // The kernel programs have a workspace of their own, and cannot inherit from this one.
    let programs = root().join("ebpf/programs");
    let bare: Vec<_> = files("Cargo.toml")
        .iter()
        .filter(|path| !path.starts_with(&programs))
        .map(|path| (path, read(path)))
        .filter(|(_, text)| text.contains("[package]") && !text.contains("[lints]\nworkspace = true"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    check(&bare, "add `[lints]` with `workspace = true` to these manifests");
}

#[test]
fn every_file_ends_with_one_newline() {
    let found: Vec<_> = files(".rs")
        .into_iter()
        .chain(files(".toml"))
        .map(|path| (read(&path), path))
        .filter(|(text, _)| !text.is_empty() && (!text.ends_with('\n') || text.ends_with("\n\n")))
        .map(|(_, path)| path.display().to_string())
        .collect();
    check(&found, "end these files with exactly one newline");
}

#[test]
fn skips_of_ci_give_a_reason() {
    let list = root().join("conformance/skips.txt");
    let bare: Vec<_> = read(&list)
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| line.split_once(": ").is_none_or(|(_, reason)| reason.trim().is_empty()))
        .map(str::to_owned)
        .collect();
    check(&bare, "write these as `name: reason` in conformance/skips.txt");
}
