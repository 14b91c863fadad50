//! One virtual CPU on SVM: its VMCB, the registers that VMRUN does not switch, and the world switch itself.
//!
//! The switch moves the general registers, xmm0-15 and MXCSR on every entry and exit, because the host's Rust code uses
//! them; everything else of the extended state moves only between vCPUs (`fpu`). What an exit means is not decided here.

use crate::percpu;
use crate::physmem::{FrameSource, frame_as, zero_frame};
use crate::svm::asid::Asid;
use crate::svm::{Features, NestedTable, PermissionMaps};
use addr::Hfn;
use core::arch::asm;
use core::mem::offset_of;
use spec::svm::{
    ExitCode, Intercept1, Intercept2, TlbControl, VirtualInterrupt, Vmcb, VmcbSegment,
};
use spec::x86::{Cr0, Efer, Exception};

/// A general register, by its number in instruction encodings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gpr(pub u8);

impl Gpr {
    /// RAX.
    pub const RAX: Self = Self(0);
    /// RCX.
    pub const RCX: Self = Self(1);
    /// RDX.
    pub const RDX: Self = Self(2);
    /// RBX.
    pub const RBX: Self = Self(3);
    /// RSP.
    pub const RSP: Self = Self(4);
    /// RBP.
    pub const RBP: Self = Self(5);
    /// RSI.
    pub const RSI: Self = Self(6);
    /// RDI.
    pub const RDI: Self = Self(7);
}

/// The CR4-write bit of the CR intercepts.
const CR4_WRITE: u32 = 1 << 20;

/// One virtual CPU.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Vcpu {
    /// xmm0 to xmm15 while the host runs.
    xmm: [u128; 16],
    /// General registers by number; RAX and RSP live in the VMCB.
    gprs: [u64; 16],
    vmcb_address: u64,
    /// Physical address of this CPU's VMLOAD state.
    host_state: u64,
    mxcsr: u32,
    vmcb: &'static mut Vmcb,
    frame: Hfn,
    /// Gives the VMCB's frame back.
    free: fn(Hfn),
    /// ASIDs that a CPU has, the host's included.
    asids: u32,
    asid: Asid,
    flush_wanted: bool,
}

impl Vcpu {
    /// Makes a vCPU in the state after reset, with a frame of `F`, which it gives back when it is dropped. `None` without
    /// a free frame.
    #[must_use]
    pub fn new<F: FrameSource + Default>(
        features: Features,
        maps: &PermissionMaps,
        nested: &NestedTable,
    ) -> Option<Self> {
        let frame = F::default().alloc()?;
        // SAFETY: the frame was just given to us alone.
        unsafe { zero_frame(frame) };
        // SAFETY: all zeroes is a valid `Vmcb`, and the frame stays ours until `drop`, which ends the reference too.
        let vmcb: &'static mut Vmcb = unsafe { frame_as(frame) };
        vmcb.control.msrpm_base = maps.msr().as_u64();
        vmcb.control.iopm_base = maps.io().as_u64();
        vmcb.control.nested_cr3 = nested.root().as_u64();
        vmcb.control.nested_control = 1;
        vmcb.control.virtual_interrupt = VirtualInterrupt::V_INTR_MASKING.bits();
        vmcb.control.intercept1 = Self::base_intercepts1().bits();
        vmcb.control.intercept2 =
            (Intercept2::all() - Intercept2::RDTSCP - Intercept2::ICEBP).bits();
        // What CPUID hides must not be turned on, and not every implementation refuses reserved bits.
        vmcb.control.intercept_cr = CR4_WRITE;
        vmcb.control.intercept_exceptions =
            1 << Exception::AC.0 | 1 << Exception::DB.0 | 1 << Exception::MC.0;
        if features.pause_filter() {
            vmcb.control.intercept1 |= Intercept1::PAUSE.bits();
            vmcb.control.pause_filter_count = 3000;
        }
        let mut this = Self {
            xmm: [0; 16],
            gprs: [0; 16],
            vmcb_address: frame.start().as_u64(),
            host_state: 0,
            mxcsr: 0x1f80,
            vmcb,
            frame,
            free: |frame| F::default().free(frame),
            asids: features.asids,
            asid: Asid::NONE,
            flush_wanted: true,
        };
        this.reset();
        Some(this)
    }

    /// Sets the state after reset or INIT (APM vol. 2, table 14-1).
    pub fn reset(&mut self) {
        self.gprs = [0; 16];
        self.gprs[Gpr::RDX.0 as usize] = 0x600;
        let segment = |selector, base, attributes| VmcbSegment {
            selector,
            attributes,
            limit: 0xffff,
            base,
        };
        let data = segment(0, 0, 0x93);
        let s = &mut self.vmcb.state;
        s.cs = segment(0xf000, 0xffff_0000, 0x9b);
        (s.ds, s.es, s.fs, s.gs, s.ss) = (data, data, data, data, data);
        s.gdtr = segment(0, 0, 0);
        s.idtr = segment(0, 0, 0);
        s.ldtr = segment(0, 0, 0x82);
        s.tr = segment(0, 0, 0x8b);
        s.cpl = 0;
        s.efer = Efer::SVME.bits();
        s.cr0 = (Cr0::ET | Cr0::CD | Cr0::NW).bits();
        (s.cr2, s.cr3, s.cr4) = (0, 0, 0);
        (s.dr6, s.dr7) = (0xffff_0ff0, 0x400);
        s.rflags = 2;
        s.rip = 0xfff0;
        (s.rax, s.rsp) = (0, 0);
        s.pat = 0x0007_0406_0007_0406;
        let c = &mut self.vmcb.control;
        (c.event_injection, c.interrupt_state, c.exit_int_info) = (0, 0, 0);
        self.flush_wanted = true;
    }

    fn base_intercepts1() -> Intercept1 {
        Intercept1::INTR
            | Intercept1::NMI
            | Intercept1::SMI
            | Intercept1::INIT
            | Intercept1::RDPMC
            | Intercept1::CPUID
            | Intercept1::RSM
            | Intercept1::INVD
            | Intercept1::HLT
            | Intercept1::INVLPGA
            | Intercept1::IOIO
            | Intercept1::MSR
            | Intercept1::FERR_FREEZE
            | Intercept1::SHUTDOWN
    }

    /// Returns a general register.
    #[must_use]
    #[inline]
    pub fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::RAX => self.vmcb.state.rax,
            Gpr::RSP => self.vmcb.state.rsp,
            Gpr(n) => self.gprs[n as usize & 15],
        }
    }

    /// Sets a general register.
    #[inline]
    pub fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::RAX => self.vmcb.state.rax = value,
            Gpr::RSP => self.vmcb.state.rsp = value,
            Gpr(n) => self.gprs[n as usize & 15] = value,
        }
    }

    /// Returns the general registers by number; those of RAX and RSP are stale, the VMCB has them.
    #[must_use]
    #[inline]
    pub fn gprs(&self) -> &[u64; 16] {
        &self.gprs
    }

    /// Sets the general registers but RAX and RSP, which the VMCB has.
    #[inline]
    pub fn set_gprs(&mut self, values: &[u64; 16]) {
        self.gprs = *values;
    }

    /// Returns an xmm register (0 to 15).
    #[must_use]
    pub fn xmm(&self, index: u8) -> u128 {
        self.xmm[index as usize & 15]
    }

    /// Sets an xmm register (0 to 15).
    pub fn set_xmm(&mut self, index: u8, value: u128) {
        self.xmm[index as usize & 15] = value;
    }

    /// Returns the VMCB, which the CPU touches only inside [`Self::enter`].
    #[must_use]
    #[inline]
    pub fn vmcb(&self) -> &Vmcb {
        self.vmcb
    }

    /// Returns the VMCB for changes.
    #[inline]
    pub fn vmcb_mut(&mut self) -> &mut Vmcb {
        self.vmcb
    }

    /// Returns why the guest stopped.
    #[must_use]
    #[inline]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode(self.vmcb.control.exit_code)
    }

    /// Drops this vCPU's translations before the next entry.
    pub fn flush_tlb(&mut self) {
        self.flush_wanted = true;
    }

    /// Prepares for entries on this CPU; call whenever the vCPU may have moved or another one ran.
    pub fn settle_on_cpu(&mut self) {
        let cpu = percpu::current();
        self.host_state = cpu.host_vmcb.get();
        if self.asid.settle(cpu.index(), &cpu.asids, self.asids) {
            self.vmcb.control.asid = self.asid.number();
            self.flush_wanted = true;
        }
    }

    /// Runs the guest until it exits. False when this CPU needs attention instead and the guest did not run.
    /// [`Self::settle_on_cpu`] must have run since the vCPU came to this CPU.
    #[inline(always)]
    pub fn enter(&mut self) -> bool {
        if self.flush_wanted {
            self.flush_wanted = false;
            // Flush-by-ASID where offered is an optimisation that this path, rare as it is, does not need.
            self.vmcb.control.tlb_control = TlbControl::FLUSH_ALL.0;
        }
        // SAFETY: SVM is on (`svm::enable` set the per-CPU host state), the VMCB was made by `new` with maps and tables
        // that outlive it, and intercepts are such that the guest cannot leave its nested tables.
        let ran = unsafe { switch_worlds(self) };
        if ran {
            self.vmcb.control.tlb_control = TlbControl::NONE.0;
            self.vmcb.control.event_injection = 0;
        }
        ran
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        (self.free)(self.frame);
    }
}

/// Enters the guest. With GIF clear no event can slip in between the look at the attention word (gs:28h) and VMRUN: a
/// pending interrupt makes VMRUN exit at once. It is inlined into the run loop, so that the compiler spills only what
/// the loop really keeps in registers.
///
/// # Safety
/// See [`Vcpu::enter`], its only caller.
#[expect(
    clippy::too_many_lines,
    reason = "one straight run of instructions, a register a line"
)]
#[inline(always)]
unsafe fn switch_worlds(vcpu: &mut Vcpu) -> bool {
    let ran: u64;
    // SAFETY: the block saves and restores what it may not clobber (RBX, RBP, RSP) and names everything else; the red
    // zone is off in this crate, so pushes are allowed.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "push rdi",
            "clgi",
            "xor eax, eax",
            "cmp qword ptr gs:[0x28], 0",
            "jne 2f",
            "mov rax, [rdi + {vmcb}]",
            "vmload rax",
            "movaps xmm0, [rdi]",
            "movaps xmm1, [rdi + 0x10]",
            "movaps xmm2, [rdi + 0x20]",
            "movaps xmm3, [rdi + 0x30]",
            "movaps xmm4, [rdi + 0x40]",
            "movaps xmm5, [rdi + 0x50]",
            "movaps xmm6, [rdi + 0x60]",
            "movaps xmm7, [rdi + 0x70]",
            "movaps xmm8, [rdi + 0x80]",
            "movaps xmm9, [rdi + 0x90]",
            "movaps xmm10, [rdi + 0xa0]",
            "movaps xmm11, [rdi + 0xb0]",
            "movaps xmm12, [rdi + 0xc0]",
            "movaps xmm13, [rdi + 0xd0]",
            "movaps xmm14, [rdi + 0xe0]",
            "movaps xmm15, [rdi + 0xf0]",
            "ldmxcsr [rdi + {mxcsr}]",
            "mov rcx, [rdi + {gprs} + 0x08]",
            "mov rdx, [rdi + {gprs} + 0x10]",
            "mov rbx, [rdi + {gprs} + 0x18]",
            "mov rbp, [rdi + {gprs} + 0x28]",
            "mov rsi, [rdi + {gprs} + 0x30]",
            "mov r8, [rdi + {gprs} + 0x40]",
            "mov r9, [rdi + {gprs} + 0x48]",
            "mov r10, [rdi + {gprs} + 0x50]",
            "mov r11, [rdi + {gprs} + 0x58]",
            "mov r12, [rdi + {gprs} + 0x60]",
            "mov r13, [rdi + {gprs} + 0x68]",
            "mov r14, [rdi + {gprs} + 0x70]",
            "mov r15, [rdi + {gprs} + 0x78]",
            "mov rdi, [rdi + {gprs} + 0x38]",
            "vmrun rax",
            "vmsave rax",
            "mov rax, [rsp]",
            "mov [rax + {gprs} + 0x08], rcx",
            "mov [rax + {gprs} + 0x10], rdx",
            "mov [rax + {gprs} + 0x18], rbx",
            "mov [rax + {gprs} + 0x28], rbp",
            "mov [rax + {gprs} + 0x30], rsi",
            "mov [rax + {gprs} + 0x38], rdi",
            "mov [rax + {gprs} + 0x40], r8",
            "mov [rax + {gprs} + 0x48], r9",
            "mov [rax + {gprs} + 0x50], r10",
            "mov [rax + {gprs} + 0x58], r11",
            "mov [rax + {gprs} + 0x60], r12",
            "mov [rax + {gprs} + 0x68], r13",
            "mov [rax + {gprs} + 0x70], r14",
            "mov [rax + {gprs} + 0x78], r15",
            "movaps [rax], xmm0",
            "movaps [rax + 0x10], xmm1",
            "movaps [rax + 0x20], xmm2",
            "movaps [rax + 0x30], xmm3",
            "movaps [rax + 0x40], xmm4",
            "movaps [rax + 0x50], xmm5",
            "movaps [rax + 0x60], xmm6",
            "movaps [rax + 0x70], xmm7",
            "movaps [rax + 0x80], xmm8",
            "movaps [rax + 0x90], xmm9",
            "movaps [rax + 0xa0], xmm10",
            "movaps [rax + 0xb0], xmm11",
            "movaps [rax + 0xc0], xmm12",
            "movaps [rax + 0xd0], xmm13",
            "movaps [rax + 0xe0], xmm14",
            "movaps [rax + 0xf0], xmm15",
            "stmxcsr [rax + {mxcsr}]",
            "ldmxcsr [rip + {host_mxcsr}]",
            // The host's GS base is back only after VMLOAD, so its address comes from the vCPU.
            "mov rax, [rax + {host}]",
            "vmload rax",
            "2:",
            "stgi",
            "pop rdi",
            "pop rbp",
            "pop rbx",
            vmcb = const offset_of!(Vcpu, vmcb_address),
            host = const offset_of!(Vcpu, host_state),
            gprs = const offset_of!(Vcpu, gprs),
            mxcsr = const offset_of!(Vcpu, mxcsr),
            host_mxcsr = sym HOST_MXCSR,
            inout("rdi") core::ptr::from_mut(vcpu) => _,
            out("rax") ran,
            out("rcx") _, out("rdx") _, out("rsi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    // Either 0, or the physical address of the host's state.
    ran != 0
}

static HOST_MXCSR: u32 = 0x1f80;

const _: () = assert!(offset_of!(Vcpu, xmm) == 0);
