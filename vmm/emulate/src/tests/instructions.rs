//! What instructions do to registers, flags, memory and devices, in 64-bit mode.

use super::machine::{CODE, CONFIG, DATA, DEVICE, Machine, STACK, Touch, long, run, step};
use crate::{Emulator, Hint, Outcome};
use addr::Gpa;
use alloc::vec;
use api::cpu::{cr0, gpr, rflags, segment};
use api::device::Width;

#[test]
fn a_store_reaches_the_device_with_its_width() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DEVICE + 0xb0;
    r.gpr[gpr::RCX] = 0x1122_3344_5566_7788;
    run(&mut m, &mut r, &[0x89, 0x08]); // mov [rax], ecx
    assert_eq!(
        m.touches,
        [Touch::Write(DEVICE + 0xb0, vec![0x88, 0x77, 0x66, 0x55])]
    );
    assert_eq!(r.rip, CODE + 2);
}

#[test]
fn loads_of_each_width_merge_as_the_architecture_says() {
    for (code, expected) in [
        (&[0x8a, 0x08][..], 0xffff_ffff_ffff_ff88u64), // mov cl, [rax]
        (&[0x8a, 0x28], 0xffff_ffff_ffff_88ff),        // mov ch, [rax]
        (&[0x66, 0x8b, 0x08], 0xffff_ffff_ffff_7788),  // mov cx, [rax]
        (&[0x8b, 0x08], 0x5566_7788),                  // mov ecx, [rax]
        (&[0x48, 0x8b, 0x08], 0x1122_3344_5566_7788),  // mov rcx, [rax]
        (&[0x0f, 0xb6, 0x08], 0x88),                   // movzx ecx, byte [rax]
        (&[0x48, 0x0f, 0xbe, 0x08], 0xffff_ffff_ffff_ff88), // movsx rcx, byte [rax]
        (&[0x0f, 0xbf, 0x08], 0x7788),                 // movsx ecx, word [rax]
        (&[0x48, 0x63, 0x08], 0x5566_7788),            // movsxd rcx, dword [rax]
        (&[0x0f, 0x38, 0xf0, 0x08], 0x8877_6655),      // movbe ecx, [rax]
    ] {
        let (mut m, mut r) = (Machine::new(), long());
        m.put64(DATA, 0x1122_3344_5566_7788);
        r.gpr[gpr::RAX] = DATA;
        r.gpr[gpr::RCX] = u64::MAX;
        run(&mut m, &mut r, code);
        assert_eq!(r.gpr[gpr::RCX], expected, "{code:02x?}");
    }
}

#[test]
fn addresses_add_up_base_index_displacement_and_segment_base() {
    let (mut m, mut r) = (Machine::new(), long());
    m.put64(DATA + 0x128, 42);
    r.gpr[gpr::RBX] = DATA;
    r.gpr[gpr::RSI] = 0x20;
    run(&mut m, &mut r, &[0x48, 0x8b, 0x84, 0xf3, 0x28, 0, 0, 0]); // mov rax, [rbx+rsi*8+0x28]
    assert_eq!(r.gpr[gpr::RAX], 42);
    let mut r = long();
    r.segments[segment::GS].base = DATA;
    run(
        &mut m,
        &mut r,
        &[0x65, 0x48, 0x8b, 0x04, 0x25, 0x28, 1, 0, 0],
    ); // mov rax, gs:[0x128]
    assert_eq!(r.gpr[gpr::RAX], 42);
    let mut r = long();
    run(&mut m, &mut r, &[0x48, 0x8b, 0x05, 0x21, 1, 1, 0]); // mov rax, [rip+0x10121]
    assert_eq!(r.gpr[gpr::RAX], 42);
    let mut r = long();
    run(&mut m, &mut r, &[0xa1, 0x28, 1, 2, 0, 0, 0, 0, 0]); // mov eax, [0x20128]
    assert_eq!(r.gpr[gpr::RAX], 42);
    let mut r = long();
    r.gpr[gpr::RBX] = 0xffff_ffff_0000_0000 | DATA;
    run(&mut m, &mut r, &[0x67, 0x8b, 0x83, 0x28, 1, 0, 0]); // mov eax, [ebx+0x128]
    assert_eq!(r.gpr[gpr::RAX], 42);
}

#[test]
fn a_cached_instruction_is_relative_to_where_it_is() {
    let (mut m, mut r) = (Machine::new(), long());
    let mut emulator = Emulator::new(CONFIG);
    let code = [0x48, 0x8b, 0x05, 0x00, 0x10, 0, 0]; // mov rax, [rip+0x1000]
    for round in 0..3 {
        // The same cache slot each time.
        r.rip = CODE + round * 0x1_0040 / 0x40 * 0x40;
        m.put(r.rip, &code);
        m.put64(r.rip + 0x1007, round + 7);
        emulator.run(&mut m, &mut r, &Hint::default());
        assert_eq!(r.gpr[gpr::RAX], round + 7);
    }
    // Other bytes at a known place are decoded anew.
    r.rip = CODE;
    m.put(CODE, &[0x31, 0xc0]);
    emulator.run(&mut m, &mut r, &Hint::default());
    assert_eq!((r.gpr[gpr::RAX], r.rip), (0, CODE + 2));
}

#[test]
fn a_hint_saves_the_walk_and_is_used_only_if_it_fits() {
    let (mut m, mut r) = (Machine::new(), long());
    // Without the hint this address is RAM.
    r.gpr[gpr::RAX] = DATA + 0x80;
    m.put(CODE, &[0x89, 0x08]);
    let hint = |gpa: u64, is_write| Hint {
        gpa: Gpa::new(gpa),
        is_write,
        bytes: &[],
    };
    let mut emulator = Emulator::new(CONFIG);
    emulator.run(&mut m, &mut r, &hint(DEVICE + 0x80, true));
    assert_eq!(m.touches.len(), 1);
    for useless in [hint(DEVICE + 0x84, true), hint(DEVICE + 0x80, false)] {
        r.rip = CODE;
        emulator.run(&mut m, &mut r, &useless);
        assert_eq!(m.touches.len(), 1);
    }
    // A push has two accesses: the hint could belong to either.
    r.rip = CODE;
    m.put(CODE, &[0xff, 0x30]);
    emulator.run(&mut m, &mut r, &hint(DEVICE + 0x80, true));
    assert_eq!(m.touches.len(), 1);
}

#[test]
fn bytes_from_the_processor_save_the_fetch() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DEVICE;
    let hint = Hint {
        bytes: &[0x88, 0x08, 0xcc],
        ..Hint::default()
    };
    let outcome = Emulator::new(CONFIG).run(&mut m, &mut r, &hint);
    assert_eq!(outcome, Outcome::Done { single_step: false });
    assert_eq!((m.touches.len(), r.rip), (1, CODE + 2));
}

#[test]
fn arithmetic_on_a_device_reads_once_and_writes_once() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DEVICE;
    m.device[0] = 0xff;
    run(&mut m, &mut r, &[0x80, 0x00, 1]); // add byte [rax], 1
    assert_eq!(
        m.touches,
        [Touch::Read(DEVICE, 1), Touch::Write(DEVICE, vec![0])]
    );
    let set = rflags::CF | rflags::ZF | rflags::AF | rflags::PF;
    assert_eq!(r.rflags, rflags::FIXED | set);
    run(&mut m, &mut r, &[0xf0, 0xfe, 0x00]); // lock inc byte [rax]
    assert_eq!(m.device[0], 1);
    assert_eq!(r.rflags, rflags::FIXED | rflags::CF, "INC leaves the carry");
    m.touches.clear();
    run(&mut m, &mut r, &[0x80, 0x38, 1]); // cmp byte [rax], 1
    run(&mut m, &mut r, &[0xf6, 0x00, 1]); // test byte [rax], 1
    assert_eq!(m.touches, [Touch::Read(DEVICE, 1), Touch::Read(DEVICE, 1)]);
}

#[test]
fn a_locked_instruction_tries_again_and_finally_lets_others_run() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DATA;
    m.losses = 3;
    run(&mut m, &mut r, &[0xf0, 0x48, 0xff, 0x00]); // lock inc qword [rax]
    assert_eq!((m.get(DATA), r.rip), (1, CODE + 4));
    m.losses = 1000;
    let before = r;
    run(&mut m, &mut r, &[0xf0, 0x48, 0xff, 0x00]);
    assert_eq!(r, before, "contended: nothing happened");
}

#[test]
fn bit_strings_reach_beyond_their_operand() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DATA;
    r.gpr[gpr::RCX] = 66;
    run(&mut m, &mut r, &[0x0f, 0xbb, 0x08]); // btc [rax], ecx
    assert_eq!(m.get(DATA + 8), 4);
    r.gpr[gpr::RCX] = 0xffff_ffff;
    run(&mut m, &mut r, &[0x0f, 0xbb, 0x48, 12]); // btc [rax+12], ecx: bit -1
    assert_eq!(m.get(DATA + 8), 0x8000_0004);
    run(&mut m, &mut r, &[0x0f, 0xba, 0x38, 32]); // btc dword [rax], 32: modulo
    assert_eq!(m.get(DATA), 1);
}

#[test]
fn compare_and_exchange_of_each_size() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RDI] = DATA;
    r.gpr[gpr::RAX] = 5;
    r.gpr[gpr::RCX] = 9;
    m.put64(DATA, 5);
    run(&mut m, &mut r, &[0xf0, 0x0f, 0xb1, 0x0f]); // lock cmpxchg [rdi], ecx
    assert_eq!((m.get(DATA), r.rflags & rflags::ZF), (9, rflags::ZF));
    run(&mut m, &mut r, &[0x0f, 0xb1, 0x0f]);
    assert_eq!((r.gpr[gpr::RAX], r.rflags & rflags::ZF), (9, 0));
    m.put64(DATA, 1);
    m.put64(DATA + 8, 2);
    (r.gpr[gpr::RAX], r.gpr[gpr::RDX]) = (1, 2);
    (r.gpr[gpr::RBX], r.gpr[gpr::RCX]) = (3, 4);
    run(&mut m, &mut r, &[0x48, 0x0f, 0xc7, 0x0f]); // cmpxchg16b [rdi]
    assert_eq!((m.get(DATA), m.get(DATA + 8)), (3, 4));
    run(&mut m, &mut r, &[0x48, 0x0f, 0xc7, 0x0f]);
    assert_eq!(
        (r.gpr[gpr::RAX], r.gpr[gpr::RDX], r.rflags & rflags::ZF),
        (3, 4, 0)
    );
    m.put64(DATA, 0x2222_2222_1111_1111);
    (r.gpr[gpr::RAX], r.gpr[gpr::RDX]) = (0x1111_1111, 0x2222_2222);
    run(&mut m, &mut r, &[0x0f, 0xc7, 0x0f]); // cmpxchg8b [rdi]
    assert_eq!(m.get(DATA), 0x4_0000_0003);
}

#[test]
fn the_stack_may_be_a_device() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RSP] = DEVICE + 16;
    r.gpr[gpr::RBX] = 0x1234;
    run(&mut m, &mut r, &[0x53]); // push rbx
    run(&mut m, &mut r, &[0x6a, 0xf9]); // push -7
    assert_eq!(m.touches.len(), 2);
    assert_eq!(r.gpr[gpr::RSP], DEVICE);
    run(&mut m, &mut r, &[0x58]); // pop rax
    assert_eq!(r.gpr[gpr::RAX], 0u64.wrapping_sub(7));
    run(&mut m, &mut r, &[0x8f, 0x44, 0x24, 0x00]); // pop qword [rsp]: address after the increment
    assert_eq!(m.device[16..24], 0x1234u64.to_le_bytes());
    assert_eq!(r.gpr[gpr::RSP], DEVICE + 16);
}

#[test]
fn frames_are_made_and_left() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RBP] = 0xaa55;
    run(&mut m, &mut r, &[0xc8, 0x38, 0x12, 0]); // enter 0x1238, 0
    assert_eq!(r.gpr[gpr::RBP], STACK - 8);
    assert_eq!(r.gpr[gpr::RSP], STACK - 8 - 0x1238);
    assert_eq!(m.get(STACK - 8), 0xaa55);
    run(&mut m, &mut r, &[0xc9]); // leave
    assert_eq!((r.gpr[gpr::RBP], r.gpr[gpr::RSP]), (0xaa55, STACK));
    r.gpr[gpr::RBP] = DATA + 16;
    m.put64(DATA + 8, 77);
    run(&mut m, &mut r, &[0xc8, 0x10, 0, 2]); // enter 16, 2
    assert_eq!(
        (m.get(STACK - 8), m.get(STACK - 16), m.get(STACK - 24)),
        (DATA + 16, 77, STACK - 8)
    );
    assert_eq!(r.gpr[gpr::RSP], STACK - 24 - 16);
}

#[test]
fn calls_jumps_and_returns() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RAX] = DATA;
    m.put64(DATA, CODE + 0x100);
    run(&mut m, &mut r, &[0xff, 0x10]); // call [rax]
    assert_eq!((r.rip, m.get(STACK - 8)), (CODE + 0x100, CODE + 2));
    run(&mut m, &mut r, &[0xc2, 8, 0]); // ret 8
    assert_eq!((r.rip, r.gpr[gpr::RSP]), (CODE + 2, STACK + 8));
    run(&mut m, &mut r, &[0xff, 0x20]); // jmp [rax]
    assert_eq!(r.rip, CODE + 0x100);
    run(&mut m, &mut r, &[0xeb, 0xfe]); // jmp $
    assert_eq!(r.rip, CODE + 0x100);
    run(&mut m, &mut r, &[0xe8, 0xfb, 0xfe, 0xff, 0xff]); // call CODE
    assert_eq!(r.rip, CODE);
    r.rflags |= rflags::ZF;
    run(&mut m, &mut r, &[0x74, 0x10]); // jz +16
    assert_eq!(r.rip, CODE + 18);
    run(&mut m, &mut r, &[0x75, 0x10]); // jnz +16
    assert_eq!(r.rip, CODE + 20);
}

#[test]
fn flags_can_be_pushed_popped_and_changed() {
    let (mut m, mut r) = (Machine::new(), long());
    run(&mut m, &mut r, &[0xfb]); // sti
    assert!(r.interrupt_shadow && r.rflags & rflags::IF != 0);
    run(&mut m, &mut r, &[0xfb]);
    assert!(
        !r.interrupt_shadow,
        "only the first STI holds interrupts off"
    );
    run(&mut m, &mut r, &[0x9c]); // pushfq
    run(&mut m, &mut r, &[0xfa]); // cli
    assert_eq!(r.rflags & rflags::IF, 0);
    run(&mut m, &mut r, &[0x9d]); // popfq
    assert_eq!(r.rflags & rflags::IF, rflags::IF);
    r.cpl = 3;
    m.put64(STACK - 8, rflags::IOPL | rflags::CF);
    r.gpr[gpr::RSP] = STACK - 8;
    run(&mut m, &mut r, &[0x9d]);
    assert_eq!(
        r.rflags,
        rflags::FIXED | rflags::IF | rflags::CF,
        "user code changes neither IF nor IOPL"
    );
}

#[test]
fn traps_and_shadows_follow_the_instruction() {
    let (mut m, mut r) = (Machine::new(), long());
    r.rflags |= rflags::TF | rflags::RF;
    assert_eq!(
        step(&mut m, &mut r, &[0x90]),
        Outcome::Done { single_step: true }
    );
    assert_eq!(r.rflags & rflags::RF, 0);
    r.gpr[gpr::RAX] = 0;
    assert_eq!(
        step(&mut m, &mut r, &[0x8e, 0xd0]),
        Outcome::Done { single_step: false },
        "mov ss, eax"
    );
    assert!(r.interrupt_shadow);
    run_trap(&mut m, &mut r);
    assert!(!r.interrupt_shadow);
}

fn run_trap(m: &mut Machine, r: &mut crate::Registers) {
    assert_eq!(step(m, r, &[0x90]), Outcome::Done { single_step: true });
}

#[test]
fn ports_are_read_and_written() {
    let (mut m, mut r) = (Machine::new(), long());
    m.port_value = 0x1234_5678;
    r.gpr[gpr::RAX] = u64::MAX;
    r.gpr[gpr::RDX] = 0xffff_03f8;
    run(&mut m, &mut r, &[0xec]); // in al, dx
    assert_eq!(r.gpr[gpr::RAX], 0xffff_ffff_ffff_ff78);
    run(&mut m, &mut r, &[0xe5, 0x64]); // in eax, 0x64
    assert_eq!(r.gpr[gpr::RAX], 0x1234_5678);
    run(&mut m, &mut r, &[0x66, 0xef]); // out dx, ax
    run(&mut m, &mut r, &[0xe6, 0x80]); // out 0x80, al
    assert_eq!(
        m.touches,
        [
            Touch::In(0x3f8, Width::Byte),
            Touch::In(0x64, Width::Dword),
            Touch::Out(0x3f8, Width::Word, 0x5678),
            Touch::Out(0x80, Width::Byte, 0x78),
        ]
    );
}

#[test]
fn control_and_debug_registers_go_through_the_environment() {
    let (mut m, mut r) = (Machine::new(), long());
    r.gpr[gpr::RBX] = 5;
    run(&mut m, &mut r, &[0x44, 0x0f, 0x22, 0xc3]); // mov cr8, rbx
    run(&mut m, &mut r, &[0x44, 0x0f, 0x20, 0xc1]); // mov rcx, cr8
    assert_eq!((m.cr8, r.gpr[gpr::RCX]), (5, 5));
    r.cr0 |= cr0::TS;
    run(&mut m, &mut r, &[0x0f, 0x06]); // clts
    assert_eq!(r.cr0 & cr0::TS, 0);
    r.gpr[gpr::RAX] = DEVICE;
    m.device.fill(0xff);
    run(&mut m, &mut r, &[0x0f, 0x01, 0x20]); // smsw [rax]
    assert_eq!(m.device[..3], [1, 0, 0xff]);
    m.device[0] = 0xc;
    run(&mut m, &mut r, &[0x0f, 0x01, 0x30]); // lmsw [rax]
    assert_eq!(r.cr0 & 0xf, 0xd, "PE stays");
    r.gpr[gpr::RBX] = 0x401;
    run(&mut m, &mut r, &[0x0f, 0x23, 0xfb]); // mov dr7, rbx
    run(&mut m, &mut r, &[0x0f, 0x21, 0xe9]); // mov rcx, dr5: an alias
    assert_eq!((m.debug[7], r.gpr[gpr::RCX]), (0x401, 0x401));
}

#[test]
fn lengths_are_told_without_running() {
    let mut m = Machine::new();
    let r = long();
    for (code, len) in [
        (&[0x0f, 0x01, 0xf9][..], 3),
        (&[0x0f, 0x31], 2),
        (&[0x66, 0x66, 0x0f, 0xa2], 4),
    ] {
        m.put(CODE, code);
        assert_eq!(Emulator::new(CONFIG).instruction_len(&mut m, &r), Ok(len));
    }
}

#[test]
fn what_is_not_emulated_is_returned_with_its_bytes() {
    let (mut m, mut r) = (Machine::new(), long());
    let before = r;
    let outcome = step(&mut m, &mut r, &[0x0f, 0x58, 0x00]); // addps xmm0, [rax]
    let Outcome::Unhandled { bytes, len } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(
        (bytes[..3].to_vec(), len, r),
        (vec![0x0f, 0x58, 0x00], 15, before)
    );
}

#[test]
fn an_unknown_instruction_that_reached_memory_is_not_invalid() {
    let (mut m, mut r) = (Machine::new(), long());
    m.put(CODE, &[0xf0, 0x90]);
    let mut run = |hint: &Hint<'_>| Emulator::new(CONFIG).run(&mut m, &mut r, hint);
    assert!(matches!(run(&Hint::default()), Outcome::Exception(e) if e.vector == 6));
    let hint = Hint {
        gpa: Gpa::new(DEVICE),
        ..Hint::default()
    };
    assert!(matches!(run(&hint), Outcome::Unhandled { .. }));
}
