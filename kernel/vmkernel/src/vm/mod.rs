//! Virtual machines: their memory, their vCPUs' run loops, their board of devices, and the inventory of all of them.

pub mod board;
pub mod clock;
pub mod definitions;
mod emulation;
mod events;
mod exits;
mod hypercall;
pub mod inventory;
pub mod link;
pub mod machine;
mod moves;
pub mod policy;
pub mod ram;
pub mod serial;
pub mod start;
pub mod tracking;
pub mod vcpu;
pub mod writes;
