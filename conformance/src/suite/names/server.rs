//! The DNS servers of the far end: a Knot with a zone, and one that lies.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::rig::net::FAR_ADDRESS;
use crate::rig::{Rig, binary_in_path};

/// The server that lies. Trusted all the same.
pub(crate) const LIAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 54);
/// How long a server may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// What the servers say.
const LOG: &str = "servers.log";

/// Running servers; dropping them ends them.
pub(crate) struct Servers(Vec<Child>);

impl Servers {
    /// Starts both, with their files in `directory`.
    pub(super) async fn start(rig: &Rig, directory: &Path, seed: u64) -> Result<Self> {
        let mut servers = Self::knot(rig, directory, &zone(), &[53]).await?;
        fs::write(directory.join("liar.py"), include_str!("liar.py"))?;
        let (python, liar) = (binary_in_path("python3")?, directory.join("liar.py"));
        let log = fs::File::options().append(true).open(directory.join(LOG))?;
        let liar = rig.far().call(move || {
            spawn(Command::new(python).arg(liar).arg(LIAR.to_string()).arg(seed.to_string()), log)
        });
        servers.0.push(liar.await?);
        Ok(servers)
    }

    /// Starts a Knot that serves `zone` as `test.` on these ports, with its files in `directory`.
    pub(crate) async fn knot(rig: &Rig, directory: &Path, zone: &str, ports: &[u16]) -> Result<Self> {
        let knot = directory.join("knot");
        fs::create_dir_all(knot.join("db"))?;
        fs::write(knot.join("test.zone"), zone)?;
        fs::write(knot.join("knot.conf"), configuration(&knot, ports))?;
        let (knotd, conf) = (binary_in_path("knotd")?, knot.join("knot.conf"));
        let log = fs::File::create(directory.join(LOG))?;
        let children = rig.far().call(move || {
            let servers = Self(vec![spawn(Command::new(knotd).arg("-c").arg(conf), log)?]);
            let deadline = Instant::now() + START_LIMIT;
            let address = SocketAddr::new(IpAddr::V4(FAR_ADDRESS), 53);
            while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
                ensure!(Instant::now() < deadline, "knotd does not listen on {address}");
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(servers)
        });
        children.await
    }
}

/// Starts a server in the network namespace of the calling thread.
fn spawn(command: &mut Command, log: fs::File) -> Result<Child> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("{command:?}"))
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let ended = child.kill().and_then(|()| child.wait());
            if let Err(error) = ended {
                eprintln!("names: a server does not end: {error}");
            }
        }
    }
}

fn configuration(directory: &Path, ports: &[u16]) -> String {
    let directory = directory.display();
    let at =
        |address: &str| ports.iter().map(|port| format!("{address}@{port}")).collect::<Vec<_>>().join(", ");
    let (four, six) = (at(&FAR_ADDRESS.to_string()), at("2001:db8:ffff::2"));
    format!(
        "server:
    rundir: \"{directory}\"
    listen: [ {four}, {six} ]
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    udp-max-payload: 4096
log:
  - target: stderr
    any: error
database:
    storage: \"{directory}/db\"
zone:
  - domain: test
    storage: \"{directory}\"
    file: test.zone
"
    )
}

/// What there is to be asked. The far end has every address of these prefixes.
fn zone() -> String {
    let mut zone = "$ORIGIN test.
$TTL 60
@ SOA ns admin 1 3600 600 86400 60
@ NS ns
ns A 192.0.2.2
*.allowed A 203.0.113.10
*.allowed AAAA 2001:db8:203::10
*.denied A 198.51.100.10
*.denied AAAA 2001:db8:198::10
*.web A 203.0.113.80
elsewhere.web A 203.0.113.81
a.way A 203.0.113.11
six.way AAAA 2001:db8:203::6
c1.way CNAME c2.way
c2.way CNAME c3.way
c3.way CNAME end.other
end.other A 203.0.113.12
tcp.way A 203.0.113.13
mixed.way A 203.0.113.14
getent.way A 203.0.113.15
getent.way AAAA 2001:db8:203::15
after.way A 203.0.113.16
*.going A 203.0.113.83
*.staying A 203.0.113.84
shared.going A 203.0.113.85
shared.staying A 203.0.113.85
local.way A 127.0.0.1
local.way A 169.254.1.1
local.way A 224.0.0.5
local.way A 0.0.0.0
local.way A 10.88.0.1
local.way A 203.0.113.17
"
    .to_owned();
    for index in 0..48 {
        let _ = writeln!(zone, "many.way A 203.0.113.{}", 100 + index);
        let _ = writeln!(zone, "large.way A 203.0.113.{}", 200 + index);
    }
    zone
}
