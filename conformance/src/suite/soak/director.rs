//! What happens to the agent, the policies and the pods while they send: a schedule by chance, from a seed.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, RngCore};

use super::cast::{Cast, Role};
use super::gauge::Gauge;
use super::ledger::Told;
use super::policies;
use crate::rig::decode::TCP;
use crate::rig::net::DESTINATIONS;
use crate::rig::{Agent, KernelObjects, Rig};

/// The longest absence of the agent.
const ABSENCE: u64 = 2000;
/// Between two steps, in milliseconds.
const BETWEEN: std::ops::Range<u64> = 200..1200;
/// How long the packets of a pod whose policy was lifted may take to show.
const LIFTED_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks.
const TICK: Duration = Duration::from_millis(10);
/// Between two samples in the agent's long life.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Steady pods before this one are not touched.
const UNTOUCHED: usize = 2;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The agent is killed, and started after a while.
    Kill,
    /// Killed, started, killed before it is ready, and started.
    KillStarting,
    /// Killed while it takes an edit.
    KillEditing,
    /// Killed while it adds a pod.
    KillAdding,
    /// Stopped, and started after a while.
    Stop,
    /// The other build takes its place.
    Switch,
    /// The steady pods' policy is edited.
    Edit,
    /// A policy is lifted for a while.
    Flip,
    /// A policy is lifted for a while, in which the agent dies.
    FlipKilled,
    /// A pod is removed, and another one made.
    Renew,
    /// The same while the agent is away, and pods are refused.
    RenewAway,
    /// A container is stopped, and started again.
    Restart,
}

/// The steps of the rough part, all of which happen before any of them happens again.
const ROUGH: [(Step, usize); 12] = [
    (Step::Kill, 6),
    (Step::KillStarting, 1),
    (Step::KillEditing, 2),
    (Step::KillAdding, 1),
    (Step::Stop, 1),
    (Step::Switch, 4),
    (Step::Edit, 3),
    (Step::Flip, 1),
    (Step::FlipKilled, 1),
    (Step::Renew, 1),
    (Step::RenewAway, 1),
    (Step::Restart, 2),
];
/// Those of the agent's long life.
const CALM: [(Step, usize); 4] = [(Step::Edit, 3), (Step::Flip, 1), (Step::Renew, 1), (Step::Restart, 2)];

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) kills: u64,
    pub(super) stops: u64,
    pub(super) upgrades: u64,
    pub(super) downgrades: u64,
    pub(super) interrupted: u64,
    pub(super) edits: u64,
    pub(super) flips: u64,
    pub(super) renewed: u64,
    pub(super) restarted: u64,
    /// ADDs that were tried while no agent could answer, and those of them that came about.
    pub(super) refused: u64,
    pub(super) admitted: u64,
    /// Pods whose ADD the agent's death met, and that were made nevertheless: it had answered.
    pub(super) survived: u64,
    /// Packets that arrived while their policy was lifted, lifts in which none did, and those that arrived when it was not.
    pub(super) lifted: u64,
    pub(super) blind: u64,
    pub(super) leaked: u64,
}

/// The director.
pub(super) struct Director<'a, 'r> {
    pub(super) rig: &'r Rig,
    pub(super) agent: &'a mut Agent,
    pub(super) cast: &'a mut Cast<'r>,
    pub(super) random: &'a mut SmallRng,
    pub(super) told: &'a mut Told,
    pub(super) gauge: Gauge,
    pub(super) counts: Counts,
    pub(super) objects: KernelObjects,
    /// This build and the other one.
    builds: [PathBuf; 2],
    is_other: bool,
    version: u32,
    /// What pods that flip had sent to the forbidden when that was denied last.
    denied_since: u64,
}

impl<'a, 'r> Director<'a, 'r> {
    pub(super) fn new(
        rig: &'r Rig,
        agent: &'a mut Agent,
        cast: &'a mut Cast<'r>,
        random: &'a mut SmallRng,
        told: &'a mut Told,
        builds: [PathBuf; 2],
    ) -> Self {
        Self {
            rig,
            agent,
            cast,
            random,
            told,
            gauge: Gauge::new(),
            counts: Counts::default(),
            objects: KernelObjects::default(),
            builds,
            is_other: false,
            version: 0,
            denied_since: 0,
        }
    }

    /// The rough part: at least every step once, and then until it is time.
    pub(super) async fn rough(&mut self, until: Instant) -> Result<()> {
        loop {
            for step in self.bag(&ROUGH) {
                eprintln!("soak: {step:?}");
                self.step(step).await?;
                self.told.take(self.agent);
                let between = self.random.random_range(BETWEEN);
                tokio::time::sleep(Duration::from_millis(between)).await;
            }
            if Instant::now() > until {
                break;
            }
        }
        if self.is_other {
            self.switch().await?;
        }
        Ok(())
    }

    /// The agent's long life, in which everything else goes on.
    pub(super) async fn calm(&mut self, until: Instant) -> Result<()> {
        let mut steps = Vec::new();
        while Instant::now() < until {
            let Some(step) = steps.pop() else {
                steps = self.bag(&CALM);
                continue;
            };
            eprintln!("soak: {step:?}, calm");
            self.step(step).await?;
            for _ in 0..4 {
                tokio::time::sleep(SAMPLE_EVERY).await;
                self.told.take(self.agent);
                self.gauge.calm(self.agent)?;
            }
        }
        // As it was in the beginning.
        if !self.version.is_multiple_of(2) {
            self.edit().await?;
        }
        self.note_denied().await
    }

    fn bag(&mut self, steps: &[(Step, usize)]) -> Vec<Step> {
        let mut bag: Vec<Step> =
            steps.iter().flat_map(|(step, count)| std::iter::repeat_n(*step, *count)).collect();
        bag.shuffle(self.random);
        bag
    }

    async fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Kill => {
                self.kill()?;
                self.absence().await;
                self.start().await
            }
            Step::KillStarting => {
                self.kill()?;
                self.absence().await;
                self.interrupt().await?;
                self.start().await
            }
            Step::KillEditing => {
                let policy = self.write_edit()?;
                self.wait_up_to(30).await;
                self.kill()?;
                self.absence().await;
                self.start().await?;
                policies::in_force(self.agent, policies::STEADY, &policy).await
            }
            Step::KillAdding => self.kill_adding().await,
            Step::Stop => {
                self.stop().await?;
                self.absence().await;
                self.start().await
            }
            Step::Switch => self.switch().await,
            Step::Edit => self.edit().await,
            Step::Flip => self.flip(false).await,
            Step::FlipKilled => self.flip(true).await,
            Step::Renew => self.renew(false).await,
            Step::RenewAway => self.renew(true).await,
            Step::Restart => self.restart().await,
        }
    }

    fn kill(&mut self) -> Result<()> {
        self.last_look()?;
        self.counts.kills += 1;
        self.agent.kill_hard()
    }

    async fn stop(&mut self) -> Result<()> {
        self.last_look()?;
        self.counts.stops += 1;
        self.agent.terminate().await
    }

    fn last_look(&mut self) -> Result<()> {
        self.gauge.life(self.agent)?;
        self.objects.extend(self.agent.kernel_objects()?);
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        self.agent.restart().await?;
        self.objects.extend(self.agent.kernel_objects()?);
        Ok(())
    }

    /// Starts the agent and kills it before it may be ready.
    async fn interrupt(&mut self) -> Result<()> {
        self.agent.spawn()?;
        self.wait_up_to(150).await;
        self.objects.extend(self.agent.kernel_objects()?);
        self.counts.interrupted += 1;
        self.agent.kill_hard()
    }

    async fn absence(&mut self) {
        self.wait_up_to(ABSENCE).await;
    }

    async fn wait_up_to(&mut self, milliseconds: u64) {
        let wait = self.random.random_range(0..=milliseconds);
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }

    /// An upgrade, or the way back.
    async fn switch(&mut self) -> Result<()> {
        if self.random.random_bool(0.5) {
            self.kill()?;
        } else {
            self.stop().await?;
        }
        self.absence().await;
        self.is_other = !self.is_other;
        self.agent.set_binary(self.builds[usize::from(self.is_other)].clone());
        if self.random.random_bool(0.5) {
            self.interrupt().await?;
        }
        self.start().await?;
        *(if self.is_other { &mut self.counts.upgrades } else { &mut self.counts.downgrades }) += 1;
        Ok(())
    }

    fn write_edit(&mut self) -> Result<String> {
        self.version += 1;
        self.counts.edits += 1;
        policies::write_steady(self.agent.directories(), self.version)
    }

    async fn edit(&mut self) -> Result<()> {
        let policy = self.write_edit()?;
        policies::in_force(self.agent, policies::STEADY, &policy).await
    }

    /// Lifts a policy until packets arrive that it denied, and puts it back.
    async fn flip(&mut self, with_kill: bool) -> Result<()> {
        self.note_denied().await?;
        self.counts.flips += 1;
        let number = self.counts.flips as u32 * 2;
        let lifted = policies::write_flip(self.agent.directories(), number - 1, true)?;
        policies::in_force(self.agent, policies::FLIP, &lifted).await?;
        let deadline = Instant::now() + LIFTED_LIMIT;
        while self.to_forbidden() == self.denied_since && Instant::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        self.counts.blind += u64::from(self.to_forbidden() == self.denied_since);
        if with_kill {
            self.kill()?;
        }
        let denying = policies::write_flip(self.agent.directories(), number, false)?;
        if with_kill {
            self.absence().await;
            self.start().await?;
        }
        policies::in_force(self.agent, policies::FLIP, &denying).await?;
        self.rig.far().settle().await?;
        let now = self.to_forbidden();
        self.counts.lifted += now - self.denied_since;
        self.denied_since = now;
        Ok(())
    }

    /// Nothing may have arrived since it was denied.
    async fn note_denied(&mut self) -> Result<()> {
        self.rig.far().settle().await?;
        let now = self.to_forbidden();
        self.counts.leaked += now - self.denied_since;
        self.denied_since = now;
        Ok(())
    }

    /// Datagrams, and attempts to connect, of the pods that flip. The reset that ends a connection of before is neither.
    fn to_forbidden(&self) -> u64 {
        let ips = self.cast.ips(Role::Flip);
        let sum = |tcp: bool| {
            self.rig.far().sum(|key| {
                ips.contains(&key.source)
                    && DESTINATIONS.forbidden.contains(&key.destination)
                    && (key.protocol == TCP) == tcp
            })
        };
        sum(false).0 + sum(true).1
    }

    /// One of the steady pods that may be touched.
    fn any_steady(&mut self) -> usize {
        let steady: Vec<usize> = (0..self.cast.members.len())
            .filter(|index| self.cast.members[*index].role == Role::Steady)
            .skip(UNTOUCHED)
            .collect();
        steady[self.random.random_range(0..steady.len())]
    }

    async fn restart(&mut self) -> Result<()> {
        let index = self.any_steady();
        self.cast.stop(index).await?;
        self.counts.restarted += 1;
        let tag = self.random.next_u64();
        self.cast.start(index, tag).await
    }

    async fn renew(&mut self, away: bool) -> Result<()> {
        let index = self.any_steady();
        if away {
            self.kill()?;
            self.cast.remove(index).await?;
            let spec = self.cast.spec(Role::Steady);
            self.counts.refused += 1;
            if let Ok(pod) = self.rig.run_pod(&spec).await {
                self.counts.admitted += 1;
                pod.remove().await?;
            }
            self.start().await?;
        } else {
            self.cast.remove(index).await?;
        }
        self.counts.renewed += 1;
        let tag = self.random.next_u64();
        self.cast.make(Role::Steady, tag).await
    }

    /// The agent dies while a pod is made. Either it had answered, and the pod is governed; or there is no pod.
    async fn kill_adding(&mut self) -> Result<()> {
        self.last_look()?;
        self.counts.kills += 1;
        let spec = self.cast.spec(Role::Steady);
        let wait = Duration::from_millis(self.random.random_range(0..1500));
        let (rig, agent) = (self.rig, &mut *self.agent);
        let (pod, killed) = tokio::join!(rig.run_pod(&spec), async {
            tokio::time::sleep(wait).await;
            agent.kill_hard()
        });
        killed?;
        match pod {
            Err(_) => self.counts.refused += 1,
            Ok(pod) => {
                self.counts.survived += 1;
                self.cast.adopt(spec.name, Role::Steady, pod)?;
                let (index, tag) = (self.cast.members.len() - 1, self.random.next_u64());
                self.cast.start(index, tag).await?;
                self.absence().await;
                self.cast.remove(index).await?;
            }
        }
        self.start().await
    }

    /// Back on this build.
    pub(super) fn finish(self) -> Result<(Counts, Gauge, KernelObjects)> {
        ensure!(!self.is_other, "the other build is still in place");
        Ok((self.counts, self.gauge, self.objects))
    }
}
