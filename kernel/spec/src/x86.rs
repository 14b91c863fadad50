//! Control registers, flags, exceptions and page-table bits (APM vol. 2, chapters 3, 5 and 8).

use bitflags::bitflags;

bitflags! {
    /// RFLAGS (APM vol. 2, 3.1.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1;
        /// Always one.
        const ONE = 1 << 1;
        /// Trap: single step.
        const TF = 1 << 8;
        /// Interrupts enabled.
        const IF = 1 << 9;
        /// Resume: no instruction breakpoint on the next instruction.
        const RF = 1 << 16;
        /// Virtual 8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and access to user pages under SMAP.
        const AC = 1 << 18;
        const _ = !0;
    }
}

bitflags! {
    /// CR0 (APM vol. 2, 3.1.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr0: u64 {
        /// Protected mode.
        const PE = 1;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulate: no FPU.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Native FPU errors.
        const NE = 1 << 5;
        /// Write protect for supervisors.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging.
        const PG = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// CR4 (APM vol. 2, 3.1.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Cr4: u64 {
        /// Virtual-8086 extensions.
        const VME = 1;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC for the kernel only.
        const TSD = 1 << 2;
        /// Debugging extensions.
        const DE = 1 << 3;
        /// 4 MiB pages.
        const PSE = 1 << 4;
        /// Physical-address extension.
        const PAE = 1 << 5;
        /// Machine checks.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC for users.
        const PCE = 1 << 8;
        /// FXSAVE and SSE.
        const OSFXSR = 1 << 9;
        /// Unmasked SSE exceptions.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// Five-level paging.
        const LA57 = 1 << 12;
        /// VMX operation.
        const VMXE = 1 << 13;
        /// FS/GS base instructions.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE.
        const OSXSAVE = 1 << 18;
        /// No execution of user pages.
        const SMEP = 1 << 20;
        /// No access to user pages.
        const SMAP = 1 << 21;
        /// Protection keys.
        const PKE = 1 << 22;
        /// Control-flow enforcement.
        const CET = 1 << 23;
        const _ = !0;
    }
}

bitflags! {
    /// EFER (APM vol. 2, 3.1.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Efer: u64 {
        /// SYSCALL enabled.
        const SCE = 1;
        /// Long mode enabled.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute enabled.
        const NXE = 1 << 11;
        /// SVM enabled.
        const SVME = 1 << 12;
        /// Long-mode segment limits.
        const LMSLE = 1 << 13;
        /// Fast FXSAVE.
        const FFXSR = 1 << 14;
        /// Translation-cache extension.
        const TCE = 1 << 15;
        /// Automatic IBRS.
        const AIBRSE = 1 << 21;
        const _ = !0;
    }
}

bitflags! {
    /// An entry of a 4-level page table, host's or nested (APM vol. 2, 5.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pte: u64 {
        /// Present.
        const P = 1;
        /// Writable.
        const W = 1 << 1;
        /// User; nested tables are walked as user (APM vol. 2, 15.25.5).
        const U = 1 << 2;
        /// Write-through.
        const PWT = 1 << 3;
        /// Cache disable.
        const PCD = 1 << 4;
        /// Accessed.
        const A = 1 << 5;
        /// Dirty.
        const D = 1 << 6;
        /// A 2 MiB or 1 GiB page.
        const PS = 1 << 7;
        /// Global.
        const G = 1 << 8;
        /// No execute.
        const NX = 1 << 63;
        const _ = !0;
    }
}

impl Pte {
    /// The bits of a frame's address.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    /// Makes an entry for `address`, a multiple of the page's size, below 2^52.
    #[must_use]
    pub const fn to(address: u64, flags: Self) -> Self {
        Self::from_bits_retain((address & Self::ADDRESS) | flags.bits())
    }

    /// Returns the address in the entry.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.bits() & Self::ADDRESS
    }
}

/// An exception's vector (APM vol. 2, 8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception(pub u8);

impl Exception {
    /// Divide error.
    pub const DE: Self = Self(0);
    /// Debug.
    pub const DB: Self = Self(1);
    /// Non-maskable interrupt.
    pub const NMI: Self = Self(2);
    /// Breakpoint.
    pub const BP: Self = Self(3);
    /// Overflow.
    pub const OF: Self = Self(4);
    /// Invalid opcode.
    pub const UD: Self = Self(6);
    /// Double fault.
    pub const DF: Self = Self(8);
    /// General protection.
    pub const GP: Self = Self(13);
    /// Page fault.
    pub const PF: Self = Self(14);
    /// Alignment check.
    pub const AC: Self = Self(17);
    /// Machine check.
    pub const MC: Self = Self(18);

    /// Tells whether the CPU pushes an error code for it.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        matches!(self.0, 8 | 10..=14 | 17 | 21 | 29 | 30)
    }

    /// Returns the mnemonic of the manual.
    #[must_use]
    pub const fn name(self) -> &'static str {
        const NAMES: [&str; 22] = [
            "#DE",
            "#DB",
            "NMI",
            "#BP",
            "#OF",
            "#BR",
            "#UD",
            "#NM",
            "#DF",
            "coprocessor overrun",
            "#TS",
            "#NP",
            "#SS",
            "#GP",
            "#PF",
            "vector 15",
            "#MF",
            "#AC",
            "#MC",
            "#XF",
            "#VE",
            "#CP",
        ];
        if (self.0 as usize) < NAMES.len() {
            NAMES[self.0 as usize]
        } else {
            "reserved exception"
        }
    }
}
