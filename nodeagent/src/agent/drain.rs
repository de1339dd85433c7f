//! Being told to stop, and how long what is under way may take then.

use std::time::Duration;

use tokio::sync::watch;

/// How long requests in flight and events that wait may take after the agent was told to stop. Less than a runtime gives
/// an ADD, and than systemd gives a unit.
pub(super) const LIMIT: Duration = Duration::from_secs(5);

/// Tells every task to stop.
pub(super) struct Drain(watch::Sender<bool>);

impl Default for Drain {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Drain {
    /// A task's ear.
    pub(super) fn listen(&self) -> Stop {
        Stop(self.0.subscribe())
    }

    /// Tells all of them.
    pub(super) fn begin(&self) {
        self.0.send_replace(true);
    }
}

/// Hears when to stop.
#[derive(Clone)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Returns when it is time to stop: at once, if it was told before.
    pub(super) async fn told(&mut self) {
        // An error says that nobody is left who could tell: time to stop, too.
        let _ = self.0.wait_for(|told| *told).await;
    }
}
