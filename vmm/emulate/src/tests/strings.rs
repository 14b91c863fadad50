//! String instructions: directions, repetition, continuation, and exceptions in the middle.

use super::machine::{CODE, CONFIG, DATA, DEVICE, Machine, Touch, long, run, step};
use crate::{Emulator, Hint, Outcome};
use api::cpu::{cr0, gpr, rflags};
use api::device::Width;

#[test]
fn moves_go_both_ways_in_every_width() {
    for (code, width) in [
        (&[0xf3u8, 0xa4][..], 1u64),
        (&[0xf3, 0x66, 0xa5], 2),
        (&[0xf3, 0xa5], 4),
        (&[0xf3, 0x48, 0xa5], 8),
    ] {
        for is_down in [false, true] {
            let (mut m, mut r) = (Machine::new(), long());
            for i in 0..64 {
                m.ram[usize::try_from(DATA + i).unwrap()] = u8::try_from(i).unwrap();
            }
            let start = if is_down { 64 - width } else { 0 };
            r.gpr[gpr::RSI] = DATA + start;
            r.gpr[gpr::RDI] = DEVICE + start;
            r.gpr[gpr::RCX] = 64 / width;
            r.rflags |= if is_down { rflags::DF } else { 0 };
            run(&mut m, &mut r, code);
            let data = usize::try_from(DATA).unwrap();
            assert_eq!(m.device[..64], m.ram[data..data + 64]);
            assert_eq!(r.gpr[gpr::RCX], 0);
            let end = if is_down {
                DATA.wrapping_sub(width)
            } else {
                DATA + 64
            };
            assert_eq!(r.gpr[gpr::RSI], end);
            assert_eq!(m.touches.len() as u64, 64 / width, "one access per element");
        }
    }
}

#[test]
fn a_long_repetition_is_done_in_pieces() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RDI] = DATA;
    r.gpr[gpr::RCX] = 3000;
    r.gpr[gpr::RAX] = 0x5a;
    let mut pieces = 0;
    while r.rip == CODE {
        run(&mut m, &mut r, &[0xf3, 0xaa]); // rep stosb
        pieces += 1;
        assert_eq!(r.gpr[gpr::RDI] - DATA + r.gpr[gpr::RCX], 3000);
    }
    assert!((2..20).contains(&pieces));
    let data = usize::try_from(DATA).unwrap();
    assert!(m.ram[data..data + 3000].iter().all(|b| *b == 0x5a));
    assert_eq!(m.ram[data + 3000], 0);
}

#[test]
fn a_trap_comes_after_each_iteration() {
    let (mut m, mut r) = (Machine::new(), long());
    r.rflags |= rflags::TF;
    r.gpr[gpr::RDI] = DATA;
    r.gpr[gpr::RCX] = 2;
    for left in [1, 0] {
        assert_eq!(
            step(&mut m, &mut r, &[0xf3, 0xaa]),
            Outcome::Done { single_step: true }
        );
        assert_eq!(r.gpr[gpr::RCX], left);
    }
    assert_eq!(r.rip, CODE + 2);
}

#[test]
fn comparisons_stop_where_they_differ() {
    let (mut m, mut r) = (Machine::new(), long());
    m.put(DATA, b"abcdeXgh");
    m.put(DATA + 0x100, b"abcdefgh");
    r.gpr[gpr::RSI] = DATA;
    r.gpr[gpr::RDI] = DATA + 0x100;
    r.gpr[gpr::RCX] = 8;
    run(&mut m, &mut r, &[0xf3, 0xa6]); // repe cmpsb
    assert_eq!((r.gpr[gpr::RCX], r.gpr[gpr::RSI]), (2, DATA + 6));
    assert_eq!(r.rflags & (rflags::CF | rflags::ZF), rflags::CF);
    r.rip = CODE;
    r.gpr[gpr::RDI] = DATA;
    r.gpr[gpr::RCX] = 100;
    r.gpr[gpr::RAX] = u64::from(b'd');
    run(&mut m, &mut r, &[0xf2, 0xae]); // repne scasb
    assert_eq!((r.gpr[gpr::RCX], r.gpr[gpr::RDI]), (96, DATA + 4));
    r.rip = CODE;
    r.gpr[gpr::RCX] = 0;
    let flags = r.rflags;
    run(&mut m, &mut r, &[0xf2, 0xae]);
    assert_eq!(
        (r.rflags, r.gpr[gpr::RDI]),
        (flags, DATA + 4),
        "no iteration, no change"
    );
}

#[test]
fn ports_are_read_into_and_written_from_memory() {
    let (mut m, mut r) = (Machine::new(), long());
    m.port_value = 0x99;
    r.gpr[gpr::RDX] = 0xe0;
    r.gpr[gpr::RDI] = DEVICE + 0xffe;
    r.gpr[gpr::RCX] = 2;
    run(&mut m, &mut r, &[0xf3, 0x6c]); // rep insb
    assert_eq!(m.device[0xffe..], [0x99, 0x99]);
    m.touches.clear();
    m.put(DATA, &[1, 2, 3, 4]);
    r.gpr[gpr::RSI] = DATA;
    r.gpr[gpr::RCX] = 2;
    r.rip = CODE;
    run(&mut m, &mut r, &[0xf3, 0x66, 0x6f]); // rep outsw
    assert_eq!(
        m.touches,
        [
            Touch::Out(0xe0, Width::Word, 0x201),
            Touch::Out(0xe0, Width::Word, 0x403)
        ]
    );
}

#[test]
fn a_fault_in_the_middle_keeps_the_iterations_before_it() {
    let (mut m, mut r) = (Machine::new(), long());
    // Identity-map the first 2 MiB by pages of 4 KiB, the page behind DATA missing.
    let (pml4, pdpt, pd, pt) = (0x8_0000u64, 0x8_1000, 0x8_2000, 0x8_3000);
    m.put64(pml4, pdpt | 3);
    m.put64(pdpt, pd | 3);
    m.put64(pd, pt | 3);
    for page in 0..256 {
        m.put64(pt + page * 8, page << 12 | 3);
    }
    m.put64(pt + (DATA >> 12) * 8 + 8, 0);
    r.cr3 = pml4;
    r.cr0 |= cr0::PG;
    r.gpr[gpr::RDI] = DATA + 0xffe;
    r.gpr[gpr::RCX] = 5;
    m.put(CODE, &[0xf3, 0xaa]);
    let outcome = Emulator::new(CONFIG).run(&mut m, &mut r, &Hint::default());
    let Outcome::Exception(exception) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((exception.vector, exception.error_code), (14, Some(2)));
    assert_eq!(exception.cr2, Some(DATA + 0x1000));
    assert_eq!(
        (r.gpr[gpr::RCX], r.gpr[gpr::RDI], r.rip),
        (3, DATA + 0x1000, CODE)
    );
}
