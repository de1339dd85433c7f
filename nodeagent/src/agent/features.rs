//! What this kernel can do, found by asking it and said at the start.

use serde::{Deserialize, Serialize};

use super::node::Node;
use super::sockets;

/// Something that not every kernel can do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Feature {
    /// What it is, with the release that brought it.
    pub name: String,
    /// This kernel can do it.
    pub present: bool,
    /// What is so where it cannot.
    pub without: String,
}

/// Asks the kernel.
pub(super) fn probe(node: &Node) -> Vec<Feature> {
    let feature = |name: &str, present, without: &str| Feature {
        name: name.to_owned(),
        present,
        without: without.to_owned(),
    };
    vec![
        feature(
            "classifiers by link (tcx, Linux 6.6)",
            node.has_links_on_interfaces(),
            "the guard at the host's end of a pod's link is a clsact filter, which other software may remove",
        ),
        feature(
            "ending connections (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY)",
            sockets::can_end(),
            "a connection that an edit denies stays open, with nothing coming through, until the pod gives it up",
        ),
    ]
}

/// Tells the operator.
pub(super) fn tell(features: &[Feature]) {
    for Feature { name, present, without } in features {
        if *present {
            tracing::info!("this kernel has {name}");
        } else {
            tracing::warn!("this kernel has not {name}: {without}");
        }
    }
}
