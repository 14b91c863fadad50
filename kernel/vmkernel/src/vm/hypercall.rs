//! Hypercalls (VMMCALL, VMCALL). The registers and numbers are KVM's, which Linux guests know; the only call offered is the one
//! that sends an interrupt to many vCPUs at once. Hyper-V's interface is not here yet.

use crate::vm::vcpu::VcpuWorld;
use api::backend::{Gpr, VcpuBackend};
use devices::message::{ApicMessage, Delivery, Destination};

/// Sends an interrupt to the APIC IDs of a bitmap: RBX and RCX its halves, RDX the ID of bit 0, RSI the ICR's low half.
const SEND_IPI: u64 = 10;
/// The call does not exist (KVM's -1000).
const NO_SUCH_CALL: u64 = 1000_u64.wrapping_neg();
/// The caller is not the guest's kernel (-EPERM).
const NOT_PERMITTED: u64 = 1_u64.wrapping_neg();
/// The ICR asks for something that is no interrupt (-EINVAL).
const INVALID: u64 = 22_u64.wrapping_neg();

impl<B: VcpuBackend> VcpuWorld<B> {
    /// Answers a hypercall: the number is in RAX, and so is the answer.
    #[inline]
    pub(super) fn hypercall(&mut self) {
        let number = self.cpu.gpr(Gpr::RAX);
        let answer = match number {
            _ if self.cpu.cpl() != 0 => NOT_PERMITTED,
            SEND_IPI => self.send_to_many(),
            _ => NO_SUCH_CALL,
        };
        self.cpu.set_gpr(Gpr::RAX, answer);
        self.advance(3);
    }

    /// Returns how many vCPUs were addressed.
    fn send_to_many(&mut self) -> u64 {
        let icr = self.cpu.gpr(Gpr::RSI) as u32;
        let first = self.cpu.gpr(Gpr::RDX) as u32;
        let delivery = match Delivery::from_bits(icr >> 8) {
            Some(kind @ (Delivery::Fixed | Delivery::Nmi)) => kind,
            _ => return INVALID,
        };
        let bitmap = u128::from(self.cpu.gpr(Gpr::RBX)) | u128::from(self.cpu.gpr(Gpr::RCX)) << 64;
        let mut sent = 0;
        for bit in (0..128_u32).filter(|bit| bitmap >> bit & 1 != 0) {
            let Some(id) = first
                .checked_add(bit)
                .filter(|id| (*id as usize) < self.vm.links.len())
            else {
                continue;
            };
            let destination = Destination::Physical { id, wide: true };
            self.send(&ApicMessage {
                destination,
                delivery,
                vector: icr as u8,
                level: false,
            });
            sent += 1;
        }
        self.has_work = true;
        sent
    }
}
