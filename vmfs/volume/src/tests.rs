//! Tests of the volume over a disk in memory.

mod basic;
mod crash;
mod damage;
mod fuzz;
mod grow;
mod hosts;
mod send;
mod support;
