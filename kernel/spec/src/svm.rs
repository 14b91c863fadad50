//! The Virtual Machine Control Block and its codes (APM vol. 2, chapter 15 and appendices B and C).

use crate::segment::Segment;
use bitflags::bitflags;

/// The control area, offsets 000h to 3FFh (APM vol. 2, table B-1).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmcbControl {
    /// 000h: intercepts of CR reads (low half) and writes.
    pub intercept_cr: u32,
    /// 004h: intercepts of DR reads (low half) and writes.
    pub intercept_dr: u32,
    /// 008h: intercepts of exception vectors 0 to 31.
    pub intercept_exceptions: u32,
    /// 00Ch: [`Intercept1`].
    pub intercept1: u32,
    /// 010h: [`Intercept2`].
    pub intercept2: u32,
    /// 014h: further intercepts, none used.
    pub intercept3: u32,
    reserved_018: [u8; 0x3c - 0x18],
    /// 03Ch: PAUSE filter threshold (APM vol. 2, 15.14.4).
    pub pause_filter_threshold: u16,
    /// 03Eh: PAUSE filter count.
    pub pause_filter_count: u16,
    /// 040h: physical address of the I/O permission map.
    pub iopm_base: u64,
    /// 048h: physical address of the MSR permission map.
    pub msrpm_base: u64,
    /// 050h: added to the TSC that the guest reads.
    pub tsc_offset: u64,
    /// 058h: address-space identifier; 0 is the host's and illegal here.
    pub asid: u32,
    /// 05Ch: [`TlbControl`].
    pub tlb_control: u32,
    /// 060h: [`VirtualInterrupt`].
    pub virtual_interrupt: u64,
    /// 068h: bit 0 interrupt shadow, bit 1 guest interrupt mask.
    pub interrupt_state: u64,
    /// 070h: [`ExitCode`].
    pub exit_code: u64,
    /// 078h: first detail of the exit.
    pub exit_info1: u64,
    /// 080h: second detail of the exit.
    pub exit_info2: u64,
    /// 088h: the event that was being delivered when the exit came ([`Event`]).
    pub exit_int_info: u64,
    /// 090h: bit 0 nested paging.
    pub nested_control: u64,
    /// 098h: AVIC APIC BAR.
    pub avic_bar: u64,
    /// 0A0h: GHCB.
    pub ghcb: u64,
    /// 0A8h: the event to inject on entry ([`Event`]).
    pub event_injection: u64,
    /// 0B0h: physical address of the nested page table's root.
    pub nested_cr3: u64,
    /// 0B8h: last-branch-record and virtual VMLOAD/VMSAVE.
    pub lbr_control: u64,
    /// 0C0h: clean bits; 0 loads everything.
    pub clean_bits: u64,
    /// 0C8h: RIP of the next instruction, on CPUs with next-RIP saving.
    pub next_rip: u64,
    /// 0D0h: number of fetched bytes, on CPUs with decode assists.
    pub fetched_count: u8,
    /// 0D1h: the fetched bytes.
    pub fetched_bytes: [u8; 15],
    reserved_0e0: [u8; 0x400 - 0xe0],
}
const _: () = assert!(size_of::<VmcbControl>() == 0x400);

/// The state-save area, from 400h on (APM vol. 2, table B-2).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct VmcbState {
    /// 000h: ES, CS, SS, DS, FS and GS; the last two are moved by VMLOAD/VMSAVE.
    pub segments: [Segment; 6],
    /// 060h; only base and limit count.
    pub gdtr: Segment,
    /// 070h; moved by VMLOAD/VMSAVE.
    pub ldtr: Segment,
    /// 080h; only base and limit count.
    pub idtr: Segment,
    /// 090h; moved by VMLOAD/VMSAVE.
    pub tr: Segment,
    reserved_0a0: [u8; 0xcb - 0xa0],
    /// 0CBh: current privilege level.
    pub cpl: u8,
    reserved_0cc: [u8; 4],
    /// 0D0h.
    pub efer: u64,
    reserved_0d8: [u8; 0x148 - 0xd8],
    /// 148h.
    pub cr4: u64,
    /// 150h.
    pub cr3: u64,
    /// 158h.
    pub cr0: u64,
    /// 160h.
    pub dr7: u64,
    /// 168h.
    pub dr6: u64,
    /// 170h.
    pub rflags: u64,
    /// 178h.
    pub rip: u64,
    reserved_180: [u8; 0x1d8 - 0x180],
    /// 1D8h.
    pub rsp: u64,
    reserved_1e0: [u8; 0x1f8 - 0x1e0],
    /// 1F8h.
    pub rax: u64,
    /// 200h; this and the next eight are moved by VMLOAD/VMSAVE.
    pub star: u64,
    /// 208h.
    pub lstar: u64,
    /// 210h.
    pub cstar: u64,
    /// 218h.
    pub sfmask: u64,
    /// 220h.
    pub kernel_gs_base: u64,
    /// 228h.
    pub sysenter_cs: u64,
    /// 230h.
    pub sysenter_esp: u64,
    /// 238h.
    pub sysenter_eip: u64,
    /// 240h.
    pub cr2: u64,
    reserved_248: [u8; 0x268 - 0x248],
    /// 268h: the guest's page attribute table under nested paging.
    pub pat: u64,
    /// 270h.
    pub debugctl: u64,
    reserved_278: [u8; 0xc00 - 0x278],
}
const _: () = assert!(size_of::<VmcbState>() == 0xc00);

/// One VMCB: a page.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(4096))]
pub struct Vmcb {
    /// What to intercept, and what happened.
    pub control: VmcbControl,
    /// The guest's registers.
    pub state: VmcbState,
}
const _: () = assert!(size_of::<Vmcb>() == 4096);
const _: () = assert!(core::mem::offset_of!(Vmcb, control.asid) == 0x58);
const _: () = assert!(core::mem::offset_of!(Vmcb, control.next_rip) == 0xc8);
const _: () = assert!(core::mem::offset_of!(Vmcb, state.gdtr) == 0x460);
const _: () = assert!(core::mem::offset_of!(Vmcb, state.efer) == 0x4d0);
const _: () = assert!(core::mem::offset_of!(Vmcb, state.rip) == 0x578);
const _: () = assert!(core::mem::offset_of!(Vmcb, state.rax) == 0x5f8);
const _: () = assert!(core::mem::offset_of!(Vmcb, state.pat) == 0x668);

bitflags! {
    /// Intercepts at 00Ch (APM vol. 2, table B-1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercept1: u32 {
        /// Physical interrupts.
        const INTR = 1;
        /// Non-maskable interrupts.
        const NMI = 1 << 1;
        /// System-management interrupts.
        const SMI = 1 << 2;
        /// INIT.
        const INIT = 1 << 3;
        /// Virtual interrupts: the interrupt window.
        const VINTR = 1 << 4;
        /// CR0 writes that change more than TS and MP.
        const CR0_SEL_WRITE = 1 << 5;
        /// RDPMC.
        const RDPMC = 1 << 15;
        /// CPUID.
        const CPUID = 1 << 18;
        /// RSM.
        const RSM = 1 << 19;
        /// IRET.
        const IRET = 1 << 20;
        /// INVD.
        const INVD = 1 << 22;
        /// PAUSE.
        const PAUSE = 1 << 23;
        /// HLT.
        const HLT = 1 << 24;
        /// INVLPGA.
        const INVLPGA = 1 << 26;
        /// Port I/O by the permission map.
        const IOIO = 1 << 27;
        /// MSR access by the permission map.
        const MSR = 1 << 28;
        /// Task switches.
        const TASK_SWITCH = 1 << 29;
        /// FERR freezing.
        const FERR_FREEZE = 1 << 30;
        /// Shutdown.
        const SHUTDOWN = 1 << 31;
    }
}

bitflags! {
    /// Intercepts at 010h (APM vol. 2, table B-1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercept2: u32 {
        /// VMRUN; must be set.
        const VMRUN = 1;
        /// VMMCALL.
        const VMMCALL = 1 << 1;
        /// VMLOAD.
        const VMLOAD = 1 << 2;
        /// VMSAVE.
        const VMSAVE = 1 << 3;
        /// STGI.
        const STGI = 1 << 4;
        /// CLGI.
        const CLGI = 1 << 5;
        /// SKINIT.
        const SKINIT = 1 << 6;
        /// RDTSCP.
        const RDTSCP = 1 << 7;
        /// ICEBP.
        const ICEBP = 1 << 8;
        /// WBINVD and WBNOINVD.
        const WBINVD = 1 << 9;
        /// MONITOR and MONITORX.
        const MONITOR = 1 << 10;
        /// MWAIT and MWAITX.
        const MWAIT = 1 << 11;
        /// XSETBV.
        const XSETBV = 1 << 13;
        /// RDPRU.
        const RDPRU = 1 << 14;
    }
}

bitflags! {
    /// The virtual-interrupt word at 060h (APM vol. 2, 15.21).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VirtualInterrupt: u64 {
        /// The virtual TPR, bits 3:0 of CR8.
        const V_TPR = 0xff;
        /// A virtual interrupt is pending.
        const V_IRQ = 1 << 8;
        /// The priority is not compared with the TPR.
        const V_IGN_TPR = 1 << 20;
        /// Guest IF masks virtual interrupts only.
        const V_INTR_MASKING = 1 << 24;
        const _ = !0;
    }
}

/// The TLB control byte at 05Ch (APM vol. 2, 15.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbControl(pub u32);

impl TlbControl {
    /// Flush nothing.
    pub const NONE: Self = Self(0);
    /// Flush all of this CPU's TLB.
    pub const FLUSH_ALL: Self = Self(1);
    /// Flush this guest's entries; needs flush-by-ASID.
    pub const FLUSH_ASID: Self = Self(3);
}

/// Why the guest stopped (APM vol. 2, appendix C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCode(pub u64);

macro_rules! exit_codes {
    ($($(#[$doc:meta])* $name:ident = $number:expr;)*) => {
        impl ExitCode { $($(#[$doc])* pub const $name: Self = Self($number);)* }
    };
}

exit_codes! {
    /// Read of CR0; CR1 to CR15 follow.
    READ_CR0 = 0x00;
    /// Write of CR0; CR1 to CR15 follow.
    WRITE_CR0 = 0x10;
    /// Write of CR4.
    WRITE_CR4 = 0x14;
    /// Write of CR8.
    WRITE_CR8 = 0x18;
    /// Exception 0; 1 to 31 follow.
    EXCEPTION_0 = 0x40;
    /// #DB.
    EXCEPTION_DB = 0x41;
    /// #AC.
    EXCEPTION_AC = 0x51;
    /// #MC.
    EXCEPTION_MC = 0x52;
    /// Physical interrupt.
    INTR = 0x60;
    /// Physical NMI.
    NMI = 0x61;
    /// Physical SMI.
    SMI = 0x62;
    /// Physical INIT.
    INIT = 0x63;
    /// Interrupt window.
    VINTR = 0x64;
    /// CR0 write that changes more than TS and MP.
    CR0_SEL_WRITE = 0x65;
    /// RDTSC.
    RDTSC = 0x6e;
    /// RDPMC.
    RDPMC = 0x6f;
    /// CPUID.
    CPUID = 0x72;
    /// RSM.
    RSM = 0x73;
    /// IRET.
    IRET = 0x74;
    /// INVD.
    INVD = 0x76;
    /// PAUSE.
    PAUSE = 0x77;
    /// HLT.
    HLT = 0x78;
    /// INVLPGA.
    INVLPGA = 0x7a;
    /// Port I/O.
    IOIO = 0x7b;
    /// RDMSR or WRMSR.
    MSR = 0x7c;
    /// Task switch.
    TASK_SWITCH = 0x7d;
    /// FERR freeze.
    FERR_FREEZE = 0x7e;
    /// Shutdown: a triple fault.
    SHUTDOWN = 0x7f;
    /// VMRUN.
    VMRUN = 0x80;
    /// VMMCALL.
    VMMCALL = 0x81;
    /// VMLOAD.
    VMLOAD = 0x82;
    /// VMSAVE.
    VMSAVE = 0x83;
    /// STGI.
    STGI = 0x84;
    /// CLGI.
    CLGI = 0x85;
    /// SKINIT.
    SKINIT = 0x86;
    /// ICEBP.
    ICEBP = 0x88;
    /// WBINVD.
    WBINVD = 0x89;
    /// MONITOR.
    MONITOR = 0x8a;
    /// MWAIT.
    MWAIT = 0x8b;
    /// MWAIT, armed.
    MWAIT_ARMED = 0x8c;
    /// XSETBV.
    XSETBV = 0x8d;
    /// RDPRU.
    RDPRU = 0x8e;
    /// Nested page fault.
    NPF = 0x400;
    /// The VMCB is not valid.
    INVALID = u64::MAX;
    /// The VMCB is not valid, as implementations with a 32-bit exit code say it.
    INVALID_32 = 0xffff_ffff;
}

bitflags! {
    /// The error code of a nested page fault, EXITINFO1 (APM vol. 2, 15.25.6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NestedFault: u64 {
        /// The page was present.
        const PRESENT = 1;
        /// A write.
        const WRITE = 1 << 1;
        /// User; all walks of the guest's own tables count as user.
        const USER = 1 << 2;
        /// Reserved bits were set.
        const RESERVED = 1 << 3;
        /// An instruction fetch.
        const FETCH = 1 << 4;
        /// At the final guest-physical address.
        const FINAL = 1 << 32;
        /// During the walk of the guest's page table.
        const TABLE_WALK = 1 << 33;
        const _ = !0;
    }
}

/// Details of a port access, EXITINFO1 (APM vol. 2, 15.10.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoInfo(pub u64);

impl IoInfo {
    /// Returns true for IN and INS.
    #[must_use]
    pub const fn is_input(self) -> bool {
        self.0 & 1 != 0
    }

    /// Returns true for INS and OUTS.
    #[must_use]
    pub const fn is_string(self) -> bool {
        self.0 & 4 != 0
    }

    /// Returns the operand's size in bytes: 1, 2 or 4.
    #[must_use]
    pub const fn size_bytes(self) -> u32 {
        (self.0 >> 4 & 7) as u32
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}
