//! Random instructions, natively and emulated.

mod cases;
mod memory;
mod random;
mod templates;

use crate::{DATA_SIZE, Native, State};
use api::cpu::{Segment, SegmentAttributes as Attr, cr0, cr4, efer, rflags, segment};
use cases::make;
use emulate::{Config, Emulator, Hint, Outcome, Registers};
use memory::Memory;
use random::Random;
use templates::{Undefined, templates};

/// Where the emulator finds the instruction.
const CODE: u64 = 0x1000;
/// Instructions tried per template.
const ROUNDS: u32 = 1500;

const CF: u64 = rflags::CF;
const PF: u64 = rflags::PF;
const AF: u64 = rflags::AF;
const ZF: u64 = rflags::ZF;
const SF: u64 = rflags::SF;
const OF: u64 = rflags::OF;
const STATUS: u64 = CF | PF | AF | ZF | SF | OF;

fn registers(state: &State) -> Registers {
    let mut segments = [Segment::flat(0x18, Attr::DATA32); 6];
    segments[segment::CS] = Segment::flat(0x10, Attr::CODE64);
    Registers {
        gpr: state.gpr,
        rip: CODE,
        rflags: state.rflags,
        segments,
        cr0: cr0::PE,
        cr4: cr4::PAE,
        efer: efer::LME | efer::LMA,
        ..Registers::default()
    }
}

/// Runs the emulator until the instruction retires; nothing when it faults.
fn emulate(memory: &mut Memory, state: &State, bytes: &[u8]) -> Option<State> {
    let mut r = registers(state);
    memory.code = [0x90; 16];
    memory.code[..bytes.len()].copy_from_slice(bytes);
    let mut emulator = Emulator::new(Config {
        phys_bits: 40,
        has_page1gb: true,
    });
    while r.rip == CODE {
        match emulator.run(memory, &mut r, &Hint::default()) {
            Outcome::Done { .. } => {}
            // A divide error, or CMPXCHG16B on a misaligned operand.
            Outcome::Exception(e) if matches!(e.vector, 0 | 13) => return None,
            outcome => panic!("{bytes:02x?}: {outcome:?}"),
        }
    }
    assert_eq!(r.rip, CODE + bytes.len() as u64, "{bytes:02x?}");
    Some(State {
        gpr: r.gpr,
        rflags: r.rflags,
    })
}

#[test]
fn the_emulator_agrees_with_the_processor() {
    let mut native = Native::new();
    let base = native.data_address();
    let mut random = Random(0x0ba5_a170);
    let mut data: Vec<u8> = (0..DATA_SIZE).map(|_| random.byte()).collect();
    let (mut compared, mut skipped) = (0, 0);
    for t in &templates() {
        for _ in 0..ROUNDS {
            data[0x3000..0x3800].fill(0x5a);
            let odd = usize::try_from(random.below(0x800)).unwrap();
            data[0x3000 + odd] = 0;
            let case = make(&mut random, t, base);
            let is_word_double = t.undefined == Undefined::Double && case.bytes[0] == 0x66;
            let mut memory = Memory {
                data: data.clone(),
                base,
                code: [0; 16],
            };
            let Some(ours) = emulate(&mut memory, &case.state, &case.bytes) else {
                skipped += 1;
                continue;
            };
            // A 16-bit double shift by more than 16 has no defined result.
            if is_word_double {
                skipped += 1;
                continue;
            }
            let mut native_data = data.clone();
            let theirs = native.run(&case.bytes, &case.state, &mut native_data);
            let mask = (STATUS & !case.undefined) | rflags::DF;
            assert_eq!(
                ours.gpr, theirs.gpr,
                "{:02x?} from {:x?}",
                case.bytes, case.state
            );
            assert_eq!(
                ours.rflags & mask,
                theirs.rflags & mask,
                "flags of {:02x?} from {:x?}",
                case.bytes,
                case.state
            );
            assert!(
                memory.data == native_data,
                "memory of {:02x?} from {:x?}",
                case.bytes,
                case.state
            );
            compared += 1;
        }
    }
    assert!(compared > 150_000, "{compared} compared, {skipped} skipped");
}
