//! The suites.

pub mod broken_input;
pub mod demo;
pub mod edits;
pub mod escape;
pub mod first_packet;
pub mod flood;
pub mod inbound;
pub mod meaning;
pub mod smoke;
