//! Events, sleep types and timer as ACPI drivers use them, and random accesses.

use super::{Pm, RATE};
use crate::layout::GSI_SCI;
use crate::testing::{Bench, Rng};
use api::device::{Device, MachineAction, PortIo};
use api::fake::Effect;
use api::time::VmInstant;

struct Block {
    pm: Pm,
    bench: Bench,
}

impl Block {
    fn new() -> Self {
        Self {
            pm: Pm::new(),
            bench: Bench::new(),
        }
    }

    fn at(&mut self, now: VmInstant) -> &mut Self {
        self.bench.now = now;
        self
    }

    fn read(&mut self, offset: u16) -> u16 {
        let mut byte = |offset| self.pm.read_u8(offset, &mut self.bench.cx());
        u16::from_le_bytes([byte(offset), byte(offset + 1)])
    }

    fn write(&mut self, offset: u16, value: u16) {
        let [low, high] = value.to_le_bytes();
        self.pm.write_u8(offset, low, &mut self.bench.cx());
        self.pm.write_u8(offset + 1, high, &mut self.bench.cx());
    }

    fn command(&mut self, value: u8) {
        self.pm.write_smi(0, value, &mut self.bench.recorder);
    }

    fn press(&mut self) -> bool {
        self.pm.press_power_button(&mut self.bench.recorder)
    }
}

#[test]
fn the_smi_command_hands_events_to_the_guest() {
    let mut block = Block::new();
    assert_eq!(block.read(4) & 1, 0);
    block.command(0xf1);
    assert_eq!(block.read(4) & 1, 1);
    assert_eq!(block.pm.read_smi(0), 0xf1);
    block.command(0xf0);
    assert_eq!(block.read(4) & 1, 0);
}

#[test]
fn the_power_button_is_a_level_until_cleared() {
    let mut block = Block::new();
    assert!(!block.press(), "nobody listens");
    assert_eq!(block.read(0), 0x100);
    block.write(2, 0x100);
    assert!(!block.bench.line(GSI_SCI));
    block.command(0xf1);
    assert!(block.bench.line(GSI_SCI));
    block.write(0, 0x100);
    assert!(!block.bench.line(GSI_SCI));
    assert_eq!(block.read(0), 0);
    assert!(block.press());
    assert!(block.bench.line(GSI_SCI));
}

#[test]
fn sleep_types_become_actions() {
    for (value, expected) in [
        (0x2000, Some(MachineAction::PowerOff)),
        (0x2400, Some(MachineAction::Sleep { state: 3 })),
        (0x2800, Some(MachineAction::Sleep { state: 4 })),
        (0x3c00, None),
        (0x0000, None),
    ] {
        let mut block = Block::new();
        block.write(4, value | 1);
        let actions = block.bench.recorder.effects.iter();
        let action = actions.copied().find_map(|effect| match effect {
            Effect::Action(action) => Some(action),
            _ => None,
        });
        assert_eq!(action, expected, "{value:#x}");
        assert_eq!(block.read(4), value & 0x1c00 | 1, "SLP_EN reads 0");
    }
}

#[test]
fn the_timer_has_24_bits_and_the_right_pace() {
    assert_eq!(Pm::read_timer(VmInstant::ZERO), 0);
    let second = VmInstant::from_nanos(1_000_000_000);
    assert_eq!(Pm::read_timer(second), 3_579_545);
    assert_eq!(Pm::read_timer(RATE.instant(0x0100_0007)), 7);
    let mut block = Block::new();
    block.at(RATE.instant(0x0012_3456));
    assert_eq!((block.read(8), block.read(10)), (0x3456, 0x0012));
}

#[test]
fn the_timer_interrupts_only_on_request() {
    let mut block = Block::new();
    block.command(0xf1);
    assert_eq!(block.pm.next_deadline(), None);
    block.write(2, 0x1);
    let due = block.pm.next_deadline().unwrap();
    assert_eq!(due, RATE.instant(1 << 23));
    block.at(due);
    block.pm.poll(due, &mut block.bench.recorder);
    assert!(block.bench.line(GSI_SCI));
    assert_eq!(block.pm.next_deadline(), None);
    block.write(0, 0x1);
    assert!(!block.bench.line(GSI_SCI));
    assert_eq!(block.pm.next_deadline(), Some(RATE.instant(2 << 23)));
}

#[test]
fn general_purpose_events_raise_the_sci() {
    let mut block = Block::new();
    block.command(0xf1);
    block.write(0xe, 0x0202);
    block.pm.raise_gpe(9, &mut block.bench.recorder);
    assert!(block.bench.line(GSI_SCI));
    assert_eq!(block.read(0xc), 0x200);
    block.write(0xc, 0x200);
    assert!(!block.bench.line(GSI_SCI));
    block.pm.raise_gpe(200, &mut block.bench.recorder);
    assert_eq!(block.read(0xc), 0);
}

#[test]
fn clock_and_wake_events_are_recorded() {
    let mut block = Block::new();
    block.pm.rtc_event(&mut block.bench.recorder);
    block.pm.wake(&mut block.bench.recorder);
    assert_eq!(block.read(0), 0x8400);
}

#[test]
fn random_accesses_keep_the_line_a_function_of_the_registers() {
    let mut rng = Rng::new(0x7113);
    let mut block = Block::new();
    let mut nanos = 0;
    for step in 0..150_000 {
        nanos += rng.below(2_000_000_000);
        block.at(VmInstant::from_nanos(nanos));
        let offset = rng.below(64) as u16;
        match rng.below(8) {
            0..=2 => {
                block.pm.read_u8(offset, &mut block.bench.cx());
            }
            3..=5 => {
                let offset = offset & 0xf;
                block.pm.write_u8(offset, rng.byte(), &mut block.bench.cx());
            }
            6 => {
                block.press();
            }
            _ => block.command(0xf0 | rng.byte() & 1),
        }
        let saved = block.pm.save();
        let wanted = saved.control & 1 != 0
            && (saved.status & saved.enable != 0 || saved.gpe_status & saved.gpe_enable != 0);
        assert_eq!(saved.line_level, wanted);
        if step % 512 == 0 {
            let mut copy = Pm::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            block.bench.recorder.effects.clear();
        }
    }
    let mut saved = block.pm.save();
    saved.control = 1 << 13;
    assert!(block.pm.restore(saved).is_err());
}
