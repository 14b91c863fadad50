//! VMX: capability registers, the fields and controls of a VMCS, exit reasons, entries of extended page tables (SDM
//! vol. 3, chapters 25 to 30 and appendices A to C).

use bitflags::bitflags;
use core::marker::PhantomData;

/// A value that a VMCS field can hold.
pub trait FieldValue: Copy {
    /// Widens it for VMWRITE.
    fn widen(self) -> u64;
    /// Narrows what VMREAD returned; the rest is zero.
    fn narrow(value: u64) -> Self;
}

macro_rules! field_values {
    ($($ty:ty)*) => { $(
        impl FieldValue for $ty {
            #[inline(always)]
            fn widen(self) -> u64 {
                self as u64
            }

            #[inline(always)]
            fn narrow(value: u64) -> Self {
                value as Self
            }
        }
    )* };
}

field_values!(u16 u32 u64);

/// A field of the VMCS, by its encoding (SDM vol. 3, appendix B), with the width that it has. Fields of natural width are
/// 64 bits on every CPU that runs this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<T> {
    encoding: u32,
    width: PhantomData<T>,
}

impl<T: FieldValue> Field<T> {
    const fn new(encoding: u32) -> Self {
        // Bits 14:13: 16, 64, 32 bits, natural width.
        let bytes = match encoding >> 13 & 3 {
            0 => 2,
            2 => 4,
            _ => 8,
        };
        assert!(bytes == size_of::<T>(), "the encoding says another width");
        Self {
            encoding,
            width: PhantomData,
        }
    }

    /// Returns the encoding.
    #[must_use]
    #[inline(always)]
    pub const fn encoding(self) -> u32 {
        self.encoding
    }

    /// Returns the field `index` places further in a table of like fields.
    #[must_use]
    #[inline(always)]
    pub const fn nth(self, index: usize) -> Self {
        Self {
            encoding: self.encoding + 2 * index as u32,
            width: PhantomData,
        }
    }
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $ty:ty = $encoding:expr;)*) => {
        $($(#[$doc])* pub const $name: Field<$ty> = Field::new($encoding);)*
    };
}

/// The fields that are used (SDM vol. 3, appendix B).
pub mod field {
    use super::Field;

    fields! {
        /// Virtual-processor identifier; 0 is the host's.
        VPID: u16 = 0x0000;
        /// Selectors of ES, CS, SS, DS, FS, GS, LDTR and TR.
        GUEST_SELECTOR: u16 = 0x0800;
        /// Next entry of the page-modification log, counted down.
        GUEST_PML_INDEX: u16 = 0x0812;
        /// Host's selectors of ES, CS, SS, DS, FS and GS.
        HOST_ES_SELECTOR: u16 = 0x0c00;
        /// Host's TR.
        HOST_TR_SELECTOR: u16 = 0x0c0c;
        /// Physical address of the MSR bitmap.
        MSR_BITMAP: u64 = 0x2004;
        /// Physical address of the page-modification log.
        PML_ADDRESS: u64 = 0x200e;
        /// Added to the TSC that the guest reads.
        TSC_OFFSET: u64 = 0x2010;
        /// Physical address of the virtual-APIC page.
        VIRTUAL_APIC: u64 = 0x2012;
        /// Root and properties of the extended page tables.
        EPT_POINTER: u64 = 0x201a;
        /// Address of an EPT violation.
        GUEST_PHYSICAL_ADDRESS: u64 = 0x2400;
        /// All ones: no shadow VMCS.
        LINK_POINTER: u64 = 0x2800;
        /// IA32_DEBUGCTL.
        GUEST_DEBUGCTL: u64 = 0x2802;
        /// IA32_PAT.
        GUEST_PAT: u64 = 0x2804;
        /// IA32_EFER.
        GUEST_EFER: u64 = 0x2806;
        /// The four page-directory-pointer-table entries of PAE paging.
        GUEST_PDPTE: u64 = 0x280a;
        /// Host's IA32_PAT.
        HOST_PAT: u64 = 0x2c00;
        /// Host's IA32_EFER.
        HOST_EFER: u64 = 0x2c02;
        /// [`super::PinControls`].
        PIN_CONTROLS: u32 = 0x4000;
        /// [`super::PrimaryControls`].
        PRIMARY_CONTROLS: u32 = 0x4002;
        /// Vectors of exceptions that exit.
        EXCEPTION_BITMAP: u32 = 0x4004;
        /// Page-fault error-code mask.
        PAGE_FAULT_MASK: u32 = 0x4006;
        /// Page-fault error-code match.
        PAGE_FAULT_MATCH: u32 = 0x4008;
        /// Number of CR3-target values.
        CR3_TARGETS: u32 = 0x400a;
        /// [`super::ExitControls`].
        EXIT_CONTROLS: u32 = 0x400c;
        /// MSRs to store on exit.
        EXIT_MSR_STORES: u32 = 0x400e;
        /// MSRs to load on exit.
        EXIT_MSR_LOADS: u32 = 0x4010;
        /// [`super::EntryControls`].
        ENTRY_CONTROLS: u32 = 0x4012;
        /// MSRs to load on entry.
        ENTRY_MSR_LOADS: u32 = 0x4014;
        /// The event to inject, low half of [`crate::event::Event`].
        ENTRY_EVENT: u32 = 0x4016;
        /// Its error code.
        ENTRY_ERROR_CODE: u32 = 0x4018;
        /// Length of the instruction behind a software event.
        ENTRY_LENGTH: u32 = 0x401a;
        /// Task priority below which the guest exits.
        TPR_THRESHOLD: u32 = 0x401c;
        /// [`super::SecondaryControls`].
        SECONDARY_CONTROLS: u32 = 0x401e;
        /// Ticks between two PAUSEs of one loop at most.
        PLE_GAP: u32 = 0x4020;
        /// Ticks that a PAUSE loop may take.
        PLE_WINDOW: u32 = 0x4022;
        /// Why a VMX instruction failed.
        INSTRUCTION_ERROR: u32 = 0x4400;
        /// [`super::ExitReason`]; bit 31: the entry failed.
        EXIT_REASON: u32 = 0x4402;
        /// The exception or NMI that exited.
        EXIT_EVENT: u32 = 0x4404;
        /// Its error code.
        EXIT_ERROR_CODE: u32 = 0x4406;
        /// The event whose delivery the exit interrupted.
        VECTORING_EVENT: u32 = 0x4408;
        /// Its error code.
        VECTORING_ERROR_CODE: u32 = 0x440a;
        /// Length of the instruction that exited.
        EXIT_LENGTH: u32 = 0x440c;
        /// Limits of ES, CS, SS, DS, FS, GS, LDTR and TR.
        GUEST_LIMIT: u32 = 0x4800;
        /// Limit of GDTR.
        GUEST_GDTR_LIMIT: u32 = 0x4810;
        /// Limit of IDTR.
        GUEST_IDTR_LIMIT: u32 = 0x4812;
        /// Access rights of ES, CS, SS, DS, FS, GS, LDTR and TR.
        GUEST_RIGHTS: u32 = 0x4814;
        /// [`super::Interruptibility`].
        GUEST_INTERRUPTIBILITY: u32 = 0x4824;
        /// 0: executing.
        GUEST_ACTIVITY: u32 = 0x4826;
        /// IA32_SYSENTER_CS.
        GUEST_SYSENTER_CS: u32 = 0x482a;
        /// What is left of the time in the guest.
        PREEMPTION_TIMER: u32 = 0x482e;
        /// Host's IA32_SYSENTER_CS.
        HOST_SYSENTER_CS: u32 = 0x4c00;
        /// Bits of CR0 that are the host's.
        CR0_MASK: u64 = 0x6000;
        /// Bits of CR4 that are the host's.
        CR4_MASK: u64 = 0x6002;
        /// What the guest reads of those.
        CR0_SHADOW: u64 = 0x6004;
        /// What the guest reads of those.
        CR4_SHADOW: u64 = 0x6006;
        /// Details of the exit.
        EXIT_QUALIFICATION: u64 = 0x6400;
        /// CR0.
        GUEST_CR0: u64 = 0x6800;
        /// CR3.
        GUEST_CR3: u64 = 0x6802;
        /// CR4.
        GUEST_CR4: u64 = 0x6804;
        /// Bases of ES, CS, SS, DS, FS, GS, LDTR and TR.
        GUEST_BASE: u64 = 0x6806;
        /// Base of GDTR.
        GUEST_GDTR_BASE: u64 = 0x6816;
        /// Base of IDTR.
        GUEST_IDTR_BASE: u64 = 0x6818;
        /// DR7.
        GUEST_DR7: u64 = 0x681a;
        /// RSP.
        GUEST_RSP: u64 = 0x681c;
        /// RIP.
        GUEST_RIP: u64 = 0x681e;
        /// RFLAGS.
        GUEST_RFLAGS: u64 = 0x6820;
        /// Debug exceptions that wait, as bits of DR6.
        GUEST_PENDING_DEBUG: u64 = 0x6822;
        /// IA32_SYSENTER_ESP.
        GUEST_SYSENTER_ESP: u64 = 0x6824;
        /// IA32_SYSENTER_EIP.
        GUEST_SYSENTER_EIP: u64 = 0x6826;
        /// Host's CR0.
        HOST_CR0: u64 = 0x6c00;
        /// Host's CR3.
        HOST_CR3: u64 = 0x6c02;
        /// Host's CR4.
        HOST_CR4: u64 = 0x6c04;
        /// Host's base of FS.
        HOST_FS_BASE: u64 = 0x6c06;
        /// Host's base of GS.
        HOST_GS_BASE: u64 = 0x6c08;
        /// Host's base of TR.
        HOST_TR_BASE: u64 = 0x6c0a;
        /// Host's base of GDTR.
        HOST_GDTR_BASE: u64 = 0x6c0c;
        /// Host's base of IDTR.
        HOST_IDTR_BASE: u64 = 0x6c0e;
        /// Host's IA32_SYSENTER_ESP.
        HOST_SYSENTER_ESP: u64 = 0x6c10;
        /// Host's IA32_SYSENTER_EIP.
        HOST_SYSENTER_EIP: u64 = 0x6c12;
        /// Host's RSP after an exit.
        HOST_RSP: u64 = 0x6c14;
        /// Where the host goes on after an exit.
        HOST_RIP: u64 = 0x6c16;
    }
}

bitflags! {
    /// Pin-based controls (SDM vol. 3, 25.6.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PinControls: u32 {
        /// Interrupts exit.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// NMIs exit.
        const NMI = 1 << 3;
        /// The CPU keeps track of whether the guest can take an NMI.
        const VIRTUAL_NMI = 1 << 5;
        /// The guest exits when its time is over.
        const PREEMPTION_TIMER = 1 << 6;
        /// Interrupts reach the guest without an exit.
        const POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }
}

bitflags! {
    /// Primary processor-based controls (SDM vol. 3, 25.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PrimaryControls: u32 {
        /// Exit when the guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// The guest reads the TSC plus an offset.
        const TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT = 1 << 7;
        /// INVLPG exits.
        const INVLPG = 1 << 9;
        /// MWAIT exits.
        const MWAIT = 1 << 10;
        /// RDPMC exits.
        const RDPMC = 1 << 11;
        /// RDTSC exits.
        const RDTSC = 1 << 12;
        /// Writes of CR3 exit.
        const CR3_LOAD = 1 << 15;
        /// Reads of CR3 exit.
        const CR3_STORE = 1 << 16;
        /// Writes of CR8 exit.
        const CR8_LOAD = 1 << 19;
        /// Reads of CR8 exit.
        const CR8_STORE = 1 << 20;
        /// CR8 is that of the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// Exit when the guest can take an NMI.
        const NMI_WINDOW = 1 << 22;
        /// Accesses to debug registers exit.
        const MOV_DR = 1 << 23;
        /// All port accesses exit.
        const UNCONDITIONAL_IO = 1 << 24;
        /// Accesses to MSRs exit as the bitmap says.
        const MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR = 1 << 29;
        /// PAUSE exits.
        const PAUSE = 1 << 30;
        /// There are secondary controls.
        const SECONDARY = 1 << 31;
        const _ = !0;
    }
}

bitflags! {
    /// Secondary processor-based controls (SDM vol. 3, 25.6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SecondaryControls: u32 {
        /// Accesses to the APIC's page are virtualized.
        const VIRTUAL_APIC_ACCESSES = 1 << 0;
        /// Extended page tables.
        const EPT = 1 << 1;
        /// Loads of descriptor-table registers exit.
        const DESCRIPTOR_TABLES = 1 << 2;
        /// The guest has RDTSCP.
        const RDTSCP = 1 << 3;
        /// The x2APIC's task priority is virtualized.
        const VIRTUAL_X2APIC = 1 << 4;
        /// Translations are tagged.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// Real mode and protected mode without paging.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// Reads of APIC registers are virtualized.
        const APIC_REGISTERS = 1 << 8;
        /// Pending virtual interrupts are evaluated by the CPU.
        const VIRTUAL_INTERRUPTS = 1 << 9;
        /// Long loops with PAUSE exit.
        const PAUSE_LOOP = 1 << 10;
        /// The guest has INVPCID.
        const INVPCID = 1 << 12;
        /// VMREAD and VMWRITE of the guest need not exit.
        const VMCS_SHADOWING = 1 << 14;
        /// Written pages are logged.
        const PML = 1 << 17;
        /// The guest has XSAVES.
        const XSAVES = 1 << 20;
        /// The guest's TSC has a frequency of its own.
        const TSC_SCALING = 1 << 25;
        const _ = !0;
    }
}

bitflags! {
    /// Exit controls (SDM vol. 3, 25.7.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host is in 64-bit mode.
        const HOST_64BIT = 1 << 9;
        /// The interrupt that exits is acknowledged.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// What is left of the preemption timer is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        const _ = !0;
    }
}

bitflags! {
    /// Entry controls (SDM vol. 3, 25.8.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in long mode: EFER.LMA.
        const GUEST_64BIT = 1 << 9;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
        const _ = !0;
    }
}

bitflags! {
    /// What keeps the guest from taking events (SDM vol. 3, table 25-3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interruptibility: u32 {
        /// The instruction after STI.
        const STI = 1 << 0;
        /// The instruction after a load of SS.
        const MOV_SS = 1 << 1;
        /// System-management interrupts.
        const SMI = 1 << 2;
        /// An NMI in service.
        const NMI = 1 << 3;
        const _ = !0;
    }
}

/// Why the guest stopped (SDM vol. 3, appendix C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitReason(pub u32);

macro_rules! exit_reasons {
    ($($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        impl ExitReason { $($(#[$doc])* pub const $name: Self = Self($number);)* }
    };
}

exit_reasons! {
    /// An exception of the bitmap, or the host's NMI.
    EXCEPTION_OR_NMI = 0;
    /// The host's interrupt.
    EXTERNAL_INTERRUPT = 1;
    /// Triple fault.
    TRIPLE_FAULT = 2;
    /// An INIT signal for the host's CPU.
    INIT = 3;
    /// A startup IPI for the host's CPU.
    STARTUP = 4;
    /// The guest can take an interrupt.
    INTERRUPT_WINDOW = 7;
    /// The guest can take an NMI.
    NMI_WINDOW = 8;
    /// A task switch.
    TASK_SWITCH = 9;
    /// CPUID.
    CPUID = 10;
    /// GETSEC.
    GETSEC = 11;
    /// HLT.
    HLT = 12;
    /// INVD.
    INVD = 13;
    /// RDPMC.
    RDPMC = 15;
    /// RSM.
    RSM = 17;
    /// VMCALL.
    VMCALL = 18;
    /// VMCLEAR; the other instructions of VMX follow.
    VMCLEAR = 19;
    /// VMXON, the last of them.
    VMXON = 27;
    /// An access to a control register.
    CONTROL_REGISTER = 28;
    /// IN, OUT, INS or OUTS.
    PORT = 30;
    /// RDMSR.
    RDMSR = 31;
    /// WRMSR.
    WRMSR = 32;
    /// The entry failed: the guest's state.
    INVALID_STATE = 33;
    /// The entry failed: an MSR of the load list.
    MSR_LOADING = 34;
    /// MWAIT.
    MWAIT = 36;
    /// MONITOR.
    MONITOR = 39;
    /// PAUSE.
    PAUSE = 40;
    /// The entry failed: a machine check.
    MACHINE_CHECK = 41;
    /// The task priority fell below the threshold.
    TPR_THRESHOLD = 43;
    /// The extended page tables do not allow an access.
    EPT_VIOLATION = 48;
    /// An entry of the extended page tables is not valid.
    EPT_MISCONFIGURATION = 49;
    /// INVEPT.
    INVEPT = 50;
    /// The guest's time is over.
    PREEMPTION_TIMER = 52;
    /// INVVPID.
    INVVPID = 53;
    /// WBINVD.
    WBINVD = 54;
    /// XSETBV.
    XSETBV = 55;
    /// VMFUNC.
    VMFUNC = 59;
    /// ENCLS.
    ENCLS = 60;
    /// The page-modification log is full.
    WRITE_LOG_FULL = 62;
    /// The page-modification log is full.
    PML_FULL = 62;
    /// XSAVES.
    XSAVES = 63;
    /// XRSTORS.
    XRSTORS = 64;
}

/// What the CPU offers for extended page tables and tags: IA32_VMX_EPT_VPID_CAP (SDM vol. 3, A.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct EptCapabilities(pub u64);

impl EptCapabilities {
    const fn has(self, bit: u32) -> bool {
        self.0 >> bit & 1 != 0
    }

    /// Tables of four levels in write-back memory, without which no VM runs here.
    #[must_use]
    pub const fn four_levels_write_back(self) -> bool {
        self.has(6) && self.has(14)
    }

    /// Pages of 2 MiB.
    #[must_use]
    pub const fn pages_2m(self) -> bool {
        self.has(16)
    }

    /// INVEPT of one root.
    #[must_use]
    pub const fn invept_single(self) -> bool {
        self.has(20) && self.has(25)
    }

    /// Accessed and dirty bits.
    #[must_use]
    pub const fn accessed_dirty(self) -> bool {
        self.has(21)
    }

    /// INVVPID of one tag.
    #[must_use]
    pub const fn invvpid_single(self) -> bool {
        self.has(32) && self.has(41)
    }
}

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

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn tables_of_fields_go_on_where_the_manual_says() {
        assert_eq!(field::GUEST_SELECTOR.nth(7).encoding(), 0x80e);
        assert_eq!(field::GUEST_LIMIT.nth(6).encoding(), 0x480c);
        assert_eq!(field::GUEST_RIGHTS.nth(7).encoding(), 0x4822);
        assert_eq!(field::GUEST_BASE.nth(7).encoding(), 0x6814);
        assert_eq!(field::GUEST_PDPTE.nth(3).encoding(), 0x2810);
    }
}
