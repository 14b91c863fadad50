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
}

impl Scheme {
    fn of(registers: &Registers) -> Self {
        let (levels, root_mask, is_pae) = if registers.is_long() {
            let levels = if registers.cr4 & cr4::LA57 != 0 { 5 } else { 4 };
            (levels, ADDRESS, false)
        } else if registers.cr4 & cr4::PAE != 0 {
            (3, 0xffff_ffe0, true)
        } else {
            return Self {
                levels: 2,
                entry_shift: 2,
                index_bits: 10,
                root: registers.cr3 & 0xffff_f000,
                is_pae: false,
            };
        };
        Self {
            levels,
            entry_shift: 3,
            index_bits: 9,
            root: registers.cr3 & root_mask,
            is_pae,
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

    const fn entry_address(&self, table: u64, level: u32, linear: u64) -> u64 {
        let index = linear >> self.shift(level) & (1u64 << self.index_bits).wrapping_sub(1);
        table.wrapping_add(index << self.entry_shift)
    }

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

    /// Tells whether `entry` maps a large page at `level`.
    fn is_large(&self, entry: u64, level: u32, registers: &Registers) -> bool {
        if entry & LARGE == 0 {
            return false;
        }
        match level {
            2 => !self.is_narrow() || registers.cr4 & cr4::PSE != 0,
            3 => !self.is_pae,
            _ => false,
        }
    }

    /// Returns the bits that must be zero in `entry`.
    fn reserved(&self, entry: u64, level: u32, registers: &Registers, config: &Config) -> u64 {
        let is_large = self.is_large(entry, level, registers);
        let above = u64::MAX
            .checked_shl(u32::from(config.phys_bits))
            .unwrap_or(0);
        if self.is_narrow() {
            // Bits 20:13 of a 4 MiB page are address bits 39:32.
            let high = above >> 32 << 13 & 0x1f_e000;
            return if is_large { 1 << 21 | high } else { 0 };
        }
        let mut reserved = ADDRESS & above;
        if registers.efer & efer::NXE == 0 {
            reserved |= NO_EXECUTE;
        }
        if self.is_pae {
            reserved |= UPPER;
            if level == 3 {
                return reserved | PAE_POINTER_RESERVED | NO_EXECUTE;
            }
        }
        match level {
            2 if is_large => reserved | 0x1f_e000,
            3 if is_large && config.has_page1gb => reserved | 0x3fff_e000,
            3.. => reserved | LARGE,
            _ => reserved,
        }
    }

    /// Returns the address of the page or table that `entry` names.
    fn target(&self, entry: u64, level: u32, is_leaf: bool) -> u64 {
        if self.is_narrow() {
            return if is_leaf && level == 2 {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & 0xffff_f000
            };
        }
        let page = (1u64 << self.shift(level)).wrapping_sub(1);
        if is_leaf {
            entry & ADDRESS & !page
        } else {
            entry & ADDRESS
        }
    }
}

/// Translates a linear address for an access that does not cross a page. Sets accessed and dirty bits.
///
/// # Errors
/// [`WalkError::Fault`] holds the page fault that the access raises.
pub fn translate<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    linear: u64,
    access: Access,
) -> Result<Gpa, WalkError> {
    if registers.cr0 & cr0::PG == 0 {
        return Ok(Gpa::new_truncate(linear & 0xffff_ffff));
    }
    if let Some(gpa) = walk_plain(env, registers, config, linear, access)? {
        return Ok(gpa);
    }
    let scheme = Scheme::of(registers);
    for _ in 0..RESTARTS_MAX {
        if let Some(gpa) = walk_once(env, registers, config, &scheme, linear, access)? {
            return Ok(gpa);
        }
    }
    Err(WalkError::Unavailable)
}

/// The common walk in few instructions: four levels of long mode, all entries accessed already, nothing reserved set,
/// the access allowed. Nothing for every other case, a fault included: the exact walk then finds out.
#[inline]
fn walk_plain<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    linear: u64,
    access: Access,
) -> Result<Option<Gpa>, Unavailable> {
    const NEEDED: u64 = PRESENT | ACCESSED;
    /// Bits that a large page reserves below its own address: all of a 1 GiB page's, but PAT at bit 12.
    const LARGE_RESERVED: u64 = 0x1f_e000;
    if !registers.is_long() || registers.cr4 & cr4::LA57 != 0 {
        return Ok(None);
    }
    let mut entry = registers.cr3;
    let (mut all, mut any) = (u64::MAX, 0);
    for shift in [39, 30, 21, 12] {
        let index = linear.wrapping_shr(shift) & 0x1ff;
        entry = env.read_entry(Gpa::new_truncate(entry & ADDRESS | index << 3))?;
        all &= entry;
        any |= entry;
        if entry & NEEDED != NEEDED || (shift == 39 && entry & LARGE != 0) {
            return Ok(None);
        }
        let is_large = entry & LARGE != 0 && shift != 12;
        if is_large && (entry & LARGE_RESERVED != 0 || (shift == 30 && !config.has_page1gb)) {
            return Ok(None);
        }
        if is_large || shift == 12 {
            let page = 1u64.wrapping_shl(shift).wrapping_sub(1);
            let above = ADDRESS & u64::MAX.wrapping_shl(config.phys_bits.into());
            let rights = Rights {
                writable: all & WRITABLE != 0,
                user: all & USER != 0,
                no_execute: any & NO_EXECUTE != 0,
            };
            let no_nx = any & NO_EXECUTE == 0 || registers.efer & efer::NXE != 0;
            let aligned = entry & page & ADDRESS == 0;
            let clean = access.intent != Intent::Write || entry & DIRTY != 0;
            let plain = any & above == 0 && no_nx && aligned && clean;
            let gpa = Gpa::new_truncate(entry & ADDRESS & !page | linear & page);
            return Ok((plain && rights.allow(registers, access)).then_some(gpa));
        }
    }
    Ok(None)
}

/// Rights that all levels of a walk grant together.
struct Rights {
    writable: bool,
    user: bool,
    no_execute: bool,
}

/// Walks once; nothing when an entry changed before its accessed or dirty bit could be set.
fn walk_once<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    scheme: &Scheme,
    linear: u64,
    access: Access,
) -> Result<Option<Gpa>, WalkError> {
    let fault = |code| fault(registers, linear, access, code);
    let mut visited = [(0u64, 0u64); LEVELS_MAX];
    let mut places = visited.iter_mut();
    let mut rights = Rights {
        writable: true,
        user: true,
        no_execute: false,
    };
    let mut table = scheme.root;
    let mut level = scheme.levels;
    let (page, offset_bits) = loop {
        let address = scheme.entry_address(table, level, linear);
        let entry = scheme.read(env, address)?;
        if entry & PRESENT == 0 {
            return Err(fault(0));
        }
        if entry & scheme.reserved(entry, level, registers, config) != 0 {
            return Err(fault(FAULT_PRESENT | FAULT_RESERVED));
        }
        let is_leaf = level == 1 || scheme.is_large(entry, level, registers);
        // The page-directory pointers of PAE paging have neither rights nor an accessed bit.
        if !(scheme.is_pae && level == 3) {
            rights.writable &= entry & WRITABLE != 0;
            rights.user &= entry & USER != 0;
            rights.no_execute |= entry & NO_EXECUTE != 0;
            if let Some(place) = places.next() {
                *place = (address, entry);
            }
        }
        let target = scheme.target(entry, level, is_leaf);
        if is_leaf {
            break (target, scheme.shift(level));
        }
        table = target;
        level = level.wrapping_sub(1);
    };
    if !rights.allow(registers, access) {
        return Err(fault(FAULT_PRESENT));
    }
    if !mark(env, scheme, &visited, access)? {
        return Ok(None);
    }
    let offset = linear & (1u64 << offset_bits).wrapping_sub(1);
    Ok(Some(Gpa::new_truncate(page | offset)))
}

impl Rights {
    fn allow(&self, registers: &Registers, access: Access) -> bool {
        let write_protect = registers.cr0 & cr0::WP != 0;
        match (access.intent, access.is_user) {
            (Intent::Fetch, is_user) => {
                let smep = registers.cr4 & cr4::SMEP != 0;
                let right_owner = if is_user {
                    self.user
                } else {
                    !(smep && self.user)
                };
                right_owner && !self.no_execute
            }
            (Intent::Read, true) => self.user,
            (Intent::Write, true) => self.user && self.writable,
            (intent, false) => {
                let smap = registers.cr4 & cr4::SMAP != 0;
                let overridden = registers.rflags & rflags::AC != 0 && !access.is_implicit;
                let owner = !self.user || !smap || overridden;
                owner && (intent == Intent::Read || self.writable || !write_protect)
            }
        }
    }
}

/// Sets the accessed bits, and the dirty bit of the last entry for a write; tells whether no entry changed meanwhile.
fn mark<E: Environment>(
    env: &mut E,
    scheme: &Scheme,
    visited: &[(u64, u64)],
    access: Access,
) -> Result<bool, Unavailable> {
    let mut entries = visited.iter().filter(|(_, entry)| *entry != 0).peekable();
    while let Some(&(address, entry)) = entries.next() {
        let is_last = entries.peek().is_none();
        let mut marked = entry | ACCESSED;
        if is_last && access.intent == Intent::Write {
            marked |= DIRTY;
        }
        if marked != entry && !scheme.exchange(env, address, entry, marked)? {
            return Ok(false);
        }
    }
    Ok(true)
}

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
