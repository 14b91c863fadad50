//! One virtual CPU on SVM: its VMCB, the registers that VMRUN does not switch, and the world switch itself.
//!
//! The switch moves the general registers, xmm0-15 and MXCSR on every entry and exit, because the host's Rust code uses
//! them; everything else of the extended state moves only between vCPUs (`fpu`). What others see of a vCPU is in
//! `backend`, NMIs in `nmi`.

use crate::nested::NestedTable;
use crate::physmem::{FrameSource, frame_as, zero_frame};
use crate::svm::nmi::NmiService;
use crate::svm::{Features, features, maps};
use crate::switch_text::{gprs, xmm};
use crate::tag::Tag;
use crate::virt::NewVcpu;
use crate::{apic, percpu};
use addr::Hfn;
use api::backend::{VcpuBackend, VcpuState};
use core::arch::asm;
use core::mem::offset_of;
use spec::event::Event;
use spec::svm::{Intercept1, Intercept2, TlbControl, VirtualInterrupt, Vmcb};
use spec::x86::Exception;

/// The CR4-write bit of the CR intercepts.
const CR4_WRITE: u32 = 1 << 20;

/// One virtual CPU.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Vcpu {
    /// xmm0 to xmm15 while the host runs.
    pub(super) xmm: [u128; 16],
    /// General registers by number; RAX and RSP live in the VMCB.
    pub(super) gprs: [u64; 16],
    vmcb_address: u64,
    /// Physical address of this CPU's VMLOAD state.
    host_state: u64,
    mxcsr: u32,
    pub(super) vmcb: &'static mut Vmcb,
    frame: Hfn,
    /// Gives the VMCB's frame back.
    free: fn(Hfn),
    pub(super) features: Features,
    asid: Tag,
    pub(super) flush_wanted: bool,
    /// Vector of the interrupt that waits as V_IRQ, where EVENTINJ is not to be used for interrupts.
    pub(super) virtual_irq: Option<u8>,
    pub(super) nmi: NmiService,
    /// What was in DR0 to DR3 when the vCPU last left a CPU.
    pub(super) debug_registers: [u64; 4],
    /// The vCPU stays on a CPU, which holds them now.
    pub(super) loaded: bool,
}

impl Vcpu {
    /// Prepares for entries on this CPU; call whenever the vCPU may have moved or another one ran.
    pub(super) fn settle_on_cpu(&mut self) {
        let cpu = percpu::current();
        self.host_state = cpu.host_vmcb.get();
        if self
            .asid
            .settle(cpu.index(), &cpu.tags, self.features.asids)
        {
            self.vmcb.control.asid = self.asid.number();
            self.flush_wanted = true;
        }
    }

    /// Runs the guest until it exits, see [`VcpuBackend::enter`]. [`Self::settle_on_cpu`] must have run since the vCPU
    /// came to this CPU.
    #[inline(always)]
    pub(super) fn run(&mut self) -> bool {
        if self.flush_wanted {
            self.flush_wanted = false;
            let flush = if self.features.flush_by_asid() {
                TlbControl::FLUSH_ASID
            } else {
                TlbControl::FLUSH_ALL
            };
            self.vmcb.control.tlb_control = flush.0;
        }
        // SAFETY: SVM is on (`svm::enable` set the per-CPU host state), the VMCB was made by `new` with maps and tables
        // that outlive it, and intercepts are such that the guest cannot leave its nested tables.
        let ran = unsafe { switch_worlds(self) };
        if ran {
            self.vmcb.control.tlb_control = TlbControl::NONE.0;
            self.vmcb.control.event_injection = 0;
            if self.virtual_irq.is_some() {
                self.settle_virtual_irq();
            }
        }
        ran
    }

    /// Finds out whether the interrupt that waited as V_IRQ was taken; if not, makes it look like an event whose
    /// delivery the exit interrupted, or lets it wait on where that was another one. Its own delivery, interrupted, is
    /// an exception's to QEMU.
    ///
    /// QEMU's VMRUN notes a V_IRQ in the word where its other thread asks for interrupts, without the lock: a wish that
    /// comes at that moment is lost, and the APIC holds its interrupt until something else happens.
    #[cold]
    fn settle_virtual_irq(&mut self) {
        apic::look_again();
        let control = &mut self.vmcb.control;
        let waits = control.virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        let interrupted = Event(control.exit_int_info);
        if let Some(vector) = self.virtual_irq
            && waits
        {
            if interrupted.is_valid() && interrupted.vector() != vector {
                return;
            }
            control.exit_int_info = Event::interrupt(vector).0;
        }
        self.virtual_irq = None;
        let used = VirtualInterrupt::V_IRQ | VirtualInterrupt::V_IGN_TPR;
        control.virtual_interrupt &= !used.bits();
    }
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

impl NewVcpu for Vcpu {
    fn new<F: FrameSource + Default>(nested: &NestedTable) -> Option<Self> {
        let frame = F::default().alloc()?;
        // SAFETY: the frame was just given to us alone.
        unsafe { zero_frame(frame) };
        // SAFETY: all zeroes is a valid `Vmcb`, and the frame stays ours until `drop`, which ends the reference too.
        let vmcb: &'static mut Vmcb = unsafe { frame_as(frame) };
        vmcb.control.msrpm_base = maps().msr().as_u64();
        vmcb.control.iopm_base = maps().io().as_u64();
        vmcb.control.nested_cr3 = nested.root().as_u64();
        vmcb.control.nested_control = 1;
        vmcb.control.virtual_interrupt = VirtualInterrupt::V_INTR_MASKING.bits();
        vmcb.control.intercept1 = base_intercepts1().bits();
        vmcb.control.intercept2 =
            (Intercept2::all() - Intercept2::RDTSCP - Intercept2::ICEBP).bits();
        // What CPUID hides must not be turned on, and not every implementation refuses reserved bits.
        vmcb.control.intercept_cr = CR4_WRITE;
        vmcb.control.intercept_exceptions =
            1 << Exception::AC.0 | 1 << Exception::DB.0 | 1 << Exception::MC.0;
        if features().pause_filter() {
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
            features: features(),
            asid: Tag::NONE,
            flush_wanted: true,
            virtual_irq: None,
            nmi: NmiService::default(),
            debug_registers: [0; 4],
            loaded: false,
        };
        this.set_state(&VcpuState::after_init());
        Some(this)
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
            xmm!(loads "rdi"),
            "ldmxcsr [rdi + {mxcsr}]",
            gprs!(loads "rdi"),
            "mov rdi, [rdi + {gprs} + 0x38]",
            "vmrun rax",
            "vmsave rax",
            "mov rax, [rsp]",
            gprs!(stores "rax"),
            "mov [rax + {gprs} + 0x38], rdi",
            xmm!(stores "rax"),
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
