//! Reads instruction bytes through the guest's segment and page tables.

use crate::decode::{DecodeError, Decoded, LEN_MAX, decode};
use crate::environment::Environment;
use crate::execute::{Abort, Config, Exception, Step};
use crate::memory::{in_page, linear_bits};
use crate::registers::{CodeSize, Registers};
use crate::walk::{Access, Intent, translate};
use api::cpu::{segment, vector};

/// Bytes at RIP.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Window {
    /// The bytes, first lowest; arbitrary behind the last.
    pub(crate) bytes: u128,
    /// How many were read.
    pub(crate) len: usize,
    /// How many may be read before the code segment ends, at most [`LEN_MAX`].
    limit: usize,
}

impl Window {
    /// Fills an empty window: takes the bytes that the processor gave, or reads those up to the end of the page.
    #[inline]
    pub(crate) fn fetch<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &Registers,
        config: &Config,
        size: CodeSize,
        given: &[u8],
    ) -> Step<()> {
        self.limit = limit(registers, size)?;
        if given.is_empty() {
            self.read(env, registers, config, size)?;
        } else {
            let mut bytes = [0; 16];
            let len = given.len().min(self.limit);
            for (to, from) in bytes.iter_mut().zip(given).take(len) {
                *to = *from;
            }
            self.append(u128::from_le_bytes(bytes), len);
        }
        Ok(())
    }

    /// Reads from the end of the window to the end of the page or the limit.
    #[inline]
    fn read<E: Environment>(
        &mut self,
        env: &mut E,
        registers: &Registers,
        config: &Config,
        size: CodeSize,
    ) -> Step<()> {
        let offset = registers.rip.wrapping_add(self.len as u64);
        let linear = if size == CodeSize::Bits64 {
            offset
        } else {
            let base = registers.segment(segment::CS).base;
            base.wrapping_add(offset) & 0xffff_ffff
        };
        if !is_fetchable(linear, registers, size) {
            return Err(Exception::general_protection(0).into());
        }
        let access = Access {
            intent: Intent::Fetch,
            is_user: registers.cpl == 3,
            is_implicit: false,
        };
        let gpa = translate(env, registers, config, linear, access)?;
        let len = in_page(linear).min(self.limit.saturating_sub(self.len));
        let bytes = env.read_code(gpa, len)?;
        self.append(bytes, len);
        Ok(())
    }

    /// Adds the low `len` bytes of `bytes`; what lies above the window's end is arbitrary.
    #[inline]
    fn append(&mut self, bytes: u128, len: usize) {
        if self.len == 0 {
            self.bytes = bytes;
            self.len = len.min(LEN_MAX);
            return;
        }
        let shift = u32::try_from(self.len).unwrap_or(0).wrapping_mul(8);
        let kept = self.bytes & !u128::MAX.wrapping_shl(shift);
        self.bytes = kept | bytes.wrapping_shl(shift);
        self.len = self.len.saturating_add(len).min(LEN_MAX);
    }
}

/// Returns how many bytes lie between RIP and the end of the code segment.
#[inline]
fn limit(registers: &Registers, size: CodeSize) -> Step<usize> {
    if size == CodeSize::Bits64 {
        return Ok(LEN_MAX);
    }
    let last = u64::from(registers.segment(segment::CS).limit);
    let left = last
        .checked_sub(registers.rip)
        .ok_or(Exception::general_protection(0))?;
    Ok(usize::try_from(left)
        .unwrap_or(LEN_MAX)
        .saturating_add(1)
        .min(LEN_MAX))
}

#[inline]
fn is_fetchable(linear: u64, registers: &Registers, size: CodeSize) -> bool {
    let spare = 64u32.wrapping_sub(linear_bits(registers));
    let shifted = linear.wrapping_shl(spare).cast_signed().wrapping_shr(spare);
    size != CodeSize::Bits64 || shifted.cast_unsigned() == linear
}

/// Decodes the window, reading on into the next page if it ends too early.
#[cold]
pub(crate) fn decode_more<E: Environment>(
    env: &mut E,
    registers: &Registers,
    config: &Config,
    size: CodeSize,
    window: &mut Window,
) -> Step<Decoded> {
    // Bytes given by the processor may end early as well, then one page, then the next.
    for _ in 0..3 {
        let bytes = window.bytes.to_le_bytes();
        match decode(size, bytes.get(..window.len).unwrap_or_default()) {
            Ok(decoded) => return Ok(decoded),
            Err(DecodeError::Invalid) => return Err(Exception::plain(vector::UD).into()),
            Err(DecodeError::Incomplete) => {
                if window.len >= window.limit {
                    // Too long, or it runs over the end of the segment.
                    return Err(Exception::general_protection(0).into());
                }
                window.read(env, registers, config, size)?;
            }
        }
    }
    Err(Abort::Unhandled)
}
