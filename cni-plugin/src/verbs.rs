//! The verbs, and what of them reaches stdout, stderr and the exit status.

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_api::{Add, Attachment, Call, Cgroup, Pod};

use crate::agent::{self, AgentError};
use crate::cgroup::{self, Wanted};
use crate::conf::{Conf, Document, FailurePolicy};
use crate::env::{Vars, Verb};
use crate::reply::{self, Failure};
use crate::{SUPPORTED_VERSIONS, gc, result, spool};

/// What ADD may take, from the process's start to the agent's answer.
const ADD_TIME: Duration = Duration::from_secs(5);

/// What of it the search for the pod's cgroup may take.
const SEARCH_TIME: Duration = Duration::from_secs(2);

/// What STATUS may take; the runtime waits for it, and has no deadline of its own.
const STATUS_TIME: Duration = Duration::from_secs(1);

/// What the other verbs may take.
const OTHER_TIME: Duration = Duration::from_secs(2);

/// The file in the state directory that the agent writes when it is ready for the first time since boot.
const READY: &str = "ready";

/// The namespace of a container that no Kubernetes started.
const PLAIN_NAMESPACE: &str = "default";

/// Answers one call of the runtime: reads its environment and stdin, writes at most one JSON document to stdout and
/// what an operator may want to know to stderr. Gives the exit status: 0, or 1 if an error is on stdout.
pub fn run(vars: &Vars, stdin: impl Read, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    let mut session = Session { vars, started: Instant::now(), stated_version: None, stderr };
    let verb = match vars.verb() {
        Ok(Some(verb)) => verb,
        Ok(None) => {
            session.about();
            return 0;
        }
        Err(error) => return session.fail(&error.into(), stdout),
    };
    let answer = catch_unwind(AssertUnwindSafe(|| session.answer(verb, stdin)))
        .unwrap_or_else(|payload| Err(Failure::Panic(panic_text(payload.as_ref()))));
    match answer {
        Ok(None) => 0,
        Ok(Some(document)) => session.print(&document, stdout),
        // An error would stop the chain before it has freed what the other plugins hold.
        Err(failure) if verb == Verb::Del => {
            session.note(&format!("DEL goes on in spite of this: {failure}"));
            0
        }
        Err(failure) => session.fail(&failure, stdout),
    }
}

/// One call.
struct Session<'a> {
    vars: &'a Vars,
    started: Instant,
    /// `cniVersion` of the configuration, as soon as it is read.
    stated_version: Option<String>,
    stderr: &'a mut dyn Write,
}

impl Session<'_> {
    fn answer(&mut self, verb: Verb, stdin: impl Read) -> Result<Option<Value>, Failure> {
        match verb {
            Verb::Version => {
                let document = Document::read(stdin).unwrap_or_default();
                return Ok(Some(reply::version(document.stated_version())));
            }
            Verb::Del => return self.del(stdin).map(|()| None),
            _ => {}
        }
        let document = Document::read(stdin)?;
        self.stated_version = document.stated_version().map(str::to_owned);
        let version = document.version(verb)?;
        let conf = Conf::strict(&document)?;
        match verb {
            Verb::Add => self.add(document, version, &conf).map(Some),
            Verb::Check => self.check(&conf).map(|()| None),
            Verb::Gc => self.gc(&document, &conf).map(|()| None),
            _ => self.status(&conf).map(|()| None),
        }
    }

    fn add(&mut self, mut document: Document, version: &str, conf: &Conf) -> Result<Value, Failure> {
        let attachment = self.vars.attachment()?;
        let netns = self.vars.netns()?.to_owned();
        let previous = document.prev_result()?;
        let network = document.network()?;
        let labels = document.labels()?;
        let pod = self.pod(labels, &attachment.container_id);

        self.take_back(&conf.state_dir, &attachment);
        let ips = result::pod_ips(&previous, &netns);
        let host_interface = result::host_interface(&previous, &netns, &attachment.ifname);
        let who = format!("{}/{}", pod.namespace, pod.name);
        let exempt = conf.exempts(&pod.namespace);
        let done = self.cgroup(&document, conf, &pod.uid, &netns).and_then(|cgroup| {
            let add =
                Add { attachment: attachment.clone(), network, netns, cgroup, pod, ips, host_interface };
            let answer = agent::ask(&conf.socket, Call::Add(add.clone()), self.started, ADD_TIME);
            let lenient = exempt || conf.failure_policy == FailurePolicy::Ignore;
            match answer {
                Err(error) if lenient && error.is_passing() => {
                    let later = leave(&conf.state_dir, &attachment, Call::Add(add));
                    self.note(&format!("{who} starts ungoverned; {later}: {error}"));
                    Ok(())
                }
                other => Ok(other?),
            }
        });
        match done {
            Err(error) if exempt => {
                self.note(&format!("{who} starts ungoverned, its namespace is exempt: {error}"));
            }
            other => other?,
        }
        Ok(result::pass_on(previous, version))
    }

    /// Takes back what is spooled for an attachment.
    fn take_back(&mut self, state_dir: &Path, attachment: &Attachment) {
        if let Err(error) = spool::take_back(state_dir, attachment) {
            self.note(&format!("what is spooled for this attachment stays there: {error}"));
        }
    }

    fn cgroup(&self, document: &Document, conf: &Conf, uid: &str, netns: &str) -> Result<Cgroup, Failure> {
        Ok(cgroup::find(Wanted {
            root: conf.cgroup_root.as_deref(),
            declared: document.cgroup_path(),
            uid,
            netns,
            until: self.started + SEARCH_TIME,
        })?)
    }

    /// Who the pod is; a container that no Kubernetes started goes by its id.
    fn pod(&self, labels: BTreeMap<String, String>, container_id: &str) -> Pod {
        let args = self.vars.pod_args();
        if args.name.is_empty() {
            let (namespace, name) = (PLAIN_NAMESPACE.to_owned(), container_id.to_owned());
            return Pod { namespace, name, uid: String::new(), labels };
        }
        let namespace = if args.namespace.is_empty() { PLAIN_NAMESPACE.to_owned() } else { args.namespace };
        Pod { namespace, name: args.name, uid: args.uid, labels }
    }

    fn del(&mut self, stdin: impl Read) -> Result<(), Failure> {
        let attachment = self.vars.attachment()?;
        let document = Document::read(stdin).unwrap_or_else(|error| {
            self.note(&format!("DEL goes on with the defaults: {error}"));
            Document::default()
        });
        let conf = Conf::lenient(&document);
        self.take_back(&conf.state_dir, &attachment);
        let Err(error) = agent::ask(&conf.socket, Call::Del(attachment.clone()), self.started, OTHER_TIME)
        else {
            return Ok(());
        };
        if error.is_unknown() {
            return Ok(());
        }
        let later = leave(&conf.state_dir, &attachment, Call::Del(attachment.clone()));
        self.note(&format!("DEL is {later}: {error}"));
        Ok(())
    }

    fn check(&mut self, conf: &Conf) -> Result<(), Failure> {
        let attachment = self.vars.attachment()?;
        self.vars.netns()?;
        // What let ADD through without the agent must let CHECK through: some runtimes call it right after.
        let namespace = self.pod(BTreeMap::new(), "").namespace;
        let lenient = conf.exempts(&namespace) || conf.failure_policy == FailurePolicy::Ignore;
        match agent::ask(&conf.socket, Call::Check(attachment), self.started, OTHER_TIME) {
            Err(error) if lenient && (error.is_passing() || error.is_unknown()) => {
                self.note(&format!("CHECK passes an ungoverned pod: {error}"));
                Ok(())
            }
            other => Ok(other?),
        }
    }

    fn gc(&self, document: &Document, conf: &Conf) -> Result<(), Failure> {
        let network = document.network()?;
        match gc::valid(document)? {
            None => Ok(()),
            Some(valid) => {
                Ok(agent::ask(&conf.socket, Call::Gc { network, valid }, self.started, OTHER_TIME)?)
            }
        }
    }

    /// A node that is not ready loses its pods, and those are governed without the agent too. So STATUS fails only
    /// while none of them can be: until the agent has been ready once.
    fn status(&mut self, conf: &Conf) -> Result<(), Failure> {
        match agent::ask(&conf.socket, Call::Status, self.started, STATUS_TIME) {
            Ok(()) => Ok(()),
            Err(error @ AgentError::Path { .. }) => Err(error.into()),
            Err(error) if conf.state_dir.join(READY).exists() => {
                self.note(&format!("pods cannot be added now: {error}"));
                Ok(())
            }
            Err(error) => Err(Failure::NeverReady(error)),
        }
    }

    fn about(&mut self) {
        let versions = SUPPORTED_VERSIONS.join(", ");
        let text = concat!(
            "sluice-cni ",
            env!("CARGO_PKG_VERSION"),
            ", the chained CNI plugin of the Sluice egress firewall; CNI versions"
        );
        self.note(&format!("{text} {versions}"));
    }

    fn fail(&mut self, failure: &Failure, stdout: &mut dyn Write) -> u8 {
        let version = self.stated_version.take();
        self.print(&failure.reply(version.as_deref()), stdout);
        1
    }

    /// Writes the one document, at once.
    fn print(&mut self, document: &Value, stdout: &mut dyn Write) -> u8 {
        match stdout.write_all(format!("{document}\n").as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => 0,
            Err(error) => {
                self.note(&format!("the answer could not be written to stdout: {error}"));
                1
            }
        }
    }

    fn note(&mut self, text: &str) {
        // Where stderr is closed there is nobody to tell.
        let _ = writeln!(self.stderr, "sluice-cni: {text}");
    }
}

/// Leaves a request for the agent, and says so.
fn leave(state_dir: &Path, attachment: &Attachment, call: Call) -> String {
    match spool::write(state_dir, attachment, call) {
        Ok(()) => "spooled for when the agent is back".to_owned(),
        Err(error) => format!("not spooled ({error})"),
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> Cow<'static, str> {
    let fixed = payload.downcast_ref::<&'static str>().map(|text| Cow::Borrowed(*text));
    let made = || payload.downcast_ref::<String>().map(|text| Cow::Owned(text.clone()));
    fixed.or_else(made).unwrap_or(Cow::Borrowed("no text"))
}
