//! A request that carries secrets: it is told of, and none of them is, anywhere.

use anyhow::Result;
use serde_json::json;

use super::server::HOST;
use super::{Run, Whose};

/// Where each is put, and what it is. The user and password of the address go out as `c2VjcmV0LWY6c2VjcmV0LWc=`.
const SECRETS: &[&str] = &[
    "secret-a",
    "secret-b",
    "secret-c",
    "secret-d",
    "secret-e",
    "secret-f",
    "secret-g",
    "c2VjcmV0LWY6c2VjcmV0LWc",
];

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    for (version, prefix) in [("--http1.1", "/secrets-1"), ("--http2", "/secrets-2")] {
        let url = format!("https://{HOST}{prefix}/0?token=secret-a&page=2");
        let command =
            ["/usr/bin/curl", "-sS", "--fail", version, "--cacert", "/etc/ca.pem", "-o", "/dev/null"];
        let with =
            ["-H", "Authorization: Bearer secret-b", "-b", "session=secret-c", "-H", "X-Api-Key: secret-d"];
        let body = ["-d", "password=secret-e", &url];
        let basic = format!("https://secret-f:secret-g@{HOST}{prefix}/1");
        let again =
            ["--next", "-sS", "--fail", version, "--cacert", "/etc/ca.pem", "-o", "/dev/null", &basic];
        let command = [&command[..], &with, &body, &again].concat().into_iter().map(str::to_owned).collect();
        run.pod.start(&run.bed.container("secrets", command)).await?.succeed().await?;
        run.compare(
            &format!("{version} with secrets"),
            prefix,
            2,
            &Whose { pod: "client", comm: "curl", library: "openssl" },
        )
        .await?;
    }
    // The control: all of it was asked for, and is told as far as it is no secret.
    let told = run.told("/secrets-2/0");
    let query = told.first().map(|event| event["query"].clone()).unwrap_or_default();
    run.report.equal("the query, without its secret", query, "", "token=REDACTED&page=2");
    let headers = told.first().map(|event| event["headers"].clone()).unwrap_or_default();
    let kept: Vec<(&str, bool)> = ["authorization", "cookie", "x-api-key", "user-agent"]
        .map(|name| (name, headers[name] == "REDACTED"))
        .to_vec();
    let wanted =
        json!([["authorization", true], ["cookie", true], ["x-api-key", true], ["user-agent", false]]);
    run.report.equal("the headers, and which of them are kept secret", json!(kept), "", wanted);
    let events: String = run.agent.events().iter().map(ToString::to_string).collect();
    let log = std::fs::read_to_string(&run.agent.directories().log)?;
    let observe = |format: &str| run.agent.command(&["observe", "--no-follow", "--output", format]);
    let (text, json) = (observe("text")?, observe("json")?);
    let status = run.agent.command(&["tls", "--output", "json"])?;
    for (place, text) in [
        ("the agent's events", events),
        ("its log", log),
        ("`sluice observe`", text),
        ("`sluice observe --output json`", json),
        ("`sluice tls`", status),
    ] {
        let found: Vec<&&str> = SECRETS.iter().filter(|secret| text.contains(**secret)).collect();
        run.report.equal(
            &format!("secrets in {place}"),
            serde_json::to_value(found)?,
            "",
            Vec::<String>::new(),
        );
    }
    Ok(())
}
