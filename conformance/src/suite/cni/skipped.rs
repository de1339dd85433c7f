//! What is not checked here, and why.

use anyhow::Result;

use super::super::skip;
use crate::report::Report;

const INSTALLING: &str = "concerns the installing of a chain, which Sluice leaves to the operator so far";

/// Accidents and clauses, with the reason.
const SKIPPED: [(&str, &str); 17] = [
    ("containerd/containerd#11715 rename-in from elsewhere ignored", INSTALLING),
    ("containerd/containerd#6490 conf dir recreated", INSTALLING),
    ("aojea/kindnet#42 temporary file read as conf", INSTALLING),
    ("istio/istio#44167 zero-length conflist after power loss", INSTALLING),
    ("istio/istio#42046 installer dies, empty conf", INSTALLING),
    ("k8snetworkplumbingwg/multus-cni#1155 empty conf made", INSTALLING),
    ("k8snetworkplumbingwg/multus-cni#1527 conf deleted on restart, silent bypass", INSTALLING),
    ("k8snetworkplumbingwg/multus-cni#1221 ETXTBSY", INSTALLING),
    ("istio/istio#55968 primary rewrites conf at boot, pods bypass", INSTALLING),
    ("istio/istio#57316 own conf removed on reboot", INSTALLING),
    ("cilium/cilium#30614 rewrite war", INSTALLING),
    ("linkerd/linkerd2#2443 .conf renamed under its owner", INSTALLING),
    ("linkerd/linkerd2#14725 watch not armed in time", INSTALLING),
    ("k3s-io/k3s#10869 bin dir moves", INSTALLING),
    ("istio/istio#41363 SELinux", "concerns the labels of installed files; this kernel has no SELinux"),
    (
        "errors, code 999 for a defect",
        "no input makes the plugin panic; cni-plugin's own tests plant a defect and see the error",
    ),
    (
        "deadlines, an answer of a byte a second",
        "no real agent answers so; cni-plugin's own tests have one that does",
    ),
];

/// Prints and notes each.
pub(super) fn list(report: &mut Report) -> Result<()> {
    for (name, reason) in SKIPPED {
        skip("cni", name, reason)?;
        report.add(name, format!("skipped: {reason}"), "", "", None);
    }
    Ok(())
}
