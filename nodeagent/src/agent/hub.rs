//! Who gets which event: the recent ones are kept, and every observer has a queue of its own.
//!
//! The agent waits for nobody. An observer whose queue is full loses the line, and is told how many it lost.

use std::collections::VecDeque;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::events::{Action, Kind, Line};

/// Events that are kept for who asks later.
pub const RECENT: usize = 2048;
/// Observers at the same time.
pub const MAX_OBSERVERS: usize = 16;
/// Lines that may wait for one observer.
const QUEUE: usize = 1024;

/// Which events an observer wants. An empty list asks for nothing in particular.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Filter {
    /// Pods of this namespace.
    pub namespace: Option<String>,
    /// Any of these pods.
    pub pods: Vec<PodName>,
    /// Any of the containers whose ids begin so.
    pub containers: Vec<String>,
    /// Any of these verdicts.
    pub verdicts: Vec<Action>,
    /// Any of these kinds.
    pub kinds: Vec<Kind>,
}

/// A pod as an operator names it: `NAME` in any namespace, or `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PodName {
    /// Its namespace, if it matters.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

/// A text that names no pod.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` names no pod; write NAME or NAMESPACE/NAME")]
pub struct PodNameError(String);

impl FromStr for PodName {
    type Err = PodNameError;

    fn from_str(text: &str) -> Result<Self, PodNameError> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, text),
        };
        if name.is_empty() || name.contains('/') || namespace.is_some_and(str::is_empty) {
            return Err(PodNameError(text.to_owned()));
        }
        Ok(Self { namespace: namespace.map(str::to_owned), name: name.to_owned() })
    }
}

impl Filter {
    /// Is this an event that was asked for?
    pub fn wants(&self, line: &Line) -> bool {
        fn any<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        let pod = line.pod.as_ref();
        let namespace = pod.map(|pod| pod.namespace.as_str());
        let container = pod.and_then(|pod| pod.container.as_deref()).unwrap_or_default();
        self.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            && any(&self.pods, |wanted| {
                pod.is_some_and(|pod| pod.name == wanted.name)
                    && wanted.namespace.as_deref().is_none_or(|wanted| namespace == Some(wanted))
            })
            && any(&self.containers, |wanted| container.starts_with(wanted.as_str()))
            && any(&self.verdicts, |wanted| *wanted == line.action)
            && any(&self.kinds, |wanted| *wanted == line.kind)
    }
}

/// What an observer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observe {
    /// Which events.
    pub filter: Filter,
    /// Of the kept ones, so many of the newest.
    pub last: Option<usize>,
    /// Of the kept ones, those since then.
    pub since: Option<jiff::Timestamp>,
    /// Those to come, too.
    pub follow: bool,
}

impl Observe {
    /// Those of the kept events that are asked for, oldest first.
    fn of_recent(&self, recent: &VecDeque<Arc<Line>>) -> Vec<Arc<Line>> {
        if self.follow && self.last.is_none() && self.since.is_none() {
            return Vec::new();
        }
        let is_wanted =
            |line: &&Arc<Line>| self.since.is_none_or(|since| line.ts >= since) && self.filter.wants(line);
        let newest = recent.iter().rev().filter(is_wanted).take(self.last.unwrap_or(usize::MAX));
        let mut lines: Vec<_> = newest.cloned().collect();
        lines.reverse();
        lines
    }
}

struct Observer {
    filter: Filter,
    queue: mpsc::Sender<Arc<Line>>,
    lost: Arc<AtomicU64>,
}

/// An observer's end.
pub struct Subscription {
    /// The kept events that it asked for.
    pub recent: Vec<Arc<Line>>,
    /// Those to come; closed when the agent stops, or at once for who does not follow.
    pub lines: mpsc::Receiver<Arc<Line>>,
    lost: Arc<AtomicU64>,
}

impl Subscription {
    /// How many lines were lost since this was last asked.
    pub fn lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

/// Why there is no further observer.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// There are as many as there may be.
    #[error("{MAX_OBSERVERS} observers follow already, which is the most; end one of them")]
    TooMany,
    /// The agent is being stopped.
    #[error("the agent is stopping")]
    Stopping,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Observers that did not ask for it.
    pub filtered: u64,
    /// Observers that were too slow for it.
    pub lost: u64,
}

#[derive(Default)]
struct Inner {
    recent: VecDeque<Arc<Line>>,
    observers: Vec<Observer>,
    is_closed: bool,
}

/// The recent events and their observers.
#[derive(Default)]
pub struct Hub(Mutex<Inner>);

impl Hub {
    /// Keeps an event, and puts it into the queue of every observer that wants it.
    pub fn publish(&self, line: Arc<Line>) -> Fate {
        let mut fate = Fate::default();
        let mut inner = self.lock();
        inner.observers.retain(|observer| !observer.queue.is_closed());
        for observer in &inner.observers {
            if !observer.filter.wants(&line) {
                fate.filtered += 1;
            } else if observer.queue.try_send(Arc::clone(&line)).is_err() {
                observer.lost.fetch_add(1, Ordering::Relaxed);
                fate.lost += 1;
            }
        }
        if inner.recent.len() == RECENT {
            inner.recent.pop_front();
        }
        inner.recent.push_back(line);
        fate
    }

    /// Takes an observer. Between the kept events and those to come there is neither a gap nor an overlap.
    pub fn subscribe(&self, observe: &Observe) -> Result<Subscription, ObserveError> {
        let mut inner = self.lock();
        if inner.is_closed {
            return Err(ObserveError::Stopping);
        }
        let recent = observe.of_recent(&inner.recent);
        let (queue, lines) = mpsc::channel(QUEUE);
        let lost = Arc::<AtomicU64>::default();
        if observe.follow {
            inner.observers.retain(|observer| !observer.queue.is_closed());
            if inner.observers.len() == MAX_OBSERVERS {
                return Err(ObserveError::TooMany);
            }
            let (filter, lost) = (observe.filter.clone(), Arc::clone(&lost));
            inner.observers.push(Observer { filter, queue, lost });
        }
        Ok(Subscription { recent, lines, lost })
    }

    /// No event comes any more: observers end when they have what waits for them.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.is_closed = true;
        inner.observers.clear();
    }

    /// How many follow.
    pub fn observers(&self) -> usize {
        self.lock().observers.iter().filter(|observer| !observer.queue.is_closed()).count()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
