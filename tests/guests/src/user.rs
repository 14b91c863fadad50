//! Random bytes executed at CPL 3, where paging keeps what they do to a few pages of their own.
//!
//! Those pages are code, data, and addresses that no memory answers, so that stray accesses reach the monitor's
//! instruction decoder with instructions that nobody wrote. Loops are ended by the 8254.
#![expect(unsafe_code, reason = "builds page tables and crosses rings")]

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::random::Random;
use crate::{cpu, interrupts};

/// Where the pages are seen: the second entry of the top table.
const WINDOW: u64 = 1 << 39;
/// Physical page of the code and of the data after it.
const CODE_PAGE: u32 = 0x90_0000;
const DATA_PAGE: u32 = 0x90_1000;
/// Physical pages of the three lower tables.
const TABLES: u32 = 0x90_8000;
/// Physical pages of the window, in order.
const PAGES: [u32; 6] = [
    CODE_PAGE,
    DATA_PAGE,
    0xd000_0000,
    0xff00_0000,
    0xe123_4000,
    DATA_PAGE,
];
const PAGE_SIZE: u32 = 4096;
/// Present, writable, for users (APM Vol. 2, 5.4).
const USER: u32 = 7;
/// Bytes written per run; what lies behind them is an earlier run's.
const CODE_SIZE: u32 = 64;
/// Selectors of the user's segments in `GDT`, with CPL 3.
const USER_DATA: u64 = 0x2b;
const USER_CODE: u64 = 0x33;
/// Interrupts on, and the bit that is always one.
const FLAGS: u64 = 0x202;
/// Registers that the random code finds filled.
const REGISTERS: usize = 15;

/// The entry code's five descriptors, then a user's data and 64-bit code.
static GDT: [AtomicU64; 7] = [const { AtomicU64::new(0) }; 7];
static READY: AtomicBool = AtomicBool::new(false);
/// The stack pointer to go back to.
static KERNEL_STACK: AtomicU64 = AtomicU64::new(0);

/// Executes a few random bytes until an exception or the next tick of the timer.
pub fn run_random(random: &mut Random) {
    if !READY.swap(true, Relaxed) {
        prepare();
    }
    let code = cpu::scratch_memory(CODE_PAGE, PAGE_SIZE as usize);
    let start = random.below(PAGE_SIZE - CODE_SIZE);
    for byte in &mut code[start as usize..][..CODE_SIZE as usize] {
        *byte = random.word() as u8;
    }
    let mut registers = [0; REGISTERS];
    for register in &mut registers {
        *register = match random.below(4) {
            0 => random.value(),
            _ => WINDOW + u64::from(random.below(PAGES.len() as u32 * PAGE_SIZE)),
        };
    }
    enter(&registers, WINDOW + u64::from(start), WINDOW + 0x1800);
    acknowledge();
}

fn prepare() {
    let [pdpt, pd, pt] = [0, 1, 2].map(|index| TABLES + index * PAGE_SIZE);
    for address in (TABLES..TABLES + 3 * PAGE_SIZE).step_by(4) {
        cpu::write32(address, 0);
    }
    cpu::write32(pdpt, pd | USER);
    cpu::write32(pd, pt | USER);
    for (index, page) in PAGES.into_iter().enumerate() {
        cpu::write32(pt + index as u32 * 8, page | USER);
    }
    let top: u64;
    // SAFETY: reading a control register has no effect.
    unsafe { asm!("mov {}, cr3", out(reg) top, options(nomem, nostack, preserves_flags)) };
    cpu::write32(top as u32 + 8, pdpt | USER);
    interrupts::copy_descriptors(&GDT);
    // Present, DPL 3: writable data, and 64-bit code (APM Vol. 2, 4.8).
    GDT[5].store(0x00cf_f300_0000_ffff, Relaxed);
    GDT[6].store(0x00af_fb00_0000_ffff, Relaxed);
    let mut pointer = [0u8; 10];
    pointer[..2].copy_from_slice(&(size_of_val(&GDT) as u16 - 1).to_le_bytes());
    pointer[2..].copy_from_slice(&(&raw const GDT as u64).to_le_bytes());
    // SAFETY: the first five descriptors are those in use.
    unsafe { asm!("lgdt [{}]", in(reg) &pointer, options(nostack, preserves_flags)) };
    for vector in 0..=255 {
        interrupts::set_handler(vector, leave);
    }
    interrupts::ignore_nmi();
    // Counter 0, both bytes, mode 2, about 1000 times a second (8254 data sheet).
    cpu::out8(0x43, 0x34);
    cpu::out8(0x40, 0xa9);
    cpu::out8(0x40, 0x04);
    interrupts::unmask_pic_line(0);
}

/// Ends the interrupt that may have brought us back, and undoes what the code may have done to the vector unit.
fn acknowledge() {
    cpu::out8(0x20, 0x20);
    let control: u32 = 0x1f80;
    // SAFETY: these are the values after reset.
    unsafe { asm!("fninit", "ldmxcsr [{}]", in(reg) &control, options(nostack)) };
}

/// Goes to CPL 3 with these registers; comes back by `leave`.
fn enter(registers: &[u64; REGISTERS], code: u64, stack: u64) {
    // SAFETY: `leave` restores the stack pointer and the registers that the compiler relies on; paging keeps the code
    // from everything else.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "lea rax, [rip + 2f]",
            "push rax",
            "mov [rip + {kernel_stack}], rsp",
            "push {data}",
            "push rsi",
            "push {flags}",
            "push {code_segment}",
            "push rdx",
            "mov rax, [rdi]",
            "mov rbx, [rdi + 8]",
            "mov rcx, [rdi + 16]",
            "mov rdx, [rdi + 24]",
            "mov rsi, [rdi + 32]",
            "mov rbp, [rdi + 48]",
            "mov r8, [rdi + 56]",
            "mov r9, [rdi + 64]",
            "mov r10, [rdi + 72]",
            "mov r11, [rdi + 80]",
            "mov r12, [rdi + 88]",
            "mov r13, [rdi + 96]",
            "mov r14, [rdi + 104]",
            "mov r15, [rdi + 112]",
            "mov rdi, [rdi + 40]",
            "iretq",
            "2:",
            "pop rbp",
            "pop rbx",
            kernel_stack = sym KERNEL_STACK,
            data = const USER_DATA,
            flags = const FLAGS,
            code_segment = const USER_CODE,
            inout("rdi") registers.as_ptr() => _,
            inout("rsi") stack => _,
            inout("rdx") code => _,
            out("rax") _, out("rcx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
            out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
}

/// The handler of every vector: forgets where it came from and goes back to `enter`.
#[unsafe(naked)]
extern "C" fn leave() {
    naked_asm!(
        "cld",
        "mov rsp, [rip + {kernel_stack}]",
        "ret",
        kernel_stack = sym KERNEL_STACK,
    )
}
