//! Exceptions leave everything as it was.

use super::machine::{CODE, DATA, Machine, fault, long, step};
use crate::Outcome;
use api::cpu::{cr0, cr4, gpr, rflags, vector};

const NON_CANONICAL: u64 = 0xaaaa_aaaa_aaaa_aaaa;

#[test]
fn non_canonical_addresses_fault_by_their_segment() {
    let mut m = Machine::new();
    let mut r = long();
    r.gpr[gpr::RAX] = NON_CANONICAL;
    let or = fault(&mut m, &r, &[0x48, 0x83, 0x08, 0]); // or qword [rax], 0
    assert_eq!((or.vector, or.error_code), (vector::GP, Some(0)));
    let or = fault(&mut m, &r, &[0x48, 0x83, 0x0c, 0x04, 0]); // or qword [rsp+rax], 0
    assert_eq!((or.vector, or.error_code), (vector::SS, Some(0)));
    let or = fault(&mut m, &r, &[0x48, 0x83, 0x4c, 0x05, 0, 0]); // or qword [rbp+rax], 0
    assert_eq!(or.vector, vector::SS);
    let or = fault(&mut m, &r, &[0x3e, 0x48, 0x83, 0x4c, 0x05, 0, 0]); // the same with a DS prefix
    assert_eq!(or.vector, vector::SS, "64-bit mode ignores the prefix");
    r.gpr[gpr::RAX] = DATA;
    m.put64(DATA, NON_CANONICAL);
    assert_eq!(
        fault(&mut m, &r, &[0xff, 0x20]).vector,
        vector::GP,
        "jmp [rax]"
    );
    r.gpr[gpr::RAX] = 0x7fff_ffff_fffc;
    assert_eq!(
        fault(&mut m, &r, &[0x48, 0x8b, 0x00]).vector,
        vector::GP,
        "the last byte counts"
    );
}

#[test]
fn division_faults() {
    let mut m = Machine::new();
    let mut r = long();
    r.gpr[gpr::RCX] = DATA;
    r.gpr[gpr::RDX] = 1;
    assert_eq!(
        fault(&mut m, &r, &[0x48, 0xf7, 0x31]).vector,
        vector::DE,
        "by zero"
    );
    m.put64(DATA, 1);
    assert_eq!(
        fault(&mut m, &r, &[0x48, 0xf7, 0x31]).vector,
        vector::DE,
        "quotient too large"
    );
    r.gpr[gpr::RAX] = 1 << 63;
    r.gpr[gpr::RDX] = u64::MAX;
    m.put64(DATA, u64::MAX);
    assert_eq!(
        fault(&mut m, &r, &[0x48, 0xf7, 0x39]).vector,
        vector::DE,
        "smallest by -1"
    );
}

#[test]
fn user_code_may_not_do_what_the_kernel_may() {
    let mut m = Machine::new();
    let mut r = long();
    r.cpl = 3;
    for code in [
        &[0x0f, 0x20, 0xc0][..], // mov rax, cr0
        &[0x0f, 0x22, 0xc0],     // mov cr0, rax
        &[0x0f, 0x21, 0xc0],     // mov rax, dr0
        &[0x0f, 0x06],           // clts
        &[0x0f, 0x01, 0xf0],     // lmsw ax
        &[0x0f, 0x00, 0xd8],     // ltr ax
        &[0xfa],                 // cli
    ] {
        assert_eq!(fault(&mut m, &r, code).vector, vector::GP, "{code:02x?}");
    }
    assert!(matches!(
        step(&mut m, &mut r.clone(), &[0x0f, 0x01, 0xe0]),
        Outcome::Done { .. }
    ));
    r.cr4 |= cr4::UMIP;
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x01, 0xe0]).vector,
        vector::GP,
        "smsw eax"
    );
}

#[test]
fn misaligned_user_accesses_fault_when_asked_to() {
    let mut m = Machine::new();
    let mut r = long();
    r.gpr[gpr::RAX] = DATA + 1;
    r.cr0 |= cr0::AM;
    r.rflags |= rflags::AC;
    assert!(matches!(
        step(&mut m, &mut r.clone(), &[0x8b, 0x08]),
        Outcome::Done { .. }
    ));
    r.cpl = 3;
    let exception = fault(&mut m, &r, &[0x8b, 0x08]);
    assert_eq!(
        (exception.vector, exception.error_code),
        (vector::AC, Some(0))
    );
    assert!(matches!(
        step(&mut m, &mut r, &[0x8a, 0x08]),
        Outcome::Done { .. }
    ));
}

#[test]
fn invalid_and_overlong_instructions() {
    let mut m = Machine::new();
    let r = long();
    assert_eq!(
        fault(&mut m, &r, &[0x8d, 0xc0]).vector,
        vector::UD,
        "lea of a register"
    );
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x38, 0xf0, 0xc0]).vector,
        vector::UD,
        "movbe of a register"
    );
    assert_eq!(
        fault(&mut m, &r, &[0xf0, 0x90]).vector,
        vector::UD,
        "locked nop"
    );
    assert_eq!(fault(&mut m, &r, &[0x0f, 0x0b]).vector, vector::UD, "ud2");
    assert_eq!(
        fault(&mut m, &r, &[0x66; 15]).vector,
        vector::GP,
        "fifteen prefixes"
    );
    let mut wrong = r;
    wrong.rip = NON_CANONICAL;
    let mut after = wrong;
    let outcome = crate::Emulator::new(super::machine::CONFIG).run(
        &mut m,
        &mut after,
        &crate::Hint::default(),
    );
    assert!(matches!(outcome, Outcome::Exception(e) if e.vector == vector::GP));
    assert_eq!((after, r.rip), (wrong, CODE));
}

#[test]
fn a_refused_control_register_write_faults() {
    let mut m = Machine::new();
    let mut r = long();
    r.gpr[gpr::RAX] = 1 << 40;
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x22, 0xe0]).vector,
        vector::GP,
        "mov cr4, rax"
    );
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x23, 0xf8]).vector,
        vector::GP,
        "mov dr7, rax"
    );
    r.cr4 |= cr4::DE;
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x21, 0xe8]).vector,
        vector::UD,
        "dr5 with DE"
    );
}
