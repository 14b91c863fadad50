//! Records: what is written comes out again, small changes are small, and no bytes do harm.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{Draft, HEAD, Images, RECORD_BYTES_MAX, records};
use crate::format::{Bytes, MAGIC_NODE, TransactionHead, UNIT, blank, seal};
use crate::tests::support::Random;

fn head_of(bytes: &[u8]) -> TransactionHead {
    let mut unit = [0; UNIT];
    unit[..HEAD].copy_from_slice(&bytes[..HEAD]);
    TransactionHead::read(&unit, 7, 3, 9).unwrap()
}

/// Writes a transaction of these units and puts them together again.
fn there_and_back(units: &[(u64, Option<&Bytes>, &Bytes)], images: &mut Images) -> usize {
    let mut draft = Draft::new();
    for (address, base, image) in units {
        draft.add(*address, *base, image);
    }
    let bytes = draft.finish(7, 3, 9);
    let head = head_of(&bytes);
    assert!(head.is_whole(&bytes));
    for record in records(&head, &bytes).unwrap() {
        assert!(images.add(&record));
    }
    bytes.len() - HEAD
}

fn sealed(image: &Bytes) -> Box<Bytes> {
    let mut image = Box::new(*image);
    seal(&mut image);
    image
}

#[test]
fn units_come_out_as_they_went_in() {
    let mut random = Random(5);
    for _ in 0..200 {
        let mut images = Images::new(10);
        let mut unit = blank(MAGIC_NODE, 77, 7);
        let mut base: Option<Bytes> = None;
        for _ in 0..8 {
            for _ in 0..random.below(6) {
                let at = 8 + random.below(UNIT as u64 - 8) as usize;
                let len = (random.below(600) as usize).min(UNIT - at);
                let value = random.next().to_le_bytes()[0] & 3;
                unit[at..at + len].fill(value);
            }
            let len = there_and_back(&[(77, base.as_ref(), &unit)], &mut images);
            assert!(len <= RECORD_BYTES_MAX, "{len}");
            base = Some(unit);
            let out = images.units.get(&77).unwrap();
            assert_eq!(sealed(out), sealed(&unit));
        }
    }
}

#[test]
fn a_small_change_is_a_small_record() {
    let mut images = Images::new(1);
    let old = blank(MAGIC_NODE, 1, 7);
    let all = there_and_back(&[(1, None, &old)], &mut images);
    assert!(all <= 64, "{all}: zeros are left out");
    let mut new = old;
    new[16] = 5;
    new[2000] = 1;
    let len = there_and_back(&[(1, Some(&old), &new)], &mut images);
    assert_eq!(len, 16 + 2 * 4 + 2 * 8);
}

#[test]
fn what_builds_on_nothing_and_what_is_too_much_is_refused() {
    let old = blank(MAGIC_NODE, 1, 7);
    let mut new = old;
    new[100] = 1;
    let mut draft = Draft::new();
    draft.add(1, Some(&old), &new);
    draft.add(2, None, &old);
    draft.add(3, None, &old);
    let bytes = draft.finish(7, 3, 9);
    let mut images = Images::new(1);
    let all = records(&head_of(&bytes), &bytes).unwrap();
    let taken: Vec<bool> = all.iter().map(|record| images.add(record)).collect();
    assert_eq!(taken, [false, true, false]);
}

/// Any bytes under a right checksum: nothing panics, and no range reaches outside.
#[test]
fn no_bytes_do_harm() {
    let mut random = Random(6);
    let image = blank(MAGIC_NODE, 1, 7);
    for round in 0..20_000 {
        let mut draft = Draft::new();
        for address in 0..random.below(4) {
            let mut unit = image;
            unit[random.below(UNIT as u64) as usize] ^= 1;
            draft.add(address, (round % 2 == 0).then_some(&image), &unit);
        }
        let count = random.below(5) as u32;
        let mut bytes = draft.finish(7, 3, 9);
        for _ in 0..random.below(4) {
            if bytes.len() > HEAD {
                let at = HEAD + random.below((bytes.len() - HEAD) as u64) as usize;
                bytes[at] = [0, 1, 0xff, random.next().to_le_bytes()[0]][random.below(4) as usize];
            }
        }
        TransactionHead::seal(&mut bytes, 7, 3, 9, count);
        let head = head_of(&bytes);
        assert!(head.is_whole(&bytes));
        let mut images = Images::new(3);
        for record in records(&head, &bytes).unwrap_or_default() {
            let _taken = images.add(&record);
        }
    }
}
