//! A page of code and a few pages of data at fixed addresses, and the way into the code and back.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![expect(
    unsafe_code,
    reason = "code made at run time can only be entered by assembly"
)]

use core::arch::asm;

/// Registers and flags of an instruction under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct State {
    /// General-purpose registers by encoding; RSP, R14 and R15 are not used.
    pub gpr: [u64; 16],
    /// Flags.
    pub rflags: u64,
}

/// Bytes of data.
pub const DATA_SIZE: usize = 0x4000;
/// Where the data is mapped: below 4 GiB, so that the emulator needs no page tables for it.
const DATA_AT: usize = 0x2340_0000;
/// Size of the code page.
const CODE_SIZE: usize = 0x1000;

/// The mapped pages. They stay mapped for the life of the process.
#[derive(Debug)]
pub struct Native {
    code: usize,
    data: usize,
}

impl Native {
    /// Maps the pages; call it once in a process.
    ///
    /// # Panics
    /// When the system refuses the mapping.
    #[must_use]
    pub fn new() -> Self {
        const READ_WRITE: usize = 3;
        const EXECUTE: usize = 4;
        let data = map(DATA_AT, DATA_SIZE, READ_WRITE);
        let code = map(0, CODE_SIZE, READ_WRITE | EXECUTE);
        Self { code, data }
    }

    /// Returns the address of the data.
    #[must_use]
    pub fn data_address(&self) -> u64 {
        self.data as u64
    }

    /// Copies `data` in, runs `instruction` from `state`, and copies the data out again.
    ///
    /// # Panics
    /// When the instruction is longer than 15 bytes or the data not of [`DATA_SIZE`].
    pub fn run(&mut self, instruction: &[u8], state: &State, data: &mut [u8]) -> State {
        const RETURN: u8 = 0xc3;
        assert!(instruction.len() <= 15 && data.len() == DATA_SIZE);
        let mut code = instruction.to_vec();
        code.push(RETURN);
        let mut after = *state;
        // SAFETY: both ranges lie in mappings of `new`, which nothing else points into; the copies end before the
        // code runs and begin after it returned.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.code as *mut u8, code.len()) };
        // SAFETY: as above.
        unsafe { core::ptr::copy_nonoverlapping(data.as_ptr(), self.data as *mut u8, data.len()) };
        enter(self.code, &mut after);
        // SAFETY: as above.
        unsafe {
            core::ptr::copy_nonoverlapping(self.data as *const u8, data.as_mut_ptr(), data.len());
        }
        after
    }
}

impl Default for Native {
    fn default() -> Self {
        Self::new()
    }
}

/// Maps anonymous private memory at `at`, or anywhere if that is 0.
fn map(at: usize, size: usize, protection: usize) -> usize {
    const MMAP: usize = 9;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    const FIXED_NOREPLACE: usize = 0x10_0000;
    let flags = if at == 0 {
        PRIVATE_ANONYMOUS
    } else {
        PRIVATE_ANONYMOUS | FIXED_NOREPLACE
    };
    let result: usize;
    // SAFETY: the system call maps new memory and, by the flags, replaces no mapping; it changes RCX and R11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") MMAP => result,
            in("rdi") at,
            in("rsi") size,
            in("rdx") protection,
            in("r10") flags,
            in("r8") usize::MAX,
            in("r9") 0,
            out("rcx") _,
            out("r11") _,
        );
    }
    assert!(
        result < usize::MAX - 4096,
        "mmap failed: {}",
        result.wrapping_neg()
    );
    result
}

/// Loads `state`, calls `code`, and stores the state back.
fn enter(code: usize, state: &mut State) {
    // SAFETY: `code` holds one instruction that, by the contract of this crate, neither faults nor jumps nor touches
    // RSP, R14 or R15, and a return. All registers that it can change are saved or declared; the flags are restored,
    // the direction flag among them. The red zone is left alone by going below it first.
    unsafe {
        asm!(
            "lea rsp, [rsp - 256]",
            "push rbx",
            "push rbp",
            "pushfq",
            "push qword ptr [r15 + 128]",
            "mov rax, [r15]",
            "mov rcx, [r15 + 8]",
            "mov rdx, [r15 + 16]",
            "mov rbx, [r15 + 24]",
            "mov rbp, [r15 + 40]",
            "mov rsi, [r15 + 48]",
            "mov rdi, [r15 + 56]",
            "mov r8, [r15 + 64]",
            "mov r9, [r15 + 72]",
            "mov r10, [r15 + 80]",
            "mov r11, [r15 + 88]",
            "mov r12, [r15 + 96]",
            "mov r13, [r15 + 104]",
            "popfq",
            "call r14",
            "pushfq",
            "pop qword ptr [r15 + 128]",
            "mov [r15], rax",
            "mov [r15 + 8], rcx",
            "mov [r15 + 16], rdx",
            "mov [r15 + 24], rbx",
            "mov [r15 + 40], rbp",
            "mov [r15 + 48], rsi",
            "mov [r15 + 56], rdi",
            "mov [r15 + 64], r8",
            "mov [r15 + 72], r9",
            "mov [r15 + 80], r10",
            "mov [r15 + 88], r11",
            "mov [r15 + 96], r12",
            "mov [r15 + 104], r13",
            "popfq",
            "pop rbp",
            "pop rbx",
            "lea rsp, [rsp + 256]",
            in("r14") code,
            in("r15") core::ptr::from_mut(state),
            out("rax") _,
            out("rcx") _,
            out("rdx") _,
            out("rsi") _,
            out("rdi") _,
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            out("r12") _,
            out("r13") _,
        );
    }
}
