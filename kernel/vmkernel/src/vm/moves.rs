//! The short way of an access to a device in memory: a plain move that the emulator knows already, done on the
//! registers where they are. Everything else takes the way of `emulation`.

use crate::vm::emulation::Emulation;
use crate::vm::ram::{FrameCache, GuestRam};
use crate::vm::vcpu::VcpuWorld;
use addr::Gpa;
use api::backend::{Gpr, MemoryFault, VcpuBackend};
use api::cpu::segment;
use api::device::Width;
use emulate::{Code, Live, PlainMove, Transfer};
use spec::x86::Rflags;

/// What the emulator looks at.
struct View<'a, B> {
    cpu: &'a B,
    ram: &'a GuestRam,
    frames: &'a mut FrameCache,
}

impl<B: VcpuBackend> Live for View<'_, B> {
    #[inline]
    fn code(&self) -> Code {
        let cpu = self.cpu;
        let cs = cpu.segment(segment::CS);
        Code {
            rip: cpu.rip(),
            cs_base: cs.base,
            cs_limit: cs.limit,
            cs_attributes: cs.attributes,
            cpl: cpu.cpl(),
            cr0: cpu.cr0(),
            cr3: cpu.cr3(),
            cr4: cpu.cr4(),
            efer: cpu.efer(),
        }
    }

    #[inline]
    fn rflags(&self) -> u64 {
        self.cpu.rflags()
    }

    #[inline]
    fn gpr(&self, index: u8) -> u64 {
        self.cpu.gpr(Gpr(index))
    }

    #[inline]
    fn segment_base(&self, index: usize) -> u64 {
        self.cpu.segment_base(index)
    }

    #[inline]
    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        self.ram.read_u64(self.frames, gpa)
    }
}

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Answers an access to where there is no RAM, if it is a known move and nothing else is going on. Tells
    /// whether it was; otherwise nothing happened.
    ///
    /// What the access set off reaches this vCPU as requests do: there is nothing to be settled after it but what
    /// [`Self::apply_apic`] finds.
    #[inline]
    pub(super) fn known_access(&mut self, fault: MemoryFault) -> bool {
        let gpa = fault.gpa;
        let is_interrupted = self.cpu.interrupted_event().is_valid();
        let is_operand = !fault.is_fetch && !fault.is_table_walk;
        if is_interrupted || !is_operand || self.pending_event.is_valid() {
            return false;
        }
        let Emulation {
            emulator, frames, ..
        } = &mut self.emulation;
        let mut view = View {
            cpu: &self.cpu,
            ram: &self.vm.ram,
            frames,
        };
        let Some(known) = emulator.known_move(&mut view, gpa, fault.is_write) else {
            return false;
        };
        if self.lapic.mmio_page().map(Gpa::frame) == Some(gpa.frame()) {
            if !self.known_apic_access(gpa, &known) {
                return false;
            }
        } else {
            match known.transfer {
                Transfer::Load(register) => {
                    let value = self.vm.mmio_read(gpa, known.width);
                    self.load(register, known.width, value);
                }
                Transfer::Store(value) => self.vm.mmio_write(gpa, known.width, value),
            }
        }
        self.cpu.set_rip(known.next_rip);
        let flags = self.cpu.rflags();
        if flags & Rflags::RF.bits() != 0 {
            self.cpu.set_rflags(flags & !Rflags::RF.bits());
        }
        self.cpu.set_shadow(false);
        true
    }

    /// Accesses a whole register of the local APIC; false for anything else.
    #[inline]
    fn known_apic_access(&mut self, gpa: Gpa, known: &PlainMove) -> bool {
        let offset = gpa.page_offset() as u16;
        if known.width != Width::Dword || offset & 0xf != 0 {
            return false;
        }
        self.sync_tpr();
        match known.transfer {
            Transfer::Load(register) => {
                let value = self.lapic.mmio_read(offset, self.now());
                self.load(register, Width::Dword, value.into());
                // A register that is not there may raise the error interrupt.
                self.look_at_interrupts = true;
                self.has_work |= self.lapic.has_requests();
            }
            Transfer::Store(value) => {
                let value = value as u32;
                let outcome = match self.lapic.command(offset, value) {
                    Some(outcome) => outcome,
                    None => self.lapic.mmio_write(offset, value, self.now()),
                };
                self.publish_tpr();
                self.apply_apic(outcome);
            }
        }
        true
    }

    /// Loads a general register as the architecture does: 4 bytes clear the upper half, 1 and 2 leave the rest.
    #[inline]
    fn load(&mut self, register: u8, width: Width, value: u64) {
        let old = self.cpu.gpr(Gpr(register));
        let value = match width {
            Width::Qword => value,
            Width::Dword => value & 0xffff_ffff,
            Width::Word | Width::Byte => {
                let mask = width.all_ones();
                old & !mask | value & mask
            }
        };
        self.cpu.set_gpr(Gpr(register), value);
    }
}
