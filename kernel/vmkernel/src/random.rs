//! Numbers that nobody else has: identifiers of datastores, nonces of this start.
//!
//! The CPU's own source where there is one, mixed with the clocks. Not for keys that keep secrets.

use crate::timer;
use core::hash::Hasher;
use core::sync::atomic::{AtomicU64, Ordering};
use siphasher::sip::SipHasher24;
use x86_64::instructions::random::RdRand;

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Returns a number.
#[must_use]
pub fn number() -> u64 {
    let source = RdRand::new();
    let hardware = || source.and_then(RdRand::get_u64).unwrap_or(0);
    let mut hasher = SipHasher24::new_with_keys(hardware(), hardware());
    hasher.write_u64(CALLS.fetch_add(1, Ordering::Relaxed));
    hasher.write_u64(arch::cpu::rdtsc());
    hasher.write_u64(timer::wall_clock_seconds());
    hasher.write_u64(hardware());
    hasher.finish()
}

/// Returns 16 bytes.
#[must_use]
pub fn bytes() -> [u8; 16] {
    (u128::from(number()) << 64 | u128::from(number())).to_le_bytes()
}
