//! What the tiny guests share: the way from Multiboot1 to Rust in long mode, and the few devices they touch.
//!
//! There is one CPU, no heap and no driver beyond what a test needs. None of Basalt's crates is used, so that a
//! misreading of a manual there does not repeat itself here.
#![no_std]

pub mod acpi;
pub mod cmos;
pub mod cpu;
pub mod interrupts;
pub mod lapic;
pub mod multiboot;
pub mod power;
pub mod random;
pub mod serial;
pub mod state;
pub mod user;

mod entry;
mod runtime;

/// Prints a line on COM1.
#[macro_export]
macro_rules! println {
    () => {
        $crate::serial::print_line(format_args!(""))
    };
    ($($argument:tt)*) => {
        $crate::serial::print_line(format_args!($($argument)*))
    };
}

/// Prints on COM1 without ending the line.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::serial::print(format_args!($($argument)*))
    };
}

/// Names the function that a guest starts with: `fn(&multiboot::Info) -> !`.
#[macro_export]
macro_rules! guest_main {
    ($main:path) => {
        #[expect(unsafe_code, reason = "the entry code calls this function by its name")]
        #[unsafe(no_mangle)]
        extern "C" fn guest_main(info: u32) -> ! {
            let main: fn(&$crate::multiboot::Info) -> ! = $main;
            main(&$crate::multiboot::start(info))
        }
    };
}
