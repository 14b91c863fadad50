//! What SVM's exit codes mean (APM vol. 2, appendix C).

use crate::svm::Vcpu;
use addr::Gpa;
use api::backend::{Exit, MemoryFault, PortAccess};
use api::device::Width;
use spec::svm::{ExitCode, IoInfo, NestedFault};
use spec::x86::Exception;

impl Vcpu {
    /// See [`api::backend::VcpuBackend::exit`].
    #[inline(always)]
    pub(super) fn decode_exit(&mut self) -> Exit {
        let control = &self.vmcb.control;
        match ExitCode(control.exit_code) {
            ExitCode::CPUID => Exit::Cpuid,
            ExitCode::MSR if control.exit_info1 == 0 => Exit::ReadMsr,
            ExitCode::MSR => Exit::WriteMsr,
            ExitCode::IOIO => Exit::Port(port_access(control.exit_info1, control.exit_info2)),
            ExitCode::NPF => Exit::Memory(memory_fault(control.exit_info1, control.exit_info2)),
            other => self.decode_other(other),
        }
    }

    #[inline(never)]
    fn decode_other(&mut self, code: ExitCode) -> Exit {
        match code {
            ExitCode::INTR | ExitCode::NMI | ExitCode::SMI => Exit::HostEvent,
            ExitCode::HLT => Exit::Halt,
            ExitCode::VINTR => Exit::InterruptWindow,
            ExitCode::VMMCALL => Exit::Hypercall,
            ExitCode::WRITE_CR4 | ExitCode::WRITE_CR8 => Exit::ControlWrite,
            ExitCode::IRET => {
                self.see_iret();
                Exit::NmiWindow
            }
            ExitCode::EXCEPTION_DB if self.finish_own_step() => Exit::NmiWindow,
            ExitCode::EXCEPTION_DB => Exit::Exception {
                vector: Exception::DB.0,
                error_code: None,
            },
            ExitCode::EXCEPTION_AC => Exit::Exception {
                vector: Exception::AC.0,
                error_code: Some(0),
            },
            ExitCode::PAUSE => Exit::Pause,
            ExitCode::XSETBV => Exit::Xsetbv,
            ExitCode::WBINVD | ExitCode::INVD => Exit::CacheFlush,
            ExitCode::RDPMC => Exit::Rdpmc,
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
            | ExitCode::MWAIT_ARMED => Exit::Undefined,
            ExitCode::SHUTDOWN => Exit::TripleFault,
            ExitCode::EXCEPTION_MC => Exit::MachineCheck,
            ExitCode::INIT | ExitCode::FERR_FREEZE => Exit::Nothing,
            ExitCode::INVALID | ExitCode::INVALID_32 => Exit::Refused,
            ExitCode(other) => Exit::Unknown(other),
        }
    }
}

#[inline]
fn port_access(info: u64, next_rip: u64) -> PortAccess {
    let info = IoInfo(info);
    PortAccess {
        port: info.port(),
        width: match info.size_bytes() {
            1 => Width::Byte,
            2 => Width::Word,
            _ => Width::Dword,
        },
        is_input: info.is_input(),
        is_string: info.is_string(),
        next_rip,
    }
}

#[inline]
fn memory_fault(info: u64, gpa: u64) -> MemoryFault {
    let info = NestedFault::from_bits_retain(info);
    MemoryFault {
        gpa: Gpa::new_truncate(gpa),
        is_write: info.contains(NestedFault::WRITE),
        is_fetch: info.contains(NestedFault::FETCH),
        is_table_walk: info.contains(NestedFault::TABLE_WALK),
    }
}

#[cfg(test)]
mod tests {
    use super::{memory_fault, port_access};
    use api::device::Width;

    #[test]
    fn details_follow_the_manual() {
        // OUT 3F8h, AL; IN EAX, CF8h; REP INSW from 1F0h. Some implementations set A16, too.
        let out = port_access(0x03f8_0090, 0x1001);
        assert_eq!(
            (out.port, out.width, out.is_input),
            (0x3f8, Width::Byte, false)
        );
        let read = port_access(0x0cf8_0041, 0);
        assert_eq!(
            (read.port, read.width, read.is_input),
            (0xcf8, Width::Dword, true)
        );
        let string = port_access(0x01f0_002d, 0);
        assert!(string.is_string && string.is_input && string.width == Width::Word);
        let walk = memory_fault(0x2_0000_0006, 0xfee0_0123);
        assert!(walk.is_table_walk && walk.is_write && !walk.is_fetch);
        assert_eq!(walk.gpa.as_u64(), 0xfee0_0123);
    }
}
