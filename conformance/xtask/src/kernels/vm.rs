//! Boots a kernel in a virtual machine and reads what the self-test says there.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::packages::Kernel;
use super::qemu::Qemu;
use crate::shell;

/// Lines of the console that a failure shows.
const TAIL: usize = 25;

/// What one kernel showed.
pub(super) struct Seen {
    /// The kernel's series.
    pub(super) series: String,
    /// Its release, if it came up.
    pub(super) release: Option<String>,
    /// The self-test's outcome, if the programs loaded.
    pub(super) outcome: Option<Value>,
    /// What went wrong, with what the console shows.
    pub(super) trouble: Option<String>,
}

/// What the self-test is asked to do.
pub(super) struct Question {
    /// How many packets.
    pub(super) pairs: u64,
    /// For the random policies and packets.
    pub(super) seed: u64,
    /// After which time the machine is stopped.
    pub(super) deadline: Duration,
}

/// Boots `kernel` from `initramfs`; the console goes to the file `log`.
pub(super) fn boot(
    qemu: &Qemu,
    kernel: &Kernel,
    initramfs: &Path,
    log: &Path,
    question: &Question,
) -> Result<Seen> {
    let console = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
    let errors = console.try_clone().context("cannot duplicate the console's file")?;
    let mut command = qemu.command();
    // Emulation is slow, but the same everywhere, and needs no rights.
    command
        .args(["-accel", "tcg", "-cpu", "max", "-m", "2048", "-smp", "1"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none"])
        .args(["-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 sluice_pairs={} sluice_seed={}",
            question.pairs, question.seed
        ))
        .stdin(Stdio::null())
        .stdout(console)
        .stderr(errors);
    let start = Instant::now();
    let mut machine = command.spawn().with_context(|| format!("cannot start {}", shell::show(&command)))?;
    let ended = wait(&mut machine, question.deadline)?;
    let said = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    let mut seen = read(&kernel.series, &String::from_utf8_lossy(&said), ended);
    let time = shell::seconds(start.elapsed());
    seen.trouble =
        seen.trouble.map(|trouble| format!("{trouble}\n(after {time}; the console is in {})", log.display()));
    Ok(seen)
}

/// Waits for the machine's end; false if it had to be stopped at the deadline.
fn wait(machine: &mut Child, deadline: Duration) -> Result<bool> {
    let start = Instant::now();
    loop {
        if machine.try_wait().context("cannot wait for qemu")?.is_some() {
            return Ok(true);
        }
        if start.elapsed() > deadline {
            machine.kill().context("cannot stop qemu")?;
            machine.wait().context("cannot wait for qemu")?;
            return Ok(false);
        }
        sleep(Duration::from_millis(100));
    }
}

/// What a console shows.
fn read(series: &str, console: &str, ended: bool) -> Seen {
    let console = console.replace('\r', "");
    let release = console.lines().find_map(|line| line.strip_prefix("sluice-vm: begin ")).map(str::to_owned);
    let told = told(&console);
    let (outcome, trouble) = match told {
        Ok(outcome) => (Some(outcome), None),
        Err(_) if !ended => (None, Some("it hangs: stopped at the deadline".to_owned())),
        Err(error) => (None, Some(format!("{error:#}"))),
    };
    let trouble = trouble.map(|trouble| format!("{trouble}\n{}", tail(&console)));
    Seen { series: series.to_owned(), release, outcome, trouble }
}

/// The self-test's outcome.
fn told(console: &str) -> Result<Value> {
    let between = |from: &str, to: &str| {
        let rest = console.split_once(&format!("\nsluice-vm: {from}\n"))?.1;
        rest.split_once(&format!("sluice-vm: {to}")).map(|(text, _)| text)
    };
    let Some(outcome) = between("outcome", "errors") else {
        bail!("the line `sluice-vm: outcome` is missing: the kernel or its first process came to no end");
    };
    let Some(errors) = between("errors", "end") else {
        bail!(
            "the line `sluice-vm: end` is missing: the machine stopped before the first process was through"
        );
    };
    ensure!(!outcome.trim().is_empty(), "the self-test failed: {}", errors.trim());
    serde_json::from_str(outcome).context("the self-test's outcome is not JSON")
}

/// The end of the console; before it the kernel's last words, which a long trace follows.
fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.is_empty() {
        return "    | (the console shows nothing)".to_owned();
    }
    let end = &lines[lines.len().saturating_sub(TAIL)..];
    let panic = lines.iter().find(|line| line.contains("Kernel panic") && !end.contains(line));
    let shown: Vec<String> = panic.into_iter().chain(end).map(|line| format!("    | {line}")).collect();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "SeaBIOS\r\nsluice-vm: begin 6.1.0-56-amd64\r\nsluice-vm: outcome\r\n{\r\n\"pairs\": 7}\r\n\
                        sluice-vm: errors\r\nsluice-vm: end 0\r\n";

    #[test]
    fn outcome_is_read_from_the_console() {
        let seen = read("6.1", GOOD, true);
        assert_eq!(seen.release.as_deref(), Some("6.1.0-56-amd64"));
        assert_eq!(seen.outcome.expect("an outcome")["pairs"], 7);
        assert_eq!(seen.trouble, None);
    }

    #[test]
    fn what_is_missing_is_named_with_the_end_of_the_console() {
        for (console, ended, said) in [
            ("SeaBIOS\nKernel panic", true, "`sluice-vm: outcome` is missing"),
            ("SeaBIOS\nKernel panic", false, "it hangs"),
            (
                "Kernel panic\nsluice-vm: outcome\n{}\nsluice-vm: errors\n",
                true,
                "`sluice-vm: end` is missing",
            ),
            (
                "Kernel panic\nsluice-vm: outcome\nsluice-vm: errors\nno veth\nsluice-vm: end 1\n",
                true,
                "the self-test failed: no veth",
            ),
        ] {
            let trouble = read("6.1", console, ended).trouble.expect("trouble");
            assert!(trouble.contains(said) && trouble.contains("    | Kernel panic"), "{trouble}");
        }
    }
}
