//! The feature bits a guest may see. A bit that is not listed here is hidden: passing a feature on is a decision.
//!
//! Hidden on purpose, among others: VMX, SVM, SMX, MONITOR and MWAITX, performance counters and everything that samples
//! (DS, PDCM, PT, IBS, LWP, LBR), protection keys, CET, SGX, RDT, AMX, key locker, MPX, TSX, FRED, LAM and UAI, RDPRU,
//! XSAVES and XFD, WAITPKG, the PSN, thermal and speed-step controls.

use bitflags::bitflags;

bitflags! {
    /// Leaf 1, ECX (Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E).
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic1Ecx: u32 {
        const SSE3 = 1 << 0;
        const PCLMULQDQ = 1 << 1;
        const SSSE3 = 1 << 9;
        const FMA = 1 << 12;
        const CX16 = 1 << 13;
        const PCID = 1 << 17;
        const SSE4_1 = 1 << 19;
        const SSE4_2 = 1 << 20;
        /// Emulated: offered by configuration, not by the host.
        const X2APIC = 1 << 21;
        const MOVBE = 1 << 22;
        const POPCNT = 1 << 23;
        /// Emulated, as X2APIC.
        const TSC_DEADLINE = 1 << 24;
        const AES = 1 << 25;
        const XSAVE = 1 << 26;
        /// Follows CR4.OSXSAVE; set at look-up.
        const OSXSAVE = 1 << 27;
        const AVX = 1 << 28;
        const F16C = 1 << 29;
        const RDRAND = 1 << 30;
        /// Always set.
        const HYPERVISOR = 1 << 31;
    }

    /// Leaf 1, EDX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CX8 = 1 << 8;
        /// Follows IA32_APIC_BASE; set at look-up.
        const APIC = 1 << 9;
        const SEP = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const CLFSH = 1 << 19;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const SSE = 1 << 25;
        const SSE2 = 1 << 26;
        /// Set by topology.
        const HTT = 1 << 28;
    }

    /// Leaf 7.0, EBX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic7Ebx: u32 {
        const FSGSBASE = 1 << 0;
        /// Emulated: always offered.
        const TSC_ADJUST = 1 << 1;
        const BMI1 = 1 << 3;
        const AVX2 = 1 << 5;
        const FDP_EXCPTN_ONLY = 1 << 6;
        const SMEP = 1 << 7;
        const BMI2 = 1 << 8;
        const ERMS = 1 << 9;
        const INVPCID = 1 << 10;
        const ZERO_FCS_FDS = 1 << 13;
        const AVX512F = 1 << 16;
        const AVX512DQ = 1 << 17;
        const RDSEED = 1 << 18;
        const ADX = 1 << 19;
        const SMAP = 1 << 20;
        const AVX512IFMA = 1 << 21;
        const CLFLUSHOPT = 1 << 23;
        const CLWB = 1 << 24;
        const AVX512CD = 1 << 28;
        const SHA = 1 << 29;
        const AVX512BW = 1 << 30;
        const AVX512VL = 1 << 31;
    }

    /// Leaf 7.0, ECX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic7Ecx: u32 {
        const AVX512VBMI = 1 << 1;
        const UMIP = 1 << 2;
        const AVX512VBMI2 = 1 << 6;
        const GFNI = 1 << 8;
        const VAES = 1 << 9;
        const VPCLMULQDQ = 1 << 10;
        const AVX512VNNI = 1 << 11;
        const AVX512BITALG = 1 << 12;
        const AVX512VPOPCNTDQ = 1 << 14;
        const LA57 = 1 << 16;
        const RDPID = 1 << 22;
        const CLDEMOTE = 1 << 25;
        const MOVDIRI = 1 << 27;
        const MOVDIR64B = 1 << 28;
    }

    /// Leaf 7.0, EDX. The bits from SPEC_CTRL on depend on the configuration.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic7Edx: u32 {
        const FSRM = 1 << 4;
        const AVX512VP2INTERSECT = 1 << 8;
        const MD_CLEAR = 1 << 10;
        const SERIALIZE = 1 << 14;
        const AVX512FP16 = 1 << 23;
        const SPEC_CTRL = 1 << 26;
        const STIBP = 1 << 27;
        const SSBD = 1 << 31;
    }

    /// Leaf 7.1, EAX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic71Eax: u32 {
        const SHA512 = 1 << 0;
        const SM3 = 1 << 1;
        const SM4 = 1 << 2;
        const AVX_VNNI = 1 << 4;
        const AVX512_BF16 = 1 << 5;
        const CMPCCXADD = 1 << 7;
        const FZLRM = 1 << 10;
        const FSRS = 1 << 11;
        const FSRC = 1 << 12;
        const AVX_IFMA = 1 << 23;
    }

    /// Leaf 7.1, EDX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Basic71Edx: u32 {
        const AVX_VNNI_INT8 = 1 << 4;
        const AVX_NE_CONVERT = 1 << 5;
        const PREFETCHI = 1 << 14;
    }

    /// Leaf 0Dh.1, EAX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct XsaveEax: u32 {
        const XSAVEOPT = 1 << 0;
        const XSAVEC = 1 << 1;
        const XGETBV1 = 1 << 2;
    }

    /// Leaf 80000001h, ECX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Extended1Ecx: u32 {
        const LAHF = 1 << 0;
        /// Set by topology.
        const CMP_LEGACY = 1 << 1;
        const ABM = 1 << 5;
        const SSE4A = 1 << 6;
        const MISALIGN_SSE = 1 << 7;
        const PREFETCHW = 1 << 8;
        const XOP = 1 << 11;
        const FMA4 = 1 << 16;
        const TBM = 1 << 21;
        const TOPOEXT = 1 << 22;
    }

    /// Leaf 80000001h, EDX. AMD repeats bits of leaf 1 here.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Extended1Edx: u32 {
        const FPU = 1 << 0;
        const VME = 1 << 1;
        const DE = 1 << 2;
        const PSE = 1 << 3;
        const TSC = 1 << 4;
        const MSR = 1 << 5;
        const PAE = 1 << 6;
        const MCE = 1 << 7;
        const CX8 = 1 << 8;
        const APIC = 1 << 9;
        const SYSCALL = 1 << 11;
        const MTRR = 1 << 12;
        const PGE = 1 << 13;
        const MCA = 1 << 14;
        const CMOV = 1 << 15;
        const PAT = 1 << 16;
        const PSE36 = 1 << 17;
        const NX = 1 << 20;
        const MMXEXT = 1 << 22;
        const MMX = 1 << 23;
        const FXSR = 1 << 24;
        const FFXSR = 1 << 25;
        const PAGE1GB = 1 << 26;
        const RDTSCP = 1 << 27;
        const LM = 1 << 29;
        const THREE_D_NOW_EXT = 1 << 30;
        const THREE_D_NOW = 1 << 31;
    }

    /// Leaf 80000008h, EBX. The bits from IBPB on depend on the configuration.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Extended8Ebx: u32 {
        const CLZERO = 1 << 0;
        const XSAVEERPTR = 1 << 2;
        const WBNOINVD = 1 << 9;
        const IBPB = 1 << 12;
        const IBRS = 1 << 14;
        const STIBP = 1 << 15;
        const SSBD = 1 << 24;
    }

    /// Leaf 80000021h, EAX.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Extended21Eax: u32 {
        const NO_NESTED_DATA_BP = 1 << 0;
        const LFENCE_SERIALIZES = 1 << 2;
        const NULL_SELECTOR_CLEARS_BASE = 1 << 6;
        const NO_SMM_CTL_MSR = 1 << 9;
    }
}

impl Basic1Ecx {
    /// Needs the AVX state component.
    pub(crate) const AVX_DEPENDENT: Self = Self::AVX.union(Self::FMA).union(Self::F16C);
    /// Set by the VM, whatever the host has.
    pub(crate) const SYNTHETIC: Self = Self::X2APIC
        .union(Self::TSC_DEADLINE)
        .union(Self::OSXSAVE)
        .union(Self::HYPERVISOR);
}

impl Basic7Ebx {
    /// Needs the AVX-512 state components.
    pub(crate) const AVX512_DEPENDENT: Self = Self::AVX512F
        .union(Self::AVX512DQ)
        .union(Self::AVX512IFMA)
        .union(Self::AVX512CD)
        .union(Self::AVX512BW)
        .union(Self::AVX512VL);
}

impl Basic7Ecx {
    /// Needs the AVX state component.
    pub(crate) const AVX_DEPENDENT: Self = Self::VAES.union(Self::VPCLMULQDQ);
    /// Needs the AVX-512 state components.
    pub(crate) const AVX512_DEPENDENT: Self = Self::AVX512VBMI
        .union(Self::AVX512VBMI2)
        .union(Self::AVX512VNNI)
        .union(Self::AVX512BITALG)
        .union(Self::AVX512VPOPCNTDQ);
}

impl Basic7Edx {
    /// Needs the AVX-512 state components.
    pub(crate) const AVX512_DEPENDENT: Self = Self::AVX512VP2INTERSECT.union(Self::AVX512FP16);
    /// Needs IA32_SPEC_CTRL and IA32_PRED_CMD.
    pub(crate) const SPECULATION: Self = Self::SPEC_CTRL.union(Self::STIBP).union(Self::SSBD);
}

impl Basic71Eax {
    /// Needs the AVX state component.
    pub(crate) const AVX_DEPENDENT: Self = Self::AVX_VNNI
        .union(Self::AVX_IFMA)
        .union(Self::SHA512)
        .union(Self::SM3)
        .union(Self::SM4);
    /// Needs the AVX-512 state components.
    pub(crate) const AVX512_DEPENDENT: Self = Self::AVX512_BF16;
}

impl Basic71Edx {
    /// Needs the AVX state component.
    pub(crate) const AVX_DEPENDENT: Self = Self::AVX_VNNI_INT8.union(Self::AVX_NE_CONVERT);
}

impl Extended1Ecx {
    /// Needs the AVX state component.
    pub(crate) const AVX_DEPENDENT: Self = Self::XOP.union(Self::FMA4);
}

impl Extended1Edx {
    /// AMD repeats these bits of leaf 1.
    pub(crate) const REPEATED: u32 = 0x0183_f3ff;
}

impl Extended8Ebx {
    /// Needs IA32_SPEC_CTRL and IA32_PRED_CMD.
    pub(crate) const SPECULATION: Self = Self::IBPB
        .union(Self::IBRS)
        .union(Self::STIBP)
        .union(Self::SSBD);
}
