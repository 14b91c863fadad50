//! What a CPU's virtualization does for a vCPU, whoever made the CPU: [`VcpuBackend`].
//!
//! The SVM and VMX monitors of `kernel/arch` implement it; everything above is written against it once. What an exit
//! means to the machine, when events are due and what CPUID shows is decided above.

use crate::cpu::{DescriptorTable, Segment};
use crate::device::Width;
use addr::Gpa;
use alloc::string::String;
use alloc::vec::Vec;
use spec::event::Event;
use spec::msr::Msr;

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

/// A port access that was intercepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortAccess {
    /// The port.
    pub port: u16,
    /// Bytes of an element: 1, 2 or 4.
    pub width: Width,
    /// IN or INS, not OUT or OUTS.
    pub is_input: bool,
    /// INS or OUTS.
    pub is_string: bool,
    /// RIP behind the instruction.
    pub next_rip: u64,
}

/// An access to guest-physical memory that the nested tables do not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryFault {
    /// The address; of a page-table entry if [`Self::is_table_walk`].
    pub gpa: Gpa,
    /// A write.
    pub is_write: bool,
    /// An instruction fetch.
    pub is_fetch: bool,
    /// The CPU's walk of the guest's page tables.
    pub is_table_walk: bool,
}

/// Why the guest stopped. Instructions have not been executed, and RIP is theirs, where nothing else is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// RDMSR.
    ReadMsr,
    /// WRMSR.
    WriteMsr,
    /// IN, OUT, INS or OUTS.
    Port(PortAccess),
    /// The nested tables do not allow an access.
    Memory(MemoryFault),
    /// HLT.
    Halt,
    /// Something for the host: an interrupt, an NMI, an SMI. The guest has nothing to do with it.
    HostEvent,
    /// The time given by [`VcpuBackend::limit_run`] is over.
    TimeSlice,
    /// The guest can take an interrupt now, see [`VcpuBackend::set_interrupt_window`].
    InterruptWindow,
    /// The guest can take an NMI now, or [`VcpuBackend::inject_nmi`] may make a further step towards it.
    NmiWindow,
    /// VMMCALL or VMCALL.
    Hypercall,
    /// A write of a control register that the CPU does not do by itself.
    ControlWrite,
    /// PAUSE, too often in a row.
    Pause,
    /// XSETBV.
    Xsetbv,
    /// WBINVD, WBNOINVD or INVD.
    CacheFlush,
    /// RDPMC.
    Rdpmc,
    /// An instruction that the guest's CPU does not have: those of virtualization, MONITOR, RSM and the like.
    Undefined,
    /// An exception that the guest is to get. DR6 holds what belongs to a #DB.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, where it has one.
        error_code: Option<u32>,
    },
    /// The host's machine check came while the guest ran.
    MachineCheck,
    /// The guest met a fault while a double fault was delivered.
    TripleFault,
    /// A switch of tasks by hardware, which this CPU leaves to the monitor.
    TaskSwitch,
    /// The log of [`VcpuBackend::written`] is full.
    WriteLogFull,
    /// Nothing to be done: go on.
    Nothing,
    /// The CPU refused the guest's state; [`VcpuBackend::describe_exit`] says what it is about.
    Refused,
    /// A reason that the monitor does not know, or that cannot come.
    Unknown(u64),
}

/// The state of a vCPU that belongs to the architecture and not to this CPU's maker: what is saved, moved to another
/// host, and what boot protocols set. Not here: extended state (XSAVE area), the local APIC, MSRs that are answered by
/// the policy above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuState {
    /// General registers by number.
    pub gpr: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// ES, CS, SS, DS, FS, GS.
    pub segments: [Segment; 6],
    /// Task register.
    pub tr: Segment,
    /// Local descriptor table register.
    pub ldtr: Segment,
    /// Global descriptor table register.
    pub gdtr: DescriptorTable,
    /// Interrupt descriptor table register.
    pub idtr: DescriptorTable,
    /// Control registers 0, 2, 3 and 4.
    pub cr0: u64,
    /// Address of the last page fault.
    pub cr2: u64,
    /// Root of the page tables.
    pub cr3: u64,
    /// Extensions.
    pub cr4: u64,
    /// Extended features, without SVME.
    pub efer: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// Breakpoint addresses.
    pub dr: [u64; 4],
    /// Debug status.
    pub dr6: u64,
    /// Debug control.
    pub dr7: u64,
    /// Page attribute table.
    pub pat: u64,
    /// STAR, LSTAR, CSTAR, SFMASK.
    pub syscall: [u64; 4],
    /// KERNEL_GS_BASE.
    pub kernel_gs_base: u64,
    /// SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    pub sysenter: [u64; 3],
    /// The next instruction is protected from interrupts.
    pub in_shadow: bool,
    /// An NMI is in service.
    pub nmi_blocked: bool,
}

impl VcpuState {
    /// The state after power-on or INIT (APM vol. 2, table 14-1; SDM vol. 3, table 10-1), with a CPU signature of a
    /// generation that has everything.
    #[must_use]
    pub const fn after_init() -> Self {
        use crate::cpu::{SegmentAttributes as Attr, cr0, segment};
        let data = Segment::real_mode(0, Attr::DATA16);
        let mut segments = [data; 6];
        segments[segment::CS] = Segment {
            selector: 0xf000,
            base: 0xffff_0000,
            ..Segment::real_mode(0, Attr::CODE16)
        };
        let mut gpr = [0; 16];
        gpr[crate::cpu::gpr::RDX] = 0x600;
        let table = DescriptorTable {
            base: 0,
            limit: 0xffff,
        };
        Self {
            gpr,
            rip: 0xfff0,
            rflags: crate::cpu::rflags::FIXED,
            segments,
            tr: Segment::real_mode(0, Attr::TSS_BUSY),
            ldtr: Segment::real_mode(0, Attr::LDT),
            gdtr: table,
            idtr: table,
            cr0: cr0::ET | cr0::CD | cr0::NW,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
            cpl: 0,
            dr: [0; 4],
            dr6: 0xffff_0ff0,
            dr7: 0x400,
            pat: 0x0007_0406_0007_0406,
            syscall: [0; 4],
            kernel_gs_base: 0,
            sysenter: [0; 3],
            in_shadow: false,
            nmi_blocked: false,
        }
    }
}

/// One virtual CPU as the CPU's virtualization runs it. Calls come from the one task that owns the vCPU; those that
/// touch the guest's registers only between [`Self::arrive`] and [`Self::leave`], but for [`Self::set_state`].
pub trait VcpuBackend: Send + Unpin + 'static {
    /// Prepares for entries on this CPU. `is_live` tells that what [`Self::leave`] left in the CPU is still there.
    fn arrive(&mut self, is_live: bool);

    /// Ends the stay on this CPU; registers that nobody else uses may stay in it.
    fn leave(&mut self);

    /// Runs the guest until it exits. False when this CPU needs attention instead and the guest did not run.
    fn enter(&mut self) -> bool;

    /// Tells why the guest stopped. To be asked once after each entry.
    fn exit(&mut self) -> Exit;

    /// Makes the guest exit with [`Exit::TimeSlice`] after `ticks` of the TSC in it, if the CPU has a timer for that;
    /// false where it has not.
    fn limit_run(&mut self, ticks: u64) -> bool;

    /// Drops this vCPU's translations before the next entry.
    fn flush_tlb(&mut self);
    /// Turns the CPU's log of written pages on or off, where it has one.
    fn log_writes(&mut self, on: bool);
    /// Calls `each` with an address in each page that the CPU has logged, and forgets them.
    fn written(&mut self, each: &mut dyn FnMut(Gpa));

    /// Returns the state, complete.
    fn state(&mut self) -> VcpuState;

    /// Sets the state as a whole, and forgets events on their way.
    fn set_state(&mut self, state: &VcpuState);

    /// Returns a general register.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets a general register.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// Copies the general registers out.
    fn read_gprs(&self, values: &mut [u64; 16]);
    /// Sets the general registers.
    fn set_gprs(&mut self, values: &[u64; 16]);
    /// Returns an xmm register (0 to 15).
    fn xmm(&self, index: u8) -> u128;
    /// Sets an xmm register (0 to 15).
    fn set_xmm(&mut self, index: u8, value: u128);

    /// Returns RIP.
    fn rip(&self) -> u64;
    /// Sets RIP.
    fn set_rip(&mut self, value: u64);
    /// Returns RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, value: u64);
    /// Returns the privilege level.
    fn cpl(&self) -> u8;
    /// Sets the privilege level, together with what else an emulated instruction changed.
    fn set_cpl(&mut self, value: u8);
    /// Returns segment register `index` (`cpu::segment`).
    fn segment(&self, index: usize) -> Segment;
    /// Returns the base of segment register `index`.
    fn segment_base(&self, index: usize) -> u64;
    /// Sets segment register `index`.
    fn set_segment(&mut self, index: usize, value: &Segment);
    /// Returns TR.
    fn tr(&self) -> Segment;
    /// Sets TR.
    fn set_tr(&mut self, value: &Segment);
    /// Returns LDTR.
    fn ldtr(&self) -> Segment;
    /// Sets LDTR.
    fn set_ldtr(&mut self, value: &Segment);
    /// Returns GDTR.
    fn gdtr(&self) -> DescriptorTable;
    /// Sets GDTR.
    fn set_gdtr(&mut self, value: DescriptorTable);
    /// Returns IDTR.
    fn idtr(&self) -> DescriptorTable;
    /// Sets IDTR.
    fn set_idtr(&mut self, value: DescriptorTable);
    /// Returns CR0 as the guest sees it.
    fn cr0(&self) -> u64;
    /// Returns CR2.
    fn cr2(&self) -> u64;
    /// Sets CR2.
    fn set_cr2(&mut self, value: u64);
    /// Returns CR3.
    fn cr3(&self) -> u64;
    /// Returns CR4 as the guest sees it.
    fn cr4(&self) -> u64;
    /// Returns EFER as the guest sees it.
    fn efer(&self) -> u64;
    /// Sets CR0, CR3, CR4 and EFER, which the policy has found good together.
    fn set_control(&mut self, cr0: u64, cr3: u64, cr4: u64, efer: u64);
    /// Tells whether the CPU wants the four entries of a PAE page-directory-pointer table, where the guest uses one;
    /// then [`Self::set_pae_entries`] follows each change of CR0, CR3 and CR4 that is made here.
    fn wants_pae_entries(&self) -> bool;
    /// Sets the four entries.
    fn set_pae_entries(&mut self, entries: [u64; 4]);
    /// Returns debug register 0 to 3, 6 or 7.
    fn debug(&self, number: u8) -> u64;
    /// Sets debug register 0 to 3, 6 or 7.
    fn set_debug(&mut self, number: u8, value: u64);
    /// Returns an MSR whose value the CPU holds for the guest: EFER, PAT, those of SYSCALL, SYSENTER and the bases of
    /// segments. `None` for others.
    fn msr(&self, msr: Msr) -> Option<u64>;
    /// Sets an MSR of [`Self::msr`]; others are ignored.
    fn set_msr(&mut self, msr: Msr, value: u64);

    /// Sets what is added to the host's TSC when the guest reads its own.
    fn set_tsc_offset(&mut self, value: u64);

    /// Moves past the instruction that exited: RIP, interrupt shadow. `usual` is its length without needless prefixes,
    /// in bytes, for CPUs that do not tell, see [`Self::knows_length`]. Tells whether a single-step trap is due.
    fn advance(&mut self, usual: u64) -> bool;
    /// As [`Self::advance`], to a RIP that is known.
    fn advance_to(&mut self, rip: u64) -> bool;
    /// Tells whether the CPU reports the length of the instruction that exited.
    fn knows_length(&self) -> bool;
    /// Returns the first bytes of the instruction that exited, where the CPU reports them, and how many.
    fn fetched(&self) -> ([u8; 15], usize);
    /// Ends the step that an emulated instruction was, for whoever wanted to stop behind it. Tells whether the guest
    /// gets a trap; DR6 says so then.
    fn end_step(&mut self) -> bool;

    /// Tells whether interrupts are held off until the next instruction has executed.
    fn in_shadow(&self) -> bool;
    /// Sets or ends the interrupt shadow.
    fn set_shadow(&mut self, value: bool);
    /// Tells whether the CPU enters the guest with its interrupt shadow. Some emulators forget it.
    fn keeps_shadow(&self) -> bool;

    /// Delivers an event on the next entry, before the guest's next instruction.
    fn inject(&mut self, event: Event);
    /// Tells whether an event waits for the next entry.
    fn has_injection(&self) -> bool;
    /// Tells whether an interrupt was given to the CPU that the guest has not taken: no other may be given, but an
    /// exception or NMI may, and comes first.
    fn holds_interrupt(&self) -> bool;
    /// Returns the event whose delivery the exit interrupted; not valid if there was none. Software interrupts and
    /// their like are not among them: their instruction is executed again.
    fn interrupted_event(&self) -> Event;
    /// Asks for [`Exit::InterruptWindow`] as soon as the guest can take an interrupt, or takes the wish back.
    fn set_interrupt_window(&mut self, wanted: bool);
    /// Delivers an NMI on the next entry. False while the guest cannot take one: then [`Exit::NmiWindow`] follows.
    fn inject_nmi(&mut self) -> bool;
    /// Tells whether an NMI is in service.
    fn nmi_in_service(&mut self) -> bool;

    /// Returns the guest's task priority class, 0 to 15, which it may have changed without an exit.
    fn task_priority(&self) -> u8;
    /// Sets the task priority class.
    fn set_task_priority(&mut self, class: u8);
    /// Makes writes of CR8 exit, because a lower priority would make an interrupt deliverable.
    fn set_priority_exit(&mut self, wanted: bool);

    /// Describes the last exit as the CPU reported it, for the record of a VM that stops; a line each.
    fn describe_exit(&self) -> Vec<String>;
}
