//! Policy files that cannot be used: what they last said stays in force, over a restart too.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use anyhow::Result;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use rand::Rng;

use super::{Run, document, good_policy, pod, verdicts};

/// Allows everything: what must not come into force with the rest of a broken file.
const OPEN: &str = "0.0.0.0/0\", \"::/0";

/// How a file gets there.
#[derive(Clone, Copy)]
enum How {
    /// In place of the good one.
    Instead,
    /// The same, with these permissions.
    Mode(u32),
    /// The same, as a link to a file elsewhere.
    Link,
    /// A pipe in place of the good one: who reads it would hang.
    Pipe,
    /// Beside the good one, as `second.yaml`.
    Beside,
}

struct Fault {
    name: &'static str,
    text: String,
    how: How,
    /// What the error must say, besides the file.
    words: &'static [&'static str],
}

fn fault(name: &'static str, text: String, how: How, words: &'static [&'static str]) -> Fault {
    Fault { name, text, how, words }
}

fn faults() -> Vec<Fault> {
    let networks = |network: &str| document("", &format!("{OPEN}\", \"{network}"));
    let rule = "  - {name: requests, action: Allow, ports: [{port: 443, protocol: UDP}], http: [{methods: [GET]}]}\n";
    let star = "  - {name: domains, action: Allow, to: [{domainNames: [\"*\"]}]}\n";
    vec![
        fault(
            "bad CIDR",
            networks("203.0.113.0/33"),
            How::Instead,
            &["spec.rules[0].to[0].networks[2]", "the longest is /32"],
        ),
        fault(
            "host bits",
            networks("203.0.113.9/24"),
            How::Instead,
            &["spec.rules[0].to[0].networks[2]", "write 203.0.113.0/24"],
        ),
        fault(
            "unknown field",
            document("  podSelektor: {}\n", OPEN),
            How::Instead,
            &["spec.podSelektor", "no such field; known here: ", "podSelector"],
        ),
        fault(
            "wrong type",
            document("  priority: high\n", OPEN),
            How::Instead,
            &["spec.priority", "expected a number, found the text"],
        ),
        fault("syntax error", document("  mode: [\n", OPEN), How::Instead, &["document 1, line "]),
        fault(
            "requests by UDP",
            document("", OPEN) + rule,
            How::Instead,
            &["spec.rules[1].ports[0]", "HTTP goes over TCP", "write a TCP port"],
        ),
        fault(
            "every name",
            document("", OPEN) + star,
            How::Instead,
            &["spec.rules[1].to[0].domainNames[0]", "would match every name", "leave `to` out"],
        ),
        fault(
            "writable by others",
            document("", OPEN),
            How::Mode(0o666),
            &["mode 666", "writable by nobody else", "chmod go-w"],
        ),
        fault("symlink", document("", OPEN), How::Link, &["not a regular file", "not a link"]),
        fault("pipe", String::new(), How::Pipe, &["not a regular file"]),
        fault(
            "defined twice",
            document("", OPEN),
            How::Beside,
            &["broken/good", "second.yaml", "defined twice", "rename or remove one"],
        ),
    ]
}

/// Runs the checks.
pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    for fault in faults() {
        eprintln!("broken-input: policy files: {}", fault.name);
        broken(run, &fault).await?;
    }
    Ok(())
}

async fn broken(run: &mut Run<'_>, fault: &Fault) -> Result<()> {
    let name = fault.name;
    let before = run.status().await?;
    put(run, fault)?;
    let status = run.until_errors(|errors| !errors.is_empty()).await?;
    let mut words = vec!["good.yaml"];
    words.extend(fault.words);
    run.says(&format!("{name}: the error"), &status.policy_errors(), &words);
    let shown = run.sluice(&["status"]).await?;
    run.report.equal(&format!("{name}: exit codes"), vec![status.code, shown.status.code()], "", vec![1, 1]);
    run.says(&format!("{name}: the error as text"), &super::text(&shown.stdout), &words);
    run.unchanged(name, &before).await?;
    run.enforced(name).await?;

    run.agent.restart().await?;
    let after = format!("{name}, restarted");
    let status = run.status().await?;
    run.says(&format!("{after}: the error"), &status.policy_errors(), &words);
    let same = status.lasting() == before.lasting();
    run.report.equal(&format!("{after}: status as before"), same, "", true);
    run.enforced(&after).await?;
    // Whatever makes the agent look at its policies again must not make it forget them.
    let newcomer = run.rig.run_pod(&pod("newcomer")).await?;
    let found = verdicts(&newcomer, run.random.random()).await?;
    run.good(&format!("{after}: a new pod is governed"), found);
    run.enforced(&format!("{after}, with a new pod")).await?;
    newcomer.remove().await?;
    mend(run).await
}

fn put(run: &Run<'_>, fault: &Fault) -> Result<()> {
    let directories = run.agent.directories();
    let policies = &directories.policies;
    match fault.how {
        How::Instead => directories.write_policy("good", &fault.text)?,
        How::Beside => directories.write_policy("second", &fault.text)?,
        How::Mode(mode) => {
            let temporary = policies.join(".good.tmp");
            fs::write(&temporary, &fault.text)?;
            fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))?;
            fs::rename(temporary, policies.join("good.yaml"))?;
        }
        How::Link => {
            let elsewhere = run.rig.place().directory.join("elsewhere.yaml");
            fs::write(&elsewhere, &fault.text)?;
            let temporary = policies.join(".good.tmp");
            symlink(elsewhere, &temporary)?;
            fs::rename(temporary, policies.join("good.yaml"))?;
        }
        How::Pipe => {
            let temporary = policies.join(".good.tmp");
            mkfifo(&temporary, Mode::S_IRUSR | Mode::S_IWUSR)?;
            fs::rename(temporary, policies.join("good.yaml"))?;
        }
    }
    Ok(())
}

/// Puts the good file back, and waits until it is believed.
async fn mend(run: &Run<'_>) -> Result<()> {
    let directories = run.agent.directories();
    if directories.policies.join("second.yaml").exists() {
        directories.remove_policy("second")?;
    }
    directories.write_policy("good", &good_policy())?;
    run.until_errors(str::is_empty).await?;
    Ok(())
}
