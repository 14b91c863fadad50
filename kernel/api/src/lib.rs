//! Traits and small types at which the areas meet: virtual time, guest memory, CPU state, device calls and their effects.
//!
//! No implementation lives here apart from the fakes used by tests of other crates.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod backend;
pub mod block;
pub mod cpu;
pub mod device;
pub mod fake;
pub mod guard;
pub mod memory;
pub mod port;
pub mod time;
