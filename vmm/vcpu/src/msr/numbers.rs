//! Numbers of model-specific registers (AMD APM vol. 2, appendix A; Intel SDM vol. 4).

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $number;)*
    };
}

numbers! {
    /// Time-stamp counter.
    TSC = 0x10;
    /// Platform identifier, for microcode updates (Intel).
    PLATFORM_ID = 0x17;
    /// Hard power-on configuration (Intel).
    EBL_CR_POWERON = 0x2a;
    /// How far the guest moved its TSC.
    TSC_ADJUST = 0x3b;
    /// Speculation control.
    SPEC_CTRL = 0x48;
    /// Prediction command.
    PRED_CMD = 0x49;
    /// Microcode update trigger (Intel).
    BIOS_UPDATE = 0x79;
    /// Microcode revision.
    PATCH_LEVEL = 0x8b;
    /// MTRR capabilities.
    MTRR_CAP = 0xfe;
    /// SYSENTER code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER stack pointer.
    SYSENTER_ESP = 0x175;
    /// SYSENTER instruction pointer.
    SYSENTER_EIP = 0x176;
    /// Machine-check capabilities.
    MCG_CAP = 0x179;
    /// Machine-check global status.
    MCG_STATUS = 0x17a;
    /// Machine-check global control.
    MCG_CTL = 0x17b;
    /// Miscellaneous enables (Intel; guests read it on AMD as well).
    MISC_ENABLE = 0x1a0;
    /// Debug control.
    DEBUGCTL = 0x1d9;
    /// Source of the last branch.
    LAST_BRANCH_FROM = 0x1db;
    /// Target of the last exception.
    LAST_EXCEPTION_TO = 0x1de;
    /// First register of the variable and fixed MTRRs.
    MTRR_FIRST = 0x200;
    /// Last register of the fixed MTRRs.
    MTRR_LAST = 0x26f;
    /// Page-attribute table.
    PAT = 0x277;
    /// Default memory type.
    MTRR_DEF_TYPE = 0x2ff;
    /// First register of the machine-check banks.
    MC_FIRST = 0x400;
    /// Last number that a machine-check bank may have.
    MC_LAST = 0x47f;
    /// Extended features.
    EFER = 0xc000_0080;
    /// SYSCALL selectors.
    STAR = 0xc000_0081;
    /// SYSCALL target, 64-bit mode.
    LSTAR = 0xc000_0082;
    /// SYSCALL target, compatibility mode.
    CSTAR = 0xc000_0083;
    /// SYSCALL flag mask.
    SFMASK = 0xc000_0084;
    /// Base of FS.
    FS_BASE = 0xc000_0100;
    /// Base of GS.
    GS_BASE = 0xc000_0101;
    /// Exchanged by SWAPGS.
    KERNEL_GS_BASE = 0xc000_0102;
    /// Returned by RDTSCP.
    TSC_AUX = 0xc000_0103;
    /// First register of AMD's own range.
    AMD_FIRST = 0xc001_0000;
    /// First performance-event select register, of four.
    K7_EVNTSEL0 = 0xc001_0000;
    /// Last performance counter; the four follow the selects.
    K7_PERFCTR3 = 0xc001_0007;
    /// System configuration.
    SYSCFG = 0xc001_0010;
    /// Hardware configuration.
    HWCR = 0xc001_0015;
    /// Top of memory below 4 GiB.
    TOP_MEM = 0xc001_001a;
    /// Top of memory above 4 GiB.
    TOP_MEM2 = 0xc001_001d;
    /// North bridge configuration.
    NB_CFG = 0xc001_001f;
    /// Microcode loader.
    PATCH_LOADER = 0xc001_0020;
    /// Interrupt pending and CMP-halt.
    INT_PENDING = 0xc001_0055;
    /// SVM control.
    VM_CR = 0xc001_0114;
    /// Load-store configuration.
    LS_CFG = 0xc001_1020;
    /// Instruction cache configuration.
    IC_CFG = 0xc001_1021;
    /// Data cache configuration.
    DC_CFG = 0xc001_1022;
    /// Decode configuration.
    DE_CFG = 0xc001_1029;
    /// Bus unit configuration.
    BU_CFG2 = 0xc001_102a;
    /// Last register of AMD's own range.
    AMD_LAST = 0xc001_1fff;
}
