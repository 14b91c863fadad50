//! Single bits, bit scans and byte order. Pure functions; operands in memory are found by the caller.

use crate::alu::{Flagged, logic, when};
use crate::registers::bits;
use api::cpu::rflags::{CF, ZF};
use api::device::Width;

/// What to do with the tested bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitOp {
    Test,
    Set,
    Reset,
    Complement,
}

/// Scans and counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScanOp {
    Forward,
    Reverse,
    TrailingZeros,
    LeadingZeros,
    Population,
}

/// Applies `op` to bit `number` modulo the width; the flags are the carry alone.
pub(crate) fn bit(op: BitOp, width: Width, value: u64, number: u64) -> Flagged {
    let number = number & u64::from(bits(width).wrapping_sub(1));
    let mask = 1u64 << number;
    let flags = when(value & mask != 0, CF);
    let value = match op {
        BitOp::Test => value,
        BitOp::Set => value | mask,
        BitOp::Reset => value & !mask,
        BitOp::Complement => value ^ mask,
    };
    Flagged { value, flags }
}

/// Scans `source`; nothing when BSF or BSR leave their destination alone, which they do for zero.
pub(crate) fn scan(op: ScanOp, width: Width, source: u64) -> (Option<u64>, Flagged) {
    let size = bits(width);
    let source = source & width.all_ones();
    let trailing = u64::from(source.trailing_zeros().min(size));
    let leading = u64::from(
        source
            .leading_zeros()
            .wrapping_sub(64u32.wrapping_sub(size)),
    );
    let is_zero = source == 0;
    let value = match op {
        ScanOp::Forward => trailing,
        ScanOp::Reverse => u64::from(size.wrapping_sub(1)).wrapping_sub(leading),
        ScanOp::TrailingZeros => trailing,
        ScanOp::LeadingZeros => leading,
        ScanOp::Population => u64::from(source.count_ones()),
    };
    let flags = match op {
        ScanOp::Forward | ScanOp::Reverse | ScanOp::Population => when(is_zero, ZF),
        ScanOp::TrailingZeros | ScanOp::LeadingZeros => {
            when(is_zero, CF) | logic(width, value).flags & ZF
        }
    };
    let keeps = is_zero && matches!(op, ScanOp::Forward | ScanOp::Reverse);
    ((!keeps).then_some(value), Flagged { value, flags })
}

/// Reverses the bytes of a value.
pub(crate) const fn swap_bytes(width: Width, value: u64) -> u64 {
    let spare = 64u32.wrapping_sub(bits(width));
    value.swap_bytes().wrapping_shr(spare)
}
