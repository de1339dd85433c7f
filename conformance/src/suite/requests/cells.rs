//! Every client, over every protocol that it speaks.

use std::time::Instant;

use anyhow::{Context, Result};

use super::clients::{ABSENT, CLIENTS, own};
use super::{LIMIT, Run, TICK, Whose};
use crate::suite::operate::http::samples;
use crate::suite::skip;

pub(super) async fn run(run: &mut Run<'_>) -> Result<()> {
    let each = run.options.each;
    for (index, client) in CLIENTS.iter().enumerate() {
        let name = format!("{}, {}", client.name, client.protocol);
        let prefix = format!("/cell-{index:02}");
        let container = run.bed.container("client", (client.command)(&prefix, each));
        let container = run.pod.start(&container).await?;
        container.succeed().await.with_context(|| name.clone())?;
        run.compare(
            &name,
            &prefix,
            each,
            &Whose { pod: "client", comm: client.comm, library: client.library },
        )
        .await?;
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

/// A program without symbols: nothing of it is read, and its flows are counted as such.
async fn stripped(run: &mut Run<'_>) -> Result<()> {
    const SILENT: &str = "sluice_tls_flows_unseen";
    let before = samples().await?.get(SILENT)?;
    let mut command = own("openssl-stripped", "/stripped", 2);
    command.push("1000".to_owned());
    let container = run.pod.start(&run.bed.container("stripped", command)).await?;
    let answered = run.answered("/stripped", 2).await?.len();
    let deadline = Instant::now() + LIMIT;
    while samples().await?.get(SILENT)? <= before && Instant::now() < deadline {
        tokio::time::sleep(TICK).await;
    }
    let counted = samples().await?.get(SILENT)? > before;
    container.succeed().await?;
    let name = "static OpenSSL without symbols";
    run.report.equal(&format!("{name}: answered"), answered, "", 2);
    let told = run.told("/stripped").len();
    run.report.note(
        &format!("{name}: seen"),
        format!("{told} of 2: cannot be had, for nothing says where it writes"),
        "",
    );
    run.report.equal(&format!("{name}: counted as a flow that is not seen"), counted, "", true);
    Ok(())
}
