//! Shifts and rotates with their flags. Where the manuals leave a flag undefined the value of common processors is given.

use crate::alu::{Flagged, STATUS, is_negative, result_flags, when};
use crate::registers::{bits, sign_extend};
use api::cpu::rflags::{AF, CF, OF};
use api::device::Width;

/// Shifts and rotates of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShiftOp {
    RotateLeft,
    RotateRight,
    RotateCarryLeft,
    RotateCarryRight,
    Left,
    Right,
    ArithmeticRight,
}

/// A result, its flags, and which of them are to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shifted {
    pub(crate) result: Flagged,
    pub(crate) mask: u64,
}

const UNCHANGED: u64 = 0;
/// What rotates change.
const ROTATE: u64 = CF | OF;

/// Reduces a count as the processor does: 6 bits for 64-bit operands, else 5.
const fn effective_count(width: Width, count: u64) -> u32 {
    let mask = match width {
        Width::Qword => 63,
        _ => 31,
    };
    let [low, ..] = (count & mask).to_le_bytes();
    low as u32
}

/// Performs a shift or rotate by `count`; `carry` is 0 or 1.
pub(crate) fn shift(op: ShiftOp, width: Width, value: u64, count: u64, carry: u64) -> Shifted {
    let value = value & width.all_ones();
    let count = effective_count(width, count);
    if count == 0 {
        return unchanged(value);
    }
    match op {
        ShiftOp::RotateLeft => rotate_left(width, value, count),
        ShiftOp::RotateRight => rotate_right(width, value, count),
        ShiftOp::RotateCarryLeft => rotate_carry(width, value, count, carry, true),
        ShiftOp::RotateCarryRight => rotate_carry(width, value, count, carry, false),
        ShiftOp::Left => shift_left(width, value, count),
        ShiftOp::Right => shift_right(width, value, count),
        ShiftOp::ArithmeticRight => shift_right_signed(width, value, count),
    }
}

const fn unchanged(value: u64) -> Shifted {
    Shifted {
        result: Flagged { value, flags: 0 },
        mask: UNCHANGED,
    }
}

fn with_flags(width: Width, value: u64, carry: bool, overflow: bool) -> Shifted {
    let value = value & width.all_ones();
    let flags = result_flags(width, value) | when(carry, CF) | when(overflow, OF);
    Shifted {
        result: Flagged { value, flags },
        mask: STATUS & !AF,
    }
}

fn rotated(width: Width, value: u64, carry: bool, overflow: bool) -> Shifted {
    Shifted {
        mask: ROTATE,
        ..with_flags(width, value, carry, overflow)
    }
}

fn rotate_left(width: Width, value: u64, count: u32) -> Shifted {
    let value = rotate(width, value, count & bits(width).wrapping_sub(1));
    let carry = value & 1 != 0;
    rotated(width, value, carry, is_negative(width, value) != carry)
}

fn rotate_right(width: Width, value: u64, count: u32) -> Shifted {
    let left = 0u32.wrapping_sub(count) & bits(width).wrapping_sub(1);
    let value = rotate(width, value, left);
    let carry = is_negative(width, value);
    let next = is_negative(width, value << 1);
    rotated(width, value, carry, carry != next)
}

/// Rotates left by less than the width.
fn rotate(width: Width, value: u64, count: u32) -> u64 {
    let rest = bits(width).wrapping_sub(count);
    (value << count | value.checked_shr(rest).unwrap_or(0)) & width.all_ones()
}

fn rotate_carry(width: Width, value: u64, count: u32, carry: u64, is_left: bool) -> Shifted {
    let size = bits(width);
    // The carry is one more bit of the value.
    let ring_size = size.wrapping_add(1);
    let count = count.checked_rem(ring_size).unwrap_or_default();
    if count == 0 {
        return unchanged(value);
    }
    let ring = u128::from(carry) << size | u128::from(value);
    let left = if is_left {
        count
    } else {
        ring_size.wrapping_sub(count)
    };
    let ring = ring << left | ring >> ring_size.wrapping_sub(left);
    let carry_out = ring >> size & 1 != 0;
    let (low, _) = halves(ring);
    let value = low & width.all_ones();
    let overflow = if is_left {
        is_negative(width, value) != carry_out
    } else {
        is_negative(width, value) != is_negative(width, value << 1)
    };
    rotated(width, value, carry_out, overflow)
}

fn shift_left(width: Width, value: u64, count: u32) -> Shifted {
    // One bit more than the width holds the last bit shifted out.
    let wide = u128::from(value) << count;
    let carry = wide >> bits(width) & 1 != 0;
    let (value, _) = halves(wide);
    with_flags(width, value, carry, is_negative(width, value) != carry)
}

fn shift_right(width: Width, value: u64, count: u32) -> Shifted {
    let carry = value >> count.wrapping_sub(1) & 1 != 0;
    let overflow = is_negative(width, value);
    with_flags(
        width,
        value.checked_shr(count).unwrap_or(0),
        carry,
        overflow,
    )
}

fn shift_right_signed(width: Width, value: u64, count: u32) -> Shifted {
    let signed = sign_extend(width, value).cast_signed();
    let carry = signed >> count.wrapping_sub(1) & 1 != 0;
    with_flags(width, (signed >> count).cast_unsigned(), carry, false)
}

/// SHLD: shifts `value` left and fills from the top of `fill`.
pub(crate) fn shift_double_left(width: Width, value: u64, fill: u64, count: u64) -> Shifted {
    let size = bits(width);
    let count = effective_count(width, count);
    let value = value & width.all_ones();
    if count == 0 {
        return unchanged(value);
    }
    // A count above 16 for words is undefined: processors go on with the first operand again.
    let pattern = u128::from(value) << size | u128::from(fill & width.all_ones());
    let pattern = if width == Width::Word {
        pattern << 16 | u128::from(value)
    } else {
        pattern
    };
    let above = if width == Width::Word { 32 } else { size };
    let (result, _) = halves(pattern << count >> above);
    let carry = pattern >> above.wrapping_add(size).wrapping_sub(count) & 1 != 0;
    let overflow = is_negative(width, result) != is_negative(width, value);
    with_flags(width, result, carry, overflow)
}

/// SHRD: shifts `value` right and fills from the bottom of `fill`.
pub(crate) fn shift_double_right(width: Width, value: u64, fill: u64, count: u64) -> Shifted {
    let size = bits(width);
    let count = effective_count(width, count);
    let value = value & width.all_ones();
    if count == 0 {
        return unchanged(value);
    }
    let pattern = u128::from(fill & width.all_ones()) << size | u128::from(value);
    let pattern = if width == Width::Word {
        pattern | u128::from(value) << 32
    } else {
        pattern
    };
    let (result, _) = halves(pattern >> count);
    let carry = pattern >> count.wrapping_sub(1) & 1 != 0;
    let overflow = is_negative(width, result) != is_negative(width, value);
    with_flags(width, result, carry, overflow)
}

/// Splits into low and high half.
pub(crate) fn halves(value: u128) -> (u64, u64) {
    let high = value >> 64;
    let low = value & u128::from(u64::MAX);
    (
        u64::try_from(low).unwrap_or_default(),
        u64::try_from(high).unwrap_or_default(),
    )
}
