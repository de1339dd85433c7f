//! Is the agent ready, and if not, what does it wait for?

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// What has to be done once before the agent is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// Programs and maps are in the kernel, and what an earlier agent governed is taken up.
    Datapath,
    /// The policies were read, and the kernel took them.
    Policies,
    /// The plugin is answered.
    CniSocket,
    /// The operator's commands are answered.
    AdminSocket,
    /// The kernel's events are read.
    Events,
}

impl Task {
    const ALL: [Self; 5] = [Self::Datapath, Self::Policies, Self::CniSocket, Self::AdminSocket, Self::Events];
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Datapath => "datapath",
            Self::Policies => "policies",
            Self::CniSocket => "cni socket",
            Self::AdminSocket => "admin socket",
            Self::Events => "events",
        })
    }
}

/// The tasks that are not done yet. Once ready, an agent stays so: what goes wrong later is told by its errors.
pub struct Readiness {
    pending: Mutex<BTreeSet<Task>>,
    since: watch::Sender<Option<jiff::Timestamp>>,
}

impl Default for Readiness {
    /// Everything is still to be done.
    fn default() -> Self {
        let pending = Mutex::new(Task::ALL.into());
        Self { pending, since: watch::Sender::new(None) }
    }
}

impl Readiness {
    /// A task is done. Doing it again changes nothing.
    pub fn done(&self, task: Task) {
        let mut pending = self.lock();
        if pending.remove(&task) && pending.is_empty() {
            self.since.send_replace(Some(jiff::Timestamp::now()));
        }
    }

    /// What is still to be done, in order.
    pub fn pending(&self) -> Vec<Task> {
        self.lock().iter().copied().collect()
    }

    /// Since when the agent is ready.
    pub fn since(&self) -> Option<jiff::Timestamp> {
        *self.since.borrow()
    }

    /// Waits until nothing is left to do.
    pub async fn wait(&self) -> jiff::Timestamp {
        let mut since = self.since.subscribe();
        // The sender lives as long as `self`.
        let since = since.wait_for(Option::is_some).await.map(|since| *since);
        since.ok().flatten().unwrap_or_else(jiff::Timestamp::now)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<Task>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_the_last_task_is_done() {
        let readiness = Readiness::default();
        for task in Task::ALL {
            assert!(readiness.pending().contains(&task));
            assert_eq!(readiness.since(), None);
            readiness.done(task);
        }
        assert!(readiness.pending().is_empty());
        let since = readiness.since();
        assert!(since.is_some());
        readiness.done(Task::Policies);
        assert_eq!(readiness.since(), since);
    }
}
