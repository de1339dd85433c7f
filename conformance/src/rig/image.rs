//! An image that needs no registry: one layer with one static binary.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::command::{run, static_binary};

/// The only image there is, for sandboxes and for containers.
pub(super) const PROBE_IMAGE: &str = "sluice.test/probe:rig";

/// Writes the image as `docker save` would, below `directory`.
pub(super) fn write(directory: &Path) -> Result<PathBuf> {
    let probe = static_binary("sluice-probe")?;
    let root = directory.join("layer");
    for below in ["etc", "tmp", "proc", "sys", "dev"] {
        fs::create_dir_all(root.join(below))?;
    }
    fs::copy(&probe, root.join("sluice-probe"))
        .with_context(|| format!("cannot copy {}", probe.display()))?;
    let layer = directory.join("layer.tar");
    tar(&layer, &root, &["."])?;
    let digest = run("sha256sum", [&layer])?;
    let digest = digest.split_whitespace().next().context("sha256sum printed nothing")?;
    fs::write(
        directory.join("config.json"),
        serde_json::to_vec(&json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": ["/sluice-probe"], "Cmd": ["pause"]},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        }))?,
    )?;
    fs::write(
        directory.join("manifest.json"),
        serde_json::to_vec(
            &json!([{"Config": "config.json", "RepoTags": [PROBE_IMAGE], "Layers": ["layer.tar"]}]),
        )?,
    )?;
    let image = directory.join("image.tar");
    tar(&image, directory, &["manifest.json", "config.json", "layer.tar"])?;
    fs::remove_dir_all(root)?;
    fs::remove_file(layer)?;
    Ok(image)
}

fn tar(archive: &Path, directory: &Path, names: &[&str]) -> Result<()> {
    let mut arguments = vec![Path::new("-cf"), archive, Path::new("-C"), directory];
    arguments.extend(names.iter().map(Path::new));
    run("tar", arguments).map(drop)
}
