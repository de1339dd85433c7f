//! Watching the policy directory.

use std::sync::Arc;
use std::time::Duration;

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::Shared;
use super::policies::{Loaded, PolicyDirectory, is_policy_file};
use super::readiness::Task;

/// A change is waited after for this long, so that one edit in several steps is one change.
const SETTLE: Duration = Duration::from_millis(10);
/// The directory is looked at this often without any notice: a watch dies with its directory, and notices can be lost.
const LOOK: Duration = Duration::from_secs(10);
/// And this often as long as it could not be read: no pod can start meanwhile.
const LOOK_FOR_THE_FIRST: Duration = Duration::from_secs(1);

/// Reads the directory again whenever a policy file in it has changed.
pub(super) async fn run(mut directory: PolicyDirectory, shared: Arc<Shared>) -> anyhow::Result<()> {
    let (notices, mut changed) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let concerns = match &event {
            Ok(event) => {
                let finished = match event.kind {
                    // Half-written files are not read: the writer's close comes after.
                    notify::EventKind::Access(kind) => {
                        kind == notify::event::AccessKind::Close(notify::event::AccessMode::Write)
                    }
                    notify::EventKind::Modify(kind) => !matches!(kind, notify::event::ModifyKind::Data(_)),
                    notify::EventKind::Create(_) => false,
                    _ => true,
                };
                finished && event.paths.iter().any(|path| is_policy_file(path))
            }
            Err(_) => true,
        };
        if concerns {
            // A full channel holds a notice already.
            let _ = notices.try_send(());
        }
    })?;
    let mut is_watched = false;
    loop {
        if !is_watched {
            is_watched = watcher.watch(directory.path(), RecursiveMode::NonRecursive).is_ok();
        }
        let look = if shared.node().policies().is_some() { LOOK } else { LOOK_FOR_THE_FIRST };
        tokio::select! {
            _ = changed.recv() => {
                tokio::time::sleep(SETTLE).await;
                while changed.try_recv().is_ok() {}
            }
            () = tokio::time::sleep(look) => {
                let _ = watcher.unwatch(directory.path());
                is_watched = watcher.watch(directory.path(), RecursiveMode::NonRecursive).is_ok();
            }
        }
        if let Some(loaded) = directory.load_if_changed() {
            apply(&shared, loaded);
        }
    }
}

/// Puts in force what was loaded, and keeps what was wrong for `sluice status`.
pub(super) fn apply(shared: &Shared, loaded: Loaded) {
    let mut errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
    for error in &errors {
        tracing::error!("{error}; the last good policies stay in force");
    }
    if let Some(policies) = loaded.policies {
        let count = policies.policies().len();
        match shared.node().apply(policies) {
            Ok(()) => {
                tracing::info!(policies = count, "policies in force");
                shared.readiness.done(Task::Policies);
            }
            Err(error) => {
                tracing::error!(%error, "the kernel did not take the policies; the last good ones stay in force");
                errors.push(error.to_string());
            }
        }
    }
    *shared.policy_errors() = errors;
}
