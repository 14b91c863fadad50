//! Runs single instructions on the real processor, with chosen registers and memory.
//!
//! The memory is at the same address natively and in the emulator. Instructions must not use RSP, R14 or R15, jump, or
//! fault.

mod native;
#[cfg(test)]
mod tests;

pub use native::{DATA_SIZE, Native, State};
