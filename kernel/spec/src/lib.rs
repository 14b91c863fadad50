//! Layouts and constants from the manuals, as types: nothing here runs. Each item cites its source:
//! APM = AMD64 Architecture Programmer's Manual, SDM = Intel 64 Software Developer's Manual.
#![no_std]
#![forbid(unsafe_code)]

pub mod msr;
pub mod svm;
pub mod x86;
