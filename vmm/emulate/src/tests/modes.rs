//! Real mode, protected mode and segments.

use super::machine::{DATA, Machine, fault, long, protected, real, run};
use api::cpu::{DescriptorTable, SegmentAttributes as Attr, efer, gpr, rflags, segment, vector};

/// Where the tests put a descriptor table.
const GDT: u64 = 0x4_0000;
const CODE64: u64 = 0x00af_9b00_0000_ffff;
const DATA32: u64 = 0x00cf_9300_0000_ffff;
const USER_DATA: u64 = 0x00cf_f300_0000_ffff;
const READ_ONLY: u64 = 0x00cf_9100_0000_ffff;
const ABSENT: u64 = 0x00cf_1300_0000_ffff;
const TSS: u64 = 0x0000_8900_1000_0067;

fn with_gdt() -> Machine {
    let mut m = Machine::new();
    for (index, descriptor) in [0, CODE64, DATA32, USER_DATA, READ_ONLY, ABSENT, TSS, 0]
        .iter()
        .enumerate()
    {
        m.put64(GDT + index as u64 * 8, *descriptor);
    }
    m.tables.gdtr = DescriptorTable {
        base: GDT,
        limit: 63,
    };
    m
}

#[test]
fn real_mode_adds_sixteen_times_the_selector() {
    let (mut m, mut r) = (Machine::new(), real());
    r.gpr[gpr::RBX] = 0xffff_0010;
    r.gpr[gpr::RSI] = 0x20;
    m.put64(0x2_0000 + 0x34, 0xbeef);
    run(&mut m, &mut r, &[0x8b, 0x40, 0x04]); // mov ax, [bx+si+4]
    assert_eq!(r.gpr[gpr::RAX], 0xbeef);
    run(&mut m, &mut r, &[0x50]); // push ax
    assert_eq!(r.gpr[gpr::RSP], 0xfe);
    assert_eq!(m.get(0x3_00fe) & 0xffff, 0xbeef);
    run(&mut m, &mut r, &[0x1f]); // pop ds
    assert_eq!(r.segments[segment::DS].base, 0xb_eef0);
    run(&mut m, &mut r, &[0x66, 0x60]); // pushad
    assert_eq!(r.gpr[gpr::RSP], 0x100 - 32);
    run(&mut m, &mut r, &[0x66, 0x61]); // popad
    assert_eq!(r.gpr[gpr::RSP], 0x100);
}

#[test]
fn the_instruction_pointer_wraps_in_its_size() {
    let (mut m, mut r) = (Machine::new(), real());
    r.rip = 0xffff;
    run(&mut m, &mut r, &[0x90]);
    assert_eq!(r.rip, 0);
    run(&mut m, &mut r, &[0xeb, 0x80]); // jmp short -128
    assert_eq!(r.rip, 0xff82);
}

#[test]
fn limits_and_rights_of_segments_are_enforced() {
    let mut m = Machine::new();
    let mut r = protected();
    r.gpr[gpr::RAX] = DATA;
    r.segments[segment::DS].limit = 0x2_0003;
    run(&mut m, &mut r.clone(), &[0x8b, 0x08]); // mov ecx, [eax]
    r.segments[segment::DS].limit = 0x2_0002;
    assert_eq!(fault(&mut m, &r, &[0x8b, 0x08]).vector, vector::GP);
    r.segments[segment::SS].limit = 0;
    let exception = fault(&mut m, &r, &[0x36, 0x8b, 0x08]); // mov ecx, ss:[eax]
    assert_eq!(
        (exception.vector, exception.error_code),
        (vector::SS, Some(0))
    );
    r.segments[segment::DS] = api::cpu::Segment::flat(0, Attr(0xc91));
    run(&mut m, &mut r.clone(), &[0x8b, 0x08]);
    assert_eq!(
        fault(&mut m, &r, &[0x89, 0x08]).vector,
        vector::GP,
        "read-only data"
    );
    r.segments[segment::DS].attributes = Attr::NULL;
    assert_eq!(
        fault(&mut m, &r, &[0x8b, 0x08]).vector,
        vector::GP,
        "null segment"
    );
    r.segments[segment::DS] = api::cpu::Segment {
        limit: 0x1_ffff,
        ..api::cpu::Segment::flat(0, Attr(0xc97))
    };
    run(&mut m, &mut r.clone(), &[0x8b, 0x08]);
    r.segments[segment::DS].limit = 0x2_0000;
    assert_eq!(
        fault(&mut m, &r, &[0x8b, 0x08]).vector,
        vector::GP,
        "expand-down"
    );
    let mut real = real();
    real.gpr[gpr::RBX] = 0xffff;
    let exception = fault(&mut m, &real, &[0x8b, 0x07]); // mov ax, [bx]
    assert_eq!((exception.vector, exception.error_code), (vector::GP, None));
}

#[test]
fn segment_registers_are_loaded_from_descriptors() {
    let (mut m, mut r) = (with_gdt(), long());
    m.put64(GDT + 16, DATA32 & !(1 << 40) | 0x12 << 16);
    r.gpr[gpr::RAX] = 0x10;
    run(&mut m, &mut r, &[0x8e, 0xd8]); // mov ds, eax
    let ds = r.segments[segment::DS];
    assert_eq!(
        (ds.selector, ds.base, ds.limit, ds.attributes),
        (0x10, 0x12, u32::MAX, Attr::DATA32)
    );
    assert_eq!(m.get(GDT + 16) >> 40 & 1, 1, "marked as accessed");
    run(&mut m, &mut r, &[0x8c, 0xd9]); // mov ecx, ds
    assert_eq!(r.gpr[gpr::RCX], 0x10);
    r.gpr[gpr::RAX] = 0;
    run(&mut m, &mut r, &[0x8e, 0xd0]); // mov ss, eax: null is valid here
    assert_eq!(r.segments[segment::SS].selector, 0);
}

#[test]
fn bad_selectors_fault_with_their_number() {
    let mut m = with_gdt();
    let mut r = long();
    let mut load = |selector: u64, code: &[u8]| {
        r.gpr[gpr::RAX] = selector;
        let exception = fault(&mut m, &r, code);
        (exception.vector, exception.error_code)
    };
    let (mov_ds, mov_ss) = (&[0x8e, 0xd8][..], &[0x8e, 0xd0][..]);
    assert_eq!(load(3, mov_ss), (vector::GP, Some(0)));
    assert_eq!(load(0x13, mov_ss), (vector::GP, Some(0x10)));
    assert_eq!(load(0x18, mov_ss), (vector::GP, Some(0x18)), "user data");
    assert_eq!(load(0x20, mov_ss), (vector::GP, Some(0x20)), "read-only");
    assert_eq!(load(0x28, mov_ss), (vector::SS, Some(0x28)), "absent");
    assert_eq!(load(0x28, mov_ds), (vector::NP, Some(0x28)));
    assert_eq!(load(0x13, mov_ds), (vector::GP, Some(0x10)));
    assert_eq!(
        load(0x40, mov_ds),
        (vector::GP, Some(0x40)),
        "behind the limit"
    );
    assert_eq!(
        load(0x14, mov_ds),
        (vector::GP, Some(0x14)),
        "no local table"
    );
    assert_eq!(
        load(0x30, mov_ds),
        (vector::GP, Some(0x30)),
        "a system descriptor"
    );
}

#[test]
fn a_far_jump_loads_the_code_segment() {
    let (mut m, mut r) = (with_gdt(), long());
    r.gpr[gpr::RAX] = DATA;
    m.put64(DATA, 0x1_2345);
    m.put(DATA + 8, &[8, 0]);
    run(&mut m, &mut r, &[0x48, 0xff, 0x28]); // jmp far m16:64 [rax]
    assert_eq!((r.rip, r.segments[segment::CS].selector), (0x1_2345, 8));
    m.put(DATA + 8, &[0x10, 0]);
    let exception = fault(&mut m, &r, &[0x48, 0xff, 0x28]);
    assert_eq!(
        (exception.vector, exception.error_code),
        (vector::GP, Some(0x10)),
        "data is no code"
    );
}

#[test]
fn the_task_register_marks_its_descriptor_busy() {
    let (mut m, mut r) = (with_gdt(), long());
    r.gpr[gpr::RAX] = DATA;
    m.put(DATA, &[0x30, 0]);
    run(&mut m, &mut r, &[0x0f, 0x00, 0x18]); // ltr [rax]
    assert_eq!(m.tables.tr.selector, 0x30);
    assert_eq!(m.tables.tr.attributes, Attr::TSS_BUSY);
    assert_eq!(m.tables.tr.base, 0x1000);
    assert_eq!(m.get(GDT + 0x30) >> 41 & 1, 1);
    assert_eq!(
        fault(&mut m, &r, &[0x0f, 0x00, 0x18]).error_code,
        Some(0x30),
        "busy now"
    );
    run(&mut m, &mut r, &[0x0f, 0x00, 0xc9]); // str ecx
    assert_eq!(r.gpr[gpr::RCX], 0x30);
}

#[test]
fn table_registers_are_stored_and_loaded() {
    let (mut m, mut r) = (with_gdt(), long());
    r.gpr[gpr::RAX] = DATA;
    run(&mut m, &mut r, &[0x0f, 0x01, 0x00]); // sgdt [rax]
    assert_eq!((m.get(DATA) & 0xffff, m.get(DATA + 2)), (63, GDT));
    m.put64(DATA + 2, 0x8000);
    run(&mut m, &mut r, &[0x0f, 0x01, 0x18]); // lidt [rax]
    assert_eq!(
        m.tables.idtr,
        DescriptorTable {
            base: 0x8000,
            limit: 63
        }
    );
    let mut r = real();
    m.put64(0x2_0000, 0x1234_5678_0000 | 0x27);
    run(&mut m, &mut r, &[0x0f, 0x01, 0x16, 0, 0]); // lgdt [0]: 24 bits of base
    assert_eq!(
        m.tables.gdtr,
        DescriptorTable {
            base: 0x34_5678,
            limit: 0x27
        }
    );
}

#[test]
fn virtual_8086_mode_checks_its_privilege() {
    let mut m = Machine::new();
    let mut r = real();
    r.cr0 = 1;
    r.rflags |= rflags::VM;
    r.cpl = 3;
    for code in [&[0xfa][..], &[0x9c], &[0x9d]] {
        assert_eq!(fault(&mut m, &r, code).vector, vector::GP);
    }
    r.rflags |= rflags::IOPL;
    run(&mut m, &mut r, &[0xfa]);
    run(&mut m, &mut r, &[0x9c]);
}

#[test]
fn compatibility_mode_uses_segments() {
    let (mut m, mut r) = (Machine::new(), protected());
    r.efer = efer::LMA | efer::LME;
    r.segments[segment::DS].base = 0x100;
    m.put64(DATA + 0x100, 5);
    r.gpr[gpr::RAX] = 0xffff_ffff_0000_0000 | DATA;
    run(&mut m, &mut r, &[0x8b, 0x08]);
    assert_eq!(r.gpr[gpr::RCX], 5);
}
