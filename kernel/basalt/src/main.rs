//! The image: constructs the kernel and wires it to the entry code. Everything it calls lives in the crate vmkernel.
#![no_std]
#![no_main]
#![expect(
    unsafe_code,
    reason = "exports the entry point by name and registers the heap"
)]

use vmkernel::heap::{HEAP_SOURCE, KernelHeap};
use vmkernel::vm::start;

#[global_allocator]
static HEAP: KernelHeap = KernelHeap::new(HEAP_SOURCE);

/// The first Rust function: `magic` and `info` are what the boot loader left in EAX and EBX.
#[unsafe(no_mangle)]
extern "C" fn basalt_start(magic: u32, info: u32) -> ! {
    start::set_starter(start::start_vcpus);
    // SAFETY: this is the only call, made by the entry code with its own values, on a fresh machine.
    unsafe { vmkernel::startup::run(magic, info) }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    vmkernel::fault::panicked(info)
}
