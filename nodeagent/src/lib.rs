//! Sluice's node agent, and what the operator's commands share with it.
//!
//! | module | what lives there |
//! | --- | --- |
//! | [`agent`] | `sluice agent`: endpoints, policy files, sockets, events |
//! | [`commands`] | the other commands |
//! | [`selftest`] | `sluice self-test`: the kernel against the reference evaluator |
//! | [`datapath`] | programs, links and maps: the only place that knows aya |

pub mod agent;
pub mod app;
pub mod commands;
pub mod datapath;
mod netlink;
pub mod selftest;
