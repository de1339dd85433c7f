//! The benchmarks.

pub mod add;
pub mod datapath;
pub mod names;
mod ratio;
pub mod requests;
