//! Whether the host has the memory for one more VM: guests get theirs on first touch, so what is free now is not what is
//! left.

use thiserror::Error;

/// Bytes that VMs never get: for the kernel's heap and tables while guests run.
pub const RESERVE_BYTES: u64 = 8 << 20;
/// Bytes of one level of page tables are its reach divided by this.
const ENTRIES: u64 = 512;
const MIB: u64 = 1 << 20;

/// The host has too little memory for a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "the VM wants {} MiB of memory with its page tables, but of the host's {} MiB free, {} MiB are promised to other VMs \
     and {} MiB stay with the host: {} MiB are left; give it less or stop another VM",
    .want.div_ceil(MIB), .free / MIB, .promised.div_ceil(MIB), RESERVE_BYTES / MIB, .left / MIB
)]
pub struct TooLittle {
    /// Bytes that the VM may need.
    pub want: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Of these, what other VMs may still claim.
    pub promised: u64,
    /// What remains for new VMs.
    pub left: u64,
}

/// Returns the host memory that a VM with `memory` bytes of RAM may need: RAM, and page tables for the case that all of
/// it comes in the smallest pages.
#[must_use]
pub const fn need(memory: u64) -> u64 {
    let tables = memory.div_ceil(ENTRIES);
    let upper = tables.div_ceil(ENTRIES).saturating_add(4 * 4096);
    memory.saturating_add(tables).saturating_add(upper)
}

/// Judges whether a VM with `memory` bytes of RAM may start, where `free` bytes are free and running VMs may claim
/// `promised` of them.
///
/// # Errors
/// [`TooLittle`], with the arithmetic.
pub const fn admit(memory: u64, free: u64, promised: u64) -> Result<(), TooLittle> {
    let want = need(memory);
    let left = free.saturating_sub(promised).saturating_sub(RESERVE_BYTES);
    if want <= left {
        Ok(())
    } else {
        Err(TooLittle {
            want,
            free,
            promised,
            left,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MIB, RESERVE_BYTES, admit, need};

    #[test]
    fn page_tables_count_for_the_smallest_pages() {
        assert!(need(512 * MIB) > 513 * MIB);
        assert!(need(512 * MIB) < 514 * MIB);
        assert_eq!(need(u64::MAX), u64::MAX);
    }

    #[test]
    fn what_is_promised_is_not_free() {
        let free = 1024 * MIB;
        assert_eq!(admit(600 * MIB, free, 0), Ok(()));
        let refused = admit(600 * MIB, free, 590 * MIB).unwrap_err();
        assert_eq!(refused.left, (1024 - 590) * MIB - RESERVE_BYTES);
        let text = alloc::format!("{refused}");
        for number in ["602 MiB", "1024 MiB", "590 MiB", "8 MiB", "426 MiB"] {
            assert!(text.contains(number), "{number} in: {text}");
        }
    }

    #[test]
    fn the_hosts_own_part_is_kept() {
        assert!(admit(MIB, MIB + RESERVE_BYTES, 0).is_err());
        assert!(admit(MIB, 3 * MIB + RESERVE_BYTES, 0).is_ok());
        assert!(admit(MIB, MIB, u64::MAX).is_err());
        assert!(admit(u64::MAX, u64::MAX, 0).is_err());
    }
}
