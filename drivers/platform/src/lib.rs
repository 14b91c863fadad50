//! Console devices of the host, over ports that the hardware layer (or a test) provides.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]

pub mod clock;
pub mod framebuffer;
pub mod screen;
pub mod uart;
