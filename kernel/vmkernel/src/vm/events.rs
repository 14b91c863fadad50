//! Event delivery to a vCPU: exceptions, NMIs, interrupts from the local APIC and from the 8259 pair; windows where
//! they cannot be taken at once (APM vol. 2, 15.20 and 15.21).

use crate::vm::vcpu::{Activity, VcpuWorld};
use devices::lapic::{LintOutcome, LintPin};
use spec::svm::{Event, Intercept1, VirtualInterrupt};
use spec::x86::{Exception, Rflags};

const SHADOW: u64 = 1;
/// The CR8-write bit of the CR intercepts.
const INTERCEPT_CR8_WRITE: u32 = 1 << 24;

impl VcpuWorld {
    /// Gives the guest the event that it can take now, and opens a window for one that it cannot.
    pub(super) fn deliver_events(&mut self) {
        if self.cpu.vmcb().control.event_injection & 1 << 31 != 0 {
            return;
        }
        if self.pending_event.is_valid() {
            let event = core::mem::take(&mut self.pending_event);
            self.inject(event);
            self.activity = Activity::Running;
            return;
        }
        if self.nmi.pending != 0 && self.deliver_nmi() {
            return;
        }
        if self.look_at_interrupts {
            self.deliver_interrupt();
        }
    }

    fn inject(&mut self, event: Event) {
        self.cpu.vmcb_mut().control.event_injection = event.0;
    }

    pub(super) fn in_shadow(&self) -> bool {
        self.cpu.vmcb().control.interrupt_state & SHADOW != 0
    }

    /// Delivers an NMI; false when it has to wait.
    fn deliver_nmi(&mut self) -> bool {
        self.end_nmi_service();
        if self.activity == Activity::WaitsForStartup {
            return false;
        }
        if self.nmi.masked {
            if self.nmi.iret_at.is_some() {
                self.step_over_iret();
            }
            return false;
        }
        if self.in_shadow() {
            self.step_over_iret();
            return false;
        }
        self.nmi.pending -= 1;
        self.nmi.masked = true;
        self.activity = Activity::Running;
        self.inject(Event::nmi());
        self.cpu.vmcb_mut().control.intercept1 |= Intercept1::IRET.bits();
        true
    }

    /// Ends the service of an NMI once the IRET that was seen has executed.
    pub(super) fn end_nmi_service(&mut self) {
        if let Some(rip) = self.nmi.iret_at
            && self.cpu.vmcb().state.rip != rip
        {
            self.nmi.iret_at = None;
            self.nmi.masked = false;
        }
    }

    /// Single-steps the guest, so that it exits after one instruction; #DB is intercepted always.
    fn step_over_iret(&mut self) {
        let flags = Rflags::from_bits_retain(self.cpu.vmcb().state.rflags);
        if !self.nmi.stepping && !flags.contains(Rflags::TF) {
            self.nmi.stepping = true;
            self.cpu.vmcb_mut().state.rflags = (flags | Rflags::TF | Rflags::RF).bits();
        }
    }

    /// Delivers the interrupt of highest priority, or asks for a window.
    fn deliver_interrupt(&mut self) {
        self.sync_tpr();
        let extint = self.link.extint() && self.lapic.accepts_extint();
        let pending = self.lapic.pending();
        if !extint && pending.is_none() {
            self.look_at_interrupts = false;
            let blocked = self.lapic.has_requests();
            self.set_cr8_intercept(blocked);
            self.set_window(false);
            return;
        }
        if self.activity == Activity::WaitsForStartup {
            self.look_at_interrupts = false;
            return;
        }
        let flags = Rflags::from_bits_retain(self.cpu.vmcb().state.rflags);
        if !flags.contains(Rflags::IF) {
            // A CPU that halted with interrupts off sleeps on.
            let halted = self.activity == Activity::Halted;
            self.look_at_interrupts = false;
            self.set_window(!halted);
            return;
        }
        self.activity = Activity::Running;
        if self.in_shadow() {
            self.look_at_interrupts = false;
            self.set_window(true);
            return;
        }
        let vector = match pending {
            Some(_) if !extint => self.lapic.ack(),
            _ => self.acknowledge_pic(),
        };
        self.set_window(false);
        if let Some(vector) = vector {
            self.inject(Event::interrupt(vector));
        }
        // More may wait behind this one.
        self.look_at_interrupts = self.lapic.pending().is_some() || self.link.extint();
        if self.look_at_interrupts {
            self.look_at_interrupts = false;
            self.set_window(true);
        }
        let blocked = self.lapic.has_requests();
        self.set_cr8_intercept(blocked);
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        match self.lapic.raise_lint(LintPin::Lint0) {
            LintOutcome::ExtInt => Some(self.vm.pic_ack()),
            _ => None,
        }
    }

    /// Takes over what the guest wrote to CR8 without an exit.
    pub(super) fn sync_tpr(&mut self) {
        let class = (self.cpu.vmcb().control.virtual_interrupt & 0xf) as u8;
        if class != self.lapic.cr8() {
            self.lapic.set_cr8(class);
        }
    }

    /// Shows the guest the APIC's task priority in CR8.
    pub(super) fn publish_tpr(&mut self) {
        let class = u64::from(self.lapic.cr8());
        let word = &mut self.cpu.vmcb_mut().control.virtual_interrupt;
        *word = *word & !0xf | class;
    }

    /// Asks for an exit as soon as the guest can take an interrupt, or takes the wish back.
    pub(super) fn set_window(&mut self, wanted: bool) {
        let vmcb = self.cpu.vmcb_mut();
        let window = VirtualInterrupt::V_IRQ | VirtualInterrupt::V_IGN_TPR;
        if wanted {
            vmcb.control.virtual_interrupt |= window.bits();
            vmcb.control.intercept1 |= Intercept1::VINTR.bits();
            // A guest's write of CR8 with a virtual interrupt pending is more than some emulators of SVM can take.
            vmcb.control.intercept_cr |= INTERCEPT_CR8_WRITE;
        } else {
            vmcb.control.virtual_interrupt &= !window.bits();
            vmcb.control.intercept1 &= !Intercept1::VINTR.bits();
        }
    }

    /// Intercepts CR8 writes while a lower task priority would make an interrupt deliverable.
    fn set_cr8_intercept(&mut self, wanted: bool) {
        let window =
            self.cpu.vmcb().control.virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        let intercepts = &mut self.cpu.vmcb_mut().control.intercept_cr;
        if wanted || window {
            *intercepts |= INTERCEPT_CR8_WRITE;
        } else {
            *intercepts &= !INTERCEPT_CR8_WRITE;
        }
    }

    /// Raises an exception in the guest, by the rules for exceptions that meet (APM vol. 2, 8.2.9).
    pub(super) fn raise(&mut self, exception: Exception, error_code: Option<u32>) {
        self.has_work = true;
        if exception != Exception::DB {
            // A fault's pushed flags have RF set (APM vol. 2, 3.1.6); the CPU does that only for those it raises itself.
            self.cpu.vmcb_mut().state.rflags |= Rflags::RF.bits();
        }
        let first = self.pending_event;
        let contributory = |v: u8| matches!(v, 0 | 10..=13);
        let meets = first.is_valid() && first.kind() == Event::TYPE_EXCEPTION;
        let (a, b) = (first.vector(), exception.0);
        let doubles = meets
            && ((contributory(a) && contributory(b))
                || (a == Exception::PF.0 && (contributory(b) || b == Exception::PF.0)));
        if meets && a == Exception::DF.0 && (contributory(b) || b == Exception::PF.0) {
            self.triple_fault = true;
            return;
        }
        self.pending_event = if doubles {
            Event::exception(Exception::DF.0, Some(0))
        } else {
            Event::exception(b, error_code)
        };
    }

    /// Keeps an event whose delivery an exit interrupted, to be delivered again.
    pub(super) fn keep_interrupted_event(&mut self) {
        let event = Event(self.cpu.vmcb().control.exit_int_info);
        if !event.is_valid() || event.kind() == Event::TYPE_SOFTWARE {
            // A software interrupt's instruction is simply executed again.
            return;
        }
        let software = matches!(Exception(event.vector()), Exception::BP | Exception::OF);
        if event.kind() == Event::TYPE_EXCEPTION && software {
            return;
        }
        self.pending_event = event;
    }
}
