//! Simulators that drive the project's logic from one seed.
//!
//! So far the scheduler's: random hosts that are checked against an oracle, and small cases that compare policies. It
//! measures no wall time itself; whoever runs it may.
#![forbid(unsafe_code)]

pub mod cases;
pub mod engine;
pub mod host;
pub mod oracle;
pub mod policy;
pub mod random;
pub mod report;
pub mod rivals;
pub mod workload;
