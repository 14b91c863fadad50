//! Nested page tables: guest-physical to host-physical, 4 KiB, 2 MiB and 1 GiB, with permissions. The tables are walked by
//! hardware while they change, so each entry is written whole.
//!
//! AMD's (APM vol. 2, 15.25) and Intel's (SDM vol. 3, 29.3) differ in the bits of an entry only: [`Format`].

mod track;

pub use track::Tracking;

use crate::physmem::{FrameSource, direct, zero_frame};
use addr::{Gpa, Hfn, Hpa};
use core::sync::atomic::{AtomicU64, Ordering};
use spec::vmx::EptEntry;
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

/// How entries are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SVM's nested page tables: those of long mode, walked as user.
    Npt,
    /// VMX's extended page tables.
    Ept,
}

/// What the guest may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Reads. Without them, only extended page tables of CPUs that say so can allow anything (execute-only).
    pub read: bool,
    /// Writes.
    pub write: bool,
    /// Instruction fetches.
    pub execute: bool,
}

impl Access {
    /// Everything.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        execute: true,
    };
}

impl Format {
    /// Bits of an entry that make it present: P, or any of read, write and execute.
    const fn present(self) -> u64 {
        match self {
            Self::Npt => Pte::P.bits(),
            Self::Ept => EptEntry::ALL.bits(),
        }
    }

    /// Makes the entry of a page: ordinary memory, write-back.
    fn page(self, hpa: Hpa, size: PageSize, access: Access) -> u64 {
        let is_large = size != PageSize::Small;
        match self {
            Self::Npt => {
                let mut flags = Pte::U | Pte::A;
                flags.set(Pte::P, access.read);
                flags.set(Pte::W | Pte::D, access.write);
                flags.set(Pte::NX, !access.execute);
                flags.set(Pte::PS, is_large);
                Pte::to(hpa.as_u64(), flags).bits()
            }
            Self::Ept => {
                let mut flags = EptEntry::WRITE_BACK;
                flags.set(EptEntry::READ, access.read);
                flags.set(EptEntry::WRITE, access.write);
                flags.set(EptEntry::EXECUTE, access.execute);
                flags.set(EptEntry::PAGE, is_large);
                hpa.as_u64() | flags.bits()
            }
        }
    }

    /// Makes the entry of a lower table.
    fn table(self, hpa: Hpa) -> u64 {
        match self {
            Self::Npt => Pte::to(hpa.as_u64(), Pte::P | Pte::W | Pte::U | Pte::A).bits(),
            Self::Ept => hpa.as_u64() | EptEntry::ALL.bits(),
        }
    }

    fn access(self, entry: u64) -> Access {
        match self {
            Self::Npt => Access {
                read: true,
                write: entry & Pte::W.bits() != 0,
                execute: entry & Pte::NX.bits() == 0,
            },
            Self::Ept => {
                let flags = EptEntry::from_bits_retain(entry);
                Access {
                    read: flags.contains(EptEntry::READ),
                    write: flags.contains(EptEntry::WRITE),
                    execute: flags.contains(EptEntry::EXECUTE),
                }
            }
        }
    }
}

/// Both formats have the page bit and the address at the same place.
const _: () = assert!(Pte::PS.bits() == EptEntry::PAGE.bits());

fn is_page(entry: u64) -> bool {
    entry & Pte::PS.bits() != 0
}

fn address(entry: u64) -> u64 {
    entry & Pte::ADDRESS
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
    format: Format,
}

/// The nested tables of one VM.
#[derive(Debug)]
pub struct NestedTable {
    root: Hfn,
    format: Format,
}

impl NestedTable {
    /// Makes an empty table; `None` without a free frame.
    pub fn new(format: Format, frames: &mut impl FrameSource) -> Option<Self> {
        Some(Self {
            root: new_table(frames)?,
            format,
        })
    }

    /// Returns the root's address, for the control block.
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
            let mut value = entry.load(Ordering::Acquire);
            if value & self.format.present() == 0 {
                let Some(new) = new_table(frames) else {
                    return false;
                };
                value = self.format.table(new.start());
                entry.store(value, Ordering::Release);
            }
            assert!(!is_page(value), "a nested mapping inside a larger one");
            frame = Hpa::new_truncate(address(value)).frame();
        }
        let entry = entry(frame, gpa, size.level());
        assert!(
            entry.load(Ordering::Acquire) & self.format.present() == 0,
            "a nested mapping over another one"
        );
        entry.store(self.format.page(hpa, size, access), Ordering::Release);
        true
    }

    /// Returns a view for look-ups; it must not be used once the table is dismantled.
    #[must_use]
    pub fn view(&self) -> NestedView {
        NestedView {
            root: self.root,
            format: self.format,
        }
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
            let value = entry.load(Ordering::Acquire);
            if value & self.format.present() == 0 {
                return None;
            }
            let next = Hpa::new_truncate(address(value)).frame();
            if let Some(size) = size.filter(|s| *s == PageSize::Small || is_page(value)) {
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
        free_level(self.format, self.root, 3, frames, leaf);
    }
}

impl NestedView {
    /// Tells whether nothing is mapped in the page of `size` around `gpa`, not even a smaller page.
    #[must_use]
    pub fn is_vacant(&self, gpa: Gpa, size: PageSize) -> bool {
        let mut frame = self.root;
        for level in (size.level()..4).rev() {
            let value = entry(frame, gpa, level).load(Ordering::Acquire);
            if value & self.format.present() == 0 {
                return true;
            }
            if is_page(value) {
                return false;
            }
            frame = Hpa::new_truncate(address(value)).frame();
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
            let value = entry(frame, gpa, level).load(Ordering::Acquire);
            if value & self.format.present() == 0 {
                return None;
            }
            if level == 0 || is_page(value) {
                let size = 1_u64 << (12 + 9 * level);
                let offset = gpa.as_u64() & (size - 1);
                let hpa = Hpa::new_truncate((address(value) & !(size - 1)) + offset);
                return Some(Mapping {
                    hpa,
                    remaining: size - offset,
                    access: self.format.access(value),
                });
            }
            frame = Hpa::new_truncate(address(value)).frame();
        }
        None
    }
}

fn free_level(
    format: Format,
    frame: Hfn,
    level: u32,
    frames: &mut impl FrameSource,
    leaf: &mut dyn FnMut(Hfn, PageSize),
) {
    for index in 0..512_u64 {
        let gpa = Gpa::new_truncate(index << (12 + 9 * level));
        let value = entry(frame, gpa, level).load(Ordering::Acquire);
        if value & format.present() == 0 {
            continue;
        }
        let next = Hpa::new_truncate(address(value)).frame();
        match level {
            0 => leaf(next, PageSize::Small),
            1 if is_page(value) => leaf(next, PageSize::Large),
            2 if is_page(value) => leaf(next, PageSize::Huge),
            _ => free_level(format, next, level - 1, frames, leaf),
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
