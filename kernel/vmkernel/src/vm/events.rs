//! Event delivery to a vCPU: exceptions, NMIs, interrupts from the local APIC and from the 8259 pair; windows where
//! they cannot be taken at once (APM vol. 2, 15.20 and 15.21).

use crate::vm::vcpu::{Activity, VcpuWorld};
use api::backend::VcpuBackend;
use devices::lapic::{LintOutcome, LintPin};
use spec::event::Event;
use spec::x86::{Exception, Rflags};

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Gives the guest the event that it can take now, and opens a window for one that it cannot.
    pub(super) fn deliver_events(&mut self) {
        if self.cpu.has_injection() {
            return;
        }
        if self.pending_event.is_valid() {
            let event = core::mem::take(&mut self.pending_event);
            self.cpu.inject(event);
            self.activity = Activity::Running;
            return;
        }
        if self.nmis_pending != 0 && self.deliver_nmi() {
            return;
        }
        if self.look_at_interrupts && !self.cpu.holds_interrupt() {
            self.deliver_interrupt();
        }
    }

    /// Delivers an NMI; false when it has to wait.
    fn deliver_nmi(&mut self) -> bool {
        if self.activity == Activity::WaitsForStartup || !self.cpu.inject_nmi() {
            return false;
        }
        self.nmis_pending -= 1;
        self.activity = Activity::Running;
        true
    }

    /// Delivers the interrupt of highest priority, or asks for a window.
    fn deliver_interrupt(&mut self) {
        self.sync_tpr();
        let extint = self.link.extint() && self.lapic.accepts_extint();
        let pending = self.lapic.pending();
        if !extint && pending.is_none() {
            self.look_at_interrupts = false;
            let blocked = self.lapic.has_requests();
            self.cpu.set_priority_exit(blocked);
            self.cpu.set_interrupt_window(false);
            return;
        }
        if self.activity == Activity::WaitsForStartup {
            self.look_at_interrupts = false;
            return;
        }
        let flags = Rflags::from_bits_retain(self.cpu.rflags());
        if !flags.contains(Rflags::IF) {
            // A CPU that halted with interrupts off sleeps on.
            let halted = self.activity == Activity::Halted;
            self.look_at_interrupts = false;
            self.cpu.set_interrupt_window(!halted);
            return;
        }
        self.activity = Activity::Running;
        if self.cpu.in_shadow() {
            self.look_at_interrupts = false;
            self.cpu.set_interrupt_window(true);
            return;
        }
        let vector = match pending {
            Some(_) if !extint => self.lapic.ack(),
            _ => self.acknowledge_pic(),
        };
        self.cpu.set_interrupt_window(false);
        if let Some(vector) = vector {
            self.cpu.inject(Event::interrupt(vector));
        }
        // More may wait behind this one.
        self.look_at_interrupts = self.lapic.pending().is_some() || self.link.extint();
        if self.look_at_interrupts {
            self.look_at_interrupts = false;
            self.cpu.set_interrupt_window(true);
        }
        let blocked = self.lapic.has_requests();
        self.cpu.set_priority_exit(blocked);
    }

    fn acknowledge_pic(&mut self) -> Option<u8> {
        match self.lapic.raise_lint(LintPin::Lint0) {
            LintOutcome::ExtInt => Some(self.vm.pic_ack()),
            _ => None,
        }
    }

    /// Takes over what the guest wrote to CR8 without an exit.
    pub(super) fn sync_tpr(&mut self) {
        let class = self.cpu.task_priority();
        if class != self.lapic.cr8() {
            self.lapic.set_cr8(class);
        }
    }

    /// Shows the guest the APIC's task priority in CR8.
    pub(super) fn publish_tpr(&mut self) {
        self.cpu.set_task_priority(self.lapic.cr8());
    }

    /// Raises an exception in the guest, by the rules for exceptions that meet (APM vol. 2, 8.2.9).
    pub(super) fn raise(&mut self, exception: Exception, error_code: Option<u32>) {
        self.has_work = true;
        if exception != Exception::DB {
            // A fault's pushed flags have RF set (APM vol. 2, 3.1.6); the CPU does that only for those it raises itself.
            let flags = self.cpu.rflags() | Rflags::RF.bits();
            self.cpu.set_rflags(flags);
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
    #[inline]
    pub(super) fn keep_interrupted_event(&mut self) {
        let event = self.cpu.interrupted_event();
        if event.is_valid() {
            self.pending_event = event;
        }
    }
}
