//! Boot headers and the way from 32-bit protected mode to the first Rust line.
//!
//! The entry code refuses a CPU without long mode or NX in plain words on COM1 and the text screen; all other checks
//! are made in Rust. It leaves: the kernel image mapped with W^X, the first 4 GiB at the direct map without execute,
//! no identity map, SSE on, interrupts off, the boot stack with an unmapped page below it.

use core::arch::global_asm;

/// What the entry code passes as the magic number of a PVH start ("PVH!").
pub(crate) const PVH_MAGIC: u32 = 0x2148_5650;

global_asm!(include_str!("entry.s"), PVH_MAGIC = const PVH_MAGIC, options(att_syntax));
