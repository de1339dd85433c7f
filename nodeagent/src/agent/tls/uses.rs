//! Which process uses which TLS library, for `sluice tls`.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Serialize};
use sluice_api::{Refusal, RefusalKind};

use super::registry::State;
use super::{Observer, mappings, processes};
use crate::agent::Shared;
use crate::agent::admin::Answer;
use crate::agent::hub::PodName;

/// Rows of one answer: far below a message's limit.
const ROWS: usize = 2048;
/// Characters of a path that are shown.
const PATH: usize = 256;

/// A file with a TLS library, or one that may hold one, in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsUse {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The container's id; none of a process of the pod's own cgroup.
    pub container: Option<String>,
    /// The process.
    pub pid: u32,
    /// Its command name.
    pub comm: String,
    /// The file, as the process sees it.
    pub file: String,
    /// `openssl`, `gnutls`, `go`, `rustls`; empty where it is not known.
    pub libraries: Vec<String>,
    /// Its functions are probed: what the process writes into them is seen.
    pub probed: bool,
    /// Why not.
    pub why: Option<String>,
}

/// Answers for one pod, or for all.
pub(in crate::agent) fn answer(shared: &Shared, wanted: Option<&PodName>) -> Answer {
    let refused = |kind, message| Answer::Refused(Refusal { kind, message });
    let Some(observer) = &shared.requests else {
        let why = "requests over TLS are not observed: switched off (requests: off), or refused by the kernel; see `sluice status`";
        return refused(RefusalKind::NotReady, why.to_owned());
    };
    let pods: Vec<_> = {
        let node = shared.node();
        let records = node.endpoints().map(|(record, _, _)| record);
        let records = records.filter(|record| {
            wanted.is_none_or(|wanted| {
                let namespace = wanted.namespace.as_ref();
                record.pod.name == wanted.name
                    && namespace.is_none_or(|namespace| record.pod.namespace == *namespace)
            })
        });
        records.cloned().collect()
    };
    if pods.is_empty() && wanted.is_some() {
        return refused(RefusalKind::Unknown, "no such pod is governed here; see `sluice pods`".to_owned());
    }
    let mut uses = Vec::new();
    for record in pods {
        for container in processes::containers(&record.path) {
            for pid in processes::of(&record.path, &container) {
                let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                for (file, libraries, why) in files(observer, &container, pid) {
                    uses.push(TlsUse {
                        namespace: record.pod.namespace.clone(),
                        name: record.pod.name.clone(),
                        container: (container != record.path).then(|| {
                            container.file_name().unwrap_or_default().to_string_lossy().into_owned()
                        }),
                        pid,
                        comm: printable(&comm),
                        file,
                        libraries,
                        probed: why.is_none(),
                        why,
                    });
                }
            }
        }
    }
    uses.sort_by(|a, b| {
        (&a.namespace, &a.name, a.pid, &a.file).cmp(&(&b.namespace, &b.name, b.pid, &b.file))
    });
    uses.truncate(ROWS);
    Answer::Tls(uses)
}

type File = (String, Vec<String>, Option<String>);

fn files(observer: &Observer, container: &std::path::Path, pid: u32) -> Vec<File> {
    let mappings = mappings::of_process(pid);
    let registry = observer.registry();
    let files = mappings.into_iter().filter_map(|mapping| {
        let (libraries, why) = match registry.state(container, (mapping.device, mapping.inode)) {
            Some(State::Probed(libraries, _)) => {
                (libraries.iter().map(|library| library.name().to_owned()).collect(), None)
            }
            Some(State::Refused(_, why)) => (Vec::new(), Some(why.clone())),
            Some(State::Examined) => (Vec::new(), Some("it is being read".to_owned())),
            Some(State::Plain) => return None,
            // The C runtime is never looked at.
            None if processes::is_runtime(&mapping.path) => return None,
            None => (Vec::new(), Some("not looked at yet, or its pod has too many files".to_owned())),
        };
        Some((printable(mapping.path.as_os_str().as_bytes()), libraries, why))
    });
    files.collect()
}

/// A text that any process may choose: printable ASCII only, so that a terminal is safe with it.
fn printable(text: &[u8]) -> String {
    let shown = text.trim_ascii().iter().take(PATH);
    shown.map(|byte| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '?' }).collect()
}
