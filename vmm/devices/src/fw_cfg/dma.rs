//! The DMA interface of fw_cfg: one control structure in guest memory per transfer.

use crate::fw_cfg::{FwCfg, zeroes};
use addr::Gpa;
use api::device::Cx;

/// Bytes of the control structure: control, length, address, all big-endian.
const STRUCTURE_LEN: usize = 16;
const CONTROL_ERROR: u32 = 1 << 0;
const CONTROL_READ: u32 = 1 << 1;
const CONTROL_SKIP: u32 = 1 << 2;
const CONTROL_SELECT: u32 = 1 << 3;
const CONTROL_WRITE: u32 = 1 << 4;

/// A read past the end of an item yields zeroes up to this many bytes; more is refused with the error bit, so that no
/// transfer keeps the host busier than the item is long.
const ZERO_FILL_MAX: u32 = 1 << 16;

impl FwCfg {
    /// Carries out the transfer that the structure at `address` describes, and reports in its control field: 0, or the
    /// error bit. A structure outside of RAM is not reported anywhere.
    pub(super) fn transfer(&mut self, address: u64, cx: &mut Cx<'_>) {
        let mut structure = [0; STRUCTURE_LEN];
        let Some(gpa) = Gpa::new(address) else {
            return;
        };
        if cx.memory.read(gpa, &mut structure).is_err() {
            return;
        }
        let [c0, c1, c2, c3, l0, l1, l2, l3, target @ ..] = structure;
        let control = u32::from_be_bytes([c0, c1, c2, c3]);
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        let target = u64::from_be_bytes(target);
        let done = self.execute(control, length, target, cx);
        let result = if done.is_some() { 0 } else { CONTROL_ERROR };
        // The structure was readable; if it is not writable the guest has nowhere to look for an error.
        let _ = cx.memory.write(gpa, &result.to_be_bytes());
    }

    fn execute(&mut self, control: u32, length: u32, target: u64, cx: &Cx<'_>) -> Option<()> {
        if control & CONTROL_SELECT != 0 {
            let [_, _, low, high] = control.to_le_bytes();
            self.select(u16::from_le_bytes([low, high]));
        }
        if control & CONTROL_READ != 0 {
            self.copy_out(length, Gpa::new(target)?, cx)?;
        } else if control & CONTROL_WRITE != 0 {
            return None;
        } else if control & CONTROL_SKIP == 0 {
            return Some(());
        }
        self.offset = self.offset.saturating_add(length);
        Some(())
    }

    fn copy_out(&self, length: u32, target: Gpa, cx: &Cx<'_>) -> Option<()> {
        let data = self.item(self.selected).unwrap_or(&[]);
        let offset = usize::try_from(self.offset).ok()?;
        let rest = data.get(offset..).unwrap_or(&[]);
        let length = usize::try_from(length).ok()?;
        let (copied, missing) = match rest.get(..length) {
            Some(copied) => (copied, 0),
            None => (rest, length.saturating_sub(rest.len())),
        };
        if missing > usize::try_from(ZERO_FILL_MAX).ok()? {
            return None;
        }
        cx.memory.write(target, copied).ok()?;
        if missing > 0 {
            let after = target.checked_add(u64::try_from(copied.len()).ok()?)?;
            cx.memory.write(after, &zeroes(missing)).ok()?;
        }
        Some(())
    }
}
