//! Instructions that the CPU does not finish for us: memory-mapped devices, string port I/O, CR8 writes. The emulator
//! is the crate `emulate`; here is its view of a vCPU: registers in and out of the VMCB, memory, devices, the APIC.

use crate::vm::machine::VmShared;
use crate::vm::ram::FrameCache;
use crate::vm::vcpu::{Clocks, Flow, VcpuWorld};
use addr::Gpa;
use alloc::format;
use api::cpu::{DescriptorTable, Segment, SegmentAttributes};
use api::device::Width;
use api::memory::{GuestMemory, MemoryError};
use arch::svm::{Gpr, Vcpu};
use devices::lapic::{ApicOutcome, LocalApic};
use emulate::{
    Config, Emulator, Environment, Exception, Hint, Outcome, Registers, SystemTables, Unavailable,
};
use spec::svm::{NestedFault, VmcbSegment};
use spec::x86::{Efer, Exception as Vector};
use vcpu::control::{Changed, Control};
use vcpu::cpuid::Capabilities;

/// The emulator of one vCPU.
#[derive(Debug)]
pub(super) struct Emulation {
    pub(super) emulator: Emulator,
    /// The registers of the instruction at hand; they stand here so that they are never copied as a whole.
    registers: Registers,
    pub(super) frames: FrameCache,
}

impl Emulation {
    pub(super) fn new(capabilities: &Capabilities, has_page1gb: bool) -> Self {
        Self {
            emulator: Emulator::new(Config {
                phys_bits: capabilities.phys_bits,
                has_page1gb,
            }),
            registers: Registers::default(),
            frames: FrameCache::new(),
        }
    }

    /// Forgets where guest frames are.
    pub(super) fn forget_frames(&mut self) {
        self.frames.clear();
    }
}

/// What the emulator sees of the vCPU besides its registers.
struct View<'a> {
    vm: &'a VmShared,
    cpu: &'a mut Vcpu,
    lapic: &'a mut LocalApic,
    capabilities: &'a Capabilities,
    frames: &'a mut FrameCache,
    clock: Clocks,
    apic_page: Option<Gpa>,
    outcome: Option<ApicOutcome>,
    flush: bool,
}

impl View<'_> {
    fn is_apic(&self, gpa: Gpa) -> bool {
        self.apic_page
            .is_some_and(|page| page.frame() == gpa.frame())
    }

    fn read_device(&mut self, gpa: Gpa, buf: &mut [u8]) {
        let mut at = gpa;
        for piece in buf.chunks_mut(8) {
            let width = Width::from_bytes(piece.len()).unwrap_or(Width::Byte);
            let value = if self.is_apic(at) {
                self.read_apic(at)
            } else {
                self.vm.mmio_read(at, width)
            };
            piece.copy_from_slice(&value.to_le_bytes()[..piece.len()]);
            at = at.checked_add(piece.len() as u64).unwrap_or(at);
        }
    }

    fn write_device(&mut self, gpa: Gpa, data: &[u8]) {
        let mut at = gpa;
        for piece in data.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..piece.len()].copy_from_slice(piece);
            let value = u64::from_le_bytes(bytes);
            if self.is_apic(at) {
                let outcome =
                    self.lapic
                        .mmio_write(at.page_offset() as u16, value as u32, self.clock.now());
                self.outcome = Some(outcome);
            } else {
                let width = Width::from_bytes(piece.len()).unwrap_or(Width::Byte);
                self.vm.mmio_write(at, width, value);
            }
            at = at.checked_add(piece.len() as u64).unwrap_or(at);
        }
    }

    /// Reads an APIC register; bytes inside one are shifted down.
    fn read_apic(&mut self, gpa: Gpa) -> u64 {
        let offset = gpa.page_offset();
        let value = self.lapic.mmio_read((offset & !3) as u16, self.clock.now());
        u64::from(value) >> (offset % 4 * 8)
    }

    /// Reads up to 16 bytes that are not behind the nested tables yet, are no RAM, or end the page.
    #[cold]
    fn read_slowly(&mut self, gpa: Gpa, len: usize) -> Result<u128, Unavailable> {
        let mut bytes = [0; 16];
        self.read_phys(gpa, &mut bytes[..len])?;
        Ok(u128::from_le_bytes(bytes))
    }

    fn control(registers: &Registers) -> Control {
        Control {
            cr0: registers.cr0,
            cr3: registers.cr3,
            cr4: registers.cr4,
            efer: registers.efer,
        }
    }
}

fn host_is_out<T>(result: Result<T, MemoryError>) -> Result<Option<T>, Unavailable> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MemoryError::Unbacked { .. }) => Ok(None),
        Err(MemoryError::Exhausted { .. }) => Err(Unavailable),
    }
}

impl Environment for View<'_> {
    fn read_phys(&mut self, gpa: Gpa, buf: &mut [u8]) -> Result<(), Unavailable> {
        if host_is_out(self.vm.ram.read(gpa, buf))?.is_none() {
            self.read_device(gpa, buf);
        }
        Ok(())
    }

    fn write_phys(&mut self, gpa: Gpa, data: &[u8]) -> Result<(), Unavailable> {
        if host_is_out(self.vm.ram.write(gpa, data))?.is_none() {
            self.write_device(gpa, data);
        }
        Ok(())
    }

    fn compare_exchange(
        &mut self,
        gpa: Gpa,
        expected: &[u8],
        new: &[u8],
    ) -> Result<bool, Unavailable> {
        match host_is_out(self.vm.ram.compare_exchange(gpa, expected, new))? {
            Some(done) => Ok(done),
            None => {
                self.write_device(gpa, new);
                Ok(true)
            }
        }
    }

    #[inline]
    fn read_entry(&mut self, gpa: Gpa) -> Result<u64, Unavailable> {
        match self.vm.ram.read_u64(self.frames, gpa) {
            Some(value) => Ok(value),
            None => self.read_slowly(gpa, 8).map(|value| value as u64),
        }
    }

    #[inline]
    fn read_code(&mut self, gpa: Gpa, len: usize) -> Result<u128, Unavailable> {
        match self.vm.ram.read_u128(self.frames, gpa) {
            Some(bytes) => Ok(bytes),
            None => self.read_slowly(gpa, len.min(16)),
        }
    }

    fn port_in(&mut self, port: u16, width: Width) -> Result<u32, Unavailable> {
        Ok(self.vm.port_read(port, width))
    }

    fn port_out(&mut self, port: u16, width: Width, value: u32) -> Result<(), Unavailable> {
        self.vm.port_write(port, width, value);
        Ok(())
    }

    fn xmm(&mut self, index: u8) -> u128 {
        self.cpu.xmm(index)
    }

    fn set_xmm(&mut self, index: u8, value: u128) {
        self.cpu.set_xmm(index, value);
    }

    fn ymm_high(&mut self, _index: u8) -> Option<u128> {
        None
    }

    fn set_ymm_high(&mut self, _index: u8, _value: u128) -> bool {
        false
    }

    fn mmx(&mut self, index: u8) -> u64 {
        arch::fpu::mmx(index)
    }

    fn set_mmx(&mut self, index: u8, value: u64) {
        arch::fpu::set_mmx(index, value);
    }

    fn tables(&mut self) -> SystemTables {
        let s = &self.cpu.vmcb().state;
        let table = |t: &VmcbSegment| DescriptorTable {
            base: t.base,
            limit: t.limit as u16,
        };
        SystemTables {
            gdtr: table(&s.gdtr),
            idtr: table(&s.idtr),
            ldtr: segment_in(&s.ldtr),
            tr: segment_in(&s.tr),
        }
    }

    fn set_tables(&mut self, tables: &SystemTables) {
        let s = &mut self.cpu.vmcb_mut().state;
        (s.gdtr.base, s.gdtr.limit) = (tables.gdtr.base, u32::from(tables.gdtr.limit));
        (s.idtr.base, s.idtr.limit) = (tables.idtr.base, u32::from(tables.idtr.limit));
        s.ldtr = segment_out(&tables.ldtr);
        s.tr = segment_out(&tables.tr);
    }

    fn cr8(&mut self) -> u64 {
        u64::from(self.lapic.cr8())
    }

    fn write_control(
        &mut self,
        registers: &mut Registers,
        number: u8,
        value: u64,
    ) -> Result<(), Exception> {
        let gp = |_| Exception::general_protection(0);
        let control = Self::control(registers);
        let cs = registers.segments[api::cpu::segment::CS].attributes;
        let changed: Changed = match number {
            0 => control.write_cr0(value, cs).map_err(gp)?,
            3 => control.write_cr3(value, self.capabilities).map_err(gp)?,
            4 => control.write_cr4(value, self.capabilities).map_err(gp)?,
            _ if value >> 4 != 0 => return Err(Exception::general_protection(0)),
            _ => {
                self.lapic.set_cr8(value as u8);
                return Ok(());
            }
        };
        let c = changed.control;
        (registers.cr0, registers.cr3, registers.cr4, registers.efer) =
            (c.cr0, c.cr3, c.cr4, c.efer);
        self.flush |= changed.flush;
        Ok(())
    }

    fn debug(&mut self, number: u8) -> u64 {
        match number {
            6 => self.cpu.vmcb().state.dr6,
            7 => self.cpu.vmcb().state.dr7,
            n => arch::svm::debug_registers()[usize::from(n & 3)],
        }
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        match number {
            6 => self.cpu.vmcb_mut().state.dr6 = value,
            7 => self.cpu.vmcb_mut().state.dr7 = value,
            n => {
                let mut all = arch::svm::debug_registers();
                all[usize::from(n & 3)] = value;
                arch::svm::load_debug_registers(&all);
            }
        }
    }
}

fn segment_in(s: &VmcbSegment) -> Segment {
    Segment {
        selector: s.selector,
        attributes: SegmentAttributes(s.attributes),
        limit: s.limit,
        base: s.base,
    }
}

fn segment_out(s: &Segment) -> VmcbSegment {
    VmcbSegment {
        selector: s.selector,
        attributes: s.attributes.0,
        limit: s.limit,
        base: s.base,
    }
}

/// Fetches the registers out of the VMCB, field by field into their place.
#[inline]
fn fetch_registers(cpu: &Vcpu, r: &mut Registers) {
    let s = &cpu.vmcb().state;
    r.gpr = *cpu.gprs();
    [r.gpr[0], r.gpr[4]] = [s.rax, s.rsp];
    (r.rip, r.rflags) = (s.rip, s.rflags);
    r.segments = [&s.es, &s.cs, &s.ss, &s.ds, &s.fs, &s.gs].map(segment_in);
    (r.cr0, r.cr2, r.cr3, r.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    r.efer = s.efer & !Efer::SVME.bits();
    r.cpl = s.cpl;
    r.interrupt_shadow = cpu.vmcb().control.interrupt_state & 1 != 0;
}

/// Puts the registers back.
#[inline]
fn store_registers(cpu: &mut Vcpu, r: &Registers) {
    cpu.set_gprs(&r.gpr);
    let vmcb = cpu.vmcb_mut();
    vmcb.control.interrupt_state = u64::from(r.interrupt_shadow);
    let s = &mut vmcb.state;
    (s.rax, s.rsp) = (r.gpr[0], r.gpr[4]);
    (s.rip, s.rflags) = (r.rip, r.rflags);
    (s.cr0, s.cr2, s.cr3, s.cr4) = (r.cr0, r.cr2, r.cr3, r.cr4);
    s.efer = r.efer | Efer::SVME.bits();
    s.cpl = r.cpl;
    let segments = [
        &mut s.es, &mut s.cs, &mut s.ss, &mut s.ds, &mut s.fs, &mut s.gs,
    ];
    for (old, new) in segments.into_iter().zip(&r.segments) {
        *old = segment_out(new);
    }
}

impl VcpuWorld {
    /// Emulates the instruction at RIP; `gpa` is the guest-physical address of its operand, as an exit reported it.
    pub(super) fn emulate(&mut self, gpa: Option<Gpa>) -> Flow {
        if self.pending_event.is_valid() {
            return self.stop("an event's delivery touched a device or missing memory");
        }
        self.sync_tpr();
        self.has_work = true;
        let info = NestedFault::from_bits_retain(self.cpu.vmcb().control.exit_info1);
        let control = &self.cpu.vmcb().control;
        // Only CPUs with decode assists fill these; a copy, because the VMCB is written below.
        let (fetched, fetched_bytes) = match usize::from(control.fetched_count.min(15)) {
            0 => (0, [0; 15]),
            len => (len, control.fetched_bytes),
        };
        let bytes = if gpa.is_some() {
            &fetched_bytes[..fetched]
        } else {
            &[][..]
        };
        let hint = Hint {
            gpa,
            is_write: info.contains(NestedFault::WRITE),
            bytes,
        };
        let outcome =
            self.with_emulator(|emulator, view, registers| emulator.run(view, registers, &hint));
        self.finish(outcome)
    }

    /// Runs `body` with the emulator, this vCPU as it sees it, and its registers; then applies what it did to the APIC
    /// and the control registers. The registers themselves go back in [`Self::finish`].
    #[inline]
    fn with_emulator<T>(
        &mut self,
        body: impl FnOnce(&mut Emulator, &mut View<'_>, &mut Registers) -> T,
    ) -> T {
        let clock = self.clocks();
        let Emulation {
            emulator,
            registers,
            frames,
        } = &mut self.emulation;
        fetch_registers(&self.cpu, registers);
        let mut view = View {
            vm: &self.vm,
            cpu: &mut self.cpu,
            apic_page: self.lapic.mmio_page(),
            lapic: &mut self.lapic,
            capabilities: self.policy.capabilities(),
            frames,
            clock,
            outcome: None,
            flush: false,
        };
        let result = body(emulator, &mut view, registers);
        let (apic, flush) = (view.outcome.take(), view.flush);
        if flush {
            self.cpu.flush_tlb();
        }
        self.publish_tpr();
        if let Some(apic) = apic {
            self.apply_apic(apic);
        }
        result
    }

    /// Executes the instruction that an interrupt shadow protects, where the next entry would lose the shadow: an
    /// interrupt between STI and HLT would be handled before the guest sleeps, and the guest would sleep on. What
    /// cannot be emulated runs without its shadow, which few guests can notice.
    #[cold]
    pub(super) fn leave_shadow(&mut self) {
        if self.pending_event.is_valid() {
            return;
        }
        let outcome = self.with_emulator(|emulator, view, registers| {
            let halts = emulator.at_halt(view, registers);
            (!halts).then(|| emulator.run(view, registers, &Hint::default()))
        });
        match outcome {
            None => self.halt(),
            // The VM's end, if the instruction asked for it, is seen before the next entry.
            Some(done @ Outcome::Done { .. }) => drop(self.finish(done)),
            Some(_) => {}
        }
    }

    fn finish(&mut self, outcome: Outcome) -> Flow {
        let registers = &self.emulation.registers;
        match outcome {
            Outcome::Done { single_step } => {
                store_registers(&mut self.cpu, registers);
                if single_step {
                    self.single_step();
                }
            }
            Outcome::Exception(exception) => {
                store_registers(&mut self.cpu, registers);
                if let Some(address) = exception.cr2 {
                    self.cpu.vmcb_mut().state.cr2 = address;
                }
                self.raise(Vector(exception.vector), exception.error_code);
            }
            // A program of the guest gets what an unknown instruction gives; its kernel would be lied to.
            Outcome::Unhandled { .. } if registers.cpl > 0 => self.raise(Vector::UD, None),
            Outcome::Unhandled { bytes, len } => {
                let bytes = &bytes[..usize::from(len.min(15))];
                return self.stop(&format!(
                    "an instruction that Basalt does not emulate: {bytes:02x?}"
                ));
            }
            Outcome::Unavailable => {
                return self.stop("host memory ran out while an instruction was emulated");
            }
        }
        self.look_at_interrupts = true;
        self.after_device()
    }

    /// Returns the RIP behind the intercepted instruction: from the CPU where it tells, else by decoding.
    pub(super) fn next_rip(&mut self) -> Option<u64> {
        if crate::cpus::features().next_rip() {
            return Some(self.cpu.vmcb().control.next_rip);
        }
        self.with_emulator(|emulator, view, registers| {
            let len = emulator.instruction_len(view, registers).ok()?;
            Some(registers.rip.wrapping_add(u64::from(len)))
        })
    }

    /// Returns RDX:RAX's low halves as one number.
    pub(super) fn edx_eax(&self) -> u64 {
        self.cpu.gpr(Gpr::RAX) & 0xffff_ffff | self.cpu.gpr(Gpr::RDX) << 32
    }
}
