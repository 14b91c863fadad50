//! Tracking over an arena in place of the direct map; what the CPU does to entries is done by hand here.

use super::Tracking;
use crate::nested::{Access, Format, NestedTable, PageSize};
use crate::physmem::fake::FakeFrames;
use addr::{Gpa, Hpa};
use core::sync::atomic::Ordering;

const LARGE: u64 = 2 << 20;

fn gpa(address: u64) -> Gpa {
    Gpa::new(address).unwrap()
}

/// A large page at 2 MiB, a small one at 4 MiB, and one that is never to be written behind it.
fn table(format: Format, frames: &mut FakeFrames) -> NestedTable {
    let mut table = NestedTable::new(format, frames).unwrap();
    let read_only = Access {
        write: false,
        ..Access::ALL
    };
    for (at, to, size, access) in [
        (LARGE, 6 * LARGE, PageSize::Large, Access::ALL),
        (2 * LARGE, 0x7000, PageSize::Small, Access::ALL),
        (2 * LARGE + 0x1000, 0x9000, PageSize::Small, read_only),
    ] {
        let to = Hpa::new(to).unwrap();
        assert!(table.map(gpa(at), to, size, access, frames));
    }
    table
}

fn may_write(table: &NestedTable, at: u64) -> bool {
    table.view().lookup(gpa(at)).unwrap().access.write
}

/// Sets the dirty bit of the page at `at` as the CPU does; tells whether it was clear, so that it would be logged.
fn write(table: &NestedTable, at: u64) -> bool {
    let (entry, _) = table.leaf(gpa(at)).unwrap();
    let dirty = table.format.dirty();
    entry.fetch_or(dirty, Ordering::AcqRel) & dirty == 0
}

#[test]
fn by_faults_one_page_at_a_time_may_be_written() {
    for format in [Format::Npt, Format::Ept] {
        let mut frames = FakeFrames::new(16);
        let mut table = table(format, &mut frames);
        let before = table.view().lookup(gpa(LARGE + 0x3000));
        table.track(Tracking::Faults);
        assert!(!may_write(&table, LARGE) && !may_write(&table, 2 * LARGE));
        let allowed = table.allow_write(gpa(LARGE + 0x3123), Tracking::Faults, &mut frames);
        assert_eq!(allowed, LARGE + 0x3000..LARGE + 0x4000);
        assert!(may_write(&table, LARGE + 0x3000));
        assert!(!may_write(&table, LARGE + 0x2fff) && !may_write(&table, LARGE + 0x4000));
        let found = table.view().lookup(gpa(LARGE + 0x3000)).unwrap();
        assert_eq!(found.hpa, before.unwrap().hpa, "it is where it was");
        table.track_page(gpa(LARGE + 0x3000), Tracking::Faults);
        assert!(!may_write(&table, LARGE + 0x3000));
    }
}

#[test]
fn by_log_small_pages_keep_the_right_and_lose_the_dirty_bit() {
    let mut frames = FakeFrames::new(16);
    let mut table = table(Format::Ept, &mut frames);
    assert!(write(&table, 2 * LARGE) && !write(&table, 2 * LARGE));
    table.track(Tracking::Log);
    assert!(may_write(&table, 2 * LARGE) && !may_write(&table, LARGE));
    assert!(write(&table, 2 * LARGE), "it is logged again");
    let allowed = table.allow_write(gpa(LARGE), Tracking::Log, &mut frames);
    assert!(allowed.is_empty(), "the CPU logs it");
    for at in [LARGE, LARGE + 0x5000, 2 * LARGE - 1] {
        assert!(may_write(&table, at) && write(&table, at));
    }
    table.track_page(gpa(LARGE), Tracking::Log);
    assert!(write(&table, LARGE));
}

#[test]
fn the_end_restores_rights_and_large_pages() {
    for (format, by) in [
        (Format::Npt, Tracking::Faults),
        (Format::Ept, Tracking::Faults),
        (Format::Ept, Tracking::Log),
    ] {
        let mut frames = FakeFrames::new(16);
        let mut table = table(format, &mut frames);
        let before = entry_of(&table, LARGE);
        table.track(by);
        let _ = table.allow_write(gpa(LARGE + 0x1000), by, &mut frames);
        let out = frames.out.len();
        let gone = table.untrack();
        assert_eq!(gone.len(), 1, "{format:?}");
        gone.into_iter()
            .for_each(|f| frames.out.retain(|o| *o != f));
        assert_eq!(frames.out.len(), out - 1);
        assert_eq!(entry_of(&table, LARGE), before);
        assert!(may_write(&table, 2 * LARGE) && !may_write(&table, 2 * LARGE + 0x1000));
        assert!(table.untrack().is_empty());
    }
}

/// The entry of the page at `at`, without what the CPU sets.
fn entry_of(table: &NestedTable, at: u64) -> u64 {
    let (entry, _) = table.leaf(gpa(at)).unwrap();
    entry.load(Ordering::Relaxed) & !(table.format.dirty() | table.format.accessed())
}

#[test]
fn a_page_of_a_gibibyte_is_split_twice_and_joined() {
    let mut frames = FakeFrames::new(16);
    let mut table = NestedTable::new(Format::Npt, &mut frames).unwrap();
    let to = Hpa::new(3 << 30).unwrap();
    assert!(table.map(gpa(1 << 30), to, PageSize::Huge, Access::ALL, &mut frames));
    table.track(Tracking::Faults);
    let at = (1 << 30) + 5 * LARGE + 0x7000;
    let allowed = table.allow_write(gpa(at), Tracking::Faults, &mut frames);
    assert_eq!(allowed, at..at + 0x1000);
    assert_eq!(
        table.view().lookup(gpa(at)).unwrap().hpa.as_u64(),
        at + (2 << 30)
    );
    assert_eq!(table.untrack().len(), 2);
    let (_, level) = table.leaf(gpa(at)).unwrap();
    assert_eq!(level, 2);
}

#[test]
fn without_a_frame_the_whole_page_may_be_written() {
    let mut frames = FakeFrames::new(16);
    let mut table = table(Format::Npt, &mut frames);
    table.track(Tracking::Faults);
    frames.left = 0;
    let allowed = table.allow_write(gpa(LARGE + 1), Tracking::Faults, &mut frames);
    assert_eq!(allowed, LARGE..2 * LARGE);
    assert!(may_write(&table, 2 * LARGE - 1));
    table.track_page(gpa(LARGE), Tracking::Faults);
    assert!(!may_write(&table, LARGE));
}

#[test]
fn what_is_not_mapped_or_never_writable_stays_so() {
    let mut frames = FakeFrames::new(16);
    let mut table = table(Format::Npt, &mut frames);
    table.track(Tracking::Faults);
    assert!(
        table
            .allow_write(gpa(8 * LARGE), Tracking::Faults, &mut frames)
            .is_empty()
    );
    let _ = table.allow_write(gpa(2 * LARGE + 0x1000), Tracking::Faults, &mut frames);
    assert!(!may_write(&table, 2 * LARGE + 0x1000));
}
