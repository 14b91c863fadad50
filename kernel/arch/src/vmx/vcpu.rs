//! One virtual CPU on VMX: its VMCS, what VM entry and exit do not switch, and its stay on a CPU.
//!
//! A VMCS is current on a CPU only while its vCPU is polled there: it is cleared at the end, so that the vCPU may go to any
//! other CPU and its frame may be given back at any time. What others see of a vCPU is in `backend`.

use super::switch::{self, ATTENTION, EXITED, Registers, host_rip};
use super::vmcs::{self, read, write};
use super::{features, msr_bitmap, revision};
use crate::cpu::{self, rdmsr, wrmsr};
use crate::nested::NestedTable;
use crate::physmem::{self, FrameSource, frame_as, zero_frame};
use crate::tag::Tag;
use crate::virt::NewVcpu;
use crate::{debug, gdt, guard, percpu};
use addr::{Gpa, Hfn, Hpa};
use api::backend::{VcpuBackend, VcpuState};
use core::ptr;
use spec::msr::Msr;
use spec::vmx::{EntryControls, PinControls, PrimaryControls, SecondaryControls, field};
use spec::x86::{Cr0, Cr4, Exception};

/// Index of the page-modification log's last entry, which is used first.
const LOG_TOP: u16 = 511;
/// Tags that a CPU has, the host's 0 included.
const TAGS: u32 = 1 << 16;
/// Ticks between two PAUSEs of one loop at most, and ticks that the loop may take before it exits.
const PAUSE_LOOP: (u32, u32) = (128, 4096);

/// Bits of CR0 that the guest does not own: VMX wants NE set, and caching is the host's concern.
pub(super) const CR0_MASK: u64 = Cr0::NE.union(Cr0::NW).union(Cr0::CD).bits();

/// Bits of CR4 that the guest owns where its CPU has them at all; the others are judged by the policy.
const CR4_OWNED: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT)
    .union(Cr4::FSGSBASE)
    .union(Cr4::OSXSAVE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);
/// Bits of CR4 that are the host's; VMXE among them, which VMX wants set.
pub(super) const CR4_MASK: u64 = !CR4_OWNED.bits();

/// What takes the place of an exit reason when the instruction failed that should have entered the guest: an entry that
/// failed, with a reason that the CPU does not use.
pub(super) const ENTRY_REFUSED: u32 = 0x8000_ffff;

/// MSRs that neither entry nor exit switches, because the host does not use them.
pub(super) const HELD_MSRS: [Msr; 5] = [
    Msr::STAR,
    Msr::LSTAR,
    Msr::CSTAR,
    Msr::SFMASK,
    Msr::KERNEL_GS_BASE,
];

/// One virtual CPU.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Vcpu {
    pub(super) registers: Registers,
    vmcs: Hfn,
    virtual_apic: Hfn,
    /// The page-modification log, where the CPU has one.
    log: Option<Hfn>,
    /// Gives a frame back.
    free: fn(Hfn),
    pub(super) ept_pointer: u64,
    tag: Tag,
    /// Translations are to be dropped when the vCPU comes to a CPU.
    pub(super) flush_wanted: bool,
    /// The VMCS is current on this CPU.
    pub(super) loaded: bool,
    pub(super) primary: PrimaryControls,
    /// What the guest reads of the host's bits of CR0.
    pub(super) cr0_shadow: u64,
    /// What DR0 to DR3, DR6, CR2 and [`HELD_MSRS`] held when the vCPU last left a CPU.
    pub(super) debug_registers: [u64; 4],
    pub(super) dr6: u64,
    pub(super) cr2: u64,
    pub(super) held: [u64; 5],
    /// Something has to be emptied before each entry.
    is_guarded: bool,
    /// The CPU whose state the VMCS has for the host.
    host_cpu: u32,
}

impl Vcpu {
    fn address(&self) -> Hpa {
        self.vmcs.start()
    }

    /// Runs `body` with the VMCS current. Outside a poll no other VMCS is, so none is pushed aside.
    pub(super) fn with_vmcs<T>(&mut self, body: impl FnOnce(&mut Self) -> T) -> T {
        if self.loaded {
            return body(self);
        }
        // SAFETY: the frame is this vCPU's, and its VMCS is clear between stays.
        unsafe { vmcs::load(self.address()) };
        let result = body(self);
        // SAFETY: as above.
        unsafe { vmcs::clear(self.address()) };
        result
    }

    /// See [`VcpuBackend::arrive`].
    pub(super) fn load(&mut self, is_live: bool) {
        // SAFETY: the frame is this vCPU's, and its VMCS was cleared when it left the last CPU.
        unsafe { vmcs::load(self.address()) };
        self.loaded = true;
        let cpu = percpu::current();
        if self.host_cpu != cpu.index() {
            self.host_cpu = cpu.index();
            self.registers.host_rsp = 0;
            write_host_state();
        }
        if self.tag.settle(cpu.index(), &cpu.tags, TAGS) {
            if self.has(SecondaryControls::VPID) {
                write(field::VPID, self.tag.number() as u16);
            }
            self.flush_wanted = true;
        }
        if self.flush_wanted {
            self.flush();
        }
        if !is_live {
            self.load_held();
        }
    }

    /// Loads what is not in the VMCS into the CPU.
    pub(super) fn load_held(&self) {
        debug::load_addresses(&self.debug_registers);
        debug::load_status(self.dr6);
        cpu::set_cr2(self.cr2);
        for (msr, value) in HELD_MSRS.into_iter().zip(self.held) {
            // SAFETY: the registers exist with long mode, the host does not use them, and the values were the guest's
            // own or passed the policy, which wants addresses canonical.
            unsafe { wrmsr(msr, value) };
        }
    }

    /// See [`VcpuBackend::leave`].
    pub(super) fn unload(&mut self) {
        self.debug_registers = debug::addresses();
        self.dr6 = debug::status();
        self.cr2 = cpu::cr2();
        for (slot, msr) in self.held.iter_mut().zip(HELD_MSRS) {
            // SAFETY: the registers exist with long mode.
            *slot = unsafe { rdmsr(msr) };
        }
        // SAFETY: the frame is this vCPU's.
        unsafe { vmcs::clear(self.address()) };
        self.registers.launched = 0;
        self.loaded = false;
    }

    pub(super) fn has(&self, control: SecondaryControls) -> bool {
        features().controls.secondary.contains(control)
    }

    /// Runs the guest until it exits, see [`VcpuBackend::enter`].
    #[inline(always)]
    pub(super) fn run(&mut self) -> bool {
        if self.is_guarded {
            guard::before_entry();
        }
        // SAFETY: VMX is on, the VMCS is current and was set up by `new` and `load` so that an exit leads back to the
        // kernel as it was; the guest cannot leave its nested tables, which outlive it.
        let outcome = unsafe { switch::enter(&mut self.registers) };
        outcome == EXITED || self.did_not_enter(outcome)
    }

    /// Tells whether there is an exit to be answered nevertheless: of an entry that the CPU refused.
    #[cold]
    fn did_not_enter(&self, outcome: u32) -> bool {
        /// VMWRITE may write the fields that tell of exits (SDM vol. 3, A.6).
        const WRITES_ANY_FIELD: u64 = 1 << 29;
        if outcome == ATTENTION {
            return false;
        }
        let error = read(field::INSTRUCTION_ERROR);
        assert!(
            features().capabilities.misc & WRITES_ANY_FIELD != 0,
            "VM entry failed with error {error}"
        );
        write(field::EXIT_REASON, ENTRY_REFUSED);
        true
    }

    /// Drops this vCPU's translations on the CPU where it is; elsewhere it has none that another stay could find.
    pub(super) fn flush(&mut self) {
        self.flush_wanted = false;
        vmcs::invalidate_ept(self.ept_pointer);
        if self.has(SecondaryControls::VPID) {
            vmcs::invalidate_vpid(self.tag.number() as u16);
        }
    }

    pub(super) fn set_primary(&mut self, control: PrimaryControls, on: bool) {
        if self.primary.contains(control) != on {
            self.primary.set(control, on);
            write(field::PRIMARY_CONTROLS, self.primary.bits());
        }
    }

    pub(super) fn set_nmi_window(&mut self, wanted: bool) {
        self.set_primary(PrimaryControls::NMI_WINDOW, wanted);
    }

    /// Where the task priority is in the virtual-APIC page.
    pub(super) fn task_priority_at(&self) -> *mut u32 {
        const TPR: usize = 0x80;
        crate::physmem::direct(self.virtual_apic.start())
            .wrapping_add(TPR)
            .cast()
    }

    /// Writes the fields that never change.
    fn set_up(&mut self) {
        let controls = features().controls;
        write(field::PIN_CONTROLS, controls.pin.bits());
        write(field::PRIMARY_CONTROLS, self.primary.bits());
        self.set_log(false);
        write(field::EXIT_CONTROLS, controls.exit.bits());
        write(field::ENTRY_CONTROLS, controls.entry.bits());
        let exceptions = 1 << Exception::AC.0 | 1 << Exception::DB.0 | 1 << Exception::MC.0;
        write(field::EXCEPTION_BITMAP, exceptions);
        for zero in [
            field::PAGE_FAULT_MASK,
            field::PAGE_FAULT_MATCH,
            field::CR3_TARGETS,
            field::EXIT_MSR_STORES,
            field::EXIT_MSR_LOADS,
            field::ENTRY_MSR_LOADS,
            field::GUEST_ACTIVITY,
        ] {
            write(zero, 0);
        }
        write(field::MSR_BITMAP, msr_bitmap().as_u64());
        write(field::EPT_POINTER, self.ept_pointer);
        write(field::LINK_POINTER, u64::MAX);
        write(field::GUEST_DEBUGCTL, 0);
        write(field::CR0_MASK, CR0_MASK);
        write(field::CR4_MASK, CR4_MASK);
        if self.primary.contains(PrimaryControls::TPR_SHADOW) {
            write(field::VIRTUAL_APIC, self.virtual_apic.start().as_u64());
            write(field::TPR_THRESHOLD, 0);
        }
        if controls.secondary.contains(SecondaryControls::PAUSE_LOOP) {
            let (gap, window) = PAUSE_LOOP;
            write(field::PLE_GAP, gap);
            write(field::PLE_WINDOW, window);
        }
        if controls.pin.contains(PinControls::PREEMPTION_TIMER) {
            write(field::PREEMPTION_TIMER, u32::MAX);
        }
    }

    /// Turns the page-modification log on, empty, or off (SDM vol. 3, 29.3.6).
    pub(super) fn set_log(&mut self, on: bool) {
        let mut secondary = features().controls.secondary;
        secondary.set(SecondaryControls::PML, on && self.log.is_some());
        if let Some(log) = self.log.filter(|_| on) {
            write(field::PML_ADDRESS, log.start().as_u64());
            write(field::GUEST_PML_INDEX, LOG_TOP);
        }
        write(field::SECONDARY_CONTROLS, secondary.bits());
    }

    /// Empties the page-modification log into `each`. The CPU fills it from the top down; its index is that of the next
    /// entry, and passes zero when the log is full.
    pub(super) fn empty_log(&mut self, each: &mut dyn FnMut(Gpa)) {
        let Some(log) = self.log else {
            return;
        };
        let next = read(field::GUEST_PML_INDEX);
        let first = if next > LOG_TOP { 0 } else { next + 1 };
        for index in first..=LOG_TOP {
            let mut bytes = [0; 8];
            let at = Hpa::new_truncate(log.start().as_u64() + u64::from(index) * 8);
            // SAFETY: the frame is this vCPU's, and the CPU writes it only while the guest runs.
            unsafe { physmem::read(at, &mut bytes) };
            each(Gpa::new_truncate(u64::from_le_bytes(bytes)));
        }
        write(field::GUEST_PML_INDEX, LOG_TOP);
    }

    /// Writes which entry controls go with the guest's EFER.
    pub(super) fn set_long_mode(&self, active: bool) {
        let mut entry = features().controls.entry;
        entry.set(EntryControls::GUEST_64BIT, active);
        write(field::ENTRY_CONTROLS, entry.bits());
    }
}

/// Writes what the CPU loads on an exit: this CPU's registers as they are now and stay.
fn write_host_state() {
    let selectors = gdt::selectors();
    for (index, selector) in selectors.segments.into_iter().enumerate() {
        write(field::HOST_ES_SELECTOR.nth(index), selector);
    }
    write(field::HOST_TR_SELECTOR, selectors.tr);
    write(field::HOST_TR_BASE, selectors.tr_base);
    write(field::HOST_GDTR_BASE, selectors.gdt_base);
    write(field::HOST_IDTR_BASE, crate::idt::base());
    write(field::HOST_FS_BASE, 0);
    write(field::HOST_GS_BASE, ptr::from_ref(percpu::current()) as u64);
    write(field::HOST_CR0, cpu::cr0().bits());
    write(field::HOST_CR3, cpu::cr3());
    write(field::HOST_CR4, cpu::cr4().bits());
    write(field::HOST_EFER, cpu::efer().bits());
    // SAFETY: every CPU with long mode has the register.
    write(field::HOST_PAT, unsafe { rdmsr(Msr::PAT) });
    write(field::HOST_SYSENTER_CS, 0);
    write(field::HOST_SYSENTER_ESP, 0);
    write(field::HOST_SYSENTER_EIP, 0);
    write(field::HOST_RIP, host_rip());
}

/// Returns the EPT pointer of `nested` (SDM vol. 3, 25.6.11): four levels, write-back, accessed and dirty bits.
fn ept_pointer(nested: &NestedTable) -> u64 {
    const WRITE_BACK: u64 = 6;
    const FOUR_LEVELS: u64 = 3 << 3;
    const ACCESSED_DIRTY: u64 = 1 << 6;
    let flags = if features().capabilities.ept.accessed_dirty() {
        ACCESSED_DIRTY
    } else {
        0
    };
    nested.root().as_u64() | WRITE_BACK | FOUR_LEVELS | flags
}

/// Takes `wanted` frames, of 3 at most, and zeroes them; all or none.
fn some_frames<F: FrameSource>(frames: &mut F, wanted: usize) -> Option<[Option<Hfn>; 3]> {
    let mut taken = [None; 3];
    for slot in &mut taken[..wanted] {
        *slot = frames.alloc();
    }
    if taken[..wanted].contains(&None) {
        taken.into_iter().flatten().for_each(|f| frames.free(f));
        return None;
    }
    for frame in taken.into_iter().flatten() {
        // SAFETY: the frame was just given to us alone.
        unsafe { zero_frame(frame) };
    }
    Some(taken)
}

impl NewVcpu for Vcpu {
    fn new<F: FrameSource + Default>(nested: &NestedTable) -> Option<Self> {
        let mut frames = F::default();
        let wanted = if super::logs_writes() { 3 } else { 2 };
        let [vmcs, virtual_apic, log] = some_frames(&mut frames, wanted)?;
        let (vmcs, virtual_apic) = (vmcs?, virtual_apic?);
        // SAFETY: as above; any bytes are valid for the type, and the reference ends here.
        let word: &mut u32 = unsafe { frame_as(vmcs) };
        *word = revision();
        // SAFETY: the frame begins with the revision and is ours.
        unsafe { vmcs::clear(vmcs.start()) };
        let mut this = Self {
            registers: Registers {
                xmm: [0; 16],
                gprs: [0; 16],
                host_rsp: 0,
                mxcsr: 0x1f80,
                launched: 0,
            },
            vmcs,
            virtual_apic,
            log,
            free: |frame| F::default().free(frame),
            ept_pointer: ept_pointer(nested),
            tag: Tag::NONE,
            flush_wanted: true,
            loaded: false,
            primary: features().controls.primary,
            cr0_shadow: 0,
            debug_registers: [0; 4],
            dr6: 0,
            cr2: 0,
            held: [0; 5],
            is_guarded: guard::guards_entries(),
            host_cpu: u32::MAX,
        };
        this.with_vmcs(Self::set_up);
        this.set_state(&VcpuState::after_init());
        Some(this)
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        if self.loaded {
            self.unload();
        }
        let frames = [Some(self.vmcs), Some(self.virtual_apic), self.log];
        frames.into_iter().flatten().for_each(self.free);
    }
}
