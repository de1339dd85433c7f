//! The benchmarks.

pub mod datapath;
mod ratio;
