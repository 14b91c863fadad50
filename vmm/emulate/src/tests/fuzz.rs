//! Random bytes as code, on random registers: no panic, bounded work, and exceptions change nothing.

use super::machine::{CODE, CONFIG, DATA, DEVICE, Machine, long, protected, real};
use crate::{Emulator, Hint, Outcome, Registers};
use addr::Gpa;
use api::cpu::{DescriptorTable, cr0, cr4, rflags};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn register(&mut self) -> u64 {
        let value = self.next();
        match value % 8 {
            0 => DATA + (value >> 32) % 0x1000,
            1 => DEVICE + (value >> 32) % 0x1000,
            2 => DATA + 0xff0 + (value >> 32) % 32,
            3 => (value >> 32) % 64,
            4 => 0u64.wrapping_sub((value >> 32) % 64),
            5 => 0x8_0000 + (value >> 32) % 0x4000,
            6 => value,
            _ => value >> (value % 64),
        }
    }

    fn registers(&mut self) -> Registers {
        let mut r = match self.next() % 4 {
            0 => real(),
            1 => protected(),
            _ => long(),
        };
        for register in &mut r.gpr {
            *register = self.register();
        }
        r.rflags |= self.next()
            & (rflags::CF | rflags::DF | rflags::ZF | rflags::AC | rflags::IOPL | rflags::TF);
        if self.next().is_multiple_of(4) {
            r.cpl = 3;
            r.cr0 |= cr0::AM;
        }
        if self.next().is_multiple_of(4) {
            r.cr0 |= cr0::PG;
            r.cr3 = 0x8_0000;
            r.cr4 |= self.next() & (cr4::LA57 | cr4::PSE | cr4::SMAP | cr4::SMEP);
        }
        r
    }
}

#[test]
fn random_code_is_survived() {
    let mut random = Random(0xba5a17);
    let mut machine = Machine::new();
    machine.tables.gdtr = DescriptorTable {
        base: 0x8_4000,
        limit: 0xff,
    };
    let (mut done, mut faults, mut unhandled) = (0u32, 0u32, 0u32);
    let mut emulator = Emulator::new(CONFIG);
    for round in 0..300_000u32 {
        if round % 512 == 0 {
            // Page tables, descriptors and data are random too, biased to present entries.
            for at in (0x8_0000..0x8_5000).step_by(8) {
                let value = random.next();
                let value = if value.is_multiple_of(3) {
                    value
                } else {
                    (0x8_0000 + (value >> 20 & 0x7000)) | 7
                };
                machine.put64(at, value);
            }
        }
        let mut code = [0; 16];
        code[..8].copy_from_slice(&random.next().to_le_bytes());
        code[8..].copy_from_slice(&random.next().to_le_bytes());
        if round % 2 == 0 {
            // Half of all start with an opcode that is emulated.
            const LIKELY: [u8; 16] = [
                0x0f, 0x48, 0x66, 0xf3, 0xf0, 0x88, 0x8b, 0x80, 0xff, 0xf7, 0xc1, 0xa4, 0x67, 0xc5,
                0x8e, 0x64,
            ];
            code[0] = LIKELY[usize::from(code[0] & 15)];
        }
        let mut r = random.registers();
        let at = if r.is_long() {
            r.rip
        } else {
            r.segments[1].base + r.rip
        };
        machine.put(at, &code);
        machine.touches.clear();
        machine.losses = u32::from(round % 7 == 0) * 20;
        let before = r;
        let hint = Hint {
            gpa: (round % 3 == 0).then(|| Gpa::new_truncate(DEVICE + random.next() % 0x1000)),
            is_write: round % 2 == 0,
            bytes: if round % 5 == 0 { &code[..15] } else { &[] },
        };
        let outcome = emulator.run(&mut machine, &mut r, &hint);
        assert!(machine.touches.len() < 4096, "{code:02x?}");
        match outcome {
            Outcome::Done { .. } => done += 1,
            Outcome::Exception(_) => {
                faults += 1;
                // A string instruction keeps whole iterations; all others keep everything.
                let is_string = r.gpr[1] != before.gpr[1]
                    || r.gpr[6] != before.gpr[6]
                    || r.gpr[7] != before.gpr[7];
                assert!(is_string || r == before, "{code:02x?}");
                assert_eq!(r.rip, before.rip);
            }
            Outcome::Unhandled { .. } => {
                unhandled += 1;
                assert_eq!(r, before, "{code:02x?}");
            }
            Outcome::Unavailable => assert_eq!(r.gpr[4], before.gpr[4]),
        }
    }
    assert!(
        done > 50_000 && faults > 50_000 && unhandled > 1_000,
        "{done} {faults} {unhandled}"
    );
    assert_ne!(CODE, 0);
}
