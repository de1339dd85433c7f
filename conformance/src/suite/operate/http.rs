//! The agent's HTTP listener, as Prometheus and kubelet ask it.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where the agent listens unless told otherwise.
pub(super) const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9470);

/// An answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

/// Asks once.
pub(super) async fn get(path: &str) -> Result<Answer> {
    ask(&format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")).await
}

/// Sends a request as it stands.
pub(super) async fn ask(request: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect(ADDRESS).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
}

/// Samples: name and labels as they stand there, and value.
pub(in crate::suite) struct Samples(BTreeMap<String, String>);

/// Looks at the metrics.
pub(in crate::suite) async fn samples() -> Result<Samples> {
    let answer = get("/metrics").await?;
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').context("a sample without a value")?;
        Ok((series.to_owned(), value.to_owned()))
    };
    Ok(Samples(lines.map(sample).collect::<Result<_>>()?))
}

impl Samples {
    /// One series, which must be a count.
    pub(in crate::suite) fn get(&self, series: &str) -> Result<u64> {
        let value = self.0.get(series).with_context(|| format!("there is no {series}"))?;
        value.parse().with_context(|| format!("{series} is {value}"))
    }

    /// One series, which may be a fraction.
    pub(in crate::suite) fn number(&self, series: &str) -> Result<f64> {
        let value = self.0.get(series).with_context(|| format!("there is no {series}"))?;
        value.parse().with_context(|| format!("{series} is {value}"))
    }

    /// All series of a name together.
    pub(super) fn sum(&self, name: &str) -> Result<u64> {
        let of_name = self.series().into_iter().filter(|series| series.split('{').next() == Some(name));
        of_name.map(|series| self.get(series)).sum()
    }

    /// The names and labels.
    pub(super) fn series(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// By how much a series has grown since. None shrinks.
    pub(in crate::suite) fn growth(&self, before: &Self, series: &str) -> Result<u64> {
        grown(series, before.get(series)?, self.get(series)?)
    }

    /// By how much all series of a name have grown together.
    pub(in crate::suite) fn growth_of_all(&self, before: &Self, name: &str) -> Result<u64> {
        grown(name, before.sum(name)?, self.sum(name)?)
    }
}

fn grown(name: &str, before: u64, after: u64) -> Result<u64> {
    after.checked_sub(before).with_context(|| format!("{name} fell from {before} to {after}"))
}
