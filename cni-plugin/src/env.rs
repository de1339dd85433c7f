//! What the runtime says in environment variables (CNI 1.1.0, "Parameters").

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use sluice_api::Attachment;

/// The longest interface name that Linux takes, in bytes (`IFNAMSIZ` less the final zero).
const LONGEST_IFNAME: usize = 15;

/// What is wrong with the environment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A variable that the verb needs is not there or empty.
    #[error("{0} is missing; the runtime must set it for this CNI_COMMAND")]
    Missing(&'static str),
    /// A variable is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// No such verb.
    #[error("CNI_COMMAND is {0:?}; ADD, DEL, CHECK, GC, STATUS and VERSION are accepted")]
    Command(String),
    /// A container id outside the grammar of the specification.
    #[error(
        "CNI_CONTAINERID is {0:?}; it must begin with a letter or digit and go on with letters, digits, '_', '.' or '-'"
    )]
    ContainerId(String),
    /// An interface name that Linux would not take.
    #[error(
        "CNI_IFNAME is {0:?}; it must have 1 to 15 bytes, not be '.' or '..', and hold no '/', ':' or white space"
    )]
    Ifname(String),
}

/// A CNI operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `ADD`: govern a pod.
    Add,
    /// `DEL`: forget it.
    Del,
    /// `CHECK`: is it governed? Since CNI 0.4.0.
    Check,
    /// `GC`: forget all but the listed ones. Since CNI 1.1.0.
    Gc,
    /// `STATUS`: may pods be added? Since CNI 1.1.0.
    Status,
    /// `VERSION`: what is supported?
    Version,
}

impl Verb {
    /// The oldest CNI version that has the verb and that the plugin speaks.
    pub fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        })
    }
}

/// The variables whose names begin with `CNI_`.
#[derive(Clone, Debug, Default)]
pub struct Vars(BTreeMap<String, OsString>);

impl Vars {
    /// Those of this process.
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok()?;
                name.starts_with("CNI_").then_some((name, value))
            })
            .collect()
    }

    /// `CNI_COMMAND`; `None` if it is absent or empty, which asks what this binary is.
    pub fn verb(&self) -> Result<Option<Verb>, EnvError> {
        Ok(Some(match self.text("CNI_COMMAND")? {
            "" => return Ok(None),
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            other => return Err(EnvError::Command(other.to_owned())),
        }))
    }

    /// `CNI_CONTAINERID` and `CNI_IFNAME`, both required.
    pub fn attachment(&self) -> Result<Attachment, EnvError> {
        let container_id = self.required("CNI_CONTAINERID")?;
        let tail_ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !container_id.chars().all(tail_ok)
        {
            return Err(EnvError::ContainerId(container_id.to_owned()));
        }
        let ifname = self.required("CNI_IFNAME")?;
        if !is_ifname(ifname) {
            return Err(EnvError::Ifname(ifname.to_owned()));
        }
        Ok(Attachment { container_id: container_id.to_owned(), ifname: ifname.to_owned() })
    }

    /// `CNI_NETNS`, required.
    pub fn netns(&self) -> Result<&str, EnvError> {
        self.required("CNI_NETNS")
    }

    /// The pod that `CNI_ARGS` names. Bytes that are not UTF-8 are replaced, for they can be anybody's.
    pub fn pod_args(&self) -> PodArgs {
        self.0.get("CNI_ARGS").map_or_else(PodArgs::default, |text| PodArgs::parse(&text.to_string_lossy()))
    }

    fn required(&self, name: &'static str) -> Result<&str, EnvError> {
        match self.text(name)? {
            "" => Err(EnvError::Missing(name)),
            text => Ok(text),
        }
    }

    fn text(&self, name: &'static str) -> Result<&str, EnvError> {
        self.0.get(name).map_or(Ok(""), |value| value.to_str().ok_or(EnvError::NotUtf8(name)))
    }
}

impl<K: Into<String>, V: Into<OsString>> FromIterator<(K, V)> for Vars {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(pairs: T) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Would Linux take this as an interface's name?
pub fn is_ifname(name: &str) -> bool {
    (1..=LONGEST_IFNAME).contains(&name.len())
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
}

/// The keys of `CNI_ARGS` that say which pod it is (CNI conventions, "`CNI_ARGS`"); empty where they are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`. A static pod's may be the hash of its manifest.
    pub uid: String,
}

impl PodArgs {
    /// Takes `k=v` pairs with `;` between them. Unknown keys and pieces without `=` are left alone; of a key that
    /// comes twice the last counts, as in the runtimes' own parser.
    pub fn parse(text: &str) -> Self {
        let mut pod = Self::default();
        for (key, value) in text.split(';').filter_map(|piece| piece.split_once('=')) {
            let field = match key.trim() {
                "K8S_POD_NAMESPACE" => &mut pod.namespace,
                "K8S_POD_NAME" => &mut pod.name,
                "K8S_POD_UID" => &mut pod.uid,
                _ => continue,
            };
            value.trim().clone_into(field);
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(pairs: &[(&str, &str)]) -> Vars {
        pairs.iter().copied().collect()
    }

    #[test]
    fn container_ids_and_interface_names() {
        let attachment = |id, ifname| vars(&[("CNI_CONTAINERID", id), ("CNI_IFNAME", ifname)]).attachment();
        let long = "f".repeat(300);
        for id in ["c0ffee", "C0FFEE", "a", "0.a_b-c", &long] {
            assert!(attachment(id, "eth0").is_ok(), "{id}");
        }
        for id in ["-a", ".a", "_a", "a/b", "../a", "a b", "ä"] {
            assert_eq!(attachment(id, "eth0"), Err(EnvError::ContainerId(id.into())));
        }
        for ifname in ["e", "eth0", "a23456789012345", "net1@x"] {
            assert!(attachment("a", ifname).is_ok(), "{ifname}");
        }
        for ifname in [".", "..", "a/b", "a:b", "a b", "a\u{a0}b", "a234567890123456"] {
            assert_eq!(attachment("a", ifname), Err(EnvError::Ifname(ifname.into())));
        }
        assert_eq!(attachment("", "eth0"), Err(EnvError::Missing("CNI_CONTAINERID")));
        assert_eq!(attachment("a", ""), Err(EnvError::Missing("CNI_IFNAME")));
    }

    #[test]
    fn cni_args() {
        let pod = |namespace: &str, name: &str, uid: &str| PodArgs {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
        };
        let cases = [
            ("", pod("", "", "")),
            (";;;", pod("", "", "")),
            ("=", pod("", "", "")),
            ("IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_UID=c", pod("a", "b", "c")),
            ("K8S_POD_NAME", pod("", "", "")),
            ("K8S_POD_NAME=b;K8S_POD_NAME=d;", pod("", "d", "")),
            ("K8S_POD_NAME= b ; K8S_POD_UID=c=d", pod("", "b", "c=d")),
            ("k8s_pod_name=b;X=ä", pod("", "", "")),
        ];
        for (text, expected) in cases {
            assert_eq!(PodArgs::parse(text), expected, "{text:?}");
        }
    }
}
