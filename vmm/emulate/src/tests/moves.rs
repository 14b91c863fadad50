//! Known moves: they do what running the instruction does, and are known only while nothing they depend on changed.

use super::machine::{CODE, CONFIG, DEVICE, Machine, long, protected, real};
use crate::{Code, Emulator, Hint, Live, Outcome, PlainMove, Registers, Transfer};
use addr::Gpa;
use alloc::vec::Vec;
use api::cpu::{cr0, cr4, efer, rflags, segment};
use api::device::Width;

const ROOT: u64 = 0x8_0000;
/// Present, writable, for users, accessed, dirty.
const RIGHTS: u64 = 0x67;
const LARGE: u64 = 0x80;

/// Registers and RAM as the short way sees them.
struct Look<'a> {
    registers: &'a Registers,
    machine: &'a Machine,
}

impl Live for Look<'_> {
    fn code(&self) -> Code {
        let r = self.registers;
        let cs = r.segments[segment::CS];
        Code {
            rip: r.rip,
            cs_base: cs.base,
            cs_limit: cs.limit,
            cs_attributes: cs.attributes,
            cpl: r.cpl,
            cr0: r.cr0,
            cr3: r.cr3,
            cr4: r.cr4,
            efer: r.efer,
        }
    }

    fn rflags(&self) -> u64 {
        self.registers.rflags
    }

    fn gpr(&self, index: u8) -> u64 {
        self.registers.gpr[usize::from(index)]
    }

    fn segment_base(&self, index: usize) -> u64 {
        self.registers.segments[index].base
    }

    fn read_u64(&mut self, gpa: Gpa) -> Option<u64> {
        assert!(gpa.page_offset() <= 4096 - 8);
        let at = usize::try_from(gpa.as_u64()).unwrap();
        let bytes = self.machine.ram.get(at..at + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

struct Setting {
    machine: Machine,
    registers: Registers,
    emulator: Emulator,
    gpa: u64,
    is_write: bool,
}

impl Setting {
    /// Puts `code` at RIP; RBX points to `gpa` in the device.
    fn new(mut registers: Registers, code: &[u8], gpa: u64, is_write: bool) -> Self {
        let mut machine = Machine::new();
        let base = if registers.is_long() {
            0
        } else {
            registers.segments[segment::CS].base
        };
        machine.put(base + registers.rip, code);
        registers.gpr[3] = gpa;
        registers.gpr[0] = 0x1122_3344_5566_7788;
        Self {
            machine,
            registers,
            emulator: Emulator::new(CONFIG),
            gpa,
            is_write,
        }
    }

    /// Four levels, the code in a 4 KiB page, the device in a 2 MiB page.
    fn paged(code: &[u8], gpa: u64, is_write: bool) -> Self {
        let mut registers = long();
        registers.cr0 |= cr0::PG;
        registers.cr3 = ROOT;
        registers.cr4 |= cr4::PAE;
        registers.efer |= efer::NXE;
        let mut this = Self::new(registers, code, gpa, is_write);
        let m = &mut this.machine;
        m.put64(ROOT, 0x8_1000 | RIGHTS);
        m.put64(0x8_1000, 0x8_2000 | RIGHTS);
        m.put64(0x8_1000 + 3 * 8, 0x8_4000 | RIGHTS);
        m.put64(0x8_2000, 0x8_3000 | RIGHTS);
        m.put64(0x8_3000 + (CODE >> 12) * 8, CODE | RIGHTS);
        m.put64(0x8_4000 + 0x1f7 * 8, DEVICE | RIGHTS | LARGE);
        this
    }

    fn look(&self) -> Option<PlainMove> {
        let mut look = Look {
            registers: &self.registers,
            machine: &self.machine,
        };
        let gpa = Gpa::new_truncate(self.gpa);
        self.emulator.known_move(&mut look, gpa, self.is_write)
    }

    fn run(&mut self) -> Registers {
        let mut registers = self.registers;
        let hint = Hint {
            gpa: Gpa::new(self.gpa),
            is_write: self.is_write,
            bytes: &[],
        };
        let outcome = self.emulator.run(&mut self.machine, &mut registers, &hint);
        assert_eq!(outcome, Outcome::Done { single_step: false });
        registers
    }
}

/// Loads and stores at RBX: code, whether it writes, bytes.
const MOVES: [(&[u8], bool, usize); 12] = [
    (&[0x8b, 0x03], false, 4),
    (&[0x89, 0x03], true, 4),
    (&[0x48, 0x8b, 0x03], false, 8),
    (&[0x48, 0x89, 0x03], true, 8),
    (&[0x66, 0x8b, 0x0b], false, 2),
    (&[0x66, 0x89, 0x03], true, 2),
    (&[0x8a, 0x03], false, 1),
    (&[0x88, 0x03], true, 1),
    (&[0xc7, 0x03, 0xef, 0xbe, 0xad, 0xde], true, 4),
    (&[0x48, 0xc7, 0x03, 0xff, 0xff, 0xff, 0xff], true, 8),
    (
        &[0x48, 0xc7, 0x84, 0x23, 0, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff],
        true,
        8,
    ),
    (&[0xc6, 0x43, 0x00, 0x5a], true, 1),
];

/// Does what a known move says to registers and device.
fn apply(setting: &mut Setting, found: PlainMove) -> Registers {
    let mut registers = setting.registers;
    let len = usize::try_from(found.width.bytes()).unwrap();
    let at = usize::try_from(setting.gpa - DEVICE).unwrap();
    match found.transfer {
        Transfer::Load(register) => {
            let mut bytes = [0; 8];
            bytes[..len].copy_from_slice(&setting.machine.device[at..at + len]);
            registers.write_gpr(register, found.width, u64::from_le_bytes(bytes));
        }
        Transfer::Store(value) => {
            assert_eq!(value & !found.width.all_ones(), 0);
            setting.machine.device[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        }
    }
    registers.rip = found.next_rip;
    registers.rflags &= !rflags::RF;
    registers.interrupt_shadow = false;
    registers
}

#[test]
fn a_known_move_does_what_running_it_does() {
    for (code, is_write, len) in MOVES {
        let mut settings = [
            Setting::paged(code, DEVICE + 0x40, is_write),
            Setting::new(long(), code, DEVICE + 0x40, is_write),
        ];
        for setting in &mut settings {
            setting.registers.rflags |= rflags::RF;
            setting.registers.interrupt_shadow = true;
            for index in 0..64u8 {
                setting.machine.device[0x20 + usize::from(index)] = index ^ 0xc3;
            }
            let before = setting.machine.device.clone();
            assert_eq!(setting.look(), None, "{code:02x?} before it ran");
            let ran = setting.run();
            let device = core::mem::replace(&mut setting.machine.device, before);
            let found = setting.look().expect("known after it ran");
            assert_eq!(found.width, Width::from_bytes(len).unwrap());
            assert_eq!(apply(setting, found), ran, "{code:02x?}");
            assert_eq!(setting.machine.device, device, "{code:02x?}");
        }
    }
}

#[test]
fn narrow_modes_are_known_too() {
    let load = &[0x8b, 0x03][..];
    let mut flat = Setting::new(protected(), load, DEVICE + 0x10, false);
    let after = flat.run();
    assert_eq!(flat.look().map(|m| m.next_rip), Some(after.rip));
    // MOV EAX, [EBX] in real mode with limits of 4 GiB.
    let mut registers = real();
    registers.segments[segment::DS].base = 0;
    registers.segments[segment::DS].limit = u32::MAX;
    let code = &[0x66, 0x67, 0x8b, 0x03][..];
    let mut unreal = Setting::new(registers, code, DEVICE + 0x10, false);
    let after = unreal.run();
    assert_eq!(unreal.look().map(|m| m.next_rip), Some(after.rip));
}

#[test]
fn a_changed_page_table_entry_or_byte_is_noticed() {
    let code = &[0xc7, 0x84, 0x23, 0, 0, 0, 0, 1, 2, 3, 4];
    let mut setting = Setting::paged(code, DEVICE, true);
    setting.run();
    assert!(setting.look().is_some());
    let tables = [ROOT, 0x8_1000, 0x8_2000, 0x8_3000 + (CODE >> 12) * 8];
    let words = tables.into_iter().flat_map(|at| at..at + 8);
    for at in words.chain(CODE..CODE + code.len() as u64) {
        let at = usize::try_from(at).unwrap();
        for bit in 0..8 {
            setting.machine.ram[at] ^= 1 << bit;
            assert_eq!(setting.look(), None, "{at:#x} bit {bit}");
            setting.machine.ram[at] ^= 1 << bit;
        }
    }
    // What lies behind the instruction does not matter.
    setting.machine.ram[usize::try_from(CODE).unwrap() + code.len()] ^= 0xff;
    assert!(setting.look().is_some());
}

#[test]
fn a_changed_register_is_noticed() {
    let mut setting = Setting::paged(&[0x8b, 0x03], DEVICE + 8, false);
    setting.run();
    let known = setting.registers;
    let changes: [fn(&mut Registers); 13] = [
        |r| r.rip += 0x1000,
        |r| r.cr0 ^= cr0::WP,
        |r| r.cr3 += 0x1000,
        |r| r.cr4 ^= cr4::SMEP,
        |r| r.efer ^= efer::NXE,
        |r| r.cpl = 3,
        |r| r.segments[segment::CS].attributes.0 ^= 1 << 9,
        |r| r.segments[segment::CS].limit -= 1,
        |r| r.segments[segment::CS].base += 1,
        |r| r.rflags |= rflags::TF,
        // The operand is elsewhere.
        |r| r.gpr[3] += 4,
        |r| r.gpr[3] -= 1,
        |r| r.gpr[3] ^= 0x800,
    ];
    for (index, change) in changes.iter().enumerate() {
        change(&mut setting.registers);
        assert_eq!(setting.look(), None, "change {index}");
        setting.registers = known;
        assert!(setting.look().is_some());
    }
    setting.is_write = true;
    assert_eq!(setting.look(), None);
}

#[test]
fn the_second_half_of_an_operand_is_not_taken_for_it() {
    let mut setting = Setting::paged(&[0x8b, 0x03], DEVICE, false);
    setting.run();
    assert!(setting.look().is_some());
    // Two bytes below the page: what faults is its first byte.
    setting.registers.gpr[3] = DEVICE - 2;
    assert_eq!(setting.look(), None);
    // The operand begins here, but ends in the next page.
    setting.registers.gpr[3] = DEVICE + 0xffe;
    setting.gpa = DEVICE + 0xffe;
    assert_eq!(setting.look(), None);
}

#[test]
fn only_marked_and_allowed_code_becomes_known() {
    let accessed = 1 << 5;
    let mut setting = Setting::paged(&[0x8b, 0x03], DEVICE, false);
    setting
        .machine
        .put64(0x8_2000, 0x8_3000 | RIGHTS & !accessed);
    setting.run();
    // That run set the bit; now the way is marked.
    assert!(setting.machine.get(0x8_2000) & accessed != 0);
    setting.run();
    assert!(setting.look().is_some());
    let before: Vec<u8> = setting.machine.ram.clone();
    assert!(setting.look().is_some());
    assert_eq!(setting.machine.ram, before);
}

#[test]
fn others_never_become_known() {
    let others: [&[u8]; 6] = [
        &[0x03, 0x03],       // ADD
        &[0x0f, 0xb6, 0x03], // MOVZX
        &[0x8a, 0x23],       // MOV AH
        &[0x87, 0x03],       // XCHG
        &[0xff, 0x33],       // PUSH
        &[0x0f, 0x10, 0x03], // MOVUPS
    ];
    for code in others {
        for is_write in [false, true] {
            let mut setting = Setting::paged(code, DEVICE + 0x10, is_write);
            setting
                .machine
                .put64(0x8_3000 + 0x2f * 8, 0x2_f000 | RIGHTS);
            let mut registers = setting.registers;
            let hint = Hint {
                gpa: Gpa::new(setting.gpa),
                is_write,
                bytes: &[],
            };
            setting
                .emulator
                .run(&mut setting.machine, &mut registers, &hint);
            assert_eq!(setting.look(), None, "{code:02x?}");
        }
    }
}
