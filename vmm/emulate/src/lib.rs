//! Interprets single x86 instructions, exactly and without surprises for the guest.
//!
//! [`Emulator::run`] fetches the instruction at the vCPU's RIP through the guest's page tables, executes it on a plain
//! register file and says what happened; an exception leaves the registers as they were. A string instruction does a
//! bounded number of iterations per call and can be continued, so that interrupts get in.
//!
//! Deliberately left out: task switches, call gates, IRET, software interrupts and system calls, x87 and vector
//! arithmetic, AVX-512, gather and masked moves, breakpoints on emulated accesses, and the check of the I/O permission
//! map, which the processor makes before it exits.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

mod alu;
mod bits;
mod branch;
mod cache;
mod context;
mod data;
mod decode;
mod environment;
mod execute;
mod fetch;
mod flags;
mod io;
mod memory;
mod moves;
mod multiply;
mod operation;
mod registers;
mod segments;
mod shift;
mod stack;
mod string;
mod system;
#[cfg(test)]
mod tests;
mod vector;
mod walk;

pub use environment::{Environment, SystemTables, Unavailable};
pub use execute::{Config, Emulator, Exception, Hint, Outcome};
pub use moves::{Code, Live, PlainMove, Transfer};
pub use registers::{CodeSize, Registers};
pub use walk::{Access, Intent, WalkError, translate};
