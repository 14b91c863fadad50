//! The page walk in every mode: what it finds, what it refuses, and the bits it sets.

use super::machine::{CONFIG, DATA, Machine, long};
use crate::{Access, Intent, Registers, WalkError, translate};
use addr::Gpa;
use api::cpu::{cr0, cr4, efer, rflags};

const ROOT: u64 = 0x8_0000;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const ALL: u64 = PRESENT | WRITE | USER;
const NX: u64 = 1 << 63;
const LARGE: u64 = 1 << 7;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;

const READ: Access = Access {
    intent: Intent::Read,
    is_user: false,
    is_implicit: false,
};
const STORE: Access = Access {
    intent: Intent::Write,
    ..READ
};
const FETCH: Access = Access {
    intent: Intent::Fetch,
    ..READ
};

const fn user(access: Access) -> Access {
    Access {
        is_user: true,
        ..access
    }
}

/// A machine with tables of `levels` that map linear address `linear`, each with the given rights, last level last.
struct Tables {
    machine: Machine,
    registers: Registers,
    linear: u64,
    entries: alloc::vec::Vec<u64>,
}

fn tables(levels: u32, linear: u64, rights: &[u64], leaf: u64) -> Tables {
    let mut registers = long();
    registers.cr0 |= cr0::PG;
    registers.cr3 = ROOT;
    registers.efer |= efer::NXE;
    if levels == 5 {
        registers.cr4 |= cr4::LA57;
    }
    if levels == 3 {
        registers.efer = efer::NXE;
    }
    let mut machine = Machine::new();
    let mut entries = alloc::vec::Vec::new();
    for (depth, right) in rights.iter().enumerate() {
        let level = levels - u32::try_from(depth).unwrap();
        let shift = 12 + 9 * (level - 1);
        let at = ROOT + depth as u64 * 0x1000 + (linear >> shift & 0x1ff) * 8;
        let is_last = depth + 1 == rights.len();
        let target = if is_last {
            leaf
        } else {
            ROOT + (depth as u64 + 1) * 0x1000
        };
        machine.put64(at, target | right);
        entries.push(at);
    }
    Tables {
        machine,
        registers,
        linear,
        entries,
    }
}

impl Tables {
    fn go(&mut self, access: Access) -> Result<u64, Option<u32>> {
        match translate(
            &mut self.machine,
            &self.registers,
            &CONFIG,
            self.linear,
            access,
        ) {
            Ok(gpa) => Ok(gpa.as_u64()),
            Err(WalkError::Fault(exception)) => {
                assert_eq!((exception.vector, exception.cr2), (14, Some(self.linear)));
                Err(exception.error_code)
            }
            Err(WalkError::Unavailable) => panic!("nothing is unavailable"),
        }
    }
}

#[test]
fn without_paging_addresses_are_physical() {
    let mut machine = Machine::new();
    let gpa = translate(&mut machine, &long(), &CONFIG, 0x1_2345_6789, READ);
    assert_eq!(gpa, Ok(Gpa::new(0x2345_6789).unwrap()));
}

#[test]
fn every_level_count_and_page_size_translates() {
    let linear = 0x12_3456_789a_bcde & 0x7fff_ffff_ffff;
    assert_eq!(
        tables(4, linear, &[ALL; 4], DATA).go(READ),
        Ok(DATA | linear & 0xfff)
    );
    assert_eq!(
        tables(5, linear | 1 << 55, &[ALL; 5], DATA).go(READ),
        Ok(DATA | linear & 0xfff)
    );
    let large = [ALL, ALL, ALL | LARGE];
    assert_eq!(
        tables(4, linear, &large, 0x4000_0000).go(READ),
        Ok(0x4000_0000 | linear & 0x1f_ffff)
    );
    let huge = [ALL, ALL | LARGE];
    assert_eq!(
        tables(4, linear, &huge, 0x80_4000_0000).go(READ),
        Ok(0x80_4000_0000 | linear & 0x3fff_ffff)
    );
    let pae = [PRESENT, ALL, ALL];
    assert_eq!(
        tables(3, 0xc123_4567, &pae, DATA).go(READ),
        Ok(DATA | 0x567)
    );
    assert_eq!(
        tables(3, 0xc123_4567, &[PRESENT, ALL | LARGE], 0x20_0000).go(READ),
        Ok(0x20_0000 | 0x3_4567)
    );
}

#[test]
fn two_level_paging_with_large_pages_beyond_4_gib() {
    let mut machine = Machine::new();
    let mut r = long();
    r.efer = 0;
    r.cr4 = 0;
    r.cr0 |= cr0::PG;
    r.cr3 = ROOT;
    let put = |machine: &mut Machine, at: u64, value: u32| machine.put(at, &value.to_le_bytes());
    put(&mut machine, ROOT + 0x48 * 4, 0x8_1000 | 7);
    put(&mut machine, 0x8_1000 + 0x345 * 4, 0x2_0000 | 7);
    let go =
        |machine: &mut Machine, r: &Registers, linear| translate(machine, r, &CONFIG, linear, READ);
    assert_eq!(
        go(&mut machine, &r, 0x1234_5678),
        Ok(Gpa::new(0x2_0678).unwrap())
    );
    // Bits 20:13 of a 4 MiB page are address bits 39:32.
    put(&mut machine, ROOT + 0x49 * 4, 0x0040_0087 | 0x12 << 13);
    r.cr4 |= cr4::PSE;
    assert_eq!(
        go(&mut machine, &r, 0x1254_5678),
        Ok(Gpa::new(0x12_0054_5678).unwrap())
    );
    put(&mut machine, ROOT + 0x49 * 4, 0x0040_0087 | 1 << 21);
    let Err(WalkError::Fault(exception)) = go(&mut machine, &r, 0x1254_5678) else {
        panic!("bit 21")
    };
    assert_eq!(exception.error_code, Some(9));
    r.cr4 = 0;
    put(&mut machine, ROOT + 0x49 * 4, 0x8_2087);
    assert!(
        go(&mut machine, &r, 0x1254_5678).is_err(),
        "without PSE it is a table, and empty"
    );
}

#[test]
fn accessed_and_dirty_bits_are_set_once() {
    let mut t = tables(4, DATA, &[ALL; 4], DATA);
    assert!(t.go(READ).is_ok());
    for &at in &t.entries {
        assert_eq!(t.machine.get(at) & (A | D), A);
    }
    assert!(t.go(STORE).is_ok());
    let marks: alloc::vec::Vec<u64> = t
        .entries
        .iter()
        .map(|&at| t.machine.get(at) & (A | D))
        .collect();
    assert_eq!(marks, [A, A, A, A | D]);
    // Nothing is left to be set, so nothing may be exchanged.
    t.machine.losses = u32::MAX;
    assert!(t.go(STORE).is_ok());
    // A lost race starts the walk again.
    let mut t = tables(4, DATA, &[ALL; 4], DATA);
    t.machine.losses = 2;
    assert!(t.go(STORE).is_ok());
    assert_eq!(t.machine.number_reads, 4 + 12);
    // A fault marks nothing.
    let mut t = tables(4, DATA, &[ALL, ALL, ALL, PRESENT], DATA);
    assert_eq!(t.go(user(READ)), Err(Some(5)));
    assert_eq!(t.machine.get(t.entries[0]) & A, 0);
}

#[test]
fn rights_of_all_levels_count() {
    for depth in 0..4 {
        let with = |right| {
            let mut rights = [ALL; 4];
            rights[depth] = right;
            tables(4, DATA, &rights, DATA)
        };
        let mut t = with(PRESENT | USER);
        assert!(t.go(STORE).is_ok(), "without WP the kernel writes anywhere");
        assert_eq!(t.go(user(STORE)), Err(Some(7)));
        t.registers.cr0 |= cr0::WP;
        assert_eq!(t.go(STORE), Err(Some(3)));
        let mut t = with(PRESENT | WRITE);
        assert_eq!(t.go(user(READ)), Err(Some(5)));
        assert!(t.go(READ).is_ok());
        let mut t = with(ALL | NX);
        assert!(t.go(READ).is_ok());
        assert_eq!(t.go(FETCH), Err(Some(0x11)));
        assert_eq!(t.go(user(FETCH)), Err(Some(0x15)));
        t.registers.efer &= !efer::NXE;
        assert_eq!(t.go(READ), Err(Some(9)), "the bit is reserved without NXE");
        assert_eq!(with(0).go(user(STORE)), Err(Some(6)));
    }
}

#[test]
fn smep_and_smap_keep_the_kernel_out_of_user_pages() {
    let mut t = tables(4, DATA, &[ALL; 4], DATA);
    assert!(t.go(FETCH).is_ok());
    t.registers.cr4 |= cr4::SMEP | cr4::SMAP;
    assert_eq!(t.go(FETCH), Err(Some(0x11)));
    assert_eq!(t.go(READ), Err(Some(1)));
    assert_eq!(t.go(STORE), Err(Some(3)));
    assert!(t.go(user(READ)).is_ok());
    t.registers.rflags |= rflags::AC;
    assert!(t.go(READ).is_ok());
    assert_eq!(
        t.go(Access {
            is_implicit: true,
            ..READ
        }),
        Err(Some(1))
    );
    let mut t = tables(4, DATA, &[PRESENT | WRITE; 4], DATA);
    t.registers.cr4 |= cr4::SMEP | cr4::SMAP;
    assert!(t.go(READ).is_ok());
    assert!(t.go(FETCH).is_ok());
}

#[test]
fn reserved_bits_fault() {
    let beyond = 1 << 40;
    for depth in 0..4 {
        let mut rights = [ALL; 4];
        rights[depth] |= beyond;
        assert_eq!(
            tables(4, DATA, &rights, DATA).go(READ),
            Err(Some(9)),
            "address bit, depth {depth}"
        );
    }
    for (depth, bad) in [(0, LARGE), (1, LARGE | 1 << 13), (2, LARGE | 1 << 13)] {
        let mut rights = [ALL; 4];
        rights[depth] |= bad;
        assert_eq!(
            tables(4, DATA, &rights[..=depth], 0).go(user(STORE)),
            Err(Some(15)),
            "depth {depth}"
        );
    }
    assert_eq!(tables(5, DATA, &[ALL | LARGE], 0).go(READ), Err(Some(9)));
    for bad in [1 << 1, 1 << 5, NX, 1 << 52] {
        assert_eq!(
            tables(3, DATA, &[PRESENT | bad, ALL, ALL], DATA).go(READ),
            Err(Some(9)),
            "pointer"
        );
    }
    assert_eq!(
        tables(3, DATA, &[PRESENT, ALL, ALL | 1 << 62], DATA).go(READ),
        Err(Some(9))
    );
    assert!(
        tables(4, DATA, &[ALL, ALL, ALL, ALL | 1 << 62], DATA)
            .go(READ)
            .is_ok()
    );
    let no_huge = crate::Config {
        has_page1gb: false,
        ..CONFIG
    };
    let mut t = tables(4, DATA, &[ALL, ALL | LARGE], 0);
    let result = translate(&mut t.machine, &t.registers, &no_huge, DATA, READ);
    assert!(matches!(result, Err(WalkError::Fault(e)) if e.error_code == Some(9)));
}

#[test]
fn the_fetch_bit_is_told_only_where_it_means_something() {
    let mut t = tables(4, DATA, &[0], 0);
    assert_eq!(t.go(FETCH), Err(Some(0x10)));
    t.registers.efer &= !efer::NXE;
    assert_eq!(t.go(FETCH), Err(Some(0)));
    t.registers.cr4 |= cr4::SMEP;
    assert_eq!(t.go(FETCH), Err(Some(0x10)));
}
