//! Keeps an outer cargo's environment away from an inner one.

use std::env;
use std::process::Command;

/// Variables by which a cargo, a rustup proxy or make speaks to what it starts, and which would make an inner cargo
/// use the wrong compiler, the wrong flags, the outer's jobserver or (`RUSTC_WORKSPACE_WRAPPER`) clippy.
const OUTER: &[&str] = &[
    "CARGO",
    "RUSTC",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_LINKER",
    "RUSTC_BOOTSTRAP",
    "RUSTUP_TOOLCHAIN",
    "RUST_RECURSION_COUNT",
    "CLIPPY_ARGS",
    "CLIPPY_CONF_DIR",
    "MAKEFLAGS",
    "MFLAGS",
    "LD_LIBRARY_PATH",
    "OUT_DIR",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
    "NUM_JOBS",
];

/// `CARGO_…` variables that a user or a machine sets and that an inner cargo needs as well: its home, the network, the
/// registries and how to print.
const KEPT: &[&str] = &[
    "CARGO_HOME",
    "CARGO_HTTP_",
    "CARGO_NET_",
    "CARGO_REGISTRIES_",
    "CARGO_REGISTRY_",
    "CARGO_SOURCE_",
    "CARGO_TERM_",
];

/// Takes from `command` what the cargo that runs this process has set for it, so that `command` can be a cargo of
/// another toolchain with flags of its own.
pub fn scrub(command: &mut Command) -> &mut Command {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_outer) {
            command.env_remove(&name);
        }
    }
    command
}

fn is_outer(name: &str) -> bool {
    let kept = KEPT.iter().any(|kept| match kept.strip_suffix('_') {
        Some(_) => name.starts_with(kept),
        None => name == *kept,
    });
    OUTER.contains(&name) || (name.starts_with("CARGO_") && !kept)
}

#[cfg(test)]
mod tests {
    use super::is_outer;

    #[test]
    fn what_an_outer_cargo_sets_is_taken_away() {
        for name in [
            "CARGO",
            "CARGO_MAKEFLAGS",
            "CARGO_TARGET_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTC_WRAPPER",
            "CARGO_PKG_NAME",
            "CARGO_CFG_TARGET_ARCH",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(is_outer(name), "{name}");
        }
    }

    #[test]
    fn what_a_user_sets_for_every_cargo_stays() {
        for name in ["CARGO_HOME", "CARGO_HTTP_PROXY", "CARGO_NET_OFFLINE", "RUSTUP_HOME", "PATH", "HOME"] {
            assert!(!is_outer(name), "{name}");
        }
    }
}
