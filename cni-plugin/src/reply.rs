//! What goes to stdout: errors with their codes (CNI 1.1.0, "Error"), and the answer to VERSION.

use std::borrow::Cow;

use cni_plugin::reply::ErrorReply;
use serde_json::{Value, json};
use sluice_api::RefusalKind;

use crate::SUPPORTED_VERSIONS;
use crate::agent::AgentError;
use crate::cgroup::CgroupError;
use crate::conf::ConfError;
use crate::env::EnvError;
use crate::gc::GcError;

/// The version of an error reply where the configuration states none.
const NEWEST: &str = SUPPORTED_VERSIONS[SUPPORTED_VERSIONS.len() - 1];

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The environment is wrong.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// The configuration is wrong.
    #[error(transparent)]
    Conf(#[from] ConfError),
    /// The list of GC is wrong.
    #[error(transparent)]
    Gc(#[from] GcError),
    /// The pod's cgroup could not be taken.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The agent did not confirm.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// STATUS: the agent has not been ready since boot.
    #[error("the agent has not been ready since boot, and is not now: {0}")]
    NeverReady(#[source] AgentError),
    /// The plugin has a defect.
    #[error("sluice-cni stopped at a defect of its own: {0}; stderr says where")]
    Panic(Cow<'static, str>),
}

impl Failure {
    /// The code of the error reply, and its short message. The table is in the crate's documentation.
    pub fn code(&self) -> (i32, &'static str) {
        match self {
            Self::Conf(ConfError::Version(_) | ConfError::VerbTooNew { .. }) => {
                (1, "incompatible CNI version")
            }
            Self::Agent(error) if error.is_unknown() => (3, "unknown container"),
            Self::Env(_) => (4, "invalid environment variable"),
            Self::Conf(ConfError::Read(_) | ConfError::TooLong) => (5, "input could not be read"),
            Self::Conf(ConfError::Json(_) | ConfError::NotAnObject) => (6, "input could not be decoded"),
            Self::Conf(_) | Self::Gc(_) | Self::Agent(AgentError::Path { .. }) => {
                (7, "invalid network configuration")
            }
            Self::Agent(error) if error.is_passing() => (11, "the Sluice agent is not available, try again"),
            Self::NeverReady(_) => (50, "the Sluice agent is not ready"),
            Self::Cgroup(CgroupError::NotFound { .. }) => (100, "the pod's cgroup was not found"),
            Self::Cgroup(_) => (101, "the pod's cgroup cannot be used"),
            Self::Agent(AgentError::Refused(refusal)) if refusal.kind == RefusalKind::Failed => {
                (103, "the Sluice agent failed")
            }
            Self::Agent(_) => (102, "the Sluice agent refused"),
            Self::Panic(_) => (999, "internal error"),
        }
    }

    /// The error reply, in the version that the configuration states if that is a version at all.
    pub fn reply(&self, stated_version: Option<&str>) -> Value {
        let (code, msg) = self.code();
        let details = self.to_string();
        let parsed = |text: &str| text.parse().ok();
        let Some(cni_version) = stated_version.and_then(parsed).or_else(|| parsed(NEWEST)) else {
            return json!({"cniVersion": NEWEST, "code": code, "msg": msg, "details": details});
        };
        let reply = ErrorReply { cni_version, code, msg, details };
        // The alternative is never taken: the type holds nothing that JSON cannot.
        serde_json::to_value(&reply).unwrap_or(Value::Null)
    }
}

/// The answer to VERSION (CNI 1.1.0, "VERSION: probe plugin version support").
pub fn version(stated: Option<&str>) -> Value {
    json!({"cniVersion": stated.unwrap_or(NEWEST), "supportedVersions": SUPPORTED_VERSIONS})
}

#[cfg(test)]
mod tests {
    use sluice_api::Refusal;

    use super::*;

    fn refused(kind: RefusalKind) -> Failure {
        Failure::Agent(AgentError::Refused(Refusal { kind, message: "because".into() }))
    }

    #[test]
    fn each_refusal_has_its_code() {
        let code = |kind| refused(kind).code().0;
        assert_eq!(code(RefusalKind::Unknown), 3);
        assert_eq!(code(RefusalKind::NotReady), 11);
        assert_eq!(code(RefusalKind::Invalid), 102);
        assert_eq!(code(RefusalKind::Failed), 103);
    }

    #[test]
    fn an_error_has_the_four_fields_and_the_stated_version() {
        let failure = refused(RefusalKind::NotReady);
        assert_eq!(
            failure.reply(Some("0.3.1")).to_string(),
            "{\"cniVersion\":\"0.3.1\",\"code\":11,\"msg\":\"the Sluice agent is not available, try again\",\
             \"details\":\"the agent refused: because\"}"
        );
        for odd in [None, Some(""), Some("1"), Some("latest")] {
            assert_eq!(failure.reply(odd)["cniVersion"], "1.1.0");
        }
        assert_eq!(failure.reply(Some("9.9.9"))["cniVersion"], "9.9.9");
    }
}
