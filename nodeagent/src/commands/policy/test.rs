//! `sluice policy test`.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use sluice_policy::{Posture, World};

use super::files::{self, STDIN};
use super::flow::{self, FlowError};
use super::judge::Judge;
use super::world;
use crate::agent::Format;
use crate::agent::config::PostureSetting;

/// Exit code when a flow is denied.
const EXIT_DENIED: u8 = 1;
/// Exit code when anything could not be judged.
const EXIT_ERROR: u8 = 2;

const HELP: &str = r#"Flows:
  A flow is written as words, in any order, or as a JSON object:
    pod=shop/web label.app=web nslabel.team=red dst=203.0.113.7 port=443 proto=tcp
    {"pod":"shop/web","labels":{"app":"web"},"namespaceLabels":{"team":"red"},
     "dst":"203.0.113.7","port":443,"proto":"tcp"}

  pod          NAMESPACE/NAME
  label.KEY    a label of the pod; in JSON `labels`
  nslabel.KEY  a label of its namespace; in JSON `namespaceLabels`
  dst          an address; names of Services and pods are not looked up
  port         needed with tcp, udp and sctp, refused with others
  proto        tcp (the default), udp, sctp, icmp, or the number in the IP header
  domain       the name, or several with commas between them, for which a trusted resolver gave the
               pod this address
  shown        the name that the flow shows in TLS or HTTP, or `none`: the first of `domain` if not given
  method       the method of a request over HTTP, or `none` for what cannot be read: not known yet if not given
  path         the path of the request, without the query
  opaque       true: the packets cannot be read, as fragments and IP options; no port is needed
  hostNetwork  true: the pod lives in the host's network namespace

  Without --flow, or with `--flow -`, flows are read from standard input, one a line. A bad one
  does not stop the others.

The world:
  Rules with `pods`, `namespaces` or `services` match only what the file of --world knows, YAML or JSON:
WORLD
  `resolvers` are those whose answers count, and to whom rules with `domainNames` allow questions.
  `targets` are what is behind a port of the Service. All but `namespace`, `name` and `port` may
  be left out. A pod in it needs no labels in the flow; labels in a flow go before those here.

What is not modelled:
  Loopback, the pod's own addresses and replies to inbound traffic always pass, before any policy
  is asked. They are judged here as if they did not, so do not ask about them.

Output:
  A line for each flow: what is done, the flow, and why. What policies with `mode: Audit` would
  change is told as well. As JSON, one object a line:
    {"v":1,"flow":{…},"action":"deny","reported":"deny",
     "policy":"shop/web","rule":"default","reason":"EgressPolicy shop/web, default action"}
  `policy` and `rule` are null where none decided; `rule` is the rule's name, or else its place
  from 0. `reportedPolicy`, `reportedRule` and `reportedReason` are there where they differ.
  Errors go to standard error.

Exit codes:
  0 all flows are allowed; 1 a flow is denied; 2 an error: a bad flow, a bad policy, no flow at all

Examples:
  sluice policy test --policy web.yaml --flow 'pod=shop/web label.app=web dst=203.0.113.7 port=443'
  sluice policy test --policy web.yaml --flow 'pod=shop/web dst=203.0.113.7 port=443 domain=api.stripe.com'
  sluice policy test --policy policies/ --world world.yaml --output json < flows.jsonl
  sluice policy test --policy new.yaml --posture log --flow 'pod=shop/web dst=10.0.0.1 proto=icmp'"#;

/// What `sluice policy test` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP.replace("WORLD", world::EXAMPLE))]
pub(crate) struct TestArgs {
    /// Policy files, or directories of them (*.yaml, *.yml, *.json).
    #[arg(long, required = true, num_args = 1.., value_name = "DIR|FILE")]
    policy: Vec<PathBuf>,
    /// A flow, such as 'pod=shop/web label.app=web dst=203.0.113.7 port=443'; - for standard input.
    #[arg(long, value_name = "FLOW")]
    flow: Vec<String>,
    /// The pods, namespaces and Services that peers mean, in a YAML or JSON file [default: none].
    #[arg(long, value_name = "FILE")]
    world: Option<PathBuf>,
    /// Judge as an agent with this posture does.
    #[arg(long, value_enum, default_value_t = PostureSetting::Enforce)]
    posture: PostureSetting,
    /// How the verdicts are printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
}

pub(super) fn run(args: &TestArgs) -> ExitCode {
    let stdin = STDIN.to_owned();
    let sources = if args.flow.is_empty() { std::slice::from_ref(&stdin) } else { args.flow.as_slice() };
    let Some(judge) = prepare(args, sources.contains(&stdin)) else { return ExitCode::from(EXIT_ERROR) };
    let mut test = Test { judge, output: args.output, flows: 0, denied: false, failed: false };
    if let Err(error) = test.all(sources) {
        eprintln!("sluice: cannot go on: {error}");
        test.failed = true;
    }
    ExitCode::from(match &test {
        Test { failed: true, .. } => EXIT_ERROR,
        Test { denied: true, .. } => EXIT_DENIED,
        _ => 0,
    })
}

/// Reads policies and world; none, and all is told, if anything is wrong with them.
fn prepare(args: &TestArgs, flows_on_stdin: bool) -> Option<Judge> {
    if flows_on_stdin && files::reads_stdin(&args.policy) {
        eprintln!(
            "sluice: standard input cannot give policies and flows; name a policy file, or give --flow"
        );
        return None;
    }
    let contents = files::read(&args.policy);
    for fault in &contents.faults {
        eprintln!("sluice: {fault}");
    }
    let world = args.world.as_deref().map_or_else(|| Ok(World::default()), world::read);
    if let Err(error) = &world {
        eprintln!("sluice: {error}");
    }
    let world = world.ok().filter(|_| contents.faults.is_empty())?;
    Some(Judge { policies: contents.policies, world, posture: Posture::from(args.posture) })
}

/// A run over all flows.
struct Test {
    judge: Judge,
    output: Format,
    /// How many were read.
    flows: usize,
    /// One was denied.
    denied: bool,
    /// One could not be judged.
    failed: bool,
}

impl Test {
    fn all(&mut self, sources: &[String]) -> io::Result<()> {
        for source in sources {
            if source == STDIN { self.stdin()? } else { self.one(source, None)? }
        }
        if self.flows == 0 {
            eprintln!("sluice: no flows; give --flow, or write flows to standard input, one a line");
            self.failed = true;
        }
        Ok(())
    }

    fn stdin(&mut self) -> io::Result<()> {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            eprintln!("sluice: reading flows from standard input, one a line");
        }
        for (index, bytes) in stdin.split(b'\n').enumerate() {
            let bytes = bytes?;
            if bytes.trim_ascii().is_empty() {
                continue;
            }
            let line = Some(index + 1);
            if let Ok(text) = str::from_utf8(&bytes) {
                self.one(text, line)?;
            } else {
                self.flows += 1;
                self.refuse(&[FlowError::NotText], line);
            }
        }
        Ok(())
    }

    fn one(&mut self, text: &str, line: Option<usize>) -> io::Result<()> {
        self.flows += 1;
        let spec = match flow::read(text) {
            Ok(spec) => spec,
            Err(errors) => {
                self.refuse(&errors, line);
                return Ok(());
            }
        };
        let verdict = self.judge.judge(&spec);
        self.denied |= verdict.is_denied();
        let mut out = io::stdout().lock();
        match self.output {
            Format::Text => writeln!(out, "{verdict}"),
            Format::Json => writeln!(out, "{}", serde_json::to_string(&verdict)?),
        }
    }

    fn refuse(&mut self, errors: &[FlowError], line: Option<usize>) {
        self.failed = true;
        let place = line.map_or_else(String::new, |line| format!(" (line {line})"));
        for error in errors {
            eprintln!("sluice: flow {}{place}: {error}", self.flows);
        }
    }
}
