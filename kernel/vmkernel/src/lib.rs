//! The running kernel: it owns locks, executors and interrupt routing, and joins the hardware layer with the logic of
//! the areas. What needs no hardware and no lock belongs below, in the areas' own crates.
#![no_std]

extern crate alloc;

pub mod console;
pub mod cpus;
pub mod exec;
pub mod fault;
pub mod firmware;
pub mod heap;
pub mod log;
pub mod memory;
pub mod startup;
pub mod symbols;
pub mod timer;

/// Stands where the shell will be.
pub fn shell_stub(_boot: &boot::BootInfo, _ram: &[core::ops::Range<u64>]) {
    console::write(b"basalt> \r\n");
    console::enable_input();
    exec::spawn(0, exec::Class::Service, async {
        for i in 0..3 {
            timer::sleep(100_000_000).await;
            crate::info!("tick {i}");
        }
    })
    .detach();
}
