//! `sluice dns`: what a pod has learned from DNS.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::agent::Format;
use crate::agent::admin::{self, Answer, Question};
use crate::agent::learned::LearnedName;

/// Shows it. `pod` is `namespace/name`.
pub fn show(run_dir: &Path, pod: &str, format: Format) -> anyhow::Result<ExitCode> {
    let (namespace, name) =
        pod.split_once('/').with_context(|| format!("{pod:?} is no pod: write it as namespace/name"))?;
    let question = Question::Dns { namespace: namespace.to_owned(), name: name.to_owned() };
    let names = match admin::ask(run_dir, &question)? {
        Answer::Dns(names) => names,
        Answer::Refused(refusal) => bail!(refusal.message),
        Answer::Status(_) => bail!("the agent answered another question; is it of another version?"),
    };
    let mut out = io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{}", serde_json::to_string_pretty(&names)?)?,
        Format::Text => write_table(&mut out, &names)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn write_table(out: &mut impl Write, names: &[LearnedName]) -> io::Result<()> {
    let width = names.iter().map(|name| name.name.len()).max().unwrap_or(0).max("NAME".len());
    writeln!(out, "{:width$}  {:39}  {:39}  UNTIL", "NAME", "ADDRESS", "RESOLVER")?;
    for LearnedName { name, address, resolver, until, expired, .. } in names {
        let over = if *expired { ", over" } else { "" };
        let (address, resolver) = (address.to_string(), resolver.to_string());
        writeln!(out, "{name:width$}  {address:39}  {resolver:39}  {until:.0}{over}")?;
    }
    Ok(())
}
