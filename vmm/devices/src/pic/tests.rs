//! Command words, priorities, cascade and triggers as the data sheet and the drivers have them.

use super::Pic;
use crate::testing::Rng;
use api::device::Device;

const MASTER: u16 = 0x20;
const SLAVE: u16 = 0xa0;
const EOI: u8 = 0x20;

/// As Linux sets the pair up: vectors 30h and 38h, everything unmasked.
fn initialized() -> Pic {
    let mut pic = Pic::new();
    for (port, base) in [(MASTER, 0x30), (SLAVE, 0x38)] {
        pic.write(port, 0x11);
        for data in [base, 4, 1, 0] {
            pic.write(port + 1, data);
        }
    }
    pic
}

#[test]
fn an_edge_is_delivered_once() {
    let mut pic = initialized();
    assert!(!pic.intr());
    pic.set_line(4, true);
    assert!(pic.intr());
    pic.set_line(4, false);
    assert!(pic.intr(), "the edge is latched");
    assert_eq!(pic.acknowledge(), 0x34);
    assert!(!pic.intr());
    pic.set_line(4, true);
    assert!(!pic.intr(), "blocked by itself in service");
    pic.write(MASTER, EOI);
    assert!(pic.intr());
}

#[test]
fn a_level_repeats_until_it_falls() {
    let mut pic = initialized();
    pic.write(0x4d1, 0x02);
    assert_eq!(pic.read(0x4d1), 0x02);
    pic.set_line(9, true);
    for _ in 0..2 {
        assert_eq!(pic.acknowledge(), 0x39);
        assert!(!pic.intr());
        pic.write(SLAVE, EOI);
        pic.write(MASTER, EOI);
        assert!(pic.intr());
    }
    pic.set_line(9, false);
    assert!(!pic.intr());
}

#[test]
fn fixed_inputs_stay_edge_triggered() {
    let mut pic = initialized();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn a_withdrawn_request_is_spurious() {
    let mut pic = initialized();
    pic.write(0x4d0, 0x20);
    pic.set_line(5, true);
    pic.set_line(5, false);
    assert_eq!(pic.acknowledge(), 0x37);
    pic.write(MASTER, 0x0b);
    assert_eq!(pic.read(MASTER), 0, "nothing went into service");
    pic.set_line(12, true);
    pic.write(SLAVE + 1, 0xff);
    assert_eq!(pic.acknowledge(), 0x37, "INTR fell with the slave's INT");
}

#[test]
fn priorities_nest() {
    let mut pic = initialized();
    pic.set_line(5, true);
    assert_eq!(pic.acknowledge(), 0x35);
    pic.set_line(6, true);
    assert!(!pic.intr());
    pic.set_line(12, true);
    assert_eq!(pic.acknowledge(), 0x3c, "the slave sits at input 2");
    pic.set_line(8, true);
    assert!(!pic.intr(), "its own cascade input is in service");
    pic.write(SLAVE, EOI);
    pic.write(MASTER, EOI);
    assert_eq!(pic.acknowledge(), 0x38);
}

#[test]
fn special_fully_nested_mode_lets_the_slave_nest() {
    let mut pic = initialized();
    pic.write(MASTER, 0x11);
    for data in [0x30, 4, 0x11, 0] {
        pic.write(MASTER + 1, data);
    }
    pic.set_line(12, true);
    assert_eq!(pic.acknowledge(), 0x3c);
    pic.set_line(8, true);
    assert_eq!(pic.acknowledge(), 0x38);
}

#[test]
fn masks_hide_but_do_not_lose_edges() {
    let mut pic = initialized();
    pic.write(MASTER + 1, 0x10);
    assert!(pic.is_masked(4));
    pic.set_line(4, true);
    pic.set_line(4, false);
    assert!(!pic.intr());
    pic.write(MASTER + 1, 0);
    assert_eq!(pic.acknowledge(), 0x34);
}

#[test]
fn special_mask_mode_lets_lower_priorities_through() {
    let mut pic = initialized();
    pic.set_line(3, true);
    assert_eq!(pic.acknowledge(), 0x33);
    pic.set_line(6, true);
    pic.write(MASTER + 1, 0x08);
    assert!(!pic.intr());
    pic.write(MASTER, 0x68);
    assert_eq!(pic.acknowledge(), 0x36);
    pic.write(MASTER, EOI);
    pic.write(MASTER, 0x0b);
    assert_eq!(pic.read(MASTER), 0x08, "the masked one is not ended");
}

#[test]
fn rotation_moves_the_lowest_priority() {
    let mut pic = initialized();
    pic.set_line(0, true);
    assert_eq!(pic.acknowledge(), 0x30);
    pic.write(MASTER, 0xa0);
    pic.set_line(0, false);
    pic.set_line(0, true);
    pic.set_line(7, true);
    assert_eq!(pic.acknowledge(), 0x37);
    pic.write(MASTER, 0x67);
    pic.write(MASTER, 0xc3);
    pic.set_line(3, true);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34, "set priority: 3 is lowest");
    pic.write(MASTER, 0xe4);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pic = initialized();
    pic.write(MASTER, 0x11);
    for data in [0x30, 4, 3, 0] {
        pic.write(MASTER + 1, data);
    }
    pic.write(MASTER, 0x80);
    pic.set_line(1, true);
    pic.set_line(6, true);
    assert_eq!(pic.acknowledge(), 0x31);
    assert_eq!(pic.acknowledge(), 0x36);
    pic.write(MASTER, 0x0b);
    assert_eq!(pic.read(MASTER), 0);
}

#[test]
fn a_poll_acknowledges() {
    let mut pic = initialized();
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0);
    pic.set_line(6, true);
    pic.write(MASTER, 0x0c);
    assert_eq!(pic.read(MASTER), 0x86);
    pic.write(MASTER, 0x0b);
    assert_eq!(pic.read(MASTER), 0x40);
    pic.write(MASTER, 0x0a);
    assert_eq!(pic.read(MASTER), 0);
}

#[test]
fn linux_probes_the_mask_register() {
    let mut pic = Pic::new();
    pic.write(SLAVE + 1, 0xff);
    pic.write(MASTER + 1, 0xfb);
    assert_eq!(pic.read(MASTER + 1), 0xfb);
}

#[test]
fn firmware_leaves_pci_interrupts_open() {
    let mut pic = Pic::new();
    pic.initialize_as_firmware();
    pic.set_line(11, true);
    assert_eq!(pic.acknowledge(), 0x73);
    assert!(pic.is_masked(0));
}

#[test]
fn reset_keeps_the_lines() {
    let mut pic = initialized();
    pic.write(0x4d1, 0x02);
    pic.set_line(9, true);
    pic.reset();
    assert!(!pic.intr());
    let mut saved = pic.save();
    assert_eq!(saved.slave.lines, 2);
    saved.master.lowest = 8;
    assert!(pic.restore(saved).is_err());
}

#[test]
fn random_traffic_keeps_intr_and_acknowledge_in_step() {
    let mut rng = Rng::new(8259);
    let mut pic = initialized();
    for step in 0..300_000 {
        let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][rng.below(6) as usize];
        match rng.below(8) {
            0..=3 => pic.set_line(rng.below(18) as u8, rng.below(2) == 0),
            4 => {
                pic.read(port);
            }
            5 => pic.write(port, rng.byte()),
            6 => pic.write(port & !1, EOI),
            _ => {
                let asked = pic.intr();
                let vector = pic.acknowledge();
                if !asked {
                    assert_eq!(vector & 7, 7, "spurious");
                }
            }
        }
        if step % 1024 == 0 {
            let saved = pic.save();
            let mut copy = Pic::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            assert_eq!(copy.intr(), pic.intr());
        }
    }
}
