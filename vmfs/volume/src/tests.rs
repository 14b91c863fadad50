//! Tests of the volume over a disk in memory.

mod basic;
mod crash;
mod damage;
mod fuzz;
mod fuzz_journal;
mod grow;
mod hosts;
mod send;
pub(crate) mod support;
