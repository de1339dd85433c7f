//! Resolvers of other libraries than glibc: musl, which asks all servers at once from one socket, and c-ares, which asks
//! again and again from the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use super::Run;
use crate::rig::{Pod, binary_in_path, run};

/// The client that is linked with musl.
pub(super) const MUSL: &str = "resolve-musl";

/// Compiles it into a directory.
pub(super) fn compile(directory: &Path) -> Result<()> {
    let source = directory.join("resolve.c");
    fs::write(&source, include_str!("resolve.c"))?;
    let compiler = binary_in_path("musl-gcc")?.display().to_string();
    let (source, program) = (source.display().to_string(), directory.join(MUSL).display().to_string());
    run(&compiler, ["-static", "-O1", "-Wall", "-Werror", "-o", &program, &source]).map(drop)
}

impl Run<'_> {
    /// Fresh names, each asked for by these libraries and connected to at once: a fifth of those of glibc each.
    pub(super) async fn libraries(&mut self, pod: &Pod, when: &str, tag: &str) -> Result<()> {
        let names = (self.options.names / 5).max(10);
        let denied = names / 10;
        for library in ["musl", "c-ares"] {
            let tag = format!("{library}{tag}");
            let told = self.client(pod, &["fresh", &names.to_string(), &tag, library]).await?;
            let expected: BTreeMap<&str, u32> =
                [("allowed: connected", names - denied), ("denied: EPERM", denied)].into();
            let found: BTreeMap<String, Value> = told.into_iter().collect();
            self.report.equal(
                &format!("resolve by {library}, then connect at once{when}"),
                serde_json::to_value(found)?,
                "",
                serde_json::to_value(expected)?,
            );
        }
        Ok(())
    }
}
