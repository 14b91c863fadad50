//! Instructions that the CPU does not finish for us: memory-mapped devices, string port I/O, CR8 writes. The emulator
//! is the crate `emulate`; here is its view of a vCPU: registers in and out, memory, devices, the APIC.

use crate::vm::machine::VmShared;
use crate::vm::ram::FrameCache;
use crate::vm::vcpu::{Clocks, Flow, VcpuWorld};
use addr::Gpa;
use alloc::format;
use api::backend::{Gpr, MemoryFault, VcpuBackend};
use api::cpu::segment;
use api::device::Width;
use api::memory::{GuestMemory, MemoryError};
use devices::lapic::{ApicOutcome, LocalApic};
use emulate::{
    Config, Emulator, Environment, Exception, Hint, Outcome, Registers, SystemTables, Unavailable,
};
use spec::x86::Exception as Vector;
use vcpu::control::{Changed, Control};
use vcpu::cpuid::Capabilities;

/// The emulator of one vCPU.
#[derive(Debug)]
pub(super) struct Emulation {
    pub(super) emulator: Emulator,
    /// The registers of the instruction at hand; they stand here so that they are never copied as a whole.
    registers: Registers,
    pub(super) frames: FrameCache,
    /// The instruction at hand wrote a control register.
    control_written: bool,
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
            control_written: false,
        }
    }

    /// Forgets where guest frames are.
    pub(super) fn forget_frames(&mut self) {
        self.frames.clear();
    }
}

/// What the emulator sees of the vCPU besides its registers.
struct View<'a, B> {
    vm: &'a VmShared,
    cpu: &'a mut B,
    lapic: &'a mut LocalApic,
    capabilities: &'a Capabilities,
    frames: &'a mut FrameCache,
    clock: Clocks,
    apic_page: Option<Gpa>,
    outcome: Option<ApicOutcome>,
    flush: bool,
    control_written: bool,
}

impl<B: VcpuBackend> View<'_, B> {
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

impl<B: VcpuBackend> Environment for View<'_, B> {
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
        SystemTables {
            gdtr: self.cpu.gdtr(),
            idtr: self.cpu.idtr(),
            ldtr: self.cpu.ldtr(),
            tr: self.cpu.tr(),
        }
    }

    fn set_tables(&mut self, tables: &SystemTables) {
        self.cpu.set_gdtr(tables.gdtr);
        self.cpu.set_idtr(tables.idtr);
        self.cpu.set_ldtr(&tables.ldtr);
        self.cpu.set_tr(&tables.tr);
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
        let cs = registers.segments[segment::CS].attributes;
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
        self.control_written = true;
        Ok(())
    }

    fn debug(&mut self, number: u8) -> u64 {
        self.cpu.debug(number)
    }

    fn set_debug(&mut self, number: u8, value: u64) {
        self.cpu.set_debug(number, value);
    }
}

/// Fetches the registers, field by field into their place.
#[inline]
fn fetch_registers<B: VcpuBackend>(cpu: &B, r: &mut Registers) {
    cpu.read_gprs(&mut r.gpr);
    (r.rip, r.rflags) = (cpu.rip(), cpu.rflags());
    for (index, slot) in r.segments.iter_mut().enumerate() {
        *slot = cpu.segment(index);
    }
    (r.cr0, r.cr2, r.cr3, r.cr4) = (cpu.cr0(), cpu.cr2(), cpu.cr3(), cpu.cr4());
    r.efer = cpu.efer();
    r.cpl = cpu.cpl();
    r.interrupt_shadow = cpu.in_shadow();
}

/// Puts the registers back.
#[inline]
fn store_registers<B: VcpuBackend>(cpu: &mut B, r: &Registers) {
    cpu.set_gprs(&r.gpr);
    cpu.set_shadow(r.interrupt_shadow);
    cpu.set_rip(r.rip);
    cpu.set_rflags(r.rflags);
    cpu.set_control(r.cr0, r.cr3, r.cr4, r.efer);
    for (index, segment) in r.segments.iter().enumerate() {
        cpu.set_segment(index, segment);
    }
    cpu.set_cpl(r.cpl);
}

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Emulates the instruction at RIP; `fault` is its access, as an exit reported it.
    pub(super) fn emulate(&mut self, fault: Option<MemoryFault>) -> Flow {
        if self.pending_event.is_valid() {
            return self.stop("an event's delivery touched a device or missing memory");
        }
        self.sync_tpr();
        self.has_work = true;
        let (fetched, len) = match fault {
            Some(_) => self.cpu.fetched(),
            None => ([0; 15], 0),
        };
        let hint = Hint {
            gpa: fault.map(|f| f.gpa),
            is_write: fault.is_some_and(|f| f.is_write),
            bytes: &fetched[..len.min(15)],
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
        body: impl FnOnce(&mut Emulator, &mut View<'_, B>, &mut Registers) -> T,
    ) -> T {
        let clock = self.clocks();
        let Emulation {
            emulator,
            registers,
            frames,
            control_written,
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
            control_written: false,
        };
        let result = body(emulator, &mut view, registers);
        let (apic, flush) = (view.outcome.take(), view.flush);
        *control_written = view.control_written;
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
                if self.emulation.control_written && self.cpu.wants_pae_entries() {
                    self.load_pae_entries();
                }
                if single_step && self.cpu.end_step() {
                    self.raise(Vector::DB, None);
                }
            }
            Outcome::Exception(exception) => {
                store_registers(&mut self.cpu, registers);
                if let Some(address) = exception.cr2 {
                    self.cpu.set_cr2(address);
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

    /// Hands over the page-directory-pointer table that a CPU without long mode reads when CR3 is loaded. Where there is
    /// no memory, nothing is mapped.
    #[cold]
    fn load_pae_entries(&mut self) {
        let mut bytes = [0; 32];
        let at = Gpa::new_truncate(self.cpu.cr3() & 0xffff_ffe0);
        if self.vm.ram.read(at, &mut bytes).is_err() {
            bytes = [0; 32];
        }
        let mut entries = [0; 4];
        for (entry, chunk) in entries.iter_mut().zip(bytes.as_chunks().0) {
            *entry = u64::from_le_bytes(*chunk);
        }
        self.cpu.set_pae_entries(entries);
    }

    /// Returns the RIP behind the intercepted instruction by decoding it.
    pub(super) fn next_rip(&mut self) -> Option<u64> {
        self.with_emulator(|emulator, view, registers| {
            let len = emulator.instruction_len(view, registers).ok()?;
            Some(registers.rip.wrapping_add(u64::from(len)))
        })
    }

    /// Returns RDX:RAX's low halves as one number.
    #[inline]
    pub(super) fn edx_eax(&self) -> u64 {
        self.cpu.gpr(Gpr::RAX) & 0xffff_ffff | self.cpu.gpr(Gpr::RDX) << 32
    }
}
