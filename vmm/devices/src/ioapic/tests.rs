//! Registers, triggers, masks and EOI as public monitor test suites and drivers use them.

use super::Ioapic;
use crate::message::{ApicMessage, Delivery, Destination};
use crate::testing::Rng;
use api::device::{Device, Width};

const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;
const REMOTE_IRR: u32 = 1 << 14;

fn read(chip: &mut Ioapic, index: u8) -> u32 {
    chip.mmio_write(0, Width::Dword, index.into());
    chip.mmio_read(0x10, Width::Dword) as u32
}

fn write(chip: &mut Ioapic, index: u8, value: u32) {
    chip.mmio_write(0, Width::Dword, index.into());
    chip.mmio_write(0x10, Width::Dword, value.into());
}

fn redirect(chip: &mut Ioapic, pin: u8, low: u32, destination: u8) {
    write(chip, 0x10 + pin * 2, low);
    write(chip, 0x11 + pin * 2, u32::from(destination) << 24);
}

fn vector(chip: &mut Ioapic) -> Option<u8> {
    chip.next_message().map(|message| message.vector)
}

#[test]
fn identification_registers_have_their_rights() {
    let mut chip = Ioapic::new();
    assert_eq!(read(&mut chip, 1), 0x0017_0020);
    write(&mut chip, 1, !0);
    assert_eq!(read(&mut chip, 1), 0x0017_0020);
    write(&mut chip, 0, !0);
    assert_eq!(read(&mut chip, 0), 0x0f00_0000);
    assert_eq!(read(&mut chip, 2), 0x0f00_0000);
    write(&mut chip, 2, 0);
    assert_eq!(read(&mut chip, 2), 0x0f00_0000);
    assert_eq!(read(&mut chip, 0x10), MASKED);
    assert_eq!(read(&mut chip, 0x40), 0);
}

#[test]
fn an_edge_is_one_message() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 14, 0x76, 3);
    chip.set_line(14, true);
    chip.set_line(14, false);
    assert!(chip.has_message());
    assert_eq!(
        chip.next_message(),
        Some(ApicMessage {
            destination: Destination::narrow(3, false),
            delivery: Delivery::Fixed,
            vector: 0x76,
            level: false,
        })
    );
    assert_eq!(chip.next_message(), None);
}

#[test]
fn a_level_repeats_after_its_eoi() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 14, LEVEL | 0x9a, 0);
    chip.set_line(14, true);
    chip.set_line(14, true);
    assert_eq!(vector(&mut chip), Some(0x9a));
    assert_eq!(read(&mut chip, 0x2c) & REMOTE_IRR, REMOTE_IRR);
    chip.set_line(14, false);
    chip.set_line(14, true);
    assert_eq!(vector(&mut chip), None, "coalesced until the EOI");
    chip.end_of_interrupt(0x9b);
    assert_eq!(vector(&mut chip), None);
    chip.end_of_interrupt(0x9a);
    assert_eq!(vector(&mut chip), Some(0x9a));
    chip.set_line(14, false);
    chip.end_of_interrupt(0x9a);
    assert_eq!(vector(&mut chip), None);
    assert_eq!(read(&mut chip, 0x2c) & REMOTE_IRR, 0);
}

#[test]
fn masked_edges_are_lost_and_masked_levels_wait() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 14, MASKED | 0x81, 0);
    chip.set_line(14, true);
    chip.set_line(14, false);
    write(&mut chip, 0x2c, 0x81);
    assert_eq!(vector(&mut chip), None);
    chip.set_line(14, true);
    assert_eq!(vector(&mut chip), Some(0x81));
    redirect(&mut chip, 15, LEVEL | MASKED | 0x82, 0);
    chip.set_line(15, true);
    assert_eq!(vector(&mut chip), None);
    write(&mut chip, 0x2e, LEVEL | 0x82);
    assert_eq!(vector(&mut chip), Some(0x82));
}

#[test]
fn masking_across_the_eoi_retriggers_at_the_unmask() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 14, LEVEL | 0x83, 0);
    chip.set_line(14, true);
    assert_eq!(vector(&mut chip), Some(0x83));
    let low = read(&mut chip, 0x2c);
    write(&mut chip, 0x2c, low | MASKED);
    chip.end_of_interrupt(0x83);
    assert_eq!(vector(&mut chip), None);
    let low = read(&mut chip, 0x2c);
    write(&mut chip, 0x2c, low & !MASKED);
    assert_eq!(vector(&mut chip), Some(0x83));
}

#[test]
fn a_new_destination_keeps_the_remote_irr() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 13, LEVEL | 0x64, 0);
    chip.set_line(13, true);
    assert_eq!(vector(&mut chip), Some(0x64));
    chip.set_line(13, false);
    write(&mut chip, 0x2b, 1 << 24);
    assert_ne!(read(&mut chip, 0x2a) & REMOTE_IRR, 0);
    chip.end_of_interrupt(0x64);
    assert_eq!(read(&mut chip, 0x2a) & REMOTE_IRR, 0);
}

#[test]
fn the_eoi_register_and_a_switch_to_edge_clear_the_remote_irr() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 5, LEVEL | 0x55, 0);
    chip.set_line(5, true);
    assert_eq!(vector(&mut chip), Some(0x55));
    chip.mmio_write(0x40, Width::Dword, 0x55);
    assert_eq!(vector(&mut chip), Some(0x55));
    write(&mut chip, 0x1a, MASKED | 0x55);
    assert_eq!(read(&mut chip, 0x1a) & REMOTE_IRR, 0);
    write(&mut chip, 0x1a, LEVEL | 0x55);
    assert_eq!(vector(&mut chip), Some(0x55));
}

#[test]
fn messages_come_in_the_order_of_pins() {
    let mut chip = Ioapic::new();
    for pin in [20, 3, 9] {
        redirect(&mut chip, pin, 0x40 + u32::from(pin), 0);
        chip.set_line(pin, true);
    }
    assert_eq!(vector(&mut chip), Some(0x43));
    assert_eq!(vector(&mut chip), Some(0x49));
    assert_eq!(vector(&mut chip), Some(0x54));
    chip.set_line(24, true);
    chip.set_line(255, true);
    assert!(!chip.has_message());
}

#[test]
fn a_reserved_delivery_mode_sends_nothing() {
    let mut chip = Ioapic::new();
    redirect(&mut chip, 6, 0x0340, 0);
    redirect(&mut chip, 7, LEVEL | 0x0941, 0x0c);
    chip.set_line(6, true);
    chip.set_line(7, true);
    let message = chip.next_message().unwrap();
    assert_eq!(message.delivery, Delivery::LowestPriority);
    assert_eq!(message.destination, Destination::narrow(0x0c, true));
    assert_eq!(chip.next_message(), None);
}

#[test]
fn narrow_reads_see_their_bytes() {
    let mut chip = Ioapic::new();
    chip.mmio_write(0, Width::Byte, 1);
    assert_eq!(chip.mmio_read(0x10, Width::Byte), 0x20);
    assert_eq!(chip.mmio_read(0x12, Width::Byte), 0x17);
    assert_eq!(chip.mmio_read(0x12, Width::Word), 0x17);
    assert_eq!(chip.mmio_read(0x20, Width::Dword), 0);
}

#[test]
fn random_traffic_never_sends_for_a_masked_or_waiting_pin() {
    let mut rng = Rng::new(82093);
    let mut chip = Ioapic::new();
    for step in 0..300_000 {
        match rng.below(6) {
            0 | 1 => chip.set_line(rng.below(26) as u8, rng.below(2) == 0),
            2 => {
                let index = rng.below(0x44) as u8;
                let value = rng.next() as u32;
                // Mostly unmasked, fixed delivery.
                let value = if rng.below(4) == 0 {
                    value
                } else {
                    value & 0xa0ff
                };
                write(&mut chip, index, value);
            }
            3 => {
                let width = Width::from_bytes(1 << rng.below(4)).unwrap();
                chip.mmio_write(rng.below(0x60), width, rng.next());
            }
            4 => chip.end_of_interrupt(rng.byte()),
            _ => {
                let before = chip.save();
                let Some(message) = chip.next_message() else {
                    continue;
                };
                let after = chip.save();
                let sent = before.entries.iter().zip(after.entries).enumerate().find(
                    |(pin, (old, new))| {
                        **old != *new || (before.edges ^ after.edges) >> pin & 1 != 0
                    },
                );
                let (_, (old, _)) = sent.unwrap();
                assert_eq!(*old as u32 & (MASKED | REMOTE_IRR), 0);
                assert_eq!(*old as u8, message.vector);
            }
        }
        if step % 512 == 0 {
            let saved = chip.save();
            let mut copy = Ioapic::new();
            copy.restore(saved.clone()).unwrap();
            assert_eq!(copy.save(), saved);
            assert_eq!(copy.ready, chip.ready);
        }
    }
    let mut saved = chip.save();
    saved.entries[0] = 1 << 12;
    assert!(chip.restore(saved).is_err());
}
