//! The benchmarks.

pub mod add;
pub mod datapath;
mod ratio;
pub mod requests;
