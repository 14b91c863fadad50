//! Probes of kernels and firmware, resets, and random accesses.

use super::I8042;
use crate::layout::GSI_KEYBOARD;
use crate::testing::{Bench, Rng};
use api::device::{Device, MachineAction};
use api::fake::Effect;

struct Controller {
    chip: I8042,
    bench: Bench,
}

impl Controller {
    fn new(has_keyboard: bool) -> Self {
        Self {
            chip: I8042::new(has_keyboard),
            bench: Bench::new(),
        }
    }

    fn command(&mut self, value: u8) -> &mut Self {
        self.chip.write_command(value, &mut self.bench.recorder);
        self
    }

    fn data(&mut self, value: u8) -> &mut Self {
        self.chip.write_data(value, &mut self.bench.recorder);
        self
    }

    /// The next byte that is there to be read.
    fn read(&mut self) -> Option<u8> {
        (self.chip.read_status() & 1 != 0).then(|| self.chip.read_data(&mut self.bench.recorder))
    }

    fn was_reset(&self) -> bool {
        let init = Effect::Action(MachineAction::InitCpu);
        self.bench.recorder.effects.contains(&init)
    }
}

#[test]
fn linux_probes_without_a_time_out() {
    let mut chip = Controller::new(true);
    assert_eq!(chip.read(), None);
    assert_eq!(chip.command(0x20).read(), Some(0x41));
    chip.command(0x60).data(0x74);
    assert_eq!(chip.command(0x20).read(), Some(0x74));
    assert_eq!(chip.command(0xaa).read(), Some(0x55));
    assert_ne!(chip.chip.read_status() & 0x04, 0);
    // The loopback to the auxiliary port comes back, but not from it: there is none.
    chip.command(0xd3).data(0x5a);
    assert_eq!(chip.chip.read_status() & 0x21, 0x01);
    assert_eq!(chip.read(), Some(0x5a));
    assert_eq!(chip.command(0xa9).read(), Some(0x01));
    assert_eq!(chip.command(0xab).read(), Some(0x00));
    assert_eq!(Controller::new(false).command(0xab).read(), Some(0x01));
}

#[test]
fn a_keyboard_identifies_itself() {
    let mut chip = Controller::new(true);
    chip.command(0x60).data(0x01);
    for (command, replies) in [
        (0xff, &[0xfa, 0xaa][..]),
        (0xf2, &[0xfa, 0xab, 0x83]),
        (0xed, &[0xfa]),
        (0x02, &[0xfa]),
        (0xf0, &[0xfa]),
        (0x00, &[0xfa, 0x02]),
        (0xf4, &[0xfa]),
        (0xee, &[0xee]),
        (0x01, &[0xfe]),
    ] {
        chip.data(command);
        for reply in replies {
            assert_eq!(chip.read(), Some(*reply), "to {command:#x}");
        }
        assert_eq!(chip.read(), None);
    }
    chip.command(0x60).data(0x41).data(0xf2);
    assert_eq!(chip.read(), Some(0xfa));
    assert_eq!(chip.read(), Some(0xab));
    assert_eq!(chip.read(), Some(0x41), "translated");
}

#[test]
fn without_a_keyboard_nobody_answers() {
    let mut chip = Controller::new(false);
    chip.data(0xff);
    assert_eq!(chip.read(), None);
}

#[test]
fn every_byte_is_an_edge() {
    let mut chip = Controller::new(true);
    chip.data(0xff);
    assert!(chip.bench.line(GSI_KEYBOARD));
    chip.read();
    assert_eq!(chip.bench.rises(GSI_KEYBOARD), 2);
    chip.read();
    assert!(!chip.bench.line(GSI_KEYBOARD));
    chip.command(0x60).data(0x00);
    chip.data(0xee);
    assert!(!chip.bench.line(GSI_KEYBOARD), "interrupt disabled");
}

#[test]
fn a_disabled_keyboard_keeps_its_bytes() {
    let mut chip = Controller::new(true);
    chip.data(0xff).command(0xad);
    assert_eq!(chip.read(), Some(0xfa));
    assert_eq!(chip.read(), None);
    chip.command(0xae);
    assert_eq!(chip.read(), Some(0xaa));
}

#[test]
fn three_ways_lead_to_a_cpu_reset() {
    let mut pulse = Controller::new(true);
    assert!(!pulse.command(0xff).was_reset());
    assert!(pulse.command(0xfe).was_reset());
    let mut port = Controller::new(true);
    let lines = port.command(0xd0).read().unwrap();
    assert_eq!(lines & 3, 3);
    assert!(!port.command(0xd1).data(lines).was_reset());
    assert!(port.command(0xd1).data(lines & !1).was_reset());
}

#[test]
fn the_a20_gate_reads_back() {
    let mut chip = Controller::new(true);
    chip.command(0xdd);
    assert_eq!(chip.command(0xd0).read(), Some(0x01));
    chip.command(0xdf);
    assert_eq!(chip.command(0xd0).read(), Some(0x03));
    chip.command(0xd1).data(0x01);
    assert_eq!(chip.command(0xd0).read(), Some(0x01));
}

#[test]
fn random_accesses_never_jam_the_output() {
    let mut rng = Rng::new(8042);
    let mut chip = Controller::new(true);
    for step in 0..150_000 {
        match rng.below(4) {
            0 => {
                chip.command(rng.byte());
            }
            1 => {
                chip.data(rng.byte());
            }
            _ => {
                chip.read();
            }
        }
        if step % 512 == 0 {
            for _ in 0..20 {
                chip.read();
            }
            assert_eq!(chip.read(), None);
            let saved = chip.chip.save();
            let mut copy = I8042::new(true);
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            chip.bench.recorder.effects.clear();
        }
    }
    let mut saved = chip.chip.save();
    saved.keyboard_queue = alloc::vec![0; 17];
    assert!(chip.chip.restore(saved).is_err());
}
