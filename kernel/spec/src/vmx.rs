//! VMX: capability registers, the fields and controls of a VMCS, exit reasons, entries of extended page tables (SDM
//! vol. 3, chapters 25 to 29 and appendices A to C).

use bitflags::bitflags;

bitflags! {
    /// An entry of an extended page table (SDM vol. 3, 29.3.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptEntry: u64 {
        /// Reads.
        const READ = 1;
        /// Writes.
        const WRITE = 1 << 1;
        /// Instruction fetches.
        const EXECUTE = 1 << 2;
        /// All three.
        const ALL = 7;
        /// Memory type of a page: write-back, subject to the guest's PAT.
        const WRITE_BACK = 6 << 3;
        /// A page of 2 MiB or 1 GiB.
        const PAGE = 1 << 7;
        /// Accessed.
        const ACCESSED = 1 << 8;
        /// Written.
        const DIRTY = 1 << 9;
        const _ = !0;
    }
}
