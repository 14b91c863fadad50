//! The running kernel: it owns locks, executors and interrupt routing, and joins the hardware layer with the logic of
//! the areas. What needs no hardware and no lock belongs below, in the areas' own crates.
#![no_std]

extern crate alloc;

pub mod bench;
pub mod console;
pub mod cpus;
pub mod datastore;
pub mod exec;
pub mod fault;
pub mod firmware;
pub mod heap;
pub mod input;
pub mod interrupts;
pub mod log;
pub mod memory;
pub mod mitigations;
pub mod pools;
pub mod power;
pub mod random;
pub mod run_guest;
pub mod shell;
pub mod startup;
pub mod storage;
pub mod symbols;
pub mod timer;
pub mod vm;
pub mod worlds;
pub mod zeroed;
