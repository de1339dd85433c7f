//! The far end's server: an nginx with a certificate of its own authority. Its access log is the truth.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::rig::{Rig, binary_in_path, run};

/// Where it listens: on 443 with TLS, on 80 without.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The same, IPv6.
const ADDRESS6: &str = "2001:db8:203::10";
/// The name that its certificate is for, with any other below `shop.test`.
pub(crate) const HOST: &str = "api.shop.test";
/// How long it may take to start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it has.
const TICK: Duration = Duration::from_millis(20);

/// The running server; dropping it ends it.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    /// What clients trust.
    pub(crate) authority: PathBuf,
}

/// A request, as the server or the agent names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    /// `http/1.1` or `h2`.
    pub(crate) protocol: String,
}

impl Server {
    /// Starts it, with its files in `directory`.
    pub(crate) async fn start(rig: &Rig, directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        certificates(directory)?;
        let (conf, log) = (directory.join("nginx.conf"), directory.join("access.log"));
        fs::write(&conf, configuration(directory))?;
        let nginx = binary_in_path("nginx")?;
        let errors = fs::File::create(directory.join("nginx.log"))?;
        let authority = directory.join("ca.pem");
        rig.far()
            .call(move || {
                let mut command = Command::new(nginx);
                command.arg("-c").arg(conf).args(["-e", "stderr"]);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors);
                let child = command.spawn().with_context(|| format!("{command:?}"))?;
                let mut server = Self { child, log, authority };
                let deadline = Instant::now() + START_LIMIT;
                let address = SocketAddr::new(IpAddr::V4(ADDRESS), 443);
                while TcpStream::connect_timeout(&address, START_LIMIT).is_err() {
                    if let Some(status) = server.child.try_wait()? {
                        bail!("nginx ended with {status}");
                    }
                    ensure!(Instant::now() < deadline, "nginx does not listen on {address}");
                    std::thread::sleep(TICK);
                }
                Ok(server)
            })
            .await
    }

    /// The requests that it has answered and whose paths begin so, in the order of their methods and paths.
    pub(crate) fn answered(&self, prefix: &str) -> Result<Vec<Request>> {
        let text = fs::read_to_string(&self.log).context("the server's log")?;
        let mut requests = Vec::new();
        for line in text.lines().filter(|line| line.contains(prefix)) {
            let line: Value = serde_json::from_str(line).context("a line of the server's log")?;
            let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let protocol = if line["protocol"] == "HTTP/2.0" { "h2" } else { "http/1.1" };
            let request = Request {
                method: field("method"),
                host: field("host"),
                path: field("path"),
                protocol: protocol.to_owned(),
            };
            if request.path.starts_with(prefix) {
                requests.push(request);
            }
        }
        requests.sort();
        Ok(requests)
    }

    /// How many requests it has answered whose paths begin so.
    pub(crate) fn count(&self, prefix: &str) -> Result<usize> {
        let begin = format!("\"path\": \"{prefix}");
        let text = fs::read_to_string(&self.log).context("the server's log")?;
        Ok(text.lines().filter(|line| line.contains(&begin)).count())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its workers end with it, if it may tell them.
        let ended = i32::try_from(self.child.id())
            .map_err(anyhow::Error::from)
            .and_then(|pid| Ok(kill(Pid::from_raw(pid), Signal::SIGTERM)?))
            .and_then(|()| Ok(self.child.wait()?));
        if let Err(error) = ended {
            eprintln!("requests: nginx does not end: {error:#}");
        }
    }
}

/// An authority, and a certificate of it.
fn certificates(directory: &Path) -> Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    fs::write(directory.join("openssl.cnf"), "[req]\ndistinguished_name = none\n[none]\n")?;
    let make = |name: &str, subject: &str, further: &[&str]| {
        let (config, key, certificate) =
            (at("openssl.cnf"), at(&format!("{name}.key")), at(&format!("{name}.pem")));
        let arguments = ["req", "-x509", "-nodes", "-days", "2", "-config", &config];
        let kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", subject];
        let into = ["-keyout", &key, "-out", &certificate];
        run("openssl", arguments.iter().chain(&kind).chain(&into).chain(further)).map(drop)
    };
    let signs = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
    make("ca", "/CN=conformance", &signs)?;
    let (authority, key) = (at("ca.pem"), at("ca.key"));
    let by = ["-CA", &authority, "-CAkey", &key];
    let is = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:*.shop.test"];
    make("server", "/CN=server", &[by, is].concat())
}

/// Whatever is asked for, the answer is `ok`.
fn configuration(directory: &Path) -> String {
    let directory = directory.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {directory}/{name};\n"))
        .concat();
    format!(
        "user root;
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
{temporary}    log_format truth escape=json
        '{{\"path\": \"$uri\", \"method\": \"$request_method\", \"host\": \"$host\", \"protocol\": \"$server_protocol\"}}';
    access_log {directory}/access.log truth;
    keepalive_requests 1000000;
    server {{
        listen {ADDRESS}:443 ssl http2;
        listen [{ADDRESS6}]:443 ssl http2;
        listen {ADDRESS}:80;
        server_name .shop.test;
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.key;
        default_type text/plain;
        location / {{ return 200 \"ok\\n\"; }}
        # Answered once the body is read: over HTTP/2, curl waits for ever where the answer comes before that.
        location /cell {{ proxy_pass http://127.0.0.1:81; }}
    }}
    server {{
        listen 127.0.0.1:81;
        access_log off;
        location / {{ return 200 \"ok\\n\"; }}
    }}
}}
"
    )
}
