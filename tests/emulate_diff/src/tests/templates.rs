//! The instructions under test: opcodes, how operands are made, and which flags are undefined.

use super::{AF, CF, OF, PF, SF, STATUS, ZF};
use Form::{Extension, Low, Memory, Plain, Register, String};
use Immediate::{Byte, Word};
use Undefined::{Double, Mask, Rotate, Shift};

/// How a template's operands are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// ModRM with a random register in its middle field.
    Register,
    /// ModRM with this opcode extension.
    Extension(u8),
    /// As `Extension`, memory only.
    Memory(u8),
    /// No ModRM; the register in the low bits of the last opcode byte.
    Low,
    /// Nothing follows the opcode.
    Plain,
    /// A string instruction: RSI, RDI and RCX are prepared, prefixes added.
    String,
}

/// How large the immediate is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Immediate {
    None,
    Byte,
    /// 2 bytes with an operand-size prefix, else 4.
    Word,
}

/// Which flags the manuals leave undefined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Undefined {
    Mask(u64),
    /// Depends on the count: that of a shift or rotate of this many bits.
    Shift,
    Rotate,
    Double,
}

pub(super) struct Template {
    pub(super) opcode: &'static [u8],
    /// The lowest opcode bit chooses bytes or larger operands.
    pub(super) has_byte_form: bool,
    pub(super) form: Form,
    pub(super) immediate: Immediate,
    pub(super) may_lock: bool,
    pub(super) undefined: Undefined,
}

pub(super) const fn template(opcode: &'static [u8], form: Form) -> Template {
    Template {
        opcode,
        has_byte_form: false,
        form,
        immediate: Immediate::None,
        may_lock: false,
        undefined: Undefined::Mask(0),
    }
}

impl Template {
    pub(super) const fn bytes(self) -> Self {
        Self {
            has_byte_form: true,
            ..self
        }
    }

    pub(super) const fn imm(self, immediate: Immediate) -> Self {
        Self { immediate, ..self }
    }

    pub(super) const fn lock(self) -> Self {
        Self {
            may_lock: true,
            ..self
        }
    }

    pub(super) const fn undefined(self, undefined: Undefined) -> Self {
        Self { undefined, ..self }
    }
}

/// Returns all templates.
pub(super) fn templates() -> Vec<Template> {
    let groups = [
        operations(),
        products(),
        shifts(),
        bits(),
        exchanges(),
        moves(),
        rest(),
    ];
    groups.into_iter().flatten().collect()
}

/// The eight operations: r/m,r; r,r/m; r/m,imm; r/m,imm8; and their one-operand kin.
fn operations() -> Vec<Template> {
    const MR: [&[u8]; 8] = [&[0], &[8], &[16], &[24], &[32], &[40], &[48], &[56]];
    const RM: [&[u8]; 8] = [&[2], &[10], &[18], &[26], &[34], &[42], &[50], &[58]];
    let mut all = Vec::new();
    for ((mr, rm), op) in MR.into_iter().zip(RM).zip(0u8..) {
        let undefined = Mask(if matches!(op, 1 | 4 | 6) { AF } else { 0 });
        let lock = |t: Template| if op == 7 { t } else { t.lock() };
        all.push(lock(template(mr, Register).bytes()).undefined(undefined));
        all.push(template(rm, Register).bytes().undefined(undefined));
        all.push(lock(template(&[0x81], Extension(op)).imm(Word)).undefined(undefined));
        all.push(lock(template(&[0x80], Extension(op)).imm(Byte)).undefined(undefined));
        all.push(lock(template(&[0x83], Extension(op)).imm(Byte)).undefined(undefined));
    }
    all.push(template(&[0x84], Register).bytes().undefined(Mask(AF)));
    all.push(
        template(&[0xf6], Extension(0))
            .imm(Byte)
            .undefined(Mask(AF)),
    );
    all.push(
        template(&[0xf7], Extension(0))
            .imm(Word)
            .undefined(Mask(AF)),
    );
    for extension in [0, 1] {
        all.push(template(&[0xfe], Extension(extension)).bytes().lock());
    }
    for extension in [2, 3] {
        all.push(template(&[0xf6], Extension(extension)).bytes().lock());
    }
    all
}

fn products() -> Vec<Template> {
    let product = Mask(SF | ZF | AF | PF);
    let mut all = vec![
        template(&[0x0f, 0xaf], Register).undefined(product),
        template(&[0x69], Register).imm(Word).undefined(product),
        template(&[0x6b], Register).imm(Byte).undefined(product),
    ];
    for extension in [4, 5] {
        all.push(
            template(&[0xf6], Extension(extension))
                .bytes()
                .undefined(product),
        );
    }
    for extension in [6, 7] {
        all.push(
            template(&[0xf6], Extension(extension))
                .bytes()
                .undefined(Mask(STATUS)),
        );
    }
    all
}

fn shifts() -> Vec<Template> {
    let mut all = Vec::new();
    for extension in 0..8 {
        let undefined = if extension < 4 { Rotate } else { Shift };
        for opcode in [&[0xd0], &[0xd2]] {
            all.push(
                template(opcode, Extension(extension))
                    .bytes()
                    .undefined(undefined),
            );
        }
        let by_immediate = template(&[0xc0], Extension(extension)).bytes().imm(Byte);
        all.push(by_immediate.undefined(undefined));
    }
    for opcode in [&[0x0f, 0xa4], &[0x0f, 0xac]] {
        all.push(template(opcode, Register).imm(Byte).undefined(Double));
    }
    for opcode in [&[0x0f, 0xa5], &[0x0f, 0xad]] {
        all.push(template(opcode, Register).undefined(Double));
    }
    all
}

fn bits() -> Vec<Template> {
    let carry_only = Mask(OF | SF | AF | PF);
    let mut all = vec![
        template(&[0x0f, 0xa3], Register).undefined(carry_only),
        template(&[0x0f, 0xba], Extension(4))
            .imm(Byte)
            .undefined(carry_only),
        template(&[0xf3, 0x0f, 0xb8], Register),
        template(&[0x0f, 0xc8], Low),
    ];
    for opcode in [&[0x0f, 0xab], &[0x0f, 0xb3], &[0x0f, 0xbb]] {
        all.push(template(opcode, Register).lock().undefined(carry_only));
    }
    for extension in [5, 6, 7] {
        let change = template(&[0x0f, 0xba], Extension(extension))
            .imm(Byte)
            .lock();
        all.push(change.undefined(carry_only));
    }
    for opcode in [&[0x0f, 0xbc], &[0x0f, 0xbd]] {
        all.push(template(opcode, Register).undefined(Mask(CF | OF | SF | AF | PF)));
    }
    if std::arch::is_x86_feature_detected!("bmi1") && std::arch::is_x86_feature_detected!("lzcnt") {
        for opcode in [&[0xf3, 0x0f, 0xbc], &[0xf3, 0x0f, 0xbd]] {
            all.push(template(opcode, Register).undefined(carry_only));
        }
    }
    all
}

fn exchanges() -> Vec<Template> {
    vec![
        template(&[0x86], Register).bytes().lock(),
        template(&[0x0f, 0xc0], Register).bytes().lock(),
        template(&[0x0f, 0xb0], Register).bytes().lock(),
        template(&[0x0f, 0xc7], Memory(1)).lock(),
    ]
}

fn moves() -> Vec<Template> {
    let mut all = vec![
        template(&[0x88], Register).bytes(),
        template(&[0x8a], Register).bytes(),
        template(&[0xc6], Extension(0)).imm(Byte),
        template(&[0xc7], Extension(0)).imm(Word),
        template(&[0x63], Register),
        template(&[0x0f, 0xc3], Memory(8)),
        template(&[0x8d], Memory(8)),
    ];
    for opcode in [&[0x0f, 0xb6], &[0x0f, 0xb7], &[0x0f, 0xbe], &[0x0f, 0xbf]] {
        all.push(template(opcode, Register));
    }
    if std::arch::is_x86_feature_detected!("movbe") {
        all.push(template(&[0x0f, 0x38, 0xf0], Memory(8)));
        all.push(template(&[0x0f, 0x38, 0xf1], Memory(8)));
    }
    all
}

/// Conditions, flags, conversions and strings.
fn rest() -> Vec<Template> {
    const SET: [[u8; 2]; 16] = conditions(0x90);
    const MOVE: [[u8; 2]; 16] = conditions(0x40);
    const PLAIN: [&[u8]; 9] = [
        &[0x98],
        &[0x99],
        &[0x9e],
        &[0x9f],
        &[0xf5],
        &[0xf8],
        &[0xf9],
        &[0xfc],
        &[0xfd],
    ];
    const STRINGS: [&[u8]; 5] = [&[0xa4], &[0xa6], &[0xaa], &[0xac], &[0xae]];
    let set = SET.iter().map(|opcode| template(opcode, Extension(0)));
    let moves = MOVE.iter().map(|opcode| template(opcode, Register));
    let plain = PLAIN.iter().map(|opcode| template(opcode, Plain));
    let strings = STRINGS
        .iter()
        .map(|opcode| template(opcode, String).bytes());
    set.chain(moves).chain(plain).chain(strings).collect()
}

const fn conditions(first: u8) -> [[u8; 2]; 16] {
    let mut all = [[0x0f, first]; 16];
    let mut code = 0;
    while code < 16 {
        all[code as usize][1] = first + code;
        code += 1;
    }
    all
}
