//! `sluice observe`.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use clap::{Args, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use crate::agent::admin::{self, Answer, Answers, Question};
use crate::agent::events::{Action, Coloured, Kind};
use crate::agent::hub::{Filter, Observe, PodName};
use crate::agent::{DEFAULT_RUN_DIR, Format};

const HELP: &str = "\
Shows events from now on. With --last or --since, also those before that the agent still has: the
2048 newest of the node. The agent filters, and waits for nobody: what is not read quickly enough is
lost, and a line on standard error says how much. At most 16 observers follow at the same time.

JSON (`--output json`) is one object a line, as the agent prints it:
  {\"v\":1,\"ts\":\"2026-11-20T12:46:31.539Z\",\"kind\":\"deny\",\"pod\":{\"namespace\":\"shop\",\"name\":\"frontend\",
   \"uid\":\"…\",\"container\":\"…\",\"qos\":\"Burstable\",\"node\":\"…\"},\"src\":\"10.88.0.3\",\"sport\":40112,
   \"dst\":\"198.51.100.10\",\"dport\":8080,\"proto\":\"tcp\",\"pid\":22842,\"comm\":\"curl\",\"action\":\"deny\",
   \"policy\":\"shop/frontend\",\"rule\":\"default\",\"reason\":\"…\",\"hook\":\"connect\",\"repeats\":0}

Exit codes:
  0 ended by Ctrl-C, by a closed pipe, or with --no-follow; 1 an error; 2 wrong usage;
  3 no agent answers, or it went away

Examples:
  sluice observe
  sluice observe -n shop --verdict deny
  sluice observe --pod shop/frontend --last 20 --no-follow
  sluice observe --since 5m --verdict deny,audit -o json | jq -r .dst | sort | uniq -c";

/// What `sluice observe` is asked for.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub(crate) struct ObserveArgs {
    /// Events of pods in this namespace.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Events of this pod; more than once for any of several.
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pod: Vec<PodName>,
    /// Events of the container whose id begins so; more than once for any of several.
    #[arg(long, value_name = "ID")]
    container: Vec<String>,
    /// Events with this verdict, or any of several with commas between.
    #[arg(long, value_enum, value_delimiter = ',')]
    verdict: Vec<Action>,
    /// Events of this kind, or any of several with commas between.
    #[arg(long, value_enum, value_delimiter = ',')]
    kind: Vec<Kind>,
    /// First, so many of the newest that the agent has.
    #[arg(long, value_name = "N")]
    last: Option<usize>,
    /// First, those that the agent has since then: 90s, 5m, 2h, or a time as 2026-11-20T12:00:00Z.
    #[arg(long, value_name = "AGE|TIME", value_parser = since)]
    since: Option<jiff::Timestamp>,
    /// Do not wait for those to come. Without --last and --since: all that the agent has.
    #[arg(long)]
    no_follow: bool,
    /// How they are printed.
    #[arg(long, short, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Colours in text: auto is on a terminal only, and not with `NO_COLOR` set.
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Colour::Auto)]
    color: Colour,
    /// The agent's run directory.
    #[arg(long, env = "SLUICE_RUN_DIR", value_name = "DIR", default_value = DEFAULT_RUN_DIR)]
    run_dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Colour {
    Auto,
    Always,
    Never,
}

/// A time, or how long ago it was.
fn since(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time);
    }
    let age = text.parse::<jiff::SignedDuration>().ok().filter(|age| !age.is_negative());
    age.and_then(|age| jiff::Timestamp::now().checked_sub(age).ok())
        .ok_or_else(|| "write an age as 90s, 5m or 2h, or a time as 2026-11-20T12:00:00Z".to_owned())
}

pub(crate) fn run(args: ObserveArgs) -> anyhow::Result<ExitCode> {
    let wanted = Observe {
        filter: Filter {
            namespace: args.namespace,
            pods: args.pod,
            containers: args.container,
            verdicts: args.verdict,
            kinds: args.kind,
        },
        last: args.last,
        since: args.since,
        follow: !args.no_follow,
    };
    let answers = match admin::ask(&args.run_dir, &Question::Observe(wanted)) {
        Ok(answers) => answers,
        Err(error) => return super::no_answer(error),
    };
    let colour = match args.color {
        Colour::Auto => ColorChoice::Auto,
        Colour::Always => ColorChoice::Always,
        Colour::Never => ColorChoice::Never,
    };
    let (output, follow) = (args.output, !args.no_follow);

    // Waiting for the agent and for a slow terminal is left to a thread: a signal ends both.
    let (done, ended) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        std::thread::Builder::new().name("observe".to_owned()).spawn(move || {
            // Nobody is left to tell if a signal came first.
            let _ = done.send(copy(answers, output, colour, follow));
        })?;
        tokio::select! {
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            ended = ended => ended.context("the thread that reads the events is gone")?,
        }
    })
}

fn copy(mut answers: Answers, output: Format, colour: ColorChoice, follow: bool) -> anyhow::Result<ExitCode> {
    answers.be_patient()?;
    let mut out = AutoStream::new(io::stdout(), colour).lock();
    loop {
        let written = match answers.wait() {
            Ok(Answer::Event(line)) => match output {
                Format::Json => {
                    serde_json::to_string(&line).map_err(Into::into).and_then(|j| writeln!(out, "{j}"))
                }
                Format::Text => writeln!(out, "{}", Coloured(&line)),
            },
            Ok(Answer::Lost(count)) => {
                eprintln!("sluice: {count} events were lost: they were not read quickly enough");
                Ok(())
            }
            Ok(Answer::End) if follow => {
                eprintln!("sluice: the agent has stopped; the kernel keeps enforcing");
                return Ok(ExitCode::from(super::EXIT_NO_AGENT));
            }
            Ok(Answer::End) => return Ok(ExitCode::SUCCESS),
            Ok(_) => return Err(admin::AskError::OutOfOrder.into()),
            Err(error) => return super::no_answer(error),
        };
        match written.and_then(|()| out.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
            written => written.context("cannot write to standard output")?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_times() {
        let now = jiff::Timestamp::now();
        let ago = now.duration_since(since("5m").expect("an age")).as_secs();
        assert!((-301..=-299).contains(&ago) || (299..=301).contains(&ago), "{ago}");
        assert_eq!(since("2026-11-20T12:00:00Z").expect("a time").as_second(), 1_795_176_000);
        for wrong in ["", "yesterday", "-5m", "5"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
