//! The MSR and I/O permission maps (APM vol. 2, 15.10.1 and 15.11). One pair serves all VMs: every port is intercepted,
//! and every MSR but those that VMLOAD and VMSAVE move.

use crate::idt::wrmsr_if_accepted;
use crate::physmem::frame_as;
use crate::virt::PASSED_THROUGH;
use addr::{Hfn, Hpa};
use spec::msr::Msr;

/// Frames of the I/O map.
const IO_FRAMES: usize = 3;
/// Frames of the MSR map.
const MSR_FRAMES: usize = 2;

/// The two maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PermissionMaps {
    msr: Hpa,
    io: Hpa,
}

/// Those that hold linear addresses, which must be canonical.
const HOLD_ADDRESSES: [Msr; 5] = [
    Msr::FS_BASE,
    Msr::GS_BASE,
    Msr::KERNEL_GS_BASE,
    Msr::LSTAR,
    Msr::CSTAR,
];

/// Tells whether the CPU refuses addresses that are not canonical in MSRs. All real ones do; emulators may not, and
/// then the monitor checks.
fn cpu_checks_addresses() -> bool {
    const NOT_CANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    // SAFETY: the host never executes SWAPGS, so the register's content is of no consequence to it.
    let accepted = unsafe { wrmsr_if_accepted(Msr::KERNEL_GS_BASE, NOT_CANONICAL) };
    if accepted {
        // SAFETY: zero is what the register held since reset.
        unsafe { crate::cpu::wrmsr(Msr::KERNEL_GS_BASE, 0) };
    }
    !accepted
}

impl PermissionMaps {
    /// Frames in a row that [`Self::new`] needs.
    pub(crate) const FRAMES: u32 = (IO_FRAMES + MSR_FRAMES) as u32;

    /// Makes the maps in [`Self::FRAMES`] frames from `first` on.
    ///
    /// # Safety
    /// The frames are the maps' for good.
    #[must_use]
    pub(crate) unsafe fn new(first: Hfn) -> Self {
        // SAFETY: the caller lends the frames for good; any bytes are valid for the type.
        let all: &mut [u8; (IO_FRAMES + MSR_FRAMES) * 4096] = unsafe { frame_as(first) };
        all.fill(0xff);
        let (_, msr) = all.split_at_mut(IO_FRAMES * 4096);
        for register in PASSED_THROUGH {
            if let Some((byte, shift)) = position(register) {
                let write = if HOLD_ADDRESSES.contains(&register) && !cpu_checks_addresses() {
                    0
                } else {
                    2
                };
                msr[byte] &= !((1 | write) << shift);
            }
        }
        let io = first.start();
        Self {
            msr: Hpa::new_truncate(io.as_u64() + (IO_FRAMES * 4096) as u64),
            io,
        }
    }

    /// Returns the address of the MSR map.
    #[must_use]
    pub(crate) fn msr(&self) -> Hpa {
        self.msr
    }

    /// Returns the address of the I/O map.
    #[must_use]
    pub(crate) fn io(&self) -> Hpa {
        self.io
    }
}

/// Returns byte and bit of an MSR's read bit; its write bit follows. `None` for MSRs that are always intercepted.
fn position(msr: Msr) -> Option<(usize, u32)> {
    let (base, index) = match msr.0 {
        0..0x2000 => (0, msr.0),
        0xc000_0000..0xc000_2000 => (0x800, msr.0 - 0xc000_0000),
        0xc001_0000..0xc001_2000 => (0x1000, msr.0 - 0xc001_0000),
        _ => return None,
    };
    Some((base + index as usize / 4, index % 4 * 2))
}

#[cfg(test)]
mod tests {
    use super::position;
    use spec::msr::Msr;

    #[test]
    fn positions_follow_the_manual() {
        assert_eq!(position(Msr(0)), Some((0, 0)));
        assert_eq!(position(Msr(0x175)), Some((0x5d, 2)));
        assert_eq!(position(Msr::STAR), Some((0x820, 2)));
        assert_eq!(position(Msr(0xc001_0114)), Some((0x1045, 0)));
        assert_eq!(position(Msr(0x4000_0000)), None);
    }
}
