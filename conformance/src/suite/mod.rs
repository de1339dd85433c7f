//! The suites.

pub mod demo;
pub mod first_packet;
pub mod flood;
pub mod smoke;
