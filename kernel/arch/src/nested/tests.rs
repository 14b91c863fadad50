//! Nested tables over an arena in place of the direct map. What hardware makes of them is tested by guests.

use super::{Access, Format, NestedTable, PageSize};
use crate::physmem::fake::FakeFrames;
use addr::{Gpa, Hfn, Hpa};
use alloc::vec::Vec;

fn gpa(address: u64) -> Gpa {
    Gpa::new(address).unwrap()
}

fn hpa(address: u64) -> Hpa {
    Hpa::new(address).unwrap()
}

#[test]
fn a_mapping_is_found_at_every_byte_of_it_and_nowhere_else() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
    let small = (gpa(0x1000), hpa(0x7000), PageSize::Small);
    let large = (gpa(4 << 20), hpa(6 << 20), PageSize::Large);
    for (at, to, size) in [small, large] {
        assert!(table.map(at, to, size, Access::ALL, &mut frames));
    }
    let view = table.view();
    let found = |address| {
        view.lookup(gpa(address))
            .map(|m| (m.hpa.as_u64(), m.remaining))
    };
    assert_eq!(found(0xfff), None);
    assert_eq!(found(0x1fff), Some((0x7fff, 1)));
    assert_eq!(found(0x2000), None);
    assert_eq!(found((4 << 20) + 5), Some(((6 << 20) + 5, (2 << 20) - 5)));
    assert_eq!(found(6 << 20), None);
    assert_eq!(found(1 << 48), None);
}

#[test]
fn a_large_page_has_room_only_where_no_small_one_is() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
    let view = table.view();
    let room = |address| view.is_vacant(gpa(address), PageSize::Large);
    assert!(room(0x20_1000));
    assert!(table.map(
        gpa(0x20_1000),
        hpa(0x7000),
        PageSize::Small,
        Access::ALL,
        &mut frames
    ));
    assert!(!room(0x20_0000), "a small page is inside");
    assert!(!room(0x3f_f000), "a small page is inside");
    assert!(room(0x40_0000));
    assert!(!view.is_vacant(gpa(0x20_1000), PageSize::Small));
    assert!(view.is_vacant(gpa(0x20_2000), PageSize::Small));
    assert!(table.map(
        gpa(0x40_0000),
        hpa(0x40_0000),
        PageSize::Large,
        Access::ALL,
        &mut frames
    ));
    assert!(!room(0x40_0000));
    assert!(!view.is_vacant(gpa(0x40_3000), PageSize::Small));
}

#[test]
#[should_panic(expected = "over another")]
fn a_large_page_never_takes_the_place_of_small_ones() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
    assert!(table.map(
        gpa(0x20_1000),
        hpa(0x7000),
        PageSize::Small,
        Access::ALL,
        &mut frames
    ));
    let _ = table.map(
        gpa(0x20_0000),
        hpa(0x20_0000),
        PageSize::Large,
        Access::ALL,
        &mut frames,
    );
}

#[test]
fn running_out_of_frames_leaves_a_table_that_gives_all_of_them_back() {
    for left in 1..8 {
        let mut frames = FakeFrames::new(left);
        let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
        let mut mapped = 0;
        for index in 0..3_u64 {
            let (at, to) = (gpa(index << 30), hpa(0x1000 * index));
            mapped += u64::from(table.map(at, to, PageSize::Small, Access::ALL, &mut frames));
        }
        assert_eq!(
            mapped < 3,
            left < 8,
            "root, a pointer table, three times two tables"
        );
        let mut leaves: Vec<(Hfn, PageSize)> = Vec::new();
        table.dismantle(&mut frames, &mut |frame, size| leaves.push((frame, size)));
        assert_eq!(leaves.len() as u64, mapped);
        assert!(frames.out.is_empty(), "{left} frames");
    }
}

#[test]
fn what_is_unmapped_comes_back_and_is_gone() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
    assert!(table.map(
        gpa(0x20_0000),
        hpa(0x60_0000),
        PageSize::Large,
        Access::ALL,
        &mut frames
    ));
    assert_eq!(table.unmap(gpa(0x40_0000)), None);
    let frame = hpa(0x60_0000).frame();
    assert_eq!(table.unmap(gpa(0x2f_f000)), Some((frame, PageSize::Large)));
    assert_eq!(table.unmap(gpa(0x2f_f000)), None);
    assert_eq!(table.view().lookup(gpa(0x20_0000)), None);
}

#[test]
fn each_format_gives_back_what_was_allowed() {
    let rights = [(true, true), (true, false), (false, true), (false, false)];
    for format in [Format::Npt, Format::Ept] {
        let mut frames = FakeFrames::new(16);
        let mut table = NestedTable::new(format, &mut frames).unwrap();
        for (index, (write, execute)) in (0..).zip(rights) {
            let access = Access {
                read: true,
                write,
                execute,
            };
            let at = gpa(0x1000 * index);
            assert!(table.map(at, hpa(0x7000), PageSize::Small, access, &mut frames));
            assert_eq!(
                table.view().lookup(at).unwrap().access,
                access,
                "{format:?}"
            );
        }
    }
}

#[test]
fn extended_tables_allow_execution_alone() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Ept, &mut frames).unwrap();
    let access = Access {
        read: false,
        write: false,
        execute: true,
    };
    assert!(table.map(gpa(0), hpa(0x7000), PageSize::Small, access, &mut frames));
    assert_eq!(table.view().lookup(gpa(0)).unwrap().access, access);
}
