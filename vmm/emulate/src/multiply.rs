//! Multiplication and division with their flags and the divide error. Pure functions.

use crate::alu::{is_negative, result_flags};
use crate::registers::{bits, sign_extend};
use crate::shift::halves;
use api::cpu::rflags::{CF, OF};
use api::device::Width;

/// A double-width result: low and high half, each of the operand's width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) low: u64,
    pub(crate) high: u64,
}

/// A product and its flags; zero, sign and parity are undefined and follow the low half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Product {
    pub(crate) pair: Pair,
    pub(crate) flags: u64,
}

fn split(width: Width, value: u128) -> Pair {
    let (low, _) = halves(value);
    let (high, _) = halves(value >> bits(width));
    Pair {
        low: low & width.all_ones(),
        high: high & width.all_ones(),
    }
}

fn join(width: Width, pair: Pair) -> u128 {
    let mask = width.all_ones();
    u128::from(pair.high & mask) << bits(width) | u128::from(pair.low & mask)
}

/// MUL: carry and overflow tell that the high half is not zero.
pub(crate) fn multiply(width: Width, a: u64, b: u64) -> Product {
    let mask = width.all_ones();
    let product = u128::from(a & mask).wrapping_mul(u128::from(b & mask));
    let pair = split(width, product);
    product_flags(width, pair, pair.high != 0)
}

/// IMUL: carry and overflow tell that the product is not the sign-extension of its low half.
pub(crate) fn multiply_signed(width: Width, a: u64, b: u64) -> Product {
    let extend = |v| i128::from(sign_extend(width, v).cast_signed());
    let product = extend(a).wrapping_mul(extend(b));
    let pair = split(width, product.cast_unsigned());
    let fits = product == extend(pair.low);
    product_flags(width, pair, !fits)
}

fn product_flags(width: Width, pair: Pair, overflows: bool) -> Product {
    let carry = if overflows { CF | OF } else { 0 };
    Product {
        pair,
        flags: result_flags(width, pair.low) | carry,
    }
}

/// DIV: quotient (low) and remainder (high), or nothing for a divide error.
pub(crate) fn divide(width: Width, dividend: Pair, divisor: u64) -> Option<Pair> {
    let divisor = divisor & width.all_ones();
    if width == Width::Qword && dividend.high == 0 {
        // The common case needs no 128-bit division.
        return Some(Pair {
            low: dividend.low.checked_div(divisor)?,
            high: dividend.low.checked_rem(divisor)?,
        });
    }
    let wide = join(width, dividend);
    let quotient = wide.checked_div(u128::from(divisor))?;
    let remainder = wide.checked_rem(u128::from(divisor))?;
    let (low, overflow) = halves(quotient);
    let (high, _) = halves(remainder);
    (overflow == 0 && low <= width.all_ones()).then_some(Pair { low, high })
}

/// IDIV: as [`divide`], signed; the remainder has the dividend's sign.
pub(crate) fn divide_signed(width: Width, dividend: Pair, divisor: u64) -> Option<Pair> {
    let size = bits(width);
    let unsigned = join(width, dividend);
    // Shifting up and down again extends the sign of a double-width value.
    let spare = 128u32.wrapping_sub(size).wrapping_sub(size);
    let wide = (unsigned << spare).cast_signed() >> spare;
    let divisor = i128::from(sign_extend(width, divisor).cast_signed());
    let quotient = wide.checked_div(divisor)?;
    let remainder = wide.checked_rem(divisor)?;
    let (low, _) = halves(quotient.cast_unsigned());
    let (high, _) = halves(remainder.cast_unsigned());
    let low = low & width.all_ones();
    let fits = i128::from(sign_extend(width, low).cast_signed()) == quotient;
    debug_assert!(!fits || is_negative(width, low) == (quotient < 0));
    fits.then_some(Pair {
        low,
        high: high & width.all_ones(),
    })
}
