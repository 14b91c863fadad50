//! Memory as an instruction addresses it: effective address, segment, page tables, and accesses that cross a page.

use crate::context::Context;
use crate::environment::Environment;
use crate::execute::{Abort, Exception, Step};
use crate::registers::{CodeSize, Registers};
use crate::walk::{Access, Intent, translate};
use addr::Gpa;
use api::cpu::{Segment, SegmentAttributes as Attr, cr0, cr4, rflags, segment, vector};
use api::device::Width;

/// Size of a page.
const PAGE: u64 = 4096;
/// No operand is larger.
pub(crate) const ACCESS_MAX: usize = 32;

/// Where an operand lies in guest-physical memory: in one page, or in two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    first: Gpa,
    first_len: usize,
    second: Option<Gpa>,
    len: usize,
}

impl Place {
    /// Returns the place of an operand that lies in one page.
    pub(crate) const fn in_one_page(gpa: Gpa, len: u32) -> Self {
        Self {
            first: gpa,
            first_len: len as usize,
            second: None,
            len: len as usize,
        }
    }

    /// Returns the address of the first byte.
    pub(crate) const fn start(&self) -> Gpa {
        self.first
    }
}

/// Returns the number of bytes from `linear` to the end of its page.
pub(crate) fn in_page(linear: u64) -> usize {
    let left = PAGE.wrapping_sub(linear & (PAGE - 1));
    usize::try_from(left).unwrap_or(0)
}

/// Returns the width of linear addresses in 64-bit mode.
pub(crate) const fn linear_bits(registers: &Registers) -> u32 {
    if registers.cr4 & cr4::LA57 != 0 {
        57
    } else {
        48
    }
}

impl<E: Environment> Context<'_, E> {
    /// Computes the offset of the memory operand in its segment.
    #[inline]
    pub(crate) fn effective_address(&self) -> u64 {
        let registers = &*self.registers;
        let memory = &self.decoded.memory;
        memory.offset(registers.rip, |number| registers.read_gpr(number))
    }

    /// Finds the memory operand, by the exit's hint if that can be it.
    #[inline]
    pub(crate) fn operand_place(&mut self, len: u32, is_write: bool) -> Step<Place> {
        self.operand_place_at(self.effective_address(), len, is_write)
    }

    /// As [`Self::operand_place`], at another offset of the same segment.
    pub(crate) fn operand_place_at(
        &mut self,
        offset: u64,
        len: u32,
        is_write: bool,
    ) -> Step<Place> {
        if let Some((gpa, may_write)) = self.hint
            && (may_write || !is_write)
            && self.is_hinted_at(gpa, offset, len)
        {
            return Ok(Place::in_one_page(gpa, len));
        }
        let linear = self.linear(self.decoded.memory.segment, offset, len, is_write)?;
        self.place(linear, len, is_write)
    }

    /// Tells whether the memory operand of `len` bytes is what faulted at `gpa`.
    #[inline]
    pub(crate) fn is_hinted(&self, gpa: Gpa, len: u32) -> bool {
        self.is_hinted_at(gpa, self.effective_address(), len)
    }

    /// As [`Self::is_hinted`], for an operand at `offset` of its segment.
    ///
    /// The processor made all checks before the access faulted. That it was this access shows in the offset within the
    /// page, which translation keeps.
    #[inline]
    fn is_hinted_at(&self, gpa: Gpa, offset: u64, len: u32) -> bool {
        let base = self.segment_base(self.decoded.memory.segment);
        let start = base.wrapping_add(offset) & (PAGE - 1);
        gpa.page_offset() == start && start.wrapping_add(u64::from(len)) <= PAGE
    }

    /// Returns what a segment adds to offsets: in 64-bit mode only FS and GS add anything.
    #[inline]
    fn segment_base(&self, segment: usize) -> u64 {
        match segment {
            segment::FS | segment::GS => self.registers.segment(segment).base,
            _ if self.size == CodeSize::Bits64 => 0,
            _ => self.registers.segment(segment).base,
        }
    }

    /// Checks `len` bytes at `offset` of a segment and returns their linear address.
    pub(crate) fn linear(
        &self,
        segment: usize,
        offset: u64,
        len: u32,
        is_write: bool,
    ) -> Step<u64> {
        let registers = &*self.registers;
        let descriptor = registers.segment(segment);
        let last_byte = u64::from(len.saturating_sub(1));
        if self.size == CodeSize::Bits64 {
            let linear = self.segment_base(segment).wrapping_add(offset);
            let last = linear.wrapping_add(last_byte);
            return if self.is_canonical(linear) && self.is_canonical(last) {
                Ok(linear)
            } else {
                Err(segment_fault(segment))
            };
        }
        let last = offset.wrapping_add(last_byte);
        let is_checked = registers.is_protected();
        if (is_checked && !allows(descriptor, segment, is_write))
            || !is_inside(descriptor, offset, last, is_checked)
        {
            return Err(segment_fault(segment));
        }
        Ok(descriptor.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Tells whether a linear address is canonical.
    pub(crate) fn is_canonical(&self, linear: u64) -> bool {
        let spare = 64u32.wrapping_sub(linear_bits(self.registers));
        let shifted = linear.wrapping_shl(spare).cast_signed().wrapping_shr(spare);
        shifted.cast_unsigned() == linear
    }

    /// Translates `len` bytes at a linear address for the running code.
    pub(crate) fn place(&mut self, linear: u64, len: u32, is_write: bool) -> Step<Place> {
        let is_user = self.registers.cpl == 3;
        let checks_alignment =
            is_user && self.registers.cr0 & cr0::AM != 0 && self.registers.rflags & rflags::AC != 0;
        if checks_alignment && len.is_power_of_two() && linear & u64::from(len.wrapping_sub(1)) != 0
        {
            return Err(Exception::with_code(vector::AC, 0).into());
        }
        let access = Access {
            intent: if is_write {
                Intent::Write
            } else {
                Intent::Read
            },
            is_user,
            is_implicit: false,
        };
        self.place_for(linear, len, access)
    }

    /// Translates `len` bytes at a linear address for a given access.
    pub(crate) fn place_for(&mut self, linear: u64, len: u32, access: Access) -> Step<Place> {
        let len = len as usize;
        let first_len = in_page(linear).min(len);
        let first = translate(self.env, self.registers, self.config, linear, access)?;
        let second = if first_len < len {
            let next = linear.wrapping_add(first_len as u64);
            let next = if self.registers.is_long() {
                next
            } else {
                next & 0xffff_ffff
            };
            Some(translate(
                self.env,
                self.registers,
                self.config,
                next,
                access,
            )?)
        } else {
            None
        };
        Ok(Place {
            first,
            first_len,
            second,
            len,
        })
    }

    /// Fills `buf`, which has the length of the place.
    pub(crate) fn read_bytes(&mut self, place: &Place, buf: &mut [u8]) -> Step<()> {
        debug_assert_eq!(buf.len(), place.len);
        if place.second.is_none() {
            return Ok(self.env.read_phys(place.first, buf)?);
        }
        let (first, rest) = buf
            .split_at_mut_checked(place.first_len)
            .ok_or(Abort::Unhandled)?;
        self.env.read_phys(place.first, first)?;
        if let Some(second) = place.second {
            self.env.read_phys(second, rest)?;
        }
        Ok(())
    }

    /// Writes `data`, which has the length of the place.
    pub(crate) fn write_bytes(&mut self, place: &Place, data: &[u8]) -> Step<()> {
        debug_assert_eq!(data.len(), place.len);
        if place.second.is_none() {
            return Ok(self.env.write_phys(place.first, data)?);
        }
        let (first, rest) = data
            .split_at_checked(place.first_len)
            .ok_or(Abort::Unhandled)?;
        self.env.write_phys(place.first, first)?;
        if let Some(second) = place.second {
            self.env.write_phys(second, rest)?;
        }
        Ok(())
    }

    /// Reads a number.
    pub(crate) fn read_place(&mut self, place: &Place, width: Width) -> Step<u64> {
        let mut bytes = [0; 8];
        let buf = bytes
            .get_mut(..width.bytes() as usize)
            .ok_or(Abort::Unhandled)?;
        self.read_bytes(place, buf)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes a number.
    pub(crate) fn write_place(&mut self, place: &Place, width: Width, value: u64) -> Step<()> {
        let bytes = value.to_le_bytes();
        let data = bytes
            .get(..width.bytes() as usize)
            .ok_or(Abort::Unhandled)?;
        self.write_bytes(place, data)
    }

    /// Replaces `old` by `new` in one step; operands that are not aligned in one page are just written.
    pub(crate) fn exchange_place(
        &mut self,
        place: &Place,
        width: Width,
        old: u64,
        new: u64,
    ) -> Step<bool> {
        let len = width.bytes() as usize;
        let (old, new) = (old.to_le_bytes(), new.to_le_bytes());
        let old = old.get(..len).ok_or(Abort::Unhandled)?;
        let new = new.get(..len).ok_or(Abort::Unhandled)?;
        self.exchange_bytes(place, old, new)
    }

    /// As [`Self::exchange_place`], on bytes.
    pub(crate) fn exchange_bytes(&mut self, place: &Place, old: &[u8], new: &[u8]) -> Step<bool> {
        let is_aligned = place.first.is_aligned(new.len() as u64);
        if place.second.is_some() || !is_aligned {
            self.write_bytes(place, new)?;
            return Ok(true);
        }
        Ok(self.env.compare_exchange(place.first, old, new)?)
    }
}

/// The fault of an access that its segment does not allow.
fn segment_fault(segment: usize) -> Abort {
    let vector = if segment == segment::SS {
        vector::SS
    } else {
        vector::GP
    };
    Exception::with_code(vector, 0).into()
}

/// Tells whether a segment's type allows the access.
fn allows(descriptor: &Segment, segment: usize, is_write: bool) -> bool {
    let attributes = descriptor.attributes;
    if !attributes.has(Attr::PRESENT | Attr::CODE_DATA) {
        return false;
    }
    let is_code = attributes.has(Attr::EXECUTABLE);
    let has_right = attributes.has(Attr::READ_WRITE);
    match (is_code, is_write) {
        // Code is readable or not, and never writable.
        (true, false) => has_right && segment != segment::SS,
        (true, true) => false,
        // Data is writable or not, and always readable.
        (false, true) => has_right,
        (false, false) => true,
    }
}

/// Tells whether `first..=last` lies within a segment's limit.
fn is_inside(descriptor: &Segment, first: u64, last: u64, is_protected: bool) -> bool {
    let limit = u64::from(descriptor.limit);
    let attributes = descriptor.attributes;
    let expands_down = is_protected
        && !attributes.has(Attr::EXECUTABLE)
        && attributes.has(Attr::CONFORMING_EXPAND_DOWN);
    if expands_down {
        let top = if attributes.has(Attr::BIG) {
            0xffff_ffff
        } else {
            0xffff
        };
        first > limit && last <= top
    } else {
        last <= limit
    }
}
