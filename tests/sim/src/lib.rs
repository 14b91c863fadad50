//! Simulators that drive the project's logic from one seed.
//!
//! The scheduler's: random hosts that are checked against an oracle, and small cases that compare policies. The
//! datastore's: hosts on one disk that fails in every way. They measure no wall time themselves; whoever runs them may.
#![forbid(unsafe_code)]

pub mod cases;
pub mod datastore;
pub mod engine;
pub mod host;
pub mod oracle;
pub mod policy;
pub mod random;
pub mod report;
pub mod rivals;
pub mod workload;
