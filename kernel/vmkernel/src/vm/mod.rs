//! Virtual machines: their memory, their vCPUs' run loops, their board of devices, and the inventory of all of them.

pub mod board;
pub mod clock;
pub mod link;
pub mod ram;
pub mod vcpu;
