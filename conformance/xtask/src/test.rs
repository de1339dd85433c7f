//! `cargo xtask test`: everything that CI runs, step by step, with a table at the end.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::binaries::{self, Profile};
use crate::report::{Outcome, Report};
use crate::setup::{self, Scope};
use crate::shell::{self, Checkout};
use crate::skips::{self, SkipLog};
use crate::suites::{CI_SUITES, Suite};

/// A step that is no suite: its name, and what it does.
struct Step {
    name: &'static str,
    run: fn(&Checkout, &SkipLog) -> Result<Outcome>,
}

/// In this order; the suites come after them.
const STEPS: &[Step] = &[
    Step { name: "fmt", run: fmt },
    Step { name: "fmt ebpf", run: fmt_ebpf },
    Step { name: "clippy", run: clippy },
    Step { name: "clippy ebpf", run: clippy_ebpf },
    Step { name: "dependencies", run: dependencies },
    Step { name: "advisories", run: advisories },
    Step { name: "build", run: build },
    Step { name: "unit tests", run: unit_tests },
];

/// Runs the steps whose names begin with one of `wanted`, or all of them.
pub(crate) fn run(checkout: &Checkout, wanted: &[String]) -> Result<ExitCode> {
    let suites: Vec<(String, &Suite)> = CI_SUITES.iter().map(|s| (format!("suite {}", s.name), s)).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.starts_with(w.as_str()));
    let mut names = STEPS.iter().map(|step| step.name).chain(suites.iter().map(|(name, _)| name.as_str()));
    ensure!(
        names.clone().any(is_wanted),
        "no step begins with {}. The steps are: {}",
        wanted.join(" or "),
        names.by_ref().collect::<Vec<_>>().join(", ")
    );
    let any_suite = suites.iter().any(|(name, _)| is_wanted(name));
    let root = shell::is_root();
    if any_suite && !root {
        println!("not root: the suites load programs into the kernel and run containerd, and are skipped");
    }
    let skips = SkipLog::create(checkout)?;
    let mut report = Report::new(shell::in_ci().then(|| skips::allowed(checkout)).transpose()?);

    if !record(&mut report, &skips, "setup", || setup::install(Scope::Dev).map(|()| passed())) {
        print!("\n{}", report.render());
        return Ok(ExitCode::FAILURE);
    }
    let mut built = false;
    for step in STEPS {
        if is_wanted(step.name) || (step.name == "build" && any_suite) {
            let passed = record(&mut report, &skips, step.name, || (step.run)(checkout, &skips));
            built |= passed && step.name == "build";
        }
    }
    for (name, suite) in suites.iter().filter(|(name, _)| is_wanted(name)) {
        record(&mut report, &skips, name, || match (root, built) {
            (false, _) => Ok(Outcome::Skipped("needs root".to_owned())),
            (true, false) => bail!("not run: the build failed"),
            (true, true) => conformance(checkout, &skips, suite),
        });
    }

    print!("\n{}", report.render());
    Ok(if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs one step, adds it and what it skipped to the report, and says whether it passed.
fn record(report: &mut Report, skips: &SkipLog, name: &str, work: impl FnOnce() -> Result<Outcome>) -> bool {
    println!("==> {name}");
    let start = Instant::now();
    let outcome = work().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
    let time = start.elapsed();
    let said = match &outcome {
        Outcome::Passed(_) => "passed".to_owned(),
        Outcome::Failed(why) => format!("FAILED ({why})"),
        Outcome::Skipped(why) => format!("skipped ({why})"),
    };
    println!("==> {name}: {said} in {}", shell::seconds(time));
    let passed = matches!(outcome, Outcome::Passed(_));

    let noted = skips.take().unwrap_or_default();
    let whole = noted.iter().find(|skip| skip.name == name).filter(|_| passed);
    report.add(name, whole.map_or(outcome, |skip| Outcome::Skipped(skip.reason.clone())), time);
    for skip in noted.iter().filter(|skip| skip.name != name) {
        report.add(&skip.name, Outcome::Skipped(skip.reason.clone()), Duration::ZERO);
    }
    passed
}

fn passed() -> Outcome {
    Outcome::Passed(String::new())
}

fn fmt(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    shell::run(checkout.cargo("fmt").args(["--all", "--check"]))?;
    Ok(passed())
}

fn fmt_ebpf(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    shell::run(checkout.cargo("fmt").arg("--check").current_dir(checkout.programs()))?;
    Ok(passed())
}

fn clippy(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    shell::run(checkout.cargo("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    Ok(passed())
}

fn clippy_ebpf(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    if sluice_ebpf_build::lint(&checkout.programs(), &checkout.target.join("bpf"))? {
        Ok(passed())
    } else {
        Ok(Outcome::Skipped("the BPF toolchain has no clippy".to_owned()))
    }
}

/// A cargo-deny command for the lock file in `dir`.
fn deny(checkout: &Checkout, dir: &Path) -> Result<Command> {
    let mut deny = Command::new(setup::cargo_deny().context("cargo-deny is gone since it was installed")?);
    shell::clean(&mut deny);
    deny.current_dir(dir).arg("--config").arg(checkout.root.join("deny.toml"));
    Ok(deny)
}

/// Runs some of cargo-deny's checks on both lock files.
fn deny_check(checkout: &Checkout, checks: &[&str]) -> Result<()> {
    for dir in [&checkout.root, &checkout.programs()] {
        let mut deny = deny(checkout, dir)?;
        shell::run(deny.args(["check", "--hide-inclusion-graph"]).args(checks))?;
    }
    Ok(())
}

fn dependencies(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    deny_check(checkout, &["bans", "licenses", "sources"])?;
    Ok(Outcome::Passed("bans, licences, sources".to_owned()))
}

fn advisories(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    let mut fetch = deny(checkout, &checkout.root)?;
    let output = fetch
        .args(["fetch", "db"])
        .output()
        .with_context(|| format!("cannot start {}", shell::show(&fetch)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains("failed to fetch advisory database"), "cargo-deny says: {}", said.trim());
        return Ok(Outcome::Skipped("the advisory database cannot be fetched from here".to_owned()));
    }
    deny_check(checkout, &["advisories"])?;
    Ok(passed())
}

fn build(checkout: &Checkout, _: &SkipLog) -> Result<Outcome> {
    binaries::build(checkout, Profile::Release)?;
    Ok(passed())
}

fn unit_tests(checkout: &Checkout, skips: &SkipLog) -> Result<Outcome> {
    let mut cargo = checkout.cargo("test");
    cargo.args(["--workspace", "--no-fail-fast"]).env("SLUICE_BIN_DIR", binaries::dir(checkout));
    skips.tell(&mut cargo);
    shell::run(&mut cargo)?;
    Ok(passed())
}

/// Runs a suite, and believes it only with a report in which something was measured and nothing failed.
fn conformance(checkout: &Checkout, skips: &SkipLog, suite: &Suite) -> Result<Outcome> {
    let reports = checkout.target.join("sluice-reports");
    fs::create_dir_all(&reports).with_context(|| format!("cannot create {}", reports.display()))?;
    let path = reports.join(format!("{}.json", suite.name));
    match fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", path.display()));
        }
        _ => {}
    }
    let mut command = binaries::conformance(checkout);
    command.arg(suite.name).args(suite.args).arg("--json").arg(&path);
    skips.tell(&mut command);
    shell::run(&mut command)?;
    let report = fs::read_to_string(&path)
        .with_context(|| format!("the suite ended well, but wrote no report to {}", path.display()))?;
    judge(&report).with_context(|| path.display().to_string()).map(Outcome::Passed)
}

/// What a suite's report comes to, in a few words.
fn judge(report: &str) -> Result<String> {
    let report: Value = serde_json::from_str(report).context("the report is not JSON")?;
    let results = report["results"].as_array().context("the report has no list `results`")?;
    ensure!(!results.is_empty(), "the report has no results");
    let bad: Vec<&str> =
        results.iter().filter(|r| r["ok"] == false).filter_map(|r| r["name"].as_str()).collect();
    ensure!(bad.is_empty(), "not ok: {}", bad.join(", "));
    let open = results.iter().filter(|r| r["ok"].is_null()).count();
    let good = results.len() - open;
    Ok(if open == 0 { format!("{good} ok") } else { format!("{good} ok, {open} undecided") })
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn suite_is_believed_by_its_report() {
        for (report, said) in [
            (r#"{"results": [{"name": "a", "ok": true}, {"name": "b", "ok": null}]}"#, "1 ok, 1 undecided"),
            (r#"{"results": [{"name": "a", "ok": true}]}"#, "1 ok"),
            (
                r#"{"results": [{"name": "leaked", "ok": false}, {"name": "b", "ok": true}]}"#,
                "not ok: leaked",
            ),
            (r#"{"results": []}"#, "the report has no results"),
            (r#"{"suite": "x"}"#, "the report has no list `results`"),
            ("", "the report is not JSON"),
        ] {
            let judged = judge(report).unwrap_or_else(|e| e.to_string());
            assert_eq!(judged, said, "{report}");
        }
    }
}
