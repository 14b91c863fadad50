//! What each exit means and how it is answered. Short answers first: CPUID, MSRs, ports, the APIC.

use crate::cpus;
use crate::vm::machine::{Fault, StopReason};
use crate::vm::vcpu::{Activity, Flow, Reason, VcpuWorld, yield_wanted};
use addr::Gpa;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::{format, vec};
use api::device::Width;
use arch::svm::Gpr;
use devices::lapic::ApicOutcome;
use spec::msr::Msr;
use spec::svm::{ExitCode, Intercept1, IoInfo, NestedFault};
use spec::x86::{Exception, Rflags};
use vcpu::control::XcrFault;

/// Code segment's L bit in the VMCB's attributes.
const ATTRIBUTE_LONG: u16 = 1 << 9;
/// The CPUID leaf that shows the size of the XSAVE area for the current XCR0.
const LEAF_XSTATE: u32 = 0xd;
const DR6_BS: u64 = 1 << 14;

impl VcpuWorld {
    /// Answers the exit that `enter` just returned with.
    #[inline(always)]
    pub(super) fn handle_exit(&mut self) -> Flow {
        match self.cpu.exit_code() {
            ExitCode::CPUID => self.cpuid(),
            ExitCode::MSR => self.msr(),
            ExitCode::IOIO => return self.port(),
            ExitCode::NPF => return self.nested_fault(),
            other => return self.other_exit(other),
        }
        Flow::Continue
    }

    #[inline(never)]
    fn other_exit(&mut self, code: ExitCode) -> Flow {
        self.has_work = true;
        self.count(match code {
            ExitCode::HLT => Reason::Halt,
            _ => Reason::Other,
        });
        match code {
            ExitCode::INTR | ExitCode::NMI | ExitCode::SMI => {
                self.keep_interrupted_event();
                self.leave_lost_shadow();
            }
            ExitCode::HLT => self.halt(),
            ExitCode::VINTR => {
                self.set_window(false);
                self.look_at_interrupts = true;
            }
            other => return self.rare_exit(other),
        }
        Flow::Continue
    }

    #[cold]
    fn rare_exit(&mut self, code: ExitCode) -> Flow {
        self.keep_interrupted_event();
        match code {
            ExitCode::VMMCALL => self.hypercall(),
            ExitCode::WRITE_CR4 | ExitCode::WRITE_CR8 => return self.emulate(None),
            ExitCode::IRET => self.iret(),
            ExitCode::EXCEPTION_DB => self.debug_exception(),
            ExitCode::EXCEPTION_AC => self.raise(Exception::AC, Some(0)),
            ExitCode::PAUSE => {
                self.advance_over_prefixed(2);
                if yield_wanted() {
                    return Flow::Yield;
                }
            }
            ExitCode::XSETBV => self.xsetbv(),
            ExitCode::WBINVD | ExitCode::INVD => self.advance_over_prefixed(2),
            ExitCode::RDPMC => self.raise(Exception::GP, Some(0)),
            ExitCode::VMRUN
            | ExitCode::VMLOAD
            | ExitCode::VMSAVE
            | ExitCode::STGI
            | ExitCode::CLGI
            | ExitCode::SKINIT
            | ExitCode::INVLPGA
            | ExitCode::RDPRU
            | ExitCode::RSM
            | ExitCode::MONITOR
            | ExitCode::MWAIT
            | ExitCode::MWAIT_ARMED => self.raise(Exception::UD, None),
            ExitCode::SHUTDOWN => return self.stop("triple fault"),
            ExitCode::EXCEPTION_MC => {
                return self.stop("the host's CPU reported a machine check while the guest ran");
            }
            ExitCode::INIT | ExitCode::FERR_FREEZE => {}
            ExitCode::INVALID | ExitCode::INVALID_32 => {
                return self.stop("the CPU refused the guest's state (invalid VMCB)");
            }
            ExitCode(other) => {
                return self.stop(&format!("exit {other:#x}, which Basalt does not know"));
            }
        }
        Flow::Continue
    }

    /// Where the next entry would forget an interrupt shadow, executes what it protects now.
    fn leave_lost_shadow(&mut self) {
        if self.in_shadow() && !cpus::features().keeps_interrupt_shadow() {
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
        let s = &self.cpu.vmcb().state;
        let c = &self.cpu.vmcb().control;
        let details = vec![
            format!(
                "cs:rip {:#x}:{:#x}, ss:rsp {:#x}:{:#x}, rflags {:#x}",
                s.cs.selector, s.rip, s.ss.selector, s.rsp, s.rflags
            ),
            format!(
                "cr0 {:#x}, cr2 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x}",
                s.cr0, s.cr2, s.cr3, s.cr4, s.efer
            ),
            format!(
                "exit {:#x}, info {:#x} {:#x} {:#x}",
                c.exit_code, c.exit_info1, c.exit_info2, c.exit_int_info
            ),
        ];
        StopReason::Fault(Box::new(Fault {
            what: String::from(what),
            vcpu: self.index,
            rip: s.rip,
            details,
        }))
    }

    /// Moves past the intercepted instruction of `len` bytes: RIP, interrupt shadow, single step.
    #[inline]
    pub(super) fn advance(&mut self, len: u64) {
        let rip = self.cpu.vmcb().state.rip.wrapping_add(len);
        self.advance_to(rip);
    }

    #[inline]
    pub(super) fn advance_to(&mut self, rip: u64) {
        let vmcb = self.cpu.vmcb_mut();
        let wide = vmcb.state.cs.attributes & ATTRIBUTE_LONG != 0;
        vmcb.state.rip = if wide { rip } else { rip & 0xffff_ffff };
        vmcb.control.interrupt_state = 0;
        if vmcb.state.rflags & Rflags::TF.bits() != 0 {
            self.single_step();
        }
    }

    #[cold]
    pub(super) fn single_step(&mut self) {
        self.cpu.vmcb_mut().state.dr6 |= DR6_BS;
        if self.nmi.stepping {
            self.debug_exception();
        } else {
            self.raise(Exception::DB, None);
        }
    }

    /// Moves past an instruction of `len` bytes that may carry prefixes.
    fn advance_over_prefixed(&mut self, len: u64) {
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

    #[inline]
    fn cpuid(&mut self) {
        self.count(Reason::Cpuid);
        let (leaf, subleaf) = (self.cpu.gpr(Gpr::RAX) as u32, self.cpu.gpr(Gpr::RCX) as u32);
        if leaf == LEAF_XSTATE {
            self.sync_xcr0();
        }
        let r = self
            .policy
            .cpuid(leaf, subleaf, self.cpu.vmcb().state.cr4, &self.lapic);
        self.cpu.set_gpr(Gpr::RAX, u64::from(r.eax));
        self.cpu.set_gpr(Gpr::RBX, u64::from(r.ebx));
        self.cpu.set_gpr(Gpr::RCX, u64::from(r.ecx));
        self.cpu.set_gpr(Gpr::RDX, u64::from(r.edx));
        self.advance(2);
    }

    #[inline]
    fn msr(&mut self) {
        self.count(Reason::Msr);
        let msr = Msr(self.cpu.gpr(Gpr::RCX) as u32);
        let result = if self.cpu.vmcb().control.exit_info1 == 0 {
            self.read_msr(msr).map(|value| {
                self.cpu.set_gpr(Gpr::RAX, value & 0xffff_ffff);
                self.cpu.set_gpr(Gpr::RDX, value >> 32);
            })
        } else {
            self.write_msr(msr, self.edx_eax())
        };
        match result {
            Ok(()) => self.advance(2),
            Err(_) => self.raise(Exception::GP, Some(0)),
        }
    }

    #[inline]
    fn port(&mut self) -> Flow {
        self.count(Reason::Port);
        let info = IoInfo(self.cpu.vmcb().control.exit_info1);
        let next = self.cpu.vmcb().control.exit_info2;
        if info.is_string() {
            return self.emulate(None);
        }
        let width = match info.size_bytes() {
            1 => Width::Byte,
            2 => Width::Word,
            _ => Width::Dword,
        };
        let rax = self.cpu.gpr(Gpr::RAX);
        if info.is_input() {
            let value = u64::from(self.vm.port_read(info.port(), width));
            let value = match width {
                Width::Byte => rax & !0xff | value & 0xff,
                Width::Word => rax & !0xffff | value & 0xffff,
                _ => value,
            };
            self.cpu.set_gpr(Gpr::RAX, value);
        } else {
            self.vm
                .port_write(info.port(), width, (rax & width.all_ones()) as u32);
        }
        self.advance_to(next);
        self.after_device()
    }

    /// Looks whether a device access ended the VM.
    #[inline]
    pub(super) fn after_device(&mut self) -> Flow {
        match self.vm.take_stop() {
            Some(reason) => Flow::Stop(reason),
            None => Flow::Continue,
        }
    }

    pub(super) fn halt(&mut self) {
        self.advance(1);
        self.activity = Activity::Halted;
        self.look_at_interrupts = true;
    }

    fn iret(&mut self) {
        self.cpu.vmcb_mut().control.intercept1 &= !Intercept1::IRET.bits();
        self.nmi.iret_at = Some(self.cpu.vmcb().state.rip);
    }

    fn debug_exception(&mut self) {
        if self.nmi.stepping {
            self.nmi.stepping = false;
            let state = &mut self.cpu.vmcb_mut().state;
            state.rflags &= !(Rflags::TF | Rflags::RF).bits();
            state.dr6 &= !DR6_BS;
            self.end_nmi_service();
            return;
        }
        self.raise(Exception::DB, None);
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
    fn nested_fault(&mut self) -> Flow {
        self.count(Reason::NestedFault);
        let gpa = Gpa::new_truncate(self.cpu.vmcb().control.exit_info2);
        let fault = NestedFault::from_bits_retain(self.cpu.vmcb().control.exit_info1);
        let is_ram = self.vm.ram.is_ram(gpa);
        if !is_ram && self.known_access(gpa, fault) {
            return self.after_device();
        }
        self.has_work = true;
        self.keep_interrupted_event();
        if is_ram {
            return match self.vm.ram.back(gpa) {
                Ok(_) => {
                    self.leave_lost_shadow();
                    Flow::Continue
                }
                Err(error) => self.stop(&format!("{error}")),
            };
        }
        if fault.contains(NestedFault::TABLE_WALK) {
            // A table where there is no memory reads as all ones: the emulator's walk finds the fault that this is.
            return self.emulate(None);
        }
        if fault.contains(NestedFault::FETCH) {
            // So does code, and FFh FFh is no instruction.
            self.raise(Exception::UD, None);
            return Flow::Continue;
        }
        self.emulate(Some(gpa))
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
