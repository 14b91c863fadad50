//! Moves of MMX, XMM and YMM registers.

use super::machine::{DATA, DEVICE, Machine, Touch, fault, long, run};
use api::cpu::{cr0, cr4, gpr, vector};

const PATTERN: u128 = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100;
const OLD: u128 = 0xffff_eeee_dddd_cccc_bbbb_aaaa_9999_8888;

#[test]
fn loads_replace_what_they_should() {
    for (code, expected) in [
        (&[0x0f, 0x10, 0x08][..], PATTERN),   // movups xmm1, [rax]
        (&[0x66, 0x0f, 0x6f, 0x08], PATTERN), // movdqa
        (&[0xf3, 0x0f, 0x10, 0x08], PATTERN & 0xffff_ffff), // movss
        (&[0xf2, 0x0f, 0x10, 0x08], PATTERN & u128::from(u64::MAX)), // movsd
        (&[0x66, 0x0f, 0x6e, 0x08], PATTERN & 0xffff_ffff), // movd
        (&[0xf3, 0x0f, 0x7e, 0x08], PATTERN & u128::from(u64::MAX)), // movq
        (
            &[0x0f, 0x12, 0x08],
            OLD >> 64 << 64 | PATTERN & u128::from(u64::MAX),
        ), // movlps
        (
            &[0x0f, 0x16, 0x08],
            OLD & u128::from(u64::MAX) | PATTERN << 64,
        ), // movhps
        (&[0xf2, 0x0f, 0xf0, 0x08], PATTERN), // lddqu
    ] {
        let (mut m, mut r) = (Machine::new(), long());
        m.put(DATA, &PATTERN.to_le_bytes());
        r.gpr[gpr::RAX] = DATA;
        m.xmm[1] = OLD;
        m.ymm_high[1] = OLD;
        run(&mut m, &mut r, code);
        assert_eq!(m.xmm[1], expected, "{code:02x?}");
        assert_eq!(m.ymm_high[1], OLD, "legacy moves leave the upper half");
    }
}

#[test]
fn stores_write_what_they_should() {
    for (code, len) in [
        (&[0x0f, 0x11, 0x08][..], 16),        // movups [rax], xmm1
        (&[0x66, 0x0f, 0xe7, 0x08], 16),      // movntdq
        (&[0xf3, 0x0f, 0x11, 0x08], 4),       // movss
        (&[0x66, 0x0f, 0xd6, 0x08], 8),       // movq
        (&[0x66, 0x48, 0x0f, 0x7e, 0x08], 8), // movq [rax], xmm1 by 7E
        (&[0x0f, 0x13, 0x08], 8),             // movlps
    ] {
        let (mut m, mut r) = (Machine::new(), long());
        r.gpr[gpr::RAX] = DEVICE;
        m.xmm[1] = PATTERN;
        run(&mut m, &mut r, code);
        assert_eq!(
            m.touches,
            [Touch::Write(DEVICE, PATTERN.to_le_bytes()[..len].to_vec())],
            "{code:02x?}"
        );
    }
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DEVICE;
    m.xmm[1] = PATTERN;
    run(&mut m, &mut r, &[0x0f, 0x17, 0x08]); // movhps [rax], xmm1
    assert_eq!(
        m.touches,
        [Touch::Write(DEVICE, PATTERN.to_le_bytes()[8..].to_vec())]
    );
}

#[test]
fn vex_moves_cover_or_clear_the_upper_half() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DATA;
    m.put(DATA, &PATTERN.to_le_bytes());
    m.put(DATA + 16, &OLD.to_le_bytes());
    run(&mut m, &mut r, &[0xc5, 0xfe, 0x6f, 0x08]); // vmovdqu ymm1, [rax]
    assert_eq!((m.xmm[1], m.ymm_high[1]), (PATTERN, OLD));
    r.gpr[gpr::RAX] = DEVICE;
    run(&mut m, &mut r, &[0xc5, 0xfd, 0xe7, 0x08]); // vmovntdq [rax], ymm1
    assert_eq!(
        (m.device[..16].to_vec(), m.device[16..32].to_vec()),
        (PATTERN.to_le_bytes().to_vec(), OLD.to_le_bytes().to_vec())
    );
    run(&mut m, &mut r, &[0xc5, 0xf8, 0x10, 0x08]); // vmovups xmm1, [rax]
    assert_eq!((m.xmm[1], m.ymm_high[1]), (PATTERN, 0));
}

#[test]
fn mmx_moves() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DEVICE;
    m.mmx[2] = 0x0102_0304_0506_0708;
    run(&mut m, &mut r, &[0x0f, 0x7f, 0x10]); // movq [rax], mm2
    assert_eq!(m.device[..8], 0x0102_0304_0506_0708u64.to_le_bytes());
    run(&mut m, &mut r, &[0x0f, 0x6e, 0x18]); // movd mm3, [rax]
    assert_eq!(m.mmx[3], 0x0506_0708);
}

#[test]
fn vector_units_can_be_off_and_insist_on_alignment() {
    let mut m = Machine::new();
    let mut r = long();
    r.gpr[gpr::RAX] = DATA + 8;
    let exception = fault(&mut m, &r, &[0x0f, 0x28, 0x08]); // movaps xmm1, [rax]
    assert_eq!(
        (exception.vector, exception.error_code),
        (vector::GP, Some(0))
    );
    run(&mut m, &mut r.clone(), &[0x0f, 0x10, 0x08]);
    r.cr0 |= cr0::TS;
    assert_eq!(fault(&mut m, &r, &[0x0f, 0x10, 0x08]).vector, vector::NM);
    r.cr4 &= !cr4::OSFXSR;
    assert_eq!(fault(&mut m, &r, &[0x0f, 0x10, 0x08]).vector, vector::UD);
    r.cr0 |= cr0::EM;
    assert_eq!(fault(&mut m, &r, &[0x0f, 0x6f, 0x08]).vector, vector::UD);
}
