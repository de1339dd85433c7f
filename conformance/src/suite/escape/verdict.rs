//! What the attempts came to.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use super::super::skip;
use super::NAMESPACE;
use super::list::{Control, Told};
use super::side::{Attempt, Side};
use crate::report::Report;

/// One line of the table.
struct Row {
    name: String,
    made: String,
    arrived: String,
    control: String,
    told: String,
    verdict: &'static str,
    what: &'static str,
}

/// Adds a figure for each attempt, and prints the table.
pub(super) fn judge(report: &mut Report, attempts: &[Attempt], events: &[Value]) -> Result<()> {
    let mut rows = Vec::new();
    let (mut leaked, mut open, mut made, mut skipped) = (Vec::new(), Vec::<String>::new(), 0, 0);
    for attempt in attempts {
        let Attempt { escape, name, governed, control } = attempt;
        if governed.made.is_empty() && control.made.is_empty() {
            skip("escape", name, &governed.stopped)?;
            skipped += 1;
            report.add(name, format!("skipped: {}", governed.stopped), "", "", None);
            rows.push(row(attempt, "-".to_owned(), "skipped"));
            continue;
        }
        made += 1;
        if let Some(setting) = escape.closed_by {
            open.push(name.clone());
            report.add(name, format!("open; closed by: {setting}"), "", "documented", None);
            rows.push(row(attempt, "-".to_owned(), "open"));
            continue;
        }
        let mut wrong = Vec::new();
        if governed.made.is_empty() {
            wrong.push(format!("was not made: {}", governed.stopped));
        }
        if governed.arrived() > 0 {
            leaked.push(name.clone());
            wrong.push(format!("{} frames arrived", governed.arrived()));
            for example in &governed.examples {
                eprintln!("leaked: {name}: {example}");
            }
        }
        match escape.control {
            Control::Arrives if control.arrived() == 0 => wrong.push("the control did not arrive".to_owned()),
            _ => {}
        }
        let told = told(attempt, events);
        if told.is_none() {
            wrong.push("nothing was told".to_owned());
        }
        let ok = wrong.is_empty();
        let value = if ok { format!("made {}", governed.outcomes()) } else { wrong.join("; ") };
        report.add(name, value, "", "nothing arrives", Some(ok));
        rows.push(row(attempt, told.unwrap_or_else(|| "NO".to_owned()), if ok { "ok" } else { "FAILED" }));
    }
    eprint!("{}", table(&rows));
    report.some("made", made, "attempts");
    report.note("open, documented", open.join(" "), "");
    report.note("skipped", skipped, "attempts");
    report.equal("leaked", leaked, "", Vec::<String>::new());
    Ok(())
}

/// What was told of it, if what had to be was.
fn told(attempt: &Attempt, events: &[Value]) -> Option<String> {
    let side = &attempt.governed;
    let family = usize::from(attempt.name.ends_with('6'));
    let wanted = match attempt.escape.told {
        Told::Nothing(_) => return Some("-".to_owned()),
        Told::Forbidden => vec![side.forbidden[family].to_string()],
        // The mapped form is shown as IPv4.
        Told::Allowed => vec![side.allowed[family].to_string(), side.allowed[0].to_string()],
        Told::To(address) => vec![address.to_owned()],
    };
    let found = events.iter().find(|event| {
        event["kind"] == "deny"
            && event["pod"]["namespace"] == NAMESPACE
            && event["pod"]["name"] == side.pod.as_str()
            && event["dst"].as_str().is_some_and(|dst| wanted.iter().any(|wanted| wanted == dst))
            && event["reason"].as_str().is_some_and(|reason| !reason.is_empty())
    });
    found.map(|event| event["hook"].as_str().unwrap_or("yes").to_owned())
}

fn row(attempt: &Attempt, told: String, verdict: &'static str) -> Row {
    let side = |side: &Side| format!("{}/{}", side.far, side.bridge);
    let control = match attempt.escape.control {
        Control::Cannot(_) if attempt.control.arrived() == 0 => "cannot".to_owned(),
        _ => side(&attempt.control),
    };
    let made = match (attempt.governed.outcomes(), attempt.governed.stopped.as_str()) {
        (made, "") => made,
        (made, stopped) => format!("{made} ({stopped})").trim().to_owned(),
    };
    Row {
        name: attempt.name.clone(),
        made,
        arrived: side(&attempt.governed),
        control,
        told,
        verdict,
        what: attempt.escape.what,
    }
}

/// For people. Frames are counted at the far end and on the bridge.
fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("name, calls, arrived (far/bridge), control arrived, event by, verdict, what\n");
    let width = |of: fn(&Row) -> &String| rows.iter().map(|row| of(row).chars().count()).max().unwrap_or(0);
    let widths = [
        width(|row| &row.name),
        width(|row| &row.made),
        width(|row| &row.arrived),
        width(|row| &row.control),
        width(|row| &row.told),
    ];
    for row in rows {
        let [name, made, arrived, control, told] = widths;
        // Writing to a String does not fail.
        let _ = writeln!(
            text,
            "{:name$}  {:made$}  {:>arrived$}  {:>control$}  {:told$}  {:7}  {}",
            row.name, row.made, row.arrived, row.control, row.told, row.verdict, row.what
        );
    }
    text
}
