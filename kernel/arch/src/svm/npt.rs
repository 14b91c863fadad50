//! Nested page tables: guest-physical to host-physical, 4 KiB, 2 MiB and 1 GiB, with write and execute permission
//! (APM vol. 2, 15.25). The tables are walked by hardware while they change, so each entry is written whole.

use crate::physmem::{FrameSource, direct, zero_frame};
use addr::{Gpa, Hfn, Hpa};
use core::sync::atomic::{AtomicU64, Ordering};
use spec::x86::Pte;

/// Size of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
    /// 1 GiB.
    Huge,
}

impl PageSize {
    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        1 << (12 + 9 * self.level())
    }

    const fn level(self) -> u32 {
        match self {
            Self::Small => 0,
            Self::Large => 1,
            Self::Huge => 2,
        }
    }
}

/// What the guest may do with a page besides reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self {
        write: true,
        execute: true,
    };

    fn flags(self) -> Pte {
        let mut flags = Pte::P | Pte::U | Pte::A;
        flags.set(Pte::W | Pte::D, self.write);
        flags.set(Pte::NX, !self.execute);
        flags
    }
}

/// A mapping that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Host address of the very byte that was asked for.
    pub hpa: Hpa,
    /// Bytes from there to the end of the page.
    pub remaining: u64,
    /// What is allowed.
    pub access: Access,
}

/// Read access to a nested table without its owner's lock: entries are read as atomics, and the tables above a mapping
/// stay while the owner exists.
#[derive(Clone, Copy, Debug)]
pub struct NestedView {
    root: Hfn,
}

/// The nested tables of one VM.
#[derive(Debug)]
pub struct NestedTable {
    root: Hfn,
}

impl NestedTable {
    /// Makes an empty table; `None` without a free frame.
    pub fn new(frames: &mut impl FrameSource) -> Option<Self> {
        Some(Self {
            root: new_table(frames)?,
        })
    }

    /// Returns the root's address, for the VMCB.
    #[must_use]
    pub fn root(&self) -> Hpa {
        self.root.start()
    }

    /// Maps the page of `size` at `gpa` to `hpa`; both are multiples of the size. False without a frame for a table.
    ///
    /// # Panics
    /// When anything is mapped there already, see [`NestedView::is_vacant`]: the guest would lose what it has written.
    #[must_use]
    pub fn map(
        &mut self,
        gpa: Gpa,
        hpa: Hpa,
        size: PageSize,
        access: Access,
        frames: &mut impl FrameSource,
    ) -> bool {
        assert!(
            gpa.is_aligned(size.bytes()) && hpa.is_aligned(size.bytes()),
            "nested mapping is not aligned"
        );
        let mut frame = self.root;
        for upper in (size.level() + 1..4).rev() {
            let entry = entry(frame, gpa, upper);
            let mut value = Pte::from_bits_retain(entry.load(Ordering::Acquire));
            if !value.contains(Pte::P) {
                let Some(new) = new_table(frames) else {
                    return false;
                };
                value = Pte::to(new.start().as_u64(), Pte::P | Pte::W | Pte::U | Pte::A);
                entry.store(value.bits(), Ordering::Release);
            }
            assert!(
                !value.contains(Pte::PS),
                "a nested mapping inside a larger one"
            );
            frame = Hpa::new_truncate(value.address()).frame();
        }
        let large = if size == PageSize::Small {
            Pte::empty()
        } else {
            Pte::PS
        };
        let value = Pte::to(hpa.as_u64(), access.flags() | large);
        let entry = entry(frame, gpa, size.level());
        assert!(
            entry.load(Ordering::Acquire) & Pte::P.bits() == 0,
            "a nested mapping over another one"
        );
        entry.store(value.bits(), Ordering::Release);
        true
    }

    /// Returns a view for look-ups; it must not be used once the table is dismantled.
    #[must_use]
    pub fn view(&self) -> NestedView {
        NestedView { root: self.root }
    }

    /// Takes the page that maps `gpa` out of the table; returns its first host frame and size. The caller flushes.
    pub fn unmap(&mut self, gpa: Gpa) -> Option<(Hfn, PageSize)> {
        let mut frame = self.root;
        for size in [
            None,
            Some(PageSize::Huge),
            Some(PageSize::Large),
            Some(PageSize::Small),
        ] {
            let level = size.map_or(3, PageSize::level);
            let entry = entry(frame, gpa, level);
            let value = Pte::from_bits_retain(entry.load(Ordering::Acquire));
            if !value.contains(Pte::P) {
                return None;
            }
            let next = Hpa::new_truncate(value.address()).frame();
            if let Some(size) = size.filter(|s| *s == PageSize::Small || value.contains(Pte::PS)) {
                entry.store(0, Ordering::Release);
                return Some((next, size));
            }
            frame = next;
        }
        None
    }

    /// Gives back all tables, and calls `leaf` with each mapped page's first frame and size. Nothing may run on the
    /// table any more.
    pub fn dismantle(self, frames: &mut impl FrameSource, leaf: &mut dyn FnMut(Hfn, PageSize)) {
        free_level(self.root, 3, frames, leaf);
    }
}

impl NestedView {
    /// Tells whether nothing is mapped in the page of `size` around `gpa`, not even a smaller page.
    #[must_use]
    pub fn is_vacant(&self, gpa: Gpa, size: PageSize) -> bool {
        let mut frame = self.root;
        for level in (size.level()..4).rev() {
            let value = Pte::from_bits_retain(entry(frame, gpa, level).load(Ordering::Acquire));
            if !value.contains(Pte::P) {
                return true;
            }
            if value.contains(Pte::PS) {
                return false;
            }
            frame = Hpa::new_truncate(value.address()).frame();
        }
        false
    }

    /// Finds the mapping of `gpa`.
    #[must_use]
    pub fn lookup(&self, gpa: Gpa) -> Option<Mapping> {
        let mut frame = self.root;
        if gpa.as_u64() >> 48 != 0 {
            return None;
        }
        for level in (0..4).rev() {
            let value = Pte::from_bits_retain(entry(frame, gpa, level).load(Ordering::Acquire));
            if !value.contains(Pte::P) {
                return None;
            }
            if level == 0 || value.contains(Pte::PS) {
                let size = 1_u64 << (12 + 9 * level);
                let offset = gpa.as_u64() & (size - 1);
                let hpa = Hpa::new_truncate((value.address() & !(size - 1)) + offset);
                let access = Access {
                    write: value.contains(Pte::W),
                    execute: !value.contains(Pte::NX),
                };
                return Some(Mapping {
                    hpa,
                    remaining: size - offset,
                    access,
                });
            }
            frame = Hpa::new_truncate(value.address()).frame();
        }
        None
    }
}

fn free_level(
    frame: Hfn,
    level: u32,
    frames: &mut impl FrameSource,
    leaf: &mut dyn FnMut(Hfn, PageSize),
) {
    for index in 0..512_u64 {
        let gpa = Gpa::new_truncate(index << (12 + 9 * level));
        let value = Pte::from_bits_retain(entry(frame, gpa, level).load(Ordering::Acquire));
        if !value.contains(Pte::P) {
            continue;
        }
        let next = Hpa::new_truncate(value.address()).frame();
        match level {
            0 => leaf(next, PageSize::Small),
            1 if value.contains(Pte::PS) => leaf(next, PageSize::Large),
            2 if value.contains(Pte::PS) => leaf(next, PageSize::Huge),
            _ => free_level(next, level - 1, frames, leaf),
        }
    }
    frames.free(frame);
}

fn new_table(frames: &mut impl FrameSource) -> Option<Hfn> {
    let frame = frames.alloc()?;
    // SAFETY: the frame was just given to us alone.
    unsafe { zero_frame(frame) };
    Some(frame)
}

fn entry(table: Hfn, gpa: Gpa, level: u32) -> &'static AtomicU64 {
    let index = gpa.as_u64() >> (12 + 9 * level) & 511;
    let at = direct(table.start()).cast::<AtomicU64>();
    // SAFETY: `table` is a frame of 512 entries that `new_table` zeroed; the index is below 512.
    let at = unsafe { at.add(index as usize) };
    // SAFETY: the entry lives in a frame that is a table until `dismantle` consumed the whole; it is only touched as
    // an atomic, by us and by the CPU's walker.
    unsafe { &*at }
}

#[cfg(test)]
mod tests;
