//! The policy of a virtual processor: CPUID, model-specific registers, control registers.
//!
//! What is not virtualised is hidden here, in one place: a feature reaches a guest only if it is listed in
//! `cpuid::features`. Deliberately left out: the local APIC's registers, the Hyper-V interface, and everything that
//! touches hardware.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::expect_used)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

pub mod control;
pub mod cpuid;
pub mod msr;

/// The guest did what the architecture answers with a general-protection fault, error code 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("general-protection fault")]
pub struct Gp;
