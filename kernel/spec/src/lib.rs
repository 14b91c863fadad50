//! Layouts and constants from the manuals, as types: nothing here runs. Each item cites its source:
//! APM = AMD64 Architecture Programmer's Manual, SDM = Intel 64 Software Developer's Manual.
#![no_std]
#![forbid(unsafe_code)]

pub mod event;
pub mod msr;
pub mod segment;
pub mod svm;
pub mod vmx;
pub mod x86;
