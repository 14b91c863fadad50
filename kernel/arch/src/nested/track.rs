//! Which pages a guest writes: the right to write, or the dirty bit where the CPU logs pages by it, is taken from pages
//! and given back one page of 4 KiB at a time. Who writes between two looks is for the caller to keep.
//!
//! Entries are changed in one step, because the CPU sets accessed and dirty bits in them meanwhile.

use super::{Format, NestedTable, address, entry, is_page, new_table};
use crate::physmem::FrameSource;
use addr::{Gpa, Hfn, Hpa};
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use spec::vmx::EptEntry;
use spec::x86::Pte;

/// In a page: it may be written when it is not tracked. In a table: it was one large page. Free for software in both
/// formats (APM vol. 2, 5.3.1; SDM vol. 3, 29.3.2).
const TRACKED: u64 = 1 << 55;

/// How the first write of a page is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// It faults.
    Faults,
    /// The CPU logs its address as it sets the page's dirty bit. Large pages fault, to be split.
    Log,
}

impl Format {
    const fn write(self) -> u64 {
        match self {
            Self::Npt => Pte::W.bits(),
            Self::Ept => EptEntry::WRITE.bits(),
        }
    }

    const fn dirty(self) -> u64 {
        match self {
            Self::Npt => Pte::D.bits(),
            Self::Ept => EptEntry::DIRTY.bits(),
        }
    }

    const fn accessed(self) -> u64 {
        match self {
            Self::Npt => Pte::A.bits(),
            Self::Ept => EptEntry::ACCESSED.bits(),
        }
    }

    /// Returns the entry of a page as it is when its next write shall be noticed.
    const fn tracked(self, value: u64, level: u32, by: Tracking) -> u64 {
        if value & self.write() == 0 {
            return value;
        }
        match by {
            Tracking::Log if level == 0 => value & !self.dirty(),
            _ => value & !self.write() | TRACKED,
        }
    }

    /// Returns the entry of a page as it is when writes need not be noticed.
    const fn untracked(self, value: u64) -> u64 {
        if value & TRACKED == 0 {
            return value;
        }
        value & !TRACKED | self.write()
    }
}

impl NestedTable {
    /// Makes the next write of each page noticeable. It is when all translations were dropped.
    pub fn track(&mut self, by: Tracking) {
        let format = self.format;
        each_page(format, self.root, 3, &mut |entry, level| {
            update(entry, |value| format.tracked(value, level, by));
        });
    }

    /// Makes the next write of the page around `gpa` noticeable again.
    pub fn track_page(&mut self, gpa: Gpa, by: Tracking) {
        if let Some((entry, level)) = self.leaf(gpa) {
            update(entry, |value| self.format.tracked(value, level, by));
        }
    }

    /// Lets the guest write the 4 KiB around `gpa`, of a page that is tracked; a larger page is split. Returns what it may
    /// write from now on without being noticed, in bytes: more than 4 KiB when no frame was left for that; nothing where
    /// the CPU logs the write.
    pub fn allow_write(
        &mut self,
        gpa: Gpa,
        by: Tracking,
        frames: &mut impl FrameSource,
    ) -> Range<u64> {
        loop {
            let Some((entry, level)) = self.leaf(gpa) else {
                return 0..0;
            };
            if level == 0 && by == Tracking::Log {
                update(entry, |value| {
                    self.format.untracked(value) & !self.format.dirty()
                });
                return 0..0;
            }
            if level == 0 || !split(self.format, entry, level, by, frames) {
                update(entry, |value| self.format.untracked(value));
                let size = 1_u64 << (12 + 9 * level);
                let start = gpa.as_u64() & !(size - 1);
                return start..start + size;
            }
        }
    }

    /// Ends tracking: pages may be written as before, and those that were split are joined again. Returns the frames of
    /// tables that nobody walks once all translations were dropped; the caller gives them back then.
    #[must_use]
    pub fn untrack(&mut self) -> Vec<Hfn> {
        let format = self.format;
        each_page(format, self.root, 3, &mut |entry, _| {
            update(entry, |value| format.untracked(value));
        });
        let mut gone = Vec::new();
        join(format, self.root, 3, &mut gone);
        gone
    }

    /// Finds the entry of the page around `gpa`, and its level.
    fn leaf(&self, gpa: Gpa) -> Option<(&'static AtomicU64, u32)> {
        let mut frame = self.root;
        for level in (0..4).rev() {
            let entry = entry(frame, gpa, level);
            let value = entry.load(Ordering::Acquire);
            if value & self.format.present() == 0 {
                return None;
            }
            if level == 0 || is_page(value) {
                return Some((entry, level));
            }
            frame = table_of(value);
        }
        None
    }
}

fn table_of(value: u64) -> Hfn {
    Hpa::new_truncate(address(value)).frame()
}

fn update(entry: &AtomicU64, change: impl Fn(u64) -> u64) {
    // A change is always given.
    let _ = entry.fetch_update(Ordering::AcqRel, Ordering::Acquire, |v| Some(change(v)));
}

/// Calls `body` with the entry of each page and its level.
fn each_page(format: Format, frame: Hfn, level: u32, body: &mut dyn FnMut(&AtomicU64, u32)) {
    for_entries(frame, level, |entry, value| {
        if value & format.present() == 0 {
            return;
        }
        if level == 0 || is_page(value) {
            body(entry, level);
        } else {
            each_page(format, table_of(value), level - 1, body);
        }
    });
}

fn for_entries(frame: Hfn, level: u32, mut body: impl FnMut(&AtomicU64, u64)) {
    for index in 0..512_u64 {
        let entry = entry(frame, Gpa::new_truncate(index << (12 + 9 * level)), level);
        body(entry, entry.load(Ordering::Acquire));
    }
}

/// Puts a table of tracked pages in the place of a tracked larger page; false without a frame for it.
fn split(
    format: Format,
    place: &AtomicU64,
    level: u32,
    by: Tracking,
    frames: &mut impl FrameSource,
) -> bool {
    let Some(table) = new_table(frames) else {
        return false;
    };
    let value = format.untracked(place.load(Ordering::Acquire));
    let below = level - 1;
    let page = if below == 0 {
        value & !Pte::PS.bits()
    } else {
        value
    };
    let mut at = 0;
    for_entries(table, below, |entry, _| {
        entry.store(format.tracked(page + at, below, by), Ordering::Relaxed);
        at += 1 << (12 + 9 * below);
    });
    place.store(format.table(table.start()) | TRACKED, Ordering::Release);
    true
}

/// Makes large pages again of the tables that were; the frames of those go to `gone`.
fn join(format: Format, frame: Hfn, level: u32, gone: &mut Vec<Hfn>) {
    for_entries(frame, level, |place, value| {
        if level == 0 || value & format.present() == 0 || is_page(value) {
            return;
        }
        let table = table_of(value);
        join(format, table, level - 1, gone);
        if value & TRACKED == 0 {
            return;
        }
        if let Some(page) = whole(format, table, level - 1) {
            place.store(page | Pte::PS.bits(), Ordering::Release);
            gone.push(table);
        } else {
            place.fetch_and(!TRACKED, Ordering::AcqRel);
        }
    });
}

/// Returns the first entry of a table whose pages lie behind each other, all alike; `None` of any other.
fn whole(format: Format, table: Hfn, level: u32) -> Option<u64> {
    let seen = !(format.dirty() | format.accessed());
    let first = entry(table, Gpa::new_truncate(0), level).load(Ordering::Acquire);
    let mut expected = first & seen;
    let mut used = 0;
    let mut fits = level == 0 || is_page(first);
    for_entries(table, level, |_, value| {
        fits &= value & seen == expected;
        used |= value & !seen;
        expected += 1 << (12 + 9 * level);
    });
    fits.then_some(first | used)
}

#[cfg(test)]
mod tests;
