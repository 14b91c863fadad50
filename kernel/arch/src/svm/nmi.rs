//! Non-maskable interrupts on SVM, which has no window for them: the end of an NMI's service is found by intercepting
//! IRET and stepping the guest over it (APM vol. 2, 15.13.2). Virtual NMIs of newer CPUs are not used.

use crate::svm::Vcpu;
use api::backend::VcpuBackend;
use spec::event::Event;
use spec::svm::Intercept1;
use spec::x86::Rflags;

/// Single-step bit of DR6.
const DR6_BS: u64 = 1 << 14;

/// What is known of the NMI in service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NmiService {
    /// One is in service: no other until IRET.
    masked: bool,
    /// IRET was seen at this RIP; it ends the service once it has executed.
    iret_at: Option<u64>,
    /// The guest is stepped over that IRET, or out of an interrupt shadow.
    stepping: bool,
}

impl Vcpu {
    /// See [`VcpuBackend::inject_nmi`].
    pub(super) fn try_inject_nmi(&mut self) -> bool {
        self.settle_nmi();
        if self.nmi.masked {
            if self.nmi.iret_at.is_some() {
                self.step();
            }
            return false;
        }
        if self.in_shadow() {
            self.step();
            return false;
        }
        self.vmcb.control.event_injection = Event::nmi().0;
        self.mask_nmis(true);
        true
    }

    /// Puts the NMI in service, or says that there is none.
    pub(super) fn mask_nmis(&mut self, masked: bool) {
        self.nmi = NmiService {
            masked,
            ..NmiService::default()
        };
        let intercepts = &mut self.vmcb.control.intercept1;
        if masked {
            *intercepts |= Intercept1::IRET.bits();
        } else {
            *intercepts &= !Intercept1::IRET.bits();
        }
    }

    /// Tells whether an NMI is in service.
    pub(super) fn nmi_is_masked(&mut self) -> bool {
        self.settle_nmi();
        self.nmi.masked
    }

    /// Notes that the guest is about to execute IRET.
    pub(super) fn see_iret(&mut self) {
        self.vmcb.control.intercept1 &= !Intercept1::IRET.bits();
        self.nmi.iret_at = Some(self.vmcb.state.rip);
    }

    /// Ends the service of an NMI once the IRET that was seen has executed.
    fn settle_nmi(&mut self) {
        if let Some(rip) = self.nmi.iret_at
            && self.vmcb.state.rip != rip
        {
            self.nmi.iret_at = None;
            self.nmi.masked = false;
        }
    }

    /// Single-steps the guest, so that it exits after one instruction; #DB is intercepted always.
    fn step(&mut self) {
        let flags = Rflags::from_bits_retain(self.vmcb.state.rflags);
        if !self.nmi.stepping && !flags.contains(Rflags::TF) {
            self.nmi.stepping = true;
            self.vmcb.state.rflags = (flags | Rflags::TF | Rflags::RF).bits();
        }
    }

    /// Takes a #DB for the end of a step that was ours; false if it is the guest's.
    pub(super) fn finish_own_step(&mut self) -> bool {
        if !self.nmi.stepping {
            return false;
        }
        self.nmi.stepping = false;
        let state = &mut self.vmcb.state;
        state.rflags &= !(Rflags::TF | Rflags::RF).bits();
        state.dr6 &= !DR6_BS;
        self.settle_nmi();
        true
    }

    /// See [`VcpuBackend::end_step`].
    pub(super) fn note_step(&mut self) -> bool {
        self.vmcb.state.dr6 |= DR6_BS;
        !self.finish_own_step()
    }
}
