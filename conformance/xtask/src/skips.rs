//! Skips: a test or suite that cannot run here says so, and CI accepts only what the repository lists.
//!
//! A test appends a line `name: reason` to the file that `SLUICE_SKIP_LOG` names, and returns. The list of what CI may
//! skip has lines of the same form.

use std::path::PathBuf;
use std::process::Command;
use std::{fs, io};

use anyhow::{Context as _, Result};

use crate::shell::Checkout;

/// The variable that names the file to append to.
const VARIABLE: &str = "SLUICE_SKIP_LOG";

/// What CI may skip, below the root of the checkout.
const ALLOWED: &str = "conformance/skips.txt";

/// Something that was not run, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Skip {
    /// The test, suite or step.
    pub(crate) name: String,
    /// What would have to be there for it to run.
    pub(crate) reason: String,
}

impl Skip {
    /// A skip of `name`.
    pub(crate) fn new(name: &str, reason: &str) -> Self {
        Self { name: name.to_owned(), reason: reason.to_owned() }
    }
}

/// The file in which the commands of one step note their skips.
pub(crate) struct SkipLog(PathBuf);

impl SkipLog {
    /// An empty log.
    pub(crate) fn create(checkout: &Checkout) -> Result<Self> {
        fs::create_dir_all(&checkout.target)
            .with_context(|| format!("cannot create {}", checkout.target.display()))?;
        let path = checkout.target.join("sluice-skips.log");
        fs::write(&path, "").with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(path))
    }

    /// Tells a command where to note its skips.
    pub(crate) fn tell(&self, command: &mut Command) {
        command.env(VARIABLE, &self.0);
    }

    /// What was noted since the last call.
    pub(crate) fn take(&self) -> Result<Vec<Skip>> {
        let noted =
            fs::read_to_string(&self.0).with_context(|| format!("cannot read {}", self.0.display()))?;
        fs::write(&self.0, "").with_context(|| format!("cannot write {}", self.0.display()))?;
        Ok(parse(&noted))
    }
}

/// What CI may skip.
pub(crate) fn allowed(checkout: &Checkout) -> Result<Vec<Skip>> {
    let path = checkout.root.join(ALLOWED);
    match fs::read_to_string(&path) {
        Ok(list) => Ok(parse(&list)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn parse(lines: &str) -> Vec<Skip> {
    lines
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(": ") {
            Some((name, reason)) => Skip::new(name.trim(), reason.trim()),
            None => Skip::new(line, "no reason given"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Skip, parse};

    #[test]
    fn comments_and_empty_lines_are_no_skips() {
        assert_eq!(
            parse("# why\n\nmy::test: needs: a kernel\nbare\n"),
            [Skip::new("my::test", "needs: a kernel"), Skip::new("bare", "no reason given")]
        );
    }
}
