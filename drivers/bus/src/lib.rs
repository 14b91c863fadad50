//! What firmware tells of the host: ACPI tables, read as untrusted bytes. PCI enumeration is not here yet.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used, clippy::indexing_slicing)]

extern crate alloc;

pub mod acpi;
