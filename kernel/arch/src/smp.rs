//! Starting the application processors, one at a time.

use crate::apic;
use crate::paging::KernelSpace;
use crate::physmem::{FrameSource, direct};
use crate::time::Clock;
use addr::Hpa;
use boot::trampoline::{self, PARAMETERS_OFFSET, Parameters};

/// Most time that a CPU gets to report after its start-up IPI.
const START_NANOS_MAX: u64 = 200_000_000;

/// Prepared trampoline.
#[derive(Debug)]
pub struct Starter {
    cr3: Hpa,
}

impl Starter {
    /// Copies the trampoline to its page and makes its tables. `None` when no table frame below 4 GiB is left.
    ///
    /// # Safety
    /// The page at [`trampoline::ADDRESS`] is RAM that nothing else uses.
    pub unsafe fn prepare(space: &KernelSpace, frames: &mut impl FrameSource) -> Option<Self> {
        let cr3 = space.trampoline_tables(frames, trampoline::ADDRESS)?;
        let code = trampoline::code();
        let page = Hpa::new_truncate(trampoline::ADDRESS);
        assert!(
            code.len() <= PARAMETERS_OFFSET,
            "the trampoline has outgrown its page"
        );
        // SAFETY: the caller lends the page; the code is shorter than it.
        unsafe { crate::physmem::write(page, code) };
        Some(Self { cr3 })
    }

    /// Starts the CPU with `apic_id` on `stack_top` in `entry(argument)`; true when `started` turned true in time.
    pub fn start(
        &self,
        apic_id: u32,
        stack_top: u64,
        entry: extern "C" fn(u64) -> !,
        argument: u64,
        clock: &Clock,
        started: impl Fn() -> bool,
    ) -> bool {
        let parameters = Parameters {
            cr3: self.cr3.as_u64(),
            stack_top,
            entry: entry as usize as u64,
            argument,
        };
        let at = direct(Hpa::new_truncate(
            trampoline::ADDRESS + PARAMETERS_OFFSET as u64,
        ))
        .cast::<Parameters>();
        // SAFETY: the page belongs to the starter since `prepare`; the offset is aligned and inside it; the CPU that
        // read the last parameters has reported already.
        unsafe { at.write_volatile(parameters) };
        apic::start_cpu(apic_id, (trampoline::ADDRESS >> 12) as u8, clock);
        for _ in 0..START_NANOS_MAX / 100_000 {
            if started() {
                return true;
            }
            clock.spin_nanos(100_000);
        }
        started()
    }
}
