//! What a suite answers: named figures, each with the aim that it is held against.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A suite's answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Name of the suite.
    pub suite: String,
    /// Commit that was built, `+` appended if there are changes; `unknown` outside a checkout.
    pub commit: String,
    /// Kernel release.
    pub kernel: String,
    /// CPU model and number, memory.
    pub machine: String,
    /// When it began, UTC.
    pub date: String,
    /// Seed of its random choices.
    pub seed: u64,
    /// The figures.
    pub results: Vec<Measured>,
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// What was measured.
    pub name: String,
    /// The figure, or a text.
    pub value: Value,
    /// What it is counted in.
    pub unit: String,
    /// What it should be.
    pub aim: String,
    /// Whether it is; null where nothing can be said.
    pub ok: Option<bool>,
}

impl Report {
    /// An empty report of a run that begins now.
    pub fn new(suite: &str, seed: u64) -> Self {
        Self {
            suite: suite.to_owned(),
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            machine: machine(),
            date: date(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())),
            seed,
            results: Vec::new(),
        }
    }

    /// Adds a figure that is what it is.
    pub fn note(&mut self, name: &str, value: impl Into<Value>, unit: &str) {
        self.add(name, value, unit, "", None);
    }

    /// Adds a figure that must be exactly so.
    pub fn equal(&mut self, name: &str, value: impl Into<Value>, unit: &str, aim: impl Into<Value>) {
        let (value, aim) = (value.into(), aim.into());
        let ok = value == aim;
        self.add(name, value, unit, &text(&aim), Some(ok));
    }

    /// Adds a figure that must not be 0.
    pub fn some(&mut self, name: &str, value: u64, unit: &str) {
        self.add(name, value, unit, "> 0", Some(value > 0));
    }

    /// Adds a figure.
    pub fn add(&mut self, name: &str, value: impl Into<Value>, unit: &str, aim: &str, ok: Option<bool>) {
        self.results.push(Measured {
            name: name.to_owned(),
            value: value.into(),
            unit: unit.to_owned(),
            aim: aim.to_owned(),
            ok,
        });
    }

    /// Whether nothing failed.
    pub fn ok(&self) -> bool {
        self.results.iter().all(|result| result.ok != Some(false))
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let rows: Vec<[String; 4]> = self
            .results
            .iter()
            .map(|result| {
                let verdict = match result.ok {
                    Some(true) => "ok",
                    Some(false) => "FAILED",
                    None => "",
                };
                let value = format!("{} {}", text(&result.value), result.unit);
                [result.name.clone(), value.trim().to_owned(), result.aim.clone(), verdict.to_owned()]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (names, values, aims) = (width(0), width(1), width(2));
        let mut table = format!("{} on {}, {}, {}\n", self.suite, self.kernel, self.machine, self.date);
        for [name, value, aim, verdict] in &rows {
            let line = format!("  {name:names$}  {value:>values$}  {aim:aims$}  {verdict}");
            // Writing to a String does not fail.
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }

    /// Writes the JSON form.
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn machine() -> String {
    let cpus = read("/proc/cpuinfo");
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name"))
        .map(|rest| rest.trim_start_matches([' ', '\t', ':']).trim())
        .collect();
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    let model = models.first().unwrap_or(&std::env::consts::ARCH);
    format!("{} × {model}, {} GiB", models.len().max(1), kib.div_ceil(1 << 20))
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(hash) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    if changed { hash + "+" } else { hash }
}

/// ISO 8601 in UTC.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if day < length {
            break;
        }
        day -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", day + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

#[cfg(test)]
mod tests {
    use super::{Report, date};

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01T00:00:00Z");
        assert_eq!(date(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(date(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn a_report_fails_with_any_of_its_figures() {
        let mut report = Report::new("test", 1);
        report.note("pods", 3, "");
        report.equal("leaked", 0, "packets", 0);
        report.some("attempted", 7, "packets");
        assert!(report.ok());
        report.equal("leaked again", 1, "packets", 0);
        assert!(!report.ok());
        let table = report.table();
        assert!(table.contains("FAILED") && table.contains("7 packets"), "{table}");
    }
}
