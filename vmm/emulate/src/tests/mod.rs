//! Tests of the emulator on a made-up machine: RAM in a vector, a device that records, ports that count.

mod faults;
mod fuzz;
mod instructions;
mod machine;
mod modes;
mod moves;
mod paging;
mod strings;
mod vectors;
