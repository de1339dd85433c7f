//! What the steps of `cargo xtask test` came to.

use std::fmt::Write as _;
use std::time::Duration;

use crate::shell::seconds;
use crate::skips::Skip;

/// What one step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran and found nothing; the text says what it covered, if there is more to say than its name.
    Passed(String),
    /// It ran and found something, or could not run though it should have.
    Failed(String),
    /// It cannot run here, and why.
    Skipped(String),
}

/// One line of the table.
struct Row {
    name: String,
    outcome: Outcome,
    time: Duration,
}

/// All steps so far.
pub(crate) struct Report {
    rows: Vec<Row>,
    /// In CI a skip that is not listed fails; `None` outside CI.
    allowed: Option<Vec<Skip>>,
}

impl Report {
    /// An empty report. `allowed` lists what may be skipped; without it, everything may.
    pub(crate) fn new(allowed: Option<Vec<Skip>>) -> Self {
        Self { rows: Vec::new(), allowed }
    }

    /// Adds a step.
    pub(crate) fn add(&mut self, name: &str, outcome: Outcome, time: Duration) {
        let outcome = match outcome {
            Outcome::Skipped(reason) if !self.may_skip(name) => {
                Outcome::Failed(format!("skipped, and not listed in conformance/skips.txt: {reason}"))
            }
            outcome => outcome,
        };
        self.rows.push(Row { name: name.to_owned(), outcome, time });
    }

    fn may_skip(&self, name: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.iter().any(|skip| skip.name == name))
    }

    /// How many steps passed, failed and were skipped.
    fn counts(&self) -> (usize, usize, usize) {
        let count = |is: fn(&Outcome) -> bool| self.rows.iter().filter(|row| is(&row.outcome)).count();
        (
            count(|o| matches!(o, Outcome::Passed(_))),
            count(|o| matches!(o, Outcome::Failed(_))),
            count(|o| matches!(o, Outcome::Skipped(_))),
        )
    }

    /// Whether something ran and nothing failed.
    pub(crate) fn ok(&self) -> bool {
        matches!(self.counts(), (1.., 0, _))
    }

    /// The table, and the counts alone on the last line.
    pub(crate) fn render(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or_default();
        let mut text = String::new();
        for Row { name, outcome, time } in &self.rows {
            let (word, detail) = match outcome {
                Outcome::Passed(detail) => ("passed", detail),
                Outcome::Failed(detail) => ("FAILED", detail),
                Outcome::Skipped(detail) => ("skipped", detail),
            };
            let line = format!("{name:width$}  {word:7}  {:>9}  {detail}", seconds(*time));
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let (passed, failed, skipped) = self.counts();
        let _ = write!(text, "\n{passed} passed, {failed} failed");
        if skipped > 0 {
            let _ = write!(text, ", {skipped} skipped");
        }
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skipping(allowed: Option<Vec<Skip>>) -> Report {
        let mut report = Report::new(allowed);
        report.add("fmt", Outcome::Passed(String::new()), Duration::from_millis(1250));
        report.add("smoke", Outcome::Skipped("needs root".into()), Duration::ZERO);
        report
    }

    #[test]
    fn last_line_holds_nothing_but_the_counts() {
        let text = skipping(None).render();
        assert_eq!(text.lines().last(), Some("1 passed, 0 failed, 1 skipped"));
        assert!(text.starts_with("fmt    passed       1.2 s\n"), "{text}");
        assert!(text.contains("needs root"), "{text}");
    }

    #[test]
    fn skip_fails_in_ci_unless_listed() {
        assert!(skipping(None).ok());
        assert!(!skipping(Some(vec![])).ok());
        assert!(skipping(Some(vec![Skip::new("smoke", "any")])).ok());
    }

    #[test]
    fn report_of_nothing_is_not_ok() {
        assert!(!Report::new(None).ok());
    }
}
