//! The hardware layer: CPU, page tables, interrupt entry, APICs, time, starting CPUs, SVM and VMX.
//!
//! Mechanism only: no policy, no allocation of its own (callers lend frames), no knowledge of VMs or devices. It is the
//! only home of assembly in the running kernel.
#![no_std]
#![expect(
    unsafe_code,
    reason = "privileged instructions, page tables and device registers have no safe form"
)]

extern crate alloc;

pub mod apic;
pub mod cpu;
mod debug;
pub mod fpu;
pub mod gdt;
pub mod guard;
pub mod idt;
pub mod ioapic;
pub mod mmio;
pub mod nested;
pub mod paging;
pub mod percpu;
pub mod physmem;
pub mod rt;
pub mod smp;
pub mod svm;
mod switch_text;
pub mod sync;
mod tag;
pub mod time;
pub mod virt;
pub mod vmx;
