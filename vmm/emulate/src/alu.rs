//! Two-operand arithmetic and logic with their flags. Pure functions on values of 8 to 64 bits.

use crate::registers::bits;
use api::cpu::rflags::{AF, CF, OF, PF, SF, ZF};
use api::device::Width;

/// The six flags that arithmetic sets.
pub(crate) const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

/// The eight operations of the first opcode rows, by their encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AluOp {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// A result and the status flags it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flagged {
    pub(crate) value: u64,
    pub(crate) flags: u64,
}

/// Performs `a op b`, with `carry` 0 or 1. The flags are all of [`STATUS`].
pub(crate) fn alu(op: AluOp, width: Width, a: u64, b: u64, carry: u64) -> Flagged {
    match op {
        AluOp::Add => add(width, a, b, 0),
        AluOp::Adc => add(width, a, b, carry),
        AluOp::Sub | AluOp::Cmp => subtract(width, a, b, 0),
        AluOp::Sbb => subtract(width, a, b, carry),
        AluOp::Or => logic(width, a | b),
        AluOp::And => logic(width, a & b),
        AluOp::Xor => logic(width, a ^ b),
    }
}

/// Adds with carry.
pub(crate) fn add(width: Width, a: u64, b: u64, carry: u64) -> Flagged {
    let mask = width.all_ones();
    let (a, b) = (a & mask, b & mask);
    let value = a.wrapping_add(b).wrapping_add(carry) & mask;
    // The carry out of the top bit is the majority of the operands' top bits and the inverted result's.
    let carries = a & b | (a | b) & !value;
    let overflows = (a ^ value) & (b ^ value);
    Flagged {
        value,
        flags: arithmetic_flags(width, a, b, value, carries, overflows),
    }
}

/// Subtracts with borrow.
pub(crate) fn subtract(width: Width, a: u64, b: u64, borrow: u64) -> Flagged {
    let mask = width.all_ones();
    let (a, b) = (a & mask, b & mask);
    let value = a.wrapping_sub(b).wrapping_sub(borrow) & mask;
    let borrows = !a & b | (!a | b) & value;
    let overflows = (a ^ b) & (a ^ value);
    Flagged {
        value,
        flags: arithmetic_flags(width, a, b, value, borrows, overflows),
    }
}

/// Adds one, or subtracts it; the carry flag is not part of the result.
pub(crate) fn step(width: Width, a: u64, is_increment: bool) -> Flagged {
    let result = if is_increment {
        add(width, a, 1, 0)
    } else {
        subtract(width, a, 1, 0)
    };
    Flagged {
        flags: result.flags & !CF,
        ..result
    }
}

/// Gives a result of a bitwise operation its flags: carry and overflow are clear.
pub(crate) fn logic(width: Width, value: u64) -> Flagged {
    let value = value & width.all_ones();
    Flagged {
        value,
        flags: result_flags(width, value),
    }
}

fn arithmetic_flags(width: Width, a: u64, b: u64, value: u64, carries: u64, overflows: u64) -> u64 {
    let mut flags = result_flags(width, value);
    flags |= when(is_negative(width, carries), CF);
    flags |= when(is_negative(width, overflows), OF);
    flags |= (a ^ b ^ value) & AF;
    flags
}

/// Returns zero, sign and parity flags of `value`.
pub(crate) fn result_flags(width: Width, value: u64) -> u64 {
    let [low, ..] = value.to_le_bytes();
    when(value & width.all_ones() == 0, ZF)
        | when(is_negative(width, value), SF)
        | when(low.count_ones() & 1 == 0, PF)
}

/// Returns the top bit of `value`.
pub(crate) const fn is_negative(width: Width, value: u64) -> bool {
    value >> bits(width).wrapping_sub(1) & 1 != 0
}

/// Returns `flags` or nothing.
pub(crate) const fn when(condition: bool, flags: u64) -> u64 {
    if condition { flags } else { 0 }
}

/// Evaluates one of the sixteen conditions by its encoding.
pub(crate) const fn is_true(condition: u8, flags: u64) -> bool {
    let less = (flags & SF != 0) != (flags & OF != 0);
    let base = match condition >> 1 {
        0 => flags & OF != 0,
        1 => flags & CF != 0,
        2 => flags & ZF != 0,
        3 => flags & (CF | ZF) != 0,
        4 => flags & SF != 0,
        5 => flags & PF != 0,
        6 => less,
        _ => less || flags & ZF != 0,
    };
    base != (condition & 1 != 0)
}
