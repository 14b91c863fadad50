//! Makes instructions and registers from templates.

use super::random::Random;
use super::templates::{Form, Immediate, Template, Undefined};
use super::{AF, CF, OF, STATUS};
use crate::State;
use api::cpu::rflags;

/// An instruction and what is needed to run and judge it.
pub(super) struct Case {
    pub(super) bytes: Vec<u8>,
    pub(super) state: State,
    pub(super) undefined: u64,
}

/// Registers that instructions may use freely; RSI and RDI point into the data.
const FREE: [u8; 11] = [0, 1, 2, 3, 5, 8, 9, 10, 11, 12, 13];

fn random_state(random: &mut Random, data: u64) -> State {
    let mut state = State::default();
    for gpr in &mut state.gpr {
        *gpr = random.value();
    }
    state.gpr[6] = data + 0x1000 + random.below(0x800);
    state.gpr[7] = data + 0x2000 + random.below(0x800);
    state.gpr[9] = random.below(64);
    state.rflags = rflags::FIXED | rflags::IF | (random.next() & STATUS);
    state
}

/// Prefixes by which an instruction gets its size.
struct Size {
    is_byte: bool,
    has_66: bool,
    has_w: bool,
}

impl Size {
    fn random(random: &mut Random, t: &Template) -> Self {
        let is_byte = t.has_byte_form && random.chance(3);
        let (has_66, has_w) = match random.below(4) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        // MOVNTI, CMPXCHG8B and BSWAP have no 16-bit form.
        let is_wide = matches!(t.opcode, [0x0f, 0xc3 | 0xc7 | 0xc8]);
        Self {
            is_byte: is_byte || t.opcode == [0x80],
            has_66: has_66 && !is_wide,
            has_w,
        }
    }

    fn bits(&self) -> u32 {
        match self {
            Self { is_byte: true, .. } => 8,
            Self { has_w: true, .. } => 64,
            Self { has_66: true, .. } => 16,
            _ => 32,
        }
    }
}

/// Makes an instruction from a template, and registers that keep it inside the data.
pub(super) fn make(random: &mut Random, t: &Template, data: u64) -> Case {
    let mut state = random_state(random, data);
    let size = Size::random(random, t);
    let is_memory = matches!(t.form, Form::Memory(_)) || random.chance(2);
    let mut bytes = Vec::new();
    if size.has_66 {
        bytes.push(0x66);
    }
    if t.form == Form::String {
        string_state(random, t, data, &mut state, &mut bytes);
    } else if t.may_lock && is_memory && random.chance(2) {
        bytes.push(0xf0);
    }
    let mandatory = usize::from(t.opcode[0] == 0xf3);
    bytes.extend_from_slice(&t.opcode[..mandatory]);
    let mut opcode = t.opcode[mandatory..].to_vec();
    if t.has_byte_form && !size.is_byte {
        *opcode.last_mut().unwrap() |= 1;
    }
    let mut rex = if size.has_w { 0x48 } else { 0 };
    let mut tail = Vec::new();
    match t.form {
        Form::Plain | Form::String => {}
        Form::Low => {
            let register = any_register(random);
            rex |= if register >= 8 { 0x41 } else { 0 };
            *opcode.last_mut().unwrap() |= register & 7;
        }
        _ => operands(random, t.form, is_memory, &mut rex, &mut tail),
    }
    let bits = size.bits();
    if is_memory && matches!(t.opcode, [0x0f, 0xa3 | 0xab | 0xb3 | 0xbb]) {
        limit_bit_numbers(&mut state, bits);
    }
    let count = append_immediate(random, t, bits, &state, &mut tail);
    if rex != 0 {
        bytes.push(rex);
    }
    bytes.extend(opcode);
    bytes.extend(tail);
    Case {
        bytes,
        state,
        undefined: undefined(t.undefined, bits, count),
    }
}

/// Appends the immediate and returns the count that a shift would take.
fn append_immediate(
    random: &mut Random,
    t: &Template,
    bits: u32,
    state: &State,
    tail: &mut Vec<u8>,
) -> u8 {
    let value = random.value().to_le_bytes();
    match t.immediate {
        Immediate::None if t.opcode == [0xd0] => return 1,
        Immediate::None => return state.gpr[1].to_le_bytes()[0],
        Immediate::Byte => tail.push(value[0]),
        Immediate::Word if bits == 16 => tail.extend(&value[..2]),
        Immediate::Word => tail.extend(&value[..4]),
    }
    value[0]
}

fn any_register(random: &mut Random) -> u8 {
    FREE[usize::try_from(random.below(11)).unwrap()]
}

/// Appends ModRM, SIB and displacement.
fn operands(random: &mut Random, form: Form, is_memory: bool, rex: &mut u8, tail: &mut Vec<u8>) {
    let middle = match form {
        Form::Extension(n) => n,
        Form::Memory(n) if n < 8 => n,
        _ => any_register(random),
    };
    let is_register_field =
        !matches!(form, Form::Extension(_)) && !matches!(form, Form::Memory(n) if n < 8);
    if is_register_field && middle >= 8 {
        *rex |= 0x44;
    }
    if !is_memory {
        let low = any_register(random);
        *rex |= if low >= 8 { 0x41 } else { 0 };
        tail.push(0xc0 | (middle & 7) << 3 | (low & 7));
        return;
    }
    let base = if random.chance(2) { 6 } else { 7 };
    match random.below(3) {
        0 => tail.extend([0x40 | (middle & 7) << 3 | base, random.byte()]),
        1 => {
            tail.push(0x80 | (middle & 7) << 3 | base);
            tail.extend(u32::try_from(random.below(0x100)).unwrap().to_le_bytes());
        }
        _ => {
            // Base plus scaled R9.
            *rex |= 0x42;
            let scale = u8::try_from(random.below(4)).unwrap();
            tail.extend([
                0x44 | (middle & 7) << 3,
                scale << 6 | 1 << 3 | base,
                random.byte(),
            ]);
        }
    }
}

/// A bit number in a register moves the operand; it must stay in the data.
fn limit_bit_numbers(state: &mut State, bits: u32) {
    for index in FREE {
        let value = &mut state.gpr[usize::from(index)];
        if index == 9 {
            continue;
        }
        let near = *value & 0xfff;
        let signed = if *value & 1 << 63 != 0 {
            0u64.wrapping_sub(near)
        } else {
            near
        };
        // Only the operand's width counts as the number.
        *value = match bits {
            16 => (*value & !0xffff) | (signed & 0xffff),
            32 => (*value & !0xffff_ffff) | (signed & 0xffff_ffff),
            _ => signed,
        };
    }
}

fn string_state(
    random: &mut Random,
    t: &Template,
    data: u64,
    state: &mut State,
    prefixes: &mut Vec<u8>,
) {
    if random.chance(2) {
        state.rflags |= rflags::DF;
    }
    if random.chance(8) {
        prefixes.push(0x67);
    }
    let compares = matches!(t.opcode, [0xa6 | 0xae]);
    match random.below(3) {
        0 => {}
        1 => prefixes.push(0xf3),
        _ if compares => prefixes.push(0xf2),
        _ => prefixes.push(0xf3),
    }
    state.gpr[1] = random.below(70);
    state.gpr[6] = data + 0x1000 + random.below(0x40);
    state.gpr[7] = data + 0x1000 + random.below(0x400);
    if random.chance(2) {
        // The data repeats a byte here, so that comparisons go on for a while.
        state.gpr[6] = data + 0x3000 + random.below(0x200) + 0x200;
        state.gpr[7] = data + 0x3000 + random.below(0x200) + 0x200;
        state.gpr[0] = 0x5a5a_5a5a_5a5a_5a5a;
    }
}

/// Returns the flags that may differ.
fn undefined(kind: Undefined, bits: u32, count: u8) -> u64 {
    let count = u32::from(count) & if bits == 64 { 63 } else { 31 };
    let overflow = if count == 1 { 0 } else { OF };
    match kind {
        Undefined::Mask(mask) => mask,
        _ if count == 0 => 0,
        Undefined::Rotate => overflow,
        Undefined::Shift if count > bits => AF | OF | CF,
        Undefined::Shift | Undefined::Double => AF | overflow,
    }
}
