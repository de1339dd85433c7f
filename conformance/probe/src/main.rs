//! `sluice-probe`: what runs inside the conformance pods.
//!
//! One static binary that is the pause container, the sender that starts sending with its first instructions, and the
//! server that answers. Results go to stdout as JSON lines; the rig reads them from the container's log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

mod ask;
mod attempt;
mod escape;
mod flood;
mod map;
mod pause;
mod serve;
mod streams;
mod sys;
mod tries;
mod wire;

const USAGE: &str = "usage: sluice-probe COMMAND [--OPTION VALUE]...
  pause                     wait for a signal, reap children
  sleep [--seconds S]       the same, for at most S seconds
  flood --tag N --rounds R --allowed4 IP --allowed6 IP --forbidden4 IP --forbidden6 IP
        --udp-port P --tcp-port P [--seconds S] [--pace-ms MS]
  serve --tcp P --udp P     answer whatever comes in
  streams --flows 'PROTO/IP...' --port P [--pace-ms MS]   send without end, by tcp and udp
  tries --file F            try each flow of a file once
  map --directory D [--seconds S]   map every file below it as a library, and hold them
  connect --to IP --port P --proto tcp|udp|icmp [--count N] [--timeout-ms MS]
  ask --server IP --port P --name NAME --count N [--first F] [--kind TYPE]
                            questions by udp; # in the name is the number
  escape NAME --tag N --own4 IP --own6 IP --neighbour4 IP --neighbour6 IP --allowed4 IP --allowed6 IP
         --forbidden4 IP --forbidden6 IP [--directory D] [--seconds S]";

/// The options of a command, as `--name value` pairs.
struct Options(BTreeMap<String, String>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = arguments;
        let mut options = BTreeMap::new();
        while let Some(argument) = arguments.next() {
            let name = argument.strip_prefix("--").ok_or_else(|| format!("unexpected {argument:?}"))?;
            let value = arguments.next().ok_or_else(|| format!("--{name} needs a value"))?;
            options.insert(name.to_owned(), value);
        }
        Ok(Self(options))
    }

    fn get<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value.parse().map(Some).map_err(|_| format!("--{name} {value:?} is not of the right form"))
    }

    fn need<T: FromStr>(&self, name: &str) -> Result<T, String> {
        self.get(name)?.ok_or_else(|| format!("--{name} is missing"))
    }
}

fn flood_plan(options: &Options) -> Result<flood::Plan, String> {
    Ok(flood::Plan {
        tag: options.need("tag")?,
        rounds: options.need("rounds")?,
        allowed: [options.need("allowed4")?, options.need("allowed6")?],
        forbidden: [options.need("forbidden4")?, options.need("forbidden6")?],
        udp_port: options.need("udp-port")?,
        tcp_port: options.need("tcp-port")?,
        pace: Duration::from_millis(options.get("pace-ms")?.unwrap_or(10)),
        lasting: Duration::from_secs_f64(options.get("seconds")?.unwrap_or(0.0)),
    })
}

fn escape_plan(options: &Options) -> Result<escape::Plan, String> {
    let pair = |name: &str| {
        Ok::<_, String>([options.need(&format!("{name}4"))?, options.need(&format!("{name}6"))?])
    };
    Ok(escape::Plan {
        tag: options.need("tag")?,
        own: pair("own")?,
        neighbour: pair("neighbour")?,
        allowed: pair("allowed")?,
        forbidden: pair("forbidden")?,
        directory: options.get("directory")?,
        lasting: Duration::from_secs_f64(options.get("seconds")?.unwrap_or(0.0)),
    })
}

fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().ok_or("no command")?;
    if command == "escape" {
        let name = arguments.next().ok_or("escape needs a name")?;
        return escape::run(&name, &escape_plan(&Options::parse(arguments)?)?);
    }
    let options = Options::parse(arguments)?;
    match command.as_str() {
        "flood" => flood::run(&flood_plan(&options)?),
        "pause" => pause::run(None),
        "sleep" => pause::run(options.get("seconds")?.map(Duration::from_secs_f64)),
        "serve" => {
            serve::run(options.need("tcp")?, options.need("udp")?).map_err(|e| format!("serve: {e}"))?;
        }
        "streams" => {
            let pace = Duration::from_millis(options.get("pace-ms")?.unwrap_or(1));
            streams::run(&options.need::<String>("flows")?, options.need("port")?, pace)?;
        }
        "tries" => tries::run(&options.need::<std::path::PathBuf>("file")?)?,
        "map" => {
            let lasting = Duration::from_secs_f64(options.get("seconds")?.unwrap_or(0.0));
            map::run(&options.need::<std::path::PathBuf>("directory")?, lasting)?;
        }
        "connect" => attempt::run(&attempt::Attempt {
            to: options.need("to")?,
            port: options.get("port")?.unwrap_or(0),
            protocol: options.need("proto")?,
            count: options.get("count")?.unwrap_or(1),
            timeout: Duration::from_millis(options.get("timeout-ms")?.unwrap_or(2000)),
        }),
        "ask" => ask::run(&ask::Plan {
            server: SocketAddr::new(options.need("server")?, options.need("port")?),
            name: options.need("name")?,
            kind: options.get("kind")?.unwrap_or(1),
            first: options.get("first")?.unwrap_or(0),
            count: options.need("count")?,
        })
        .map_err(|error| format!("ask: {error}"))?,
        other => return Err(format!("unknown command {other:?}")),
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("sluice-probe: {reason}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Options;

    fn parse(words: &[&str]) -> Result<Options, String> {
        Options::parse(words.iter().map(ToString::to_string))
    }

    #[test]
    fn options_are_pairs() {
        let options = parse(&["--tag", "7", "--to", "::1"]).unwrap();
        assert_eq!(options.need::<u64>("tag"), Ok(7));
        assert_eq!(options.get::<u16>("port"), Ok(None));
        assert!(options.need::<u64>("to").is_err());
        assert!(options.need::<u64>("rounds").unwrap_err().contains("--rounds is missing"));
    }

    #[test]
    fn stray_words_are_refused() {
        assert!(parse(&["tag", "7"]).is_err());
        assert!(parse(&["--tag"]).is_err());
    }
}
