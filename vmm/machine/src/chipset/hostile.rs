//! Hostile saved states: fields that are free are set to anything, and what is accepted must still do no harm.

use crate::chipset::fuzz::{Guest, Rng};
use crate::chipset::saved::ChipsetSaved;
use api::device::{Device, Width};
use devices::pit::saved::PitPhaseSaved;

const STATES: u32 = 4_000;
const ACTIONS_PER_STATE: u32 = 60;

fn word(rng: &mut Rng) -> u64 {
    let narrow = rng.below(64);
    rng.next() >> narrow
}

/// Changes one field at random, to a value that may or may not be possible.
fn spoil(saved: &mut ChipsetSaved, rng: &mut Rng) {
    let value = word(rng);
    let (byte, half) = (value as u8, value as u16);
    let which = rng.below(3) as usize;
    match rng.below(22) {
        0 => saved.pit.checked = value,
        1 => saved.pit.raised_at_nanos = Some(value),
        2 => saved.pit.counters[which].phase = PitPhaseSaved::Counting(value),
        3 => saved.pit.counters[which].phase = PitPhaseSaved::Held(value),
        4 => saved.pit.counters[which].count = half,
        5 => saved.pit.counters[which].mode = byte & 7,
        6 => saved.rtc.running = Some((value as i64, value % 1_000_000_000)),
        7 => saved.rtc.checked_second = value as i64,
        8 => saved.rtc.checked_period = value,
        9 => saved.rtc.control = byte,
        10 => saved.rtc.alarm[which] = byte,
        11 => saved.pm.checked_half = value,
        12 => saved.pm.enable = half,
        13 => saved.pic.master.lines = byte,
        14 => saved.pic.slave.lowest = byte & 15,
        15 => saved.ioapic.entries[which] = value,
        16 => saved.ioapic.lines = value as u32,
        17 => saved.fw_cfg.offset = value as u32,
        18 => saved.levels = value as u32,
        19 => saved.com1.received = value.to_le_bytes().to_vec(),
        20 => saved.rtc.stopped[which] = byte,
        _ => saved.pci.address = value as u32,
    }
}

#[test]
fn an_accepted_state_is_harmless() {
    let mut guest = Guest::new();
    let mut rng = Rng::new(0x5a7e);
    let mut accepted = 0;
    for _ in 0..STATES {
        let mut saved = guest.board.chipset.save();
        for _ in 0..=rng.below(3) {
            spoil(&mut saved, &mut rng);
        }
        accepted += u32::from(guest.board.chipset.restore(saved).is_ok());
        let now = guest.board.now;
        guest.board.chipset.poll(now);
        let due = guest.board.chipset.next_deadline();
        assert!(
            due.is_none_or(|due| due > now),
            "it would be polled for ever"
        );
        for _ in 0..ACTIONS_PER_STATE {
            guest.act();
            guest.attend();
        }
        for port in 0x70..0x80 {
            guest.board.write(0x70, Width::Byte, port);
            guest.board.read(0x71, Width::Byte);
        }
        guest.pass_time();
    }
    assert!(accepted > STATES / 4, "{accepted} of {STATES}");
}
