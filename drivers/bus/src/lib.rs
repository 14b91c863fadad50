//! What there is in the host: ACPI tables and PCI functions, read as untrusted bytes.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used, clippy::indexing_slicing)]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod pci;
