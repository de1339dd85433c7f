//! A containerd of the rig's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use k8s_cri::v1::{ImageSpec, ImageStatusRequest, StatusRequest};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tonic::transport::{Channel, Endpoint};

use super::cni::Directories;
use super::command::{run, tail};
use super::image::{self, PROBE_IMAGE};
use super::runc;

/// How long containerd may take to come up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often something is looked at that cannot be waited for.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// A client of the runtime service.
pub type RuntimeClient = RuntimeServiceClient<Channel>;

/// The process; ended when dropped.
pub(super) struct Containerd {
    child: Child,
    pub(super) log: PathBuf,
    pub(super) channel: Channel,
}

impl Containerd {
    /// Starts it below `directory`, with its image imported and its network ready.
    pub(super) async fn start(directory: &Path, cni: &Directories) -> Result<Self> {
        let image_directory = directory.join("image");
        fs::create_dir_all(&image_directory)?;
        let image = image::write(&image_directory)?;
        let wrapper = directory.join(runc::NAME);
        std::os::unix::fs::symlink(std::env::current_exe()?, &wrapper)?;
        let socket = directory.join("containerd.sock");
        let configuration = directory.join("containerd.toml");
        fs::write(&configuration, toml(directory, &socket, cni, &wrapper))?;
        let log = directory.join("containerd.log");
        let output = fs::File::create(&log)?;
        let child = Command::new("containerd")
            .arg("--config")
            .arg(&configuration)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start containerd; is the package installed?")?;
        let channel = Endpoint::try_from(format!("unix:{}", socket.display()))?.connect_lazy();
        let mut containerd = Self { child, log, channel };
        containerd.until("its socket", async || Ok(socket.exists())).await?;
        let mut runtime = RuntimeServiceClient::new(containerd.channel.clone());
        containerd.until("the CRI plugin and the network", async || is_ready(&mut runtime).await).await?;
        let socket_option = format!("--address={}", socket.display());
        let image_path = image.to_string_lossy();
        tokio::task::block_in_place(|| {
            let arguments =
                [&socket_option, "-n", "k8s.io", "images", "import", "--snapshotter", "native", &*image_path];
            run("ctr", arguments)
        })
        .context("importing the image")?;
        let mut images = ImageServiceClient::new(containerd.channel.clone());
        containerd.until("the image to be known to CRI", async || has_image(&mut images).await).await?;
        Ok(containerd)
    }

    /// Waits for a condition, as long as the process lives.
    async fn until(&mut self, what: &str, mut condition: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let reason = match condition().await {
                Ok(true) => return Ok(()),
                Ok(false) => String::new(),
                Err(error) => format!("{error:#}; "),
            };
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended with {status}; {}", tail(&self.log, 20));
            }
            if Instant::now() > deadline {
                bail!("containerd: waited in vain for {what}: {reason}{}", tail(&self.log, 20));
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM);
        // It waits for its listeners; everything that it started dies with the rig anyway.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(TICK);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_ready(runtime: &mut RuntimeClient) -> Result<bool> {
    let status = runtime.status(StatusRequest { verbose: false }).await?.into_inner().status;
    let conditions = status.unwrap_or_default().conditions;
    Ok(!conditions.is_empty() && conditions.iter().all(|condition| condition.status))
}

async fn has_image(images: &mut ImageServiceClient<Channel>) -> Result<bool> {
    let image = ImageSpec { image: PROBE_IMAGE.to_owned(), ..ImageSpec::default() };
    let request = ImageStatusRequest { image: Some(image), verbose: false };
    Ok(images.image_status(request).await?.into_inner().image.is_some())
}

fn toml(directory: &Path, socket: &Path, cni: &Directories, runc: &Path) -> String {
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        r#"version = 2
root = {root}
state = {state}
oom_score = 0
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.overlayfs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = {socket}
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PROBE_IMAGE}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {bin}
    conf_dir = {conf}
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      pod_annotations = ["*"]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {runc}
        SystemdCgroup = false
"#,
        root = quoted(&directory.join("root")),
        state = quoted(&directory.join("state")),
        socket = quoted(socket),
        bin = quoted(&cni.binaries),
        conf = quoted(&cni.configuration),
        runc = quoted(runc),
    )
}
