//! Tests of the volume over a disk in memory.

mod basic;
mod support;
