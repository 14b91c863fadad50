//! Numbers of model-specific registers (APM vol. 2, appendix A). Their policies live with their users.

/// A model-specific register's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Msr(pub u32);

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        impl Msr { $($(#[$doc])* pub const $name: Self = Self($number);)* }
    };
}

msrs! {
    /// Time stamp counter.
    TSC = 0x10;
    /// Local APIC base and mode.
    APIC_BASE = 0x1b;
    /// Which features the firmware lets be used (SDM vol. 3, 24.7).
    FEATURE_CONTROL = 0x3a;
    /// Offset that software added to the TSC.
    TSC_ADJUST = 0x3b;
    /// Speculation control.
    SPEC_CTRL = 0x48;
    /// Prediction commands.
    PRED_CMD = 0x49;
    /// Leaks of speculative execution that the CPU does not have, and what it has against others.
    ARCH_CAPABILITIES = 0x10a;
    /// Commands to flush caches.
    FLUSH_CMD = 0x10b;
    /// SYSENTER code segment.
    SYSENTER_CS = 0x174;
    /// SYSENTER stack pointer.
    SYSENTER_ESP = 0x175;
    /// SYSENTER instruction pointer.
    SYSENTER_EIP = 0x176;
    /// Debug control.
    DEBUGCTL = 0x1d9;
    /// Page attribute table.
    PAT = 0x277;
    /// VMX: revision and basic properties (SDM vol. 3, A.1).
    VMX_BASIC = 0x480;
    /// VMX: pin-based controls.
    VMX_PIN_CONTROLS = 0x481;
    /// VMX: primary controls.
    VMX_PRIMARY_CONTROLS = 0x482;
    /// VMX: exit controls.
    VMX_EXIT_CONTROLS = 0x483;
    /// VMX: entry controls.
    VMX_ENTRY_CONTROLS = 0x484;
    /// VMX: miscellaneous.
    VMX_MISC = 0x485;
    /// VMX: bits of CR0 that must be one.
    VMX_CR0_FIXED0 = 0x486;
    /// VMX: bits of CR4 that must be one.
    VMX_CR4_FIXED0 = 0x488;
    /// VMX: secondary controls.
    VMX_SECONDARY_CONTROLS = 0x48b;
    /// VMX: extended page tables and tags.
    VMX_EPT_VPID = 0x48c;
    /// VMX: pin-based controls, without the ones that old software expects.
    VMX_TRUE_PIN_CONTROLS = 0x48d;
    /// VMX: primary controls, likewise.
    VMX_TRUE_PRIMARY_CONTROLS = 0x48e;
    /// VMX: exit controls, likewise.
    VMX_TRUE_EXIT_CONTROLS = 0x48f;
    /// VMX: entry controls, likewise.
    VMX_TRUE_ENTRY_CONTROLS = 0x490;
    /// TSC-deadline timer.
    TSC_DEADLINE = 0x6e0;
    /// First x2APIC register.
    X2APIC_BASE = 0x800;
    /// x2APIC ID.
    X2APIC_ID = 0x802;
    /// x2APIC end of interrupt.
    X2APIC_EOI = 0x80b;
    /// x2APIC interrupt command.
    X2APIC_ICR = 0x830;
    /// Extended feature enable.
    EFER = 0xc000_0080;
    /// SYSCALL segments.
    STAR = 0xc000_0081;
    /// SYSCALL target, 64-bit callers.
    LSTAR = 0xc000_0082;
    /// SYSCALL target, compatibility-mode callers.
    CSTAR = 0xc000_0083;
    /// SYSCALL flag mask.
    SFMASK = 0xc000_0084;
    /// FS base.
    FS_BASE = 0xc000_0100;
    /// GS base.
    GS_BASE = 0xc000_0101;
    /// What SWAPGS swaps in.
    KERNEL_GS_BASE = 0xc000_0102;
    /// RDTSCP's and RDPID's value.
    TSC_AUX = 0xc000_0103;
    /// SVM lock and disable (APM vol. 2, 15.30.1).
    VM_CR = 0xc001_0114;
    /// Host state-save area (APM vol. 2, 15.30.4).
    VM_HSAVE_PA = 0xc001_0117;
}
