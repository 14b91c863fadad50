//! A configuration space made of arrays, with address registers that hold some bits only.

use super::{
    Address, Bar, ConfigSpace, Message, MessageInterrupts, TablePlace, VirtioKind, VirtioWindow,
    enumerate,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::vec::Vec;

#[derive(Default)]
struct Fake {
    words: RefCell<BTreeMap<(Address, u8), u32>>,
    /// Bits of a register that can be written; others are all.
    writable: BTreeMap<(Address, u8), u32>,
}

impl ConfigSpace for Fake {
    fn read(&self, at: Address, offset: u8) -> u32 {
        let words = self.words.borrow();
        let absent = if words.contains_key(&(at, 0)) {
            0
        } else {
            u32::MAX
        };
        words.get(&(at, offset)).copied().unwrap_or(absent)
    }

    fn write(&self, at: Address, offset: u8, value: u32) {
        let mask = self
            .writable
            .get(&(at, offset))
            .copied()
            .unwrap_or(u32::MAX);
        let old = self.read(at, offset);
        self.words
            .borrow_mut()
            .insert((at, offset), old & !mask | value & mask);
    }
}

fn at(bus: u8, device: u8, function: u8) -> Address {
    Address {
        bus,
        device,
        function,
    }
}

impl Fake {
    fn put(&mut self, address: Address, words: &[(u8, u32)]) {
        for (offset, value) in words {
            self.words.borrow_mut().insert((address, *offset), *value);
        }
    }

    /// A function with an MSI-X table in its window 0, 16 KiB at FEB0_0000h.
    fn nvme(&mut self, address: Address) {
        self.put(
            address,
            &[
                (0, 0x0010_1b36),
                (4, 0x0010_0007),
                (8, 0x0108_0202),
                (0x10, 0xfeb0_0004),
                (0x34, 0x40),
                (0x40, 0x0040_0011),
                (0x44, 0x2000),
            ],
        );
        self.writable.insert((address, 0x10), 0xffff_c000);
        self.writable.insert((address, 0x40), 0xc000_0000);
    }
}

#[test]
fn functions_behind_bridges_are_found_once() {
    let mut fake = Fake::default();
    fake.put(at(0, 0, 0), &[(0, 0x1237_8086), (8, 0x0600_0002)]);
    // A bridge to bus 2, which says that bus 0 is behind it again.
    fake.put(
        at(0, 3, 0),
        &[
            (0, 0x0001_1b36),
            (8, 0x0604_0000),
            (0xc, 0x0001_0000),
            (0x18, 0x0002_0200),
        ],
    );
    fake.put(
        at(2, 0, 0),
        &[
            (0, 0x0001_1b36),
            (8, 0x0604_0000),
            (0xc, 0x0081_0000),
            (0x18, 0x0000_0002),
        ],
    );
    fake.nvme(at(2, 0, 5));
    let found: Vec<Address> = enumerate(&fake).iter().map(|f| f.address).collect();
    assert_eq!(found, [at(0, 0, 0), at(0, 3, 0), at(2, 0, 0), at(2, 0, 5)]);
}

#[test]
fn windows_have_the_size_of_the_bits_that_stay_clear() {
    let mut fake = Fake::default();
    fake.nvme(at(0, 4, 0));
    let function = enumerate(&fake)[0];
    let window = Bar::Memory {
        address: 0xfeb0_0000,
        size: 0x4000,
    };
    assert_eq!(function.bar(&fake, 0), Some(window));
    assert_eq!(function.bar(&fake, 1), None, "no address there");
    assert_eq!(function.bar(&fake, 9), None);
    assert_eq!(fake.read(at(0, 4, 0), 0x10), 0xfeb0_0004, "as it was");
    assert_eq!(fake.read(at(0, 4, 0), 4) & 0xffff, 7, "on again");
}

#[test]
fn messages_reach_the_table_of_the_right_window() {
    let mut fake = Fake::default();
    fake.nvme(at(0, 4, 0));
    let function = enumerate(&fake)[0];
    let found = MessageInterrupts::of(&function, &fake).unwrap();
    let place = TablePlace {
        address: 0xfeb0_2000,
        entries: 65,
    };
    assert_eq!(found, MessageInterrupts::MsiX(0x40, place));
    let message = Message::to_cpu(3, 0x51).unwrap();
    assert_eq!(message.table_entry(), [0xfee0_3000, 0, 0x51, 0]);
    found.enable(&function, &fake, message);
    assert_eq!(fake.read(at(0, 4, 0), 0x40) >> 30, 2, "on, not masked");
    assert_eq!(Message::to_cpu(255, 0x51), None);
}

#[test]
fn windows_of_virtio_lie_in_those_of_the_function() {
    let mut fake = Fake::default();
    fake.nvme(at(0, 4, 0));
    fake.put(
        at(0, 4, 0),
        &[
            (0x40, 0x0110_6009),
            (0x44, 0),
            (0x48, 0x1000),
            (0x4c, 0x38),
            // This one begins in the window and ends beyond it.
            (0x60, 0x0414_8009),
            (0x64, 0),
            (0x68, 0x3ff0),
            (0x6c, 0x20),
            (0x80, 0x0214_0009),
            (0x84, 0),
            (0x88, 0x2000),
            (0x8c, 0x1000),
            (0x90, 4),
        ],
    );
    let function = enumerate(&fake)[0];
    let found = VirtioWindow::all_of(&function, &fake);
    let places: Vec<_> = found.iter().map(|w| (w.kind, w.address, w.len)).collect();
    let expected = [
        (VirtioKind::COMMON, 0xfeb0_1000, 0x38),
        (VirtioKind::NOTIFY, 0xfeb0_2000, 0x1000),
    ];
    assert_eq!(places, expected);
    assert_eq!(found[1].multiplier, 4);
}

#[test]
fn plain_messages_are_written_by_their_width() {
    for (wide, data_at) in [(false, 0x48), (true, 0x4c)] {
        let mut fake = Fake::default();
        let control = if wide { 0x0080_0005 } else { 0x0000_0005 };
        let words = [
            (0, 0x1234_8086),
            (4, 0x0010_0000),
            (0x34, 0x40),
            (0x40, control),
        ];
        fake.put(at(0, 5, 0), &words);
        let function = enumerate(&fake)[0];
        let found = MessageInterrupts::of(&function, &fake).unwrap();
        found.enable(&function, &fake, Message::to_cpu(1, 0x60).unwrap());
        assert_eq!(fake.read(at(0, 5, 0), 0x44), 0xfee0_1000);
        assert_eq!(fake.read(at(0, 5, 0), data_at), 0x60);
        assert_eq!(fake.read(at(0, 5, 0), 0x40) >> 16 & 1, 1);
    }
}

#[test]
fn wild_configuration_spaces_end() {
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 32) as u32
    };
    for _ in 0..200 {
        let mut fake = Fake::default();
        for _ in 0..40 {
            let address = at(random() as u8 % 4, random() as u8 % 32, random() as u8 % 8);
            let words: Vec<(u8, u32)> = (0..0x40).map(|n| (n * 4, random())).collect();
            fake.put(address, &words);
        }
        for function in enumerate(&fake) {
            for index in 0..8 {
                let _ = function.bar(&fake, index);
            }
            if let Some(found) = MessageInterrupts::of(&function, &fake) {
                found.enable(&function, &fake, Message::to_cpu(0, 0x40).unwrap());
            }
            for window in VirtioWindow::all_of(&function, &fake) {
                assert!(window.address.checked_add(window.len).is_some());
            }
        }
    }
}
