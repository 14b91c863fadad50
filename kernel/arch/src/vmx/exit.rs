//! What VMX's exit reasons and qualifications mean (SDM vol. 3, 28.2).

use super::vcpu::Vcpu;
use super::vmcs::{read, write};
use crate::debug;
use addr::Gpa;
use api::backend::{Exit, MemoryFault, PortAccess};
use api::device::Width;
use core::arch::asm;
use spec::event::Event;
use spec::vmx::{ExitReason, Interruptibility, field};
use spec::x86::Exception;

/// In an exit qualification or event: an IRET had ended the blocking of NMIs before the exit came.
const NMI_UNBLOCKED: u64 = 1 << 12;
/// DR6 bits that a #DB sets: B0 to B3, BD, BS.
const DEBUG_CAUSES: u64 = 0x600f;
/// General detect: in DR6 as BD, in DR7 as GD.
const GENERAL_DETECT: u64 = 1 << 13;

impl Vcpu {
    /// See [`api::backend::VcpuBackend::exit`].
    #[inline(always)]
    pub(super) fn decode_exit(&mut self) -> Exit {
        let reason = ExitReason(read(field::EXIT_REASON));
        if reason == ExitReason::CPUID {
            return Exit::Cpuid;
        }
        match reason {
            ExitReason::RDMSR => Exit::ReadMsr,
            ExitReason::WRMSR => Exit::WriteMsr,
            ExitReason::PORT => Exit::Port(port_access(
                read(field::EXIT_QUALIFICATION),
                self.rip_behind(),
            )),
            ExitReason::EPT_VIOLATION => self.ept_violation(),
            other => self.decode_other(other),
        }
    }

    /// Returns RIP behind the instruction that exited.
    pub(super) fn rip_behind(&self) -> u64 {
        let len = u64::from(read(field::EXIT_LENGTH));
        read(field::GUEST_RIP).wrapping_add(len)
    }

    fn ept_violation(&mut self) -> Exit {
        let qualification = read(field::EXIT_QUALIFICATION);
        if qualification & NMI_UNBLOCKED != 0 {
            self.block_nmis_again();
        }
        Exit::Memory(memory_fault(
            qualification,
            read(field::GUEST_PHYSICAL_ADDRESS),
        ))
    }

    /// An IRET whose own execution exited has not happened: the NMI that it ends is still in service.
    fn block_nmis_again(&self) {
        let vectoring = Event(u64::from(read(field::VECTORING_EVENT)));
        if !vectoring.is_valid() {
            let state = read(field::GUEST_INTERRUPTIBILITY);
            write(
                field::GUEST_INTERRUPTIBILITY,
                state | Interruptibility::NMI.bits(),
            );
        }
    }

    #[inline(never)]
    fn decode_other(&mut self, reason: ExitReason) -> Exit {
        const ENTRY_FAILED: u32 = 1 << 31;
        if reason.0 & ENTRY_FAILED != 0 {
            return Exit::Refused;
        }
        match reason {
            ExitReason::EXTERNAL_INTERRUPT => Exit::HostEvent,
            ExitReason::EXCEPTION_OR_NMI => self.exception(),
            ExitReason::HLT => Exit::Halt,
            ExitReason::PREEMPTION_TIMER => Exit::TimeSlice,
            ExitReason::INTERRUPT_WINDOW => Exit::InterruptWindow,
            ExitReason::NMI_WINDOW => {
                self.set_nmi_window(false);
                Exit::NmiWindow
            }
            ExitReason::VMCALL => Exit::Hypercall,
            ExitReason::CONTROL_REGISTER => Exit::ControlWrite,
            ExitReason::PAUSE => Exit::Pause,
            ExitReason::XSETBV => Exit::Xsetbv,
            ExitReason::WBINVD | ExitReason::INVD => Exit::CacheFlush,
            ExitReason::RDPMC => Exit::Rdpmc,
            ExitReason::GETSEC
            | ExitReason::RSM
            | ExitReason::MWAIT
            | ExitReason::MONITOR
            | ExitReason::INVEPT
            | ExitReason::INVVPID
            | ExitReason::VMFUNC
            | ExitReason::ENCLS
            | ExitReason::XSAVES
            | ExitReason::XRSTORS => Exit::Undefined,
            ExitReason(number) if is_vmx_instruction(number) => Exit::Undefined,
            ExitReason::WRITE_LOG_FULL => {
                if read(field::EXIT_QUALIFICATION) & NMI_UNBLOCKED != 0 {
                    self.block_nmis_again();
                }
                Exit::WriteLogFull
            }
            ExitReason::TRIPLE_FAULT => Exit::TripleFault,
            ExitReason::TASK_SWITCH => Exit::TaskSwitch,
            ExitReason::INIT | ExitReason::STARTUP | ExitReason::TPR_THRESHOLD => Exit::Nothing,
            ExitReason(number) => Exit::Unknown(u64::from(number)),
        }
    }

    fn exception(&mut self) -> Exit {
        let event = Event(u64::from(read(field::EXIT_EVENT)));
        if event.kind() == Event::TYPE_NMI {
            serve_host_nmi();
            return Exit::HostEvent;
        }
        if event.0 & NMI_UNBLOCKED != 0 {
            self.block_nmis_again();
        }
        match Exception(event.vector()) {
            Exception::MC => Exit::MachineCheck,
            Exception::DB => {
                self.take_debug_causes(read(field::EXIT_QUALIFICATION));
                Exit::Exception {
                    vector: Exception::DB.0,
                    error_code: None,
                }
            }
            Exception(vector) => Exit::Exception {
                vector,
                error_code: event.error_code().map(|_| read(field::EXIT_ERROR_CODE)),
            },
        }
    }

    /// A #DB that exits leaves DR6 and DR7 alone; its delivery would have changed them.
    fn take_debug_causes(&mut self, causes: u64) {
        let status = debug::status() & !DEBUG_CAUSES;
        debug::load_status(status | causes & DEBUG_CAUSES);
        if causes & GENERAL_DETECT != 0 {
            let dr7 = read(field::GUEST_DR7);
            write(field::GUEST_DR7, dr7 & !GENERAL_DETECT);
        }
    }
}

fn is_vmx_instruction(number: u32) -> bool {
    (ExitReason::VMCLEAR.0..=ExitReason::VMXON.0).contains(&number)
}

/// Gives the NMI that made the guest exit to the host's handler; its IRET lets NMIs in again.
fn serve_host_nmi() {
    // SAFETY: the handler has a stack of its own (IST), changes no register and returns, unless the host is to stop.
    unsafe { asm!("int 2") };
}

#[inline]
fn port_access(qualification: u64, next_rip: u64) -> PortAccess {
    PortAccess {
        port: (qualification >> 16) as u16,
        width: match qualification & 7 {
            0 => Width::Byte,
            1 => Width::Word,
            _ => Width::Dword,
        },
        is_input: qualification & 1 << 3 != 0,
        is_string: qualification & 1 << 4 != 0,
        next_rip,
    }
}

#[inline]
fn memory_fault(qualification: u64, gpa: u64) -> MemoryFault {
    const LINEAR_ADDRESS_VALID: u64 = 1 << 7;
    const FINAL: u64 = 1 << 8;
    MemoryFault {
        gpa: Gpa::new_truncate(gpa),
        is_write: qualification & 1 << 1 != 0,
        is_fetch: qualification & 1 << 2 != 0,
        is_table_walk: qualification & (LINEAR_ADDRESS_VALID | FINAL) == LINEAR_ADDRESS_VALID,
    }
}

#[cfg(test)]
mod tests {
    use super::{memory_fault, port_access};
    use api::device::Width;

    #[test]
    fn qualifications_follow_the_manual() {
        // OUT 3F8h, AL; IN EAX, CF8h; REP INSW from 1F0h.
        let out = port_access(0x03f8_0000, 0x1001);
        assert_eq!(
            (out.port, out.width, out.is_input),
            (0x3f8, Width::Byte, false)
        );
        let read = port_access(0x0cf8_000b, 0);
        assert_eq!(
            (read.port, read.width, read.is_input),
            (0xcf8, Width::Dword, true)
        );
        let string = port_access(0x01f0_0039, 0);
        assert!(string.is_string && string.is_input && string.width == Width::Word);
        // A read of a device, and a write to a page-table entry during a walk.
        let access = memory_fault(0x181, 0xfec0_0000);
        assert!(!access.is_write && !access.is_table_walk && !access.is_fetch);
        let walk = memory_fault(0x83, 0x1000);
        assert!(walk.is_table_walk && walk.is_write);
    }
}
