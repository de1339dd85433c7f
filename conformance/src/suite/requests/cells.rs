//! Every client, over every protocol that it speaks.

use anyhow::{Context, Result};

use super::clients::{ABSENT, CLIENTS, own};
use super::{NAMESPACE, Run, Whose, json};
use crate::suite::skip;

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let each = run.options.each;
    for (index, client) in CLIENTS.iter().enumerate() {
        let name = format!("{}, {}", client.name, client.protocol);
        let prefix = format!("/cell-{index:02}");
        let container = run.bed.container("client", (client.command)(&prefix, each));
        let container = run.pod.start(&container).await?;
        container.succeed().await.with_context(|| name.clone())?;
        run.compare(&name, &prefix, each, &Whose { pod: "client", comm: client.comm }).await?;
    }
    for (name, reason) in ABSENT {
        skip("requests", name, reason)?;
        run.report.add(name, format!("cannot be had: {reason}"), "", "", None);
    }
    // Whatever was told twice has been by now.
    let mut twice = Vec::new();
    for (index, client) in CLIENTS.iter().enumerate() {
        let told = run.told(&format!("/cell-{index:02}")).len();
        if told > each as usize {
            twice.push(format!("{}, {}: {told}", client.name, client.protocol));
        }
    }
    run.report.equal("told of more than once", twice, "", Vec::<String>::new());
    stripped(run).await
}

/// A program without symbols: it is not read, and that is said.
async fn stripped(run: &mut Run<'_>) -> Result<()> {
    let container = run.bed.container("stripped", own("openssl-stripped", "/stripped", 2));
    let container = run.pod.start(&container).await?;
    container.succeed().await?;
    let answered = run.answered("/stripped", 2).await?.len();
    run.report.equal("static OpenSSL without symbols: answered", answered, "", 2);
    let said = run.agent.command(&["tls", "--output", "json"])?;
    let told = json(&said)?.to_string();
    run.report.equal(
        "static OpenSSL without symbols: `sluice tls` names it",
        told.contains("openssl-stripped"),
        "",
        true,
    );
    let all = run.told("/stripped").len();
    run.report.note("static OpenSSL without symbols: seen", all, "of 2");
    let named = said.contains(NAMESPACE);
    run.report.equal("`sluice tls` names pods", named, "", true);
    Ok(())
}
