//! What containerd runs instead of runc: it takes the resource limits out of the bundle, then becomes runc.
//!
//! The machines that the suites run on may have a cgroup v2 hierarchy without controllers, where runc fails to set
//! limits. The device rules stay. The rig installs its own binary under [`NAME`]; a program that hosts the rig must call
//! [`dispatch`] first of all.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// The name by which the rig's binary is the wrapper.
pub(super) const NAME: &str = "sluice-rig-runc";

/// If this process was started as the wrapper, becomes runc and does not return.
pub fn dispatch() {
    let mut arguments = std::env::args_os();
    let name = arguments.next().map(PathBuf::from);
    if name.as_deref().and_then(Path::file_name).is_none_or(|name| name != NAME) {
        return;
    }
    let arguments: Vec<OsString> = arguments.collect();
    let result = prepare(&arguments);
    // runc's caller shows stderr in its error.
    if let Err(error) = result {
        eprintln!("{NAME}: {error:#}");
        std::process::exit(1);
    }
    let error = Command::new("runc").args(arguments).exec();
    eprintln!("{NAME}: cannot run runc: {error}");
    std::process::exit(1);
}

fn prepare(arguments: &[OsString]) -> Result<()> {
    if !arguments.iter().any(|argument| argument == "create") {
        return Ok(());
    }
    let bundle =
        arguments.iter().position(|argument| argument == "--bundle").and_then(|at| arguments.get(at + 1));
    let config = bundle.map_or_else(PathBuf::new, PathBuf::from).join("config.json");
    let text = std::fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
    let mut spec: Value = serde_json::from_slice(&text)?;
    drop_limits(&mut spec);
    std::fs::write(&config, serde_json::to_vec(&spec)?)?;
    Ok(())
}

fn drop_limits(spec: &mut Value) {
    if let Some(resources) = spec.pointer_mut("/linux/resources").and_then(Value::as_object_mut) {
        resources.retain(|name, _| name == "devices");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::drop_limits;

    #[test]
    fn only_device_rules_stay() {
        let mut spec =
            json!({"linux": {"resources": {"cpu": {"shares": 2}, "devices": [1]}, "cgroupsPath": "/a"}});
        drop_limits(&mut spec);
        assert_eq!(spec, json!({"linux": {"resources": {"devices": [1]}, "cgroupsPath": "/a"}}));
        let mut bare = json!({"process": {}});
        drop_limits(&mut bare);
        assert_eq!(bare, json!({"process": {}}));
    }
}
