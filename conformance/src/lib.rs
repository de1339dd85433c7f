//! Black-box suites of Sluice: built binaries on a real kernel, a real containerd and real CNI plugins.
//!
//! [`rig`] makes a node that shares nothing with the machine but its kernel; [`suite`] holds the suites that run on it,
//! [`bench`] the benchmarks; [`report`] is the form in which they all answer.

pub mod bench;
pub mod report;
pub mod rig;
pub mod suite;
