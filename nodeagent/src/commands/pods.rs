//! `sluice pods`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use super::table;
use crate::agent::admin::{self, PodStatus};
use crate::agent::{DEFAULT_RUN_DIR, Format};

/// The version of [`Pods`].
const SCHEMA: u32 = 1;

const HELP: &str = "\
STATE is `governed`; `unguarded` if the host's end of the pod's link is not watched, so that what its
packet sockets send is not seen; `leaving` if its attachment is gone and its cgroup is not yet.
POLICIES are those that select the pod, first to last.

JSON (`--output json`), one object:
  {\"v\":1,\"pods\":[{\"namespace\":\"shop\",\"name\":\"web\",\"uid\":\"…\",\"ips\":[\"10.88.0.3\"],\"cgroup\":\"/…\",
   \"since\":\"…\",\"leaving\":false,\"guarded\":true,\"policies\":[\"EgressPolicy shop/web\"]}]}

Exit codes:
  0 shown; 1 an error; 2 wrong usage; 3 no agent answers

Examples:
  sluice pods
  sluice pods -n shop
  sluice pods -o json | jq -r '.pods[] | select(.policies == []) | .name'";

/// What `sluice pods` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct PodsArgs {
    /// Pods of this namespace only.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Pods of all namespaces: the default, here for the habit.
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
    /// How they are printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Serialize)]
struct Pods {
    v: u32,
    pods: Vec<PodStatus>,
}

pub(crate) fn run(args: &PodsArgs) -> anyhow::Result<ExitCode> {
    let mut pods = match admin::ask_status(&args.run_dir) {
        Ok(status) => status.pods,
        Err(error) => return super::no_answer(error),
    };
    pods.retain(|pod| args.namespace.as_ref().is_none_or(|wanted| *wanted == pod.namespace));
    pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let mut out = io::stdout().lock();
    match args.output {
        Format::Json => {
            writeln!(out, "{}", serde_json::to_string_pretty(&Pods { v: SCHEMA, pods })?)?;
        }
        Format::Text if pods.is_empty() => eprintln!("No pods are governed here."),
        Format::Text => table::write(&mut out, HEAD, &pods.iter().map(row).collect::<Vec<_>>())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The columns of [`row`].
pub(super) const HEAD: [&str; 7] = ["NAMESPACE", "NAME", "IPS", "POLICIES", "STATE", "SINCE", "AGE"];

/// A pod in a table.
pub(super) fn row(pod: &PodStatus) -> [String; 7] {
    let list = |items: Vec<String>| if items.is_empty() { "<none>".to_owned() } else { items.join(",") };
    let state = match (pod.leaving, pod.guarded) {
        (true, _) => "leaving",
        (false, true) => "governed",
        (false, false) => "unguarded",
    };
    let age = jiff::Timestamp::now().duration_since(pod.since).as_secs();
    [
        pod.namespace.clone(),
        pod.name.clone(),
        list(pod.ips.iter().map(ToString::to_string).collect()),
        list(pod.policies.iter().map(|policy| short(policy)).collect()),
        state.to_owned(),
        format!("{:.0}", pod.since),
        table::age(age),
    ]
}

/// A policy without its kind, unless it is a cluster's.
fn short(policy: &str) -> String {
    policy.strip_prefix("EgressPolicy ").unwrap_or(policy).replace("ClusterEgressPolicy ", "cluster:")
}
