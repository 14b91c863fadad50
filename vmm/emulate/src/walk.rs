//! Translation of guest-linear addresses by the guest's own page tables, in every paging mode.
//!
//! Follows AMD APM vol. 2, chapter 5 and 8.4.2, and Intel SDM vol. 3, chapter 4. Protection keys and shadow stacks are
//! left out: CPUID hides them. Nothing is cached: page tables change without notice.

use crate::environment::{Environment, Unavailable};
use crate::execute::{Config, Exception};
use crate::registers::Registers;
use addr::Gpa;
use api::cpu::{cr0, cr4, efer, rflags};

/// What an access wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Read data.
    Read,
    /// Write data, or read and write.
    Write,
    /// Fetch an instruction.
    Fetch,
}

/// An access to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// What it wants.
    pub intent: Intent,
    /// Made at privilege level 3.
    pub is_user: bool,
    /// Made by the processor for itself (descriptor tables): SMAP ignores RFLAGS.AC.
    pub is_implicit: bool,
}

/// Why a translation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest gets this page fault.
    Fault(Exception),
    /// A page table could not be read now.
    Unavailable,
}

impl From<Unavailable> for WalkError {
    fn from(Unavailable: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// Bits of a page-table entry.
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits 62:52, which PAE paging outside long mode reserves.
const UPPER: u64 = 0x7ff0_0000_0000_0000;
/// Bits 20:13, which a 2 MiB page reserves.
const LARGE_RESERVED: u64 = 0x1f_e000;
/// Bits that an entry of a 1 GiB page reserves.
const HUGE_RESERVED: u64 = 0x3fff_e000;
/// Bits 8:5 and 2:1, which a PAE page-directory pointer reserves.
const PAE_POINTER_RESERVED: u64 = 0x1e6;
/// Page-fault error code.
const FAULT_PRESENT: u32 = 1 << 0;
const FAULT_WRITE: u32 = 1 << 1;
const FAULT_USER: u32 = 1 << 2;
const FAULT_RESERVED: u32 = 1 << 3;
const FAULT_FETCH: u32 = 1 << 4;
/// No paging mode has more levels.
const LEVELS_MAX: usize = 5;
/// How often a walk starts again because another vCPU changed an entry meanwhile.
const RESTARTS_MAX: u32 = 8;

/// Shape of the page tables.
#[derive(Clone, Copy)]
struct Scheme {
    levels: u32,
    /// log2 of the size of an entry: 2 or 3.
    entry_shift: u32,
    /// Address bits that a level translates.
    index_bits: u32,
    root: u64,
    /// PAE paging outside long mode.
    is_pae: bool,
    /// Bits that must be zero in every entry.
    reserved: u64,
}

impl Scheme {
    #[inline]
    fn of(registers: &Registers, config: &Config) -> Self {
        let is_long = registers.is_long();
        if !is_long && registers.cr4 & cr4::PAE == 0 {
            return Self {
                levels: 2,
                entry_shift: 2,
                index_bits: 10,
                root: registers.cr3 & 0xffff_f000,
                is_pae: false,
                reserved: 0,
            };
        }
        let beyond = u64::MAX.wrapping_shl(u32::from(config.phys_bits));
        let mut reserved = ADDRESS & beyond;
        if registers.efer & efer::NXE == 0 {
            reserved |= NO_EXECUTE;
        }
        Self {
            levels: match (is_long, registers.cr4 & cr4::LA57 != 0) {
                (false, _) => 3,
                (true, false) => 4,
                (true, true) => 5,
            },
            entry_shift: 3,
            index_bits: 9,
            root: registers.cr3 & if is_long { ADDRESS } else { 0xffff_ffe0 },
            is_pae: !is_long,
            reserved: if is_long { reserved } else { reserved | UPPER },
        }
    }

    const fn is_narrow(&self) -> bool {
        self.entry_shift == 2
    }

    /// Returns the lowest address bit that `level` (1 is the last) translates.
    const fn shift(&self, level: u32) -> u32 {
        self.index_bits
            .wrapping_mul(level.wrapping_sub(1))
            .wrapping_add(12)
    }

    #[inline]
    fn read<E: Environment>(&self, env: &mut E, address: u64) -> Result<u64, Unavailable> {
        if !self.is_narrow() {
            return env.read_entry(Gpa::new_truncate(address));
        }
        let mut bytes = [0; 4];
        env.read_phys(Gpa::new_truncate(address), &mut bytes)?;
        Ok(u64::from(u32::from_le_bytes(bytes)))
    }

    fn exchange<E: Environment>(
        &self,
        env: &mut E,
        address: u64,
        old: u64,
        new: u64,
    ) -> Result<bool, Unavailable> {
        let len = 1usize << self.entry_shift;
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        let old = old.get(..len).unwrap_or_default();
        let new = new.get(..len).unwrap_or_default();
        env.compare_exchange(Gpa::new_truncate(address), old, new)
    }

    /// Judges an entry above the last level that has the bit of a large page, or is a PAE pointer.
    #[cold]
    fn special(&self, entry: u64, level: u32, registers: &Registers, config: &Config) -> Special {
        let reserved = |bits: u64, otherwise| {
            if entry & bits == 0 {
                otherwise
            } else {
                Special::Reserved
            }
        };
        if self.is_narrow() {
            if registers.cr4 & cr4::PSE == 0 {
                return Special::Table;
            }
            // Bits 20:13 of a 4 MiB page are address bits 39:32; bit 21 is reserved.
            let beyond = u64::MAX.wrapping_shl(u32::from(config.phys_bits));
            let high = beyond >> 32 << 13 & 0x1f_e000;
            let base = entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32;
            return reserved(1 << 21 | high, Special::Page(base));
        }
        match level {
            2 => reserved(LARGE_RESERVED, Special::Page(entry & ADDRESS & !0x1f_ffff)),
            3 if self.is_pae => reserved(PAE_POINTER_RESERVED | NO_EXECUTE, Special::Table),
            3 if config.has_page1gb => {
                reserved(HUGE_RESERVED, Special::Page(entry & ADDRESS & !0x3fff_ffff))
            }
            _ => Special::Reserved,
        }
    }
}

/// What an unusual entry is.
enum Special {
    /// It names a table after all.
    Table,
    /// It maps a large page at this address.
    Page(u64),
    /// It has bits that must be zero.
    Reserved,
}

/// Translates a linear address for an access that does not cross a page. Sets accessed and dirty bits.
///
/// # Errors
/// [`WalkError::Fault`] holds the page fault that the access raises.
#[inline]
pub fn translate<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    linear: u64,
    access: Access,
) -> Result<Gpa, WalkError> {
    if registers.is_long()
        && let Some(gpa) = walk_marked(env, registers, config, linear, access, |_, _| ())?
    {
        return Ok(gpa);
    }
    walk(env, registers, config, linear, access)
}

/// Walks the tables of long mode where nothing is unusual: all entries are present and marked, and allow the access.
///
/// Returns nothing otherwise; then [`walk`] finds out what is the matter. This is the path that counts in an exit's cost.
/// Each entry goes to `note` with its address.
#[inline(never)]
pub(crate) fn walk_marked<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    linear: u64,
    access: Access,
    mut note: impl FnMut(Gpa, u64),
) -> Result<Option<Gpa>, Unavailable> {
    const INDEX_MASK: u64 = 0x1ff;
    if registers.cr0 & cr0::PG == 0 {
        return Ok(None);
    }
    let (mut all, mut any) = (u64::MAX, 0);
    let mut shift: u32 = if registers.cr4 & cr4::LA57 != 0 {
        48
    } else {
        39
    };
    let mut table = registers.cr3 & ADDRESS;
    let entry = loop {
        let address = Gpa::new_truncate(table | (linear.wrapping_shr(shift) & INDEX_MASK) << 3);
        let entry = env.read_entry(address)?;
        note(address, entry);
        if entry & PRESENT == 0 {
            return Ok(None);
        }
        all &= entry;
        any |= entry;
        if shift == 12 {
            break entry;
        }
        if entry & LARGE != 0 {
            match shift {
                21 if entry & LARGE_RESERVED == 0 => break entry,
                30 if config.has_page1gb && entry & HUGE_RESERVED == 0 => break entry,
                _ => return Ok(None),
            }
        }
        table = entry & ADDRESS;
        shift = shift.wrapping_sub(9);
    };
    let mut reserved = ADDRESS & u64::MAX.wrapping_shl(u32::from(config.phys_bits));
    if registers.efer & efer::NXE == 0 {
        reserved |= NO_EXECUTE;
    }
    let is_clean = access.intent == Intent::Write && entry & DIRTY == 0;
    let is_usual = any & reserved == 0 && all & ACCESSED != 0 && !is_clean;
    if !is_usual || !is_allowed(all, any, registers, access) {
        return Ok(None);
    }
    let offset_mask = 1u64.wrapping_shl(shift).wrapping_sub(1);
    let page = entry & ADDRESS & !offset_mask;
    Ok(Some(Gpa::new_truncate(page | linear & offset_mask)))
}

/// Walks the tables of any paging mode.
#[cold]
fn walk<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    linear: u64,
    access: Access,
) -> Result<Gpa, WalkError> {
    if registers.cr0 & cr0::PG == 0 {
        return Ok(Gpa::new_truncate(linear & 0xffff_ffff));
    }
    let scheme = Scheme::of(registers, config);
    for _ in 0..RESTARTS_MAX {
        if let Some(gpa) = walk_once(env, registers, config, &scheme, linear, access)? {
            return Ok(gpa);
        }
    }
    Err(WalkError::Unavailable)
}

/// One entry of a walk.
#[derive(Clone, Copy, Default)]
struct Visited {
    address: u64,
    entry: u64,
}

/// Walks once; nothing when an entry changed before its accessed or dirty bit could be set.
#[inline]
fn walk_once<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    scheme: &Scheme,
    linear: u64,
    access: Access,
) -> Result<Option<Gpa>, WalkError> {
    let index_mask = (1u64 << scheme.index_bits).wrapping_sub(1);
    let mut visited = [Visited::default(); LEVELS_MAX];
    // Rights that all levels grant, and bits that any level has.
    let (mut all, mut any) = (u64::MAX, 0);
    let mut table = scheme.root;
    let mut level = scheme.levels;
    let mut shift = scheme.shift(level);
    let page = loop {
        let address = table | (linear >> shift & index_mask) << scheme.entry_shift;
        let entry = scheme.read(env, address)?;
        if entry & PRESENT == 0 {
            return Err(fault(registers, linear, access, 0));
        }
        if entry & scheme.reserved != 0 {
            let code = FAULT_PRESENT | FAULT_RESERVED;
            return Err(fault(registers, linear, access, code));
        }
        let is_pointer = scheme.is_pae && level == 3;
        // The page-directory pointers of PAE paging have neither rights nor an accessed bit.
        if !is_pointer {
            all &= entry;
            any |= entry;
            if let Some(place) = visited.get_mut(level.wrapping_sub(1) as usize) {
                *place = Visited { address, entry };
            }
        }
        let target = entry & ADDRESS;
        if level == 1 {
            break target;
        }
        if is_pointer || entry & LARGE != 0 {
            match scheme.special(entry, level, registers, config) {
                Special::Table => {}
                Special::Page(page) => break page,
                Special::Reserved => {
                    let code = FAULT_PRESENT | FAULT_RESERVED;
                    return Err(fault(registers, linear, access, code));
                }
            }
        }
        table = target;
        level = level.wrapping_sub(1);
        shift = shift.wrapping_sub(scheme.index_bits);
    };
    if !is_allowed(all, any, registers, access) {
        return Err(fault(registers, linear, access, FAULT_PRESENT));
    }
    let is_write = access.intent == Intent::Write;
    let leaf = visited.get(level.wrapping_sub(1) as usize);
    let is_clean = is_write && leaf.is_some_and(|leaf| leaf.entry & DIRTY == 0);
    if (all & ACCESSED == 0 || is_clean) && !mark(env, scheme, &visited, is_write)? {
        return Ok(None);
    }
    let offset = linear & (1u64 << shift).wrapping_sub(1);
    Ok(Some(Gpa::new_truncate(page | offset)))
}

/// Tells whether entries with the bits `all` in common, and `any` in one at least, allow the access.
#[inline]
fn is_allowed(all: u64, any: u64, registers: &Registers, access: Access) -> bool {
    let is_user_page = all & USER != 0;
    let is_writable = all & WRITABLE != 0;
    if access.intent == Intent::Fetch {
        let smep = registers.cr4 & cr4::SMEP != 0;
        let is_forbidden = if access.is_user {
            !is_user_page
        } else {
            smep && is_user_page
        };
        return !is_forbidden && any & NO_EXECUTE == 0;
    }
    let is_write = access.intent == Intent::Write;
    if access.is_user {
        return is_user_page && (is_writable || !is_write);
    }
    let smap = registers.cr4 & cr4::SMAP != 0;
    let is_overridden = registers.rflags & rflags::AC != 0 && !access.is_implicit;
    let is_kept_out = is_user_page && smap && !is_overridden;
    let write_protect = registers.cr0 & cr0::WP != 0;
    !is_kept_out && (is_writable || !is_write || !write_protect)
}

/// Sets the accessed bits, from the root down, and the dirty bit of the last entry for a write; tells whether no entry
/// changed meanwhile.
#[cold]
fn mark<E: Environment>(
    env: &mut E,
    scheme: &Scheme,
    visited: &[Visited; LEVELS_MAX],
    is_write: bool,
) -> Result<bool, Unavailable> {
    let last = visited.iter().position(|v| v.entry != 0);
    for (index, v) in visited.iter().enumerate().rev() {
        if v.entry == 0 {
            continue;
        }
        let mut marked = v.entry | ACCESSED;
        if is_write && Some(index) == last {
            marked |= DIRTY;
        }
        if marked != v.entry && !scheme.exchange(env, v.address, v.entry, marked)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cold]
fn fault(registers: &Registers, linear: u64, access: Access, code: u32) -> WalkError {
    let mut code = code;
    if access.intent == Intent::Write {
        code |= FAULT_WRITE;
    }
    if access.is_user {
        code |= FAULT_USER;
    }
    let has_nx = registers.efer & efer::NXE != 0 && registers.cr4 & cr4::PAE != 0;
    let tells_fetch = has_nx || registers.cr4 & cr4::SMEP != 0;
    if access.intent == Intent::Fetch && tells_fetch {
        code |= FAULT_FETCH;
    }
    WalkError::Fault(Exception::page_fault(linear, code))
}
