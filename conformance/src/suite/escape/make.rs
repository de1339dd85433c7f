//! Making the attempts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_cri::v1::Mount;

use super::list::Way;
use super::recorder::Recorder;
use super::side::{Attempt, Side};
use super::{Run, pod, policy};
use crate::rig::{Container, ContainerSpec, Pod};

/// How long a probe may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(10);
/// The port at which the pod waits for a visit.
const SERVED: u16 = 7000;
/// How often the far end tries to cross the pod's connection.
const CROSSINGS: u32 = 20;
/// Where the shared directory is, for the containers.
const SHARED: &str = "/share";

impl Run<'_> {
    /// Makes an attempt in the governed pod and in the one without a policy.
    pub(super) async fn make(&self, attempt: &mut Attempt, recorder: &mut Recorder) -> Result<()> {
        let name = attempt.name.clone();
        let (governed, control) = (&mut attempt.governed, &mut attempt.control);
        match attempt.escape.way {
            Way::Later => {
                self.later(&name, governed, recorder, true).await?;
                self.later(&name, control, recorder, false).await
            }
            Way::Removed => {
                self.removed(&name, governed, "attacker").await?;
                self.removed(&name, control, "control").await
            }
            Way::Given => {
                self.shared(governed, &self.pods.control, &self.pods.governed, &name, false).await?;
                self.shared(control, &self.pods.control, &self.pods.neighbour, &name, false).await
            }
            Way::Taken => {
                self.shared(governed, &self.pods.governed, &self.pods.neighbour, &name, true).await?;
                self.shared(control, &self.pods.control, &self.pods.neighbour, &name, true).await
            }
            way => {
                let governed = self.in_pod(&name, governed, &self.pods.governed, "attacker", way);
                let control = self.in_pod(&name, control, &self.pods.control, "control", way);
                tokio::try_join!(governed, control).map(drop)
            }
        }
    }

    async fn in_pod(&self, name: &str, side: &mut Side, pod: &Pod, pod_name: &str, way: Way) -> Result<()> {
        pod_name.clone_into(&mut side.pod);
        let mut spec = ContainerSpec::new(name, side.arguments(name, pod, &self.pods.neighbour)?);
        spec.args.extend(["--seconds".to_owned(), "1".to_owned()]);
        if way == Way::Mounting {
            spec = spec.with_capabilities(&["SYS_ADMIN"]);
        }
        let container = pod.start(&spec).await?;
        let v6 = usize::from(name.ends_with('6'));
        let to = SocketAddr::new(if v6 == 1 { pod.ipv6()? } else { pod.ipv4()? }, SERVED);
        match way {
            Way::Visited => {
                container.wait_for_line("ready", BEGIN_LIMIT).await?;
                self.visit(SocketAddr::new(side.forbidden[v6], 0), to).await?;
            }
            Way::Crossing => {
                container.wait_for_line("ready", BEGIN_LIMIT).await?;
                for _ in 0..CROSSINGS {
                    self.visit(SocketAddr::new(side.forbidden[v6], SERVED), to).await?;
                    if !container.is_running().await? {
                        break;
                    }
                }
            }
            _ => {}
        }
        end(side, &container).await
    }

    /// A pod that its policy reaches while the attempt goes on.
    async fn later(
        &self,
        name: &str,
        side: &mut Side,
        recorder: &mut Recorder,
        governed: bool,
    ) -> Result<()> {
        let label = if governed { format!("late-{name}") } else { format!("never-{name}") };
        let own = pod(self.rig, &label, &label).await?;
        label.clone_into(&mut side.pod);
        let mut spec = ContainerSpec::new(name, side.arguments(name, &own, &self.pods.neighbour)?);
        let seconds = if governed { "5" } else { "1" };
        spec.args.extend(["--seconds".to_owned(), seconds.to_owned()]);
        let container = own.start(&spec).await?;
        container.wait_for_line("ready", BEGIN_LIMIT).await?;
        if governed {
            self.rig.agent_directories().write_policy(&label, &policy(&label, &label))?;
            self.wait_for_policy(&label, &label).await?;
        }
        side.from = recorder.look(self.rig.far()).await?.len();
        end(side, &container).await?;
        recorder.look(self.rig.far()).await?;
        own.remove().await
    }

    /// A pod that is removed while it floods.
    async fn removed(&self, name: &str, side: &mut Side, label: &str) -> Result<()> {
        let own_name = format!("{label}-{name}");
        let own = pod(self.rig, &own_name, label).await?;
        own_name.clone_into(&mut side.pod);
        let spec = ContainerSpec::new(name, side.arguments(name, &own, &self.pods.neighbour)?);
        let container = own.start(&spec).await?;
        container.wait_for_line("ready", BEGIN_LIMIT).await?;
        side.read(&container)?;
        own.remove().await
    }

    /// Sockets that change hands by a directory that two pods share.
    async fn shared(
        &self,
        side: &mut Side,
        giver: &Pod,
        taker: &Pod,
        name: &str,
        giver_attacks: bool,
    ) -> Result<()> {
        let directory = self.rig.place().directory.join(format!("share-{:x}", side.tag));
        std::fs::create_dir_all(&directory)?;
        let mount = Mount {
            container_path: SHARED.to_owned(),
            host_path: directory.display().to_string(),
            ..Mount::default()
        };
        // Whoever is governed, it is the pod called attacker.
        "attacker".clone_into(&mut side.pod);
        let digit = name.chars().last().context("a name has letters")?;
        let mut containers = Vec::new();
        for (role, pod) in [("give", giver), ("take", taker)] {
            let role = format!("{role}{digit}");
            let mut spec = ContainerSpec::new(&role, side.arguments(&role, pod, &self.pods.neighbour)?);
            spec.args.extend(["--directory".to_owned(), SHARED.to_owned()]);
            spec.mounts.push(mount.clone());
            let container = pod.start(&spec).await?;
            if role.starts_with("give") {
                container.wait_for_line("ready", BEGIN_LIMIT).await?;
            }
            containers.push(container);
        }
        let [first, second] = &containers[..] else { return Ok(()) };
        first.wait().await?;
        end(side, second).await?;
        if giver_attacks && side.made.is_empty() {
            side.read(first)?;
        }
        std::fs::remove_dir_all(directory)?;
        Ok(())
    }
}

/// Waits for the probe's end, and reads what it told.
async fn end(side: &mut Side, container: &Container) -> Result<()> {
    container.succeed().await?;
    side.read(container)
}
