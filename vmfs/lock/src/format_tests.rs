//! Holds docs/formats/datastore-locks.md to the code: every field of every table is found where the table says, in
//! bytes that the code wrote.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use checksum::crc32c;

use crate::area::{Area, Backend, Cell, Terms};
use crate::record::{Mode, Record};
use crate::slot::{Journal, Member, NAME_LEN, Slot, SlotState};
use crate::step::format_samples;
use crate::{Image, Token};

const DOCUMENT: &str = include_str!("../../../docs/formats/datastore-locks.md");

/// The fields of the table under a heading, as bytes of `sample`; checks that they follow each other without a gap.
fn fields<'a>(heading: &str, sample: &'a [u8]) -> BTreeMap<String, &'a [u8]> {
    let section = DOCUMENT
        .split("\n### ")
        .find(|text| text.starts_with(heading));
    let mut next = 0;
    let mut fields = BTreeMap::new();
    for line in section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with('|'))
    {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (Ok(offset), Ok(size)) = (cells[1].parse::<usize>(), cells[2].parse::<usize>()) else {
            continue;
        };
        assert_eq!(offset, next, "{heading}: {line}");
        next = offset + size;
        fields.insert(cells[3].to_string(), &sample[offset..next]);
    }
    assert_eq!(next, sample.len(), "{heading}");
    fields
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

const TOKEN: Token = Token {
    nonce: 0x0102_0304_0506_0708,
    sequence: 0x1112,
};

fn check_token(bytes: &[u8]) {
    assert_eq!(number(&bytes[..8]), TOKEN.nonce);
    assert_eq!(number(&bytes[8..]), TOKEN.sequence);
}

#[test]
fn slots_are_as_the_document_says() {
    let replayer = Member {
        slot: 0x21,
        generation: 0x3132_3334,
    };
    let slot = Slot {
        number: 0x05,
        state: SlotState::Replaying(replayer),
        generation: 0x4142_4344,
        token: TOKEN,
        counter: 0x51,
        uuid: *b"the host's uuid!",
        journal: Journal {
            lba: 0x61,
            blocks: 0x71,
        },
        wanted: 0x81,
        name: [b'n'; NAME_LEN],
    };
    let image = slot.encode();
    assert_eq!(Slot::decode(&image, 5, 0), Ok(slot));
    let field = fields("Slot", image.as_bytes());
    assert_eq!(field["magic"], b"BsHb");
    for (name, value) in [
        ("version", 1),
        ("number", 5),
        ("state", 3),
        ("generation", 0x4142_4344),
        ("counter", 0x51),
        ("journal_lba", 0x61),
        ("journal_blocks", 0x71),
        ("replayer_generation", 0x3132_3334),
        ("replayer_slot", 0x21),
        ("zero", 0),
        ("wanted", 0x81),
        ("reserved", 0),
        ("crc", u64::from(crc32c(&image.as_bytes()[..380]))),
    ] {
        assert_eq!(number(field[name]), value, "{name}");
    }
    check_token(field["token"]);
    assert_eq!(field["uuid"], b"the host's uuid!");
    assert_eq!(field["name"], [b'n'; 64]);
    for (state, value) in [(SlotState::Free, 1), (SlotState::Live, 2)] {
        let slot = Slot {
            state,
            ..Slot::unused(1)
        };
        let image = slot.encode();
        assert_eq!(number(fields("Slot", image.as_bytes())["state"]), value);
    }
}

#[test]
fn lock_records_are_as_the_document_says() {
    let me = Member {
        slot: 3,
        generation: 0x2122_2324,
    };
    for (mode, value) in [
        (Mode::Exclusive, 1),
        (Mode::Shared, 2),
        (Mode::MultiWriter, 3),
    ] {
        let record = Record::unused(0x31).granted(me, mode, TOKEN);
        let image = record.encode();
        assert_eq!(Record::decode(&image, 0x31), Ok(record));
        let field = fields("Lock record", image.as_bytes());
        assert_eq!(field["magic"], b"BsLk");
        for (name, value) in [
            ("version", 1),
            ("mode", value),
            ("lba", 0x31),
            ("author_generation", 0x2122_2324),
            ("author_slot", 3),
            ("zero", 0),
            ("reserved", 0),
            ("crc", u64::from(crc32c(&image.as_bytes()[..380]))),
        ] {
            assert_eq!(number(field[name]), value, "{name}");
        }
        check_token(field["token"]);
        assert_eq!(number(&field["holders"][3 * 4..4 * 4]), 0x2122_2324);
        let holders = field["holders"].iter().filter(|&&byte| byte != 0);
        assert_eq!(holders.count(), 4);
    }
}

#[test]
fn ballots_and_seats_are_as_the_document_says() {
    let image = Slot::unused(1).encode();
    let ballot = format_samples::ballot(3, Cell(0x41), &image);
    let field = fields("Ballot", &ballot);
    assert_eq!(field["magic"], b"BsBa");
    for (name, value) in [
        ("version", 1),
        ("seat", 3),
        ("lba", 0x41),
        ("instance", 0x51),
        ("promised", 0x61),
        ("accepted", 0x71),
        ("flags", 1),
        ("zero", 0),
        ("reserved", 0),
        ("crc", u64::from(crc32c(&ballot[..508]))),
    ] {
        assert_eq!(number(field[name]), value, "{name}");
    }
    assert_eq!(field["image"], image.as_bytes());
    let seat = format_samples::seat(0x81);
    let field = fields("Seat", &seat);
    assert_eq!(field["magic"], b"BsSe");
    let crc = u64::from(crc32c(&seat[..16]));
    for (name, value) in [("version", 1), ("zero", 0), ("nonce", 0x81), ("crc", crc)] {
        assert_eq!(number(field[name]), value, "{name}");
    }
}

#[test]
fn cells_are_as_large_as_the_document_says() {
    let area = |backend| Area {
        slots_lba: 0,
        slots: 16,
        slot_stride: 17,
        backend,
        terms: Terms::DEFAULT,
    };
    for (backend, cell, slot) in [
        (Backend::CompareAndWrite, 1, 1),
        (Backend::Local, 1, 1),
        (Backend::Paxos, 16, 17),
    ] {
        assert_eq!(area(backend).cell_blocks(), cell);
        assert_eq!(area(backend).slot_blocks(), slot);
    }
    assert!(Image::from_block(&[0; 512]).is_unused());
    assert_eq!(Slot::decode(&Image::UNUSED, 7, 0), Ok(Slot::unused(7)));
    assert_eq!(Slot::unused(7).generation, 1);
}
