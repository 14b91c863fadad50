//! What each exit means and how it is answered. Short answers first: CPUID, MSRs, ports, the APIC.

use crate::vm::machine::{Fault, StopReason};
use crate::vm::vcpu::{Activity, Flow, Reason, VcpuWorld};
use crate::worlds;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::{format, vec};
use api::backend::{Exit, Gpr, MemoryFault, PortAccess, VcpuBackend};
use api::cpu::segment;
use api::device::Width;
use devices::lapic::ApicOutcome;
use spec::msr::Msr;
use spec::x86::Exception;
use vcpu::control::XcrFault;

/// The CPUID leaf that shows the size of the XSAVE area for the current XCR0.
const LEAF_XSTATE: u32 = 0xd;

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Answers the exit that `enter` just returned with.
    #[inline(always)]
    pub(super) fn handle_exit(&mut self) -> Flow {
        match self.cpu.exit() {
            Exit::Cpuid => self.cpuid(),
            Exit::ReadMsr => self.rdmsr(),
            Exit::WriteMsr => self.wrmsr(),
            Exit::Port(access) => return self.port(access),
            Exit::Memory(fault) => return self.memory_fault(fault),
            other => return self.other_exit(other),
        }
        Flow::Continue
    }

    #[inline(never)]
    fn other_exit(&mut self, exit: Exit) -> Flow {
        self.has_work = true;
        self.stalls = 0;
        self.count(match exit {
            Exit::Halt => Reason::Halt,
            Exit::Pause => Reason::Pause,
            Exit::HostEvent | Exit::TimeSlice => Reason::HostEvent,
            _ => Reason::Other,
        });
        match exit {
            Exit::HostEvent => {
                self.keep_interrupted_event();
                self.leave_lost_shadow();
            }
            Exit::TimeSlice => {
                self.keep_interrupted_event();
                self.leave_lost_shadow();
                return Flow::SliceOver;
            }
            Exit::Halt => self.halt(),
            Exit::InterruptWindow => {
                self.cpu.set_interrupt_window(false);
                self.look_at_interrupts = true;
            }
            other => return self.rare_exit(other),
        }
        Flow::Continue
    }

    #[cold]
    fn rare_exit(&mut self, exit: Exit) -> Flow {
        self.keep_interrupted_event();
        match exit {
            Exit::Hypercall => self.hypercall(),
            Exit::ControlWrite => return self.emulate(None),
            Exit::Exception { vector, error_code } => self.raise(Exception(vector), error_code),
            Exit::Pause => {
                self.advance_over_prefixed(2);
                worlds::spins();
                return Flow::Yield;
            }
            Exit::WriteLogFull => self.note_written(),
            Exit::Xsetbv => self.xsetbv(),
            Exit::CacheFlush => self.advance_over_prefixed(2),
            Exit::Rdpmc => self.raise(Exception::GP, Some(0)),
            Exit::Undefined => self.raise(Exception::UD, None),
            Exit::TripleFault => return self.stop("triple fault"),
            Exit::TaskSwitch => {
                return self.stop("a hardware task switch, which Basalt does not do on Intel CPUs");
            }
            Exit::MachineCheck => {
                return self.stop("the host's CPU reported a machine check while the guest ran");
            }
            Exit::Refused => return self.stop("the CPU refused the guest's state"),
            Exit::Unknown(reason) => {
                return self.stop(&format!("exit {reason:#x}, which Basalt does not know"));
            }
            // The NMI that waits is looked at before the next entry; the others were dealt with above.
            _ => {}
        }
        Flow::Continue
    }

    /// Where the next entry would forget an interrupt shadow, executes what it protects now.
    fn leave_lost_shadow(&mut self) {
        if self.cpu.in_shadow() && !self.cpu.keeps_shadow() {
            self.leave_shadow();
        }
    }

    /// Ends the VM with a record of where it was.
    #[cold]
    pub(super) fn stop(&self, what: &str) -> Flow {
        Flow::Stop(self.fault(what))
    }

    /// Makes the record of a fault that ends the VM here.
    #[cold]
    pub(super) fn fault(&self, what: &str) -> StopReason {
        let cpu = &self.cpu;
        let selector = |index| cpu.segment(index).selector;
        let mut details = vec![
            format!(
                "cs:rip {:#x}:{:#x}, ss:rsp {:#x}:{:#x}, rflags {:#x}",
                selector(segment::CS),
                cpu.rip(),
                selector(segment::SS),
                cpu.gpr(Gpr::RSP),
                cpu.rflags()
            ),
            format!(
                "cr0 {:#x}, cr2 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x}",
                cpu.cr0(),
                cpu.cr2(),
                cpu.cr3(),
                cpu.cr4(),
                cpu.efer()
            ),
        ];
        details.extend(cpu.describe_exit());
        StopReason::Fault(Box::new(Fault {
            what: String::from(what),
            vcpu: self.index,
            rip: cpu.rip(),
            details,
        }))
    }

    /// Moves past the intercepted instruction of `len` bytes: RIP, interrupt shadow, single step.
    #[inline(always)]
    pub(super) fn advance(&mut self, len: u64) {
        if self.cpu.advance(len) {
            self.raise(Exception::DB, None);
        }
    }

    #[inline(always)]
    pub(super) fn advance_to(&mut self, rip: u64) {
        if self.cpu.advance_to(rip) {
            self.raise(Exception::DB, None);
        }
    }

    /// Moves past an instruction of `len` bytes that may carry prefixes.
    #[inline]
    fn advance_over_prefixed(&mut self, len: u64) {
        if self.cpu.knows_length() {
            return self.advance(len);
        }
        match self.next_rip() {
            Some(rip) => self.advance_to(rip),
            None => self.advance(len),
        }
    }

    /// Counts an exit.
    #[inline]
    fn count(&mut self, reason: Reason) {
        let count = &mut self.exits[reason as usize];
        *count = count.wrapping_add(1);
    }

    #[inline(always)]
    fn cpuid(&mut self) {
        self.count(Reason::Cpuid);
        let (leaf, subleaf) = (self.cpu.gpr(Gpr::RAX) as u32, self.cpu.gpr(Gpr::RCX) as u32);
        if leaf == LEAF_XSTATE {
            self.sync_xcr0();
        }
        let r = self
            .policy
            .cpuid(leaf, subleaf, self.cpu.cr4(), &self.lapic);
        self.cpu.set_gpr(Gpr::RAX, u64::from(r.eax));
        self.cpu.set_gpr(Gpr::RBX, u64::from(r.ebx));
        self.cpu.set_gpr(Gpr::RCX, u64::from(r.ecx));
        self.cpu.set_gpr(Gpr::RDX, u64::from(r.edx));
        self.advance(2);
    }

    #[inline(always)]
    fn rdmsr(&mut self) {
        self.count(Reason::Msr);
        let msr = Msr(self.cpu.gpr(Gpr::RCX) as u32);
        match self.read_msr(msr) {
            Ok(value) => {
                self.cpu.set_gpr(Gpr::RAX, value & 0xffff_ffff);
                self.cpu.set_gpr(Gpr::RDX, value >> 32);
                self.advance(2);
            }
            Err(_) => self.raise(Exception::GP, Some(0)),
        }
    }

    #[inline(always)]
    fn wrmsr(&mut self) {
        self.count(Reason::Msr);
        let msr = Msr(self.cpu.gpr(Gpr::RCX) as u32);
        match self.write_msr(msr, self.edx_eax()) {
            Ok(()) => self.advance(2),
            Err(_) => self.raise(Exception::GP, Some(0)),
        }
    }

    #[inline(always)]
    fn port(&mut self, access: PortAccess) -> Flow {
        self.count(Reason::Port);
        if access.is_string {
            return self.emulate(None);
        }
        let (port, width) = (access.port, access.width);
        let rax = self.cpu.gpr(Gpr::RAX);
        if access.is_input {
            let value = u64::from(self.vm.port_read(port, width));
            let value = match width {
                Width::Byte => rax & !0xff | value & 0xff,
                Width::Word => rax & !0xffff | value & 0xffff,
                _ => value,
            };
            self.cpu.set_gpr(Gpr::RAX, value);
        } else {
            self.vm
                .port_write(port, width, (rax & width.all_ones()) as u32);
        }
        self.advance_to(access.next_rip);
        self.after_device()
    }

    /// Looks whether a device access ended the VM.
    #[inline(always)]
    pub(super) fn after_device(&mut self) -> Flow {
        if self.vm.has_stop() {
            return self.stopped_by_device();
        }
        Flow::Continue
    }

    #[cold]
    fn stopped_by_device(&mut self) -> Flow {
        self.vm.take_stop().map_or(Flow::Continue, Flow::Stop)
    }

    pub(super) fn halt(&mut self) {
        self.advance(1);
        self.activity = Activity::Halted;
        self.look_at_interrupts = true;
    }

    fn xsetbv(&mut self) {
        let index = self.cpu.gpr(Gpr::RCX) as u32;
        match self.check_xsetbv(index, self.edx_eax()) {
            Ok(value) => {
                self.set_xcr0(value);
                self.advance_over_prefixed(3);
            }
            Err(XcrFault::UndefinedOpcode) => self.raise(Exception::UD, None),
            Err(XcrFault::GeneralProtection(_)) => self.raise(Exception::GP, Some(0)),
        }
    }

    #[inline(never)]
    fn memory_fault(&mut self, fault: MemoryFault) -> Flow {
        self.count(Reason::NestedFault);
        let is_ram = self.vm.ram.is_ram(fault.gpa);
        if !is_ram && self.known_access(fault) {
            return self.after_device();
        }
        self.has_work = true;
        self.keep_interrupted_event();
        if is_ram {
            return match self.vm.ram.back(fault.gpa) {
                Ok(_) => {
                    if fault.is_write && self.vm.ram.is_tracked() {
                        self.vm.ram.write_fault(fault.gpa);
                    }
                    self.leave_lost_shadow();
                    Flow::Continue
                }
                Err(error) => self.stop(&format!("{error}")),
            };
        }
        if fault.is_table_walk {
            // A table where there is no memory reads as all ones: the emulator's walk finds the fault that this is.
            return self.emulate(None);
        }
        if fault.is_fetch {
            // So does code, and FFh FFh is no instruction.
            self.raise(Exception::UD, None);
            return Flow::Continue;
        }
        self.emulate(Some(fault))
    }

    /// Acts on what an APIC access left to do.
    pub(super) fn apply_apic(&mut self, outcome: ApicOutcome) {
        self.look_at_interrupts = true;
        // With nothing waiting after a plain access, the next entry needs no settling. LINT0 may have opened for the
        // 8259 pair.
        self.has_work |= match outcome {
            ApicOutcome::None => self.lapic.has_requests() || self.link.extint(),
            ApicOutcome::Eoi { level: false, .. } => self.lapic.has_requests(),
            _ => true,
        };
        match outcome {
            ApicOutcome::None => {}
            ApicOutcome::Eoi { vector, level } => {
                if level {
                    self.vm.end_of_interrupt(vector);
                }
            }
            ApicOutcome::Ipi(message) => self.send(&message),
            ApicOutcome::TimerChanged => {
                self.timer_changed = true;
            }
            ApicOutcome::Reconfigured => {
                self.vm.set_identity(self.index, self.lapic.identity());
                self.timer_changed = true;
            }
        }
    }
}
