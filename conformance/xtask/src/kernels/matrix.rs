//! What the kernels showed, held against what they should: a table for people and a report for programs.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::baseline::{Baseline, Programs, limit, programs};
use super::vm::{Question, Seen};
use crate::shell::Checkout;

/// How to come by a baseline that knows everything.
const UPDATE: &str = "`cargo xtask kernels --update` writes it";

/// One figure, as all reports have it.
struct Measured {
    name: String,
    value: Value,
    unit: &'static str,
    aim: String,
    ok: Option<bool>,
}

/// All that was seen, and what it came to.
pub(super) struct Matrix {
    seen: Vec<Seen>,
    pairs: u64,
    seed: u64,
    results: Vec<Measured>,
    /// Why something is not ok, or should be looked at.
    remarks: Vec<String>,
}

impl Matrix {
    /// Judges what was seen. `all` says whether no kernel was left out; `strict`, whether a gap in the baseline fails.
    pub(super) fn judge(
        seen: Vec<Seen>,
        question: &Question,
        baseline: &Baseline,
        all: bool,
        strict: bool,
    ) -> Self {
        let mut matrix = Self {
            seen: Vec::new(),
            pairs: question.pairs,
            seed: question.seed,
            results: Vec::new(),
            remarks: Vec::new(),
        };
        let gap = strict.then_some(false);
        for kernel in &seen {
            matrix.kernel(kernel);
            matrix.programs(kernel, baseline, gap);
        }
        let ran: BTreeSet<&str> = seen.iter().map(|kernel| kernel.series.as_str()).collect();
        for series in baseline.0.keys().filter(|series| all && !ran.contains(series.as_str())) {
            matrix.add(series, "baseline", Value::Null, "", "a kernel of the matrix", gap);
            matrix.remarks.push(format!("steps.json knows kernel {series}, which is not run: {UPDATE}"));
        }
        matrix.seen = seen;
        matrix
    }

    fn add(
        &mut self,
        series: &str,
        name: &str,
        value: Value,
        unit: &'static str,
        aim: &str,
        ok: Option<bool>,
    ) {
        self.results.push(Measured {
            name: format!("{series} {name}"),
            value,
            unit,
            aim: aim.to_owned(),
            ok,
        });
    }

    /// Does it boot, load and judge well?
    fn kernel(&mut self, kernel: &Seen) {
        let series = kernel.series.as_str();
        self.add(series, "boots", json!(kernel.release), "", "a release", Some(kernel.release.is_some()));
        let loads = kernel.outcome.as_ref().is_some_and(|outcome| !programs(outcome).is_empty());
        self.add(series, "loads", json!(loads), "", "true", Some(loads));
        let outcome = kernel.outcome.as_ref().unwrap_or(&Value::Null);
        let (pairs, differences) = (&outcome["pairs"], &outcome["differences"]);
        let aim = self.pairs.to_string();
        self.add(series, "pairs", pairs.clone(), "packets", &aim, Some(*pairs == json!(self.pairs)));
        self.add(series, "differences", differences.clone(), "packets", "0", Some(*differences == json!(0)));
        if let Some(trouble) = &kernel.trouble {
            self.remarks.push(format!("{series}: {trouble}"));
        }
        for example in outcome["examples"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.remarks.push(format!("{series}: {example}"));
        }
    }

    /// Did the verifier have more work than before?
    fn programs(&mut self, kernel: &Seen, baseline: &Baseline, gap: Option<bool>) {
        let Some(outcome) = &kernel.outcome else { return };
        let series = kernel.series.as_str();
        let loaded = programs(outcome);
        if !baseline.0.contains_key(series) {
            self.remarks.push(format!("steps.json does not know kernel {series}: {UPDATE}"));
        }
        for (name, now) in &loaded {
            let before = baseline.effort(series, name);
            if before.is_none() && baseline.0.contains_key(series) {
                self.remarks.push(format!("steps.json does not know {name} on {series}: {UPDATE}"));
            }
            let figures = [
                ("instructions", now.instructions, before.map(|effort| effort.instructions)),
                ("steps", now.steps, before.map(|effort| effort.steps)),
            ];
            for (what, now, before) in figures {
                let (aim, ok) = match (now, before) {
                    (_, None) => ("known".to_owned(), gap),
                    (None, Some(None)) => (String::new(), None),
                    (Some(now), Some(Some(before))) => {
                        let limit = limit(before);
                        if now > limit {
                            self.remarks.push(format!(
                                "{series}: {name} has {now} {what}, more than a quarter above the {before} of \
                                 steps.json; make it smaller, or: {UPDATE}"
                            ));
                        }
                        (format!("<= {limit}"), Some(now <= limit))
                    }
                    (Some(_), Some(None)) | (None, Some(Some(_))) => {
                        self.remarks
                            .push(format!("steps.json does not fit {what} of {name} on {series}: {UPDATE}"));
                        ("known".to_owned(), gap)
                    }
                };
                self.add(series, &format!("{name} {what}"), json!(now), what, &aim, ok);
            }
        }
        for name in baseline.0.get(series).into_iter().flat_map(Programs::keys) {
            if !loaded.contains_key(name) {
                self.remarks
                    .push(format!("steps.json knows a program {name} on {series}, which is gone: {UPDATE}"));
                self.add(series, &format!("{name} instructions"), Value::Null, "instructions", "loaded", gap);
            }
        }
    }

    /// Whether nothing failed.
    pub(super) fn ok(&self) -> bool {
        self.results.iter().all(|result| result.ok != Some(false))
    }

    /// The table: a column for each kernel, `!` behind what is not ok; below it what there is to say.
    pub(super) fn table(&self) -> String {
        let heads: Vec<String> = self.seen.iter().map(|kernel| kernel.series.clone()).collect();
        let mut rows = vec![("kernel".to_owned(), heads)];
        for (row, names) in self.rows() {
            let cell = |kernel: &Seen| {
                let found: Vec<&Measured> = names
                    .iter()
                    .filter_map(|name| self.result(&format!("{} {name}", kernel.series)))
                    .collect();
                let texts: Vec<String> = found.iter().map(|measured| text(&measured.value)).collect();
                let bad = found.iter().any(|measured| measured.ok == Some(false));
                if texts.is_empty() {
                    "-".to_owned()
                } else {
                    texts.join(" / ") + if bad { " !" } else { "" }
                }
            };
            rows.push((row, self.seen.iter().map(cell).collect()));
        }
        let first = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..self.seen.len())
            .map(|column| rows.iter().map(|(_, cells)| cells[column].len()).max().unwrap_or_default())
            .collect();
        let mut table = String::new();
        for (name, cells) in &rows {
            let mut line = format!("{name:first$}");
            for (cell, width) in cells.iter().zip(&widths) {
                // Writing to a String does not fail.
                let _ = write!(line, "  {cell:>width$}");
            }
            let _ = writeln!(table, "{}", line.trim_end());
        }
        if !self.remarks.is_empty() {
            let _ = write!(table, "\n{}\n", self.remarks.join("\n"));
        }
        table
    }

    /// The table's rows, with the figures that each shows.
    fn rows(&self) -> Vec<(String, Vec<String>)> {
        let mut rows: Vec<(String, Vec<String>)> = ["boots", "loads", "pairs", "differences"]
            .map(|name| (name.to_owned(), vec![name.to_owned()]))
            .into();
        let outcomes = self.seen.iter().filter_map(|kernel| kernel.outcome.as_ref());
        let names: BTreeSet<String> = outcomes.flat_map(|outcome| programs(outcome).into_keys()).collect();
        rows.extend(names.into_iter().map(|name| {
            let figures = vec![format!("{name} instructions"), format!("{name} steps")];
            (format!("{name} (instructions / steps)"), figures)
        }));
        rows
    }

    fn result(&self, name: &str) -> Option<&Measured> {
        self.results.iter().find(|result| result.name == name)
    }

    /// Writes the report in the form that all suites have.
    pub(super) fn write(&self, checkout: &Checkout, path: &Path) -> Result<()> {
        let releases: Vec<&str> = self.seen.iter().filter_map(|kernel| kernel.release.as_deref()).collect();
        let results: Vec<Value> = self
            .results
            .iter()
            .map(|m| json!({"name": m.name, "value": m.value, "unit": m.unit, "aim": m.aim, "ok": m.ok}))
            .collect();
        let report = json!({
            "suite": "kernels",
            "commit": commit(checkout),
            "kernel": releases.join(", "),
            "machine": machine(),
            "date": said(Command::new("date").args(["-u", "+%FT%TZ"])).unwrap_or_default(),
            "seed": self.seed,
            "results": results,
        });
        let mut text = serde_json::to_string_pretty(&report)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(yes) => if *yes { "yes" } else { "no" }.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The commit that was built, with `+` if there are changes.
fn commit(checkout: &Checkout) -> String {
    let git = |args: &[&str]| said(Command::new("git").args(args).current_dir(&checkout.root));
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|s| !s.is_empty());
    if changed { hash + "+" } else { hash }
}

/// Emulated on what.
fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.next().map_or(std::env::consts::ARCH, |(_, model)| model);
    format!("1 × qemu tcg on {model}, 2 GiB")
}

fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::baseline::{Effort, updated};
    use super::*;

    fn seen(steps: u64, differences: u64) -> Seen {
        Seen {
            series: "6.1".to_owned(),
            release: Some("6.1.0".to_owned()),
            outcome: Some(json!({
                "pairs": 10, "differences": differences, "examples": [],
                "programs": [{"name": "egress", "instructions": 100, "steps": steps}],
            })),
            trouble: None,
        }
    }

    fn judged(kernel: Seen, baseline: &Baseline, strict: bool) -> Matrix {
        let question = Question { pairs: 10, seed: 1, deadline: std::time::Duration::ZERO };
        Matrix::judge(vec![kernel], &question, baseline, true, strict)
    }

    fn baseline() -> Baseline {
        let egress = Effort { instructions: Some(100), steps: Some(1000) };
        Baseline([("6.1".to_owned(), Programs::from([("egress".to_owned(), egress)]))].into())
    }

    #[test]
    fn more_than_a_quarter_above_the_baseline_fails_by_name() {
        assert!(judged(seen(1250, 0), &baseline(), true).ok());
        let matrix = judged(seen(1251, 0), &baseline(), false);
        assert!(!matrix.ok());
        let table = matrix.table();
        assert!(table.contains("100 / 1251 !"), "{table}");
        assert!(table.contains("6.1: egress has 1251 steps, more than a quarter above the 1000"), "{table}");
    }

    #[test]
    fn difference_fails() {
        assert!(!judged(seen(1000, 1), &baseline(), false).ok());
    }

    #[test]
    fn kernel_that_shows_nothing_fails() {
        let trouble = Some("it hangs".to_owned());
        let silent = Seen { series: "6.1".to_owned(), release: None, outcome: None, trouble };
        let matrix = judged(silent, &baseline(), false);
        assert!(!matrix.ok());
        assert!(matrix.table().contains("6.1: it hangs"));
    }

    #[test]
    fn gap_in_the_baseline_is_a_note_that_fails_in_ci() {
        for baseline in [Baseline::default(), {
            let mut more = baseline();
            more.0.insert("4.19".to_owned(), Programs::default());
            more
        }] {
            let matrix = judged(seen(1000, 0), &baseline, false);
            assert!(matrix.ok() && matrix.table().contains("--update"), "{}", matrix.table());
            assert!(!judged(seen(1000, 0), &baseline, true).ok());
            let baseline = updated(&[seen(1000, 0)], baseline, true);
            assert!(judged(seen(1000, 0), &baseline, true).ok());
        }
    }
}
