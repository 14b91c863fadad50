//! The third blast radius: the host is wrong. All CPUs stop; the console shows what happened, where, and the last log
//! lines. Nothing here takes a lock or allocates.
#![expect(unsafe_code, reason = "walks frame pointers and stops the machine")]

use crate::{console, log, symbols};
use arch::idt::ExceptionFrame;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

const BACKTRACE_MAX: usize = 24;
const LOG_LINES_SHOWN: u64 = 12;
static PANICKING: AtomicBool = AtomicBool::new(false);

struct Out;

impl Write for Out {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        console::write_in_panic(s);
        Ok(())
    }
}

/// What the panic handler does.
pub fn panicked(info: &PanicInfo<'_>) -> ! {
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe {
        core::arch::asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags))
    };
    stop(|out| writeln!(out, "{info}"), frame_pointer, None)
}

/// What an exception that nothing expected does.
pub fn exception(frame: &ExceptionFrame) -> ! {
    stop(
        |out| writeln!(out, "unexpected {frame}"),
        frame.rbp(),
        Some(frame.rip),
    )
}

/// What `inject=memory-map` adds to the firmware's memory map.
pub const BROKEN_REGION: mem::map::Region = mem::map::Region {
    start: u64::MAX - 0xfff,
    len: 0x2000,
    is_usable: true,
};

/// Makes the host fail in the way that `inject=KIND` on the command line asks for, so that the way down can be tested:
/// `panic`, `page-fault`, `stack-overflow` (into the guard page).
pub fn inject(kind: &str) {
    match kind {
        "panic" => panic!("injected"),
        "page-fault" => {
            let nowhere = 0x10 as *const u64;
            // SAFETY: nothing is mapped at this address; the page fault is the purpose.
            unsafe { nowhere.read_volatile() };
        }
        "stack-overflow" => {
            overflow(0);
        }
        _ => crate::warn!(
            "inject={kind} is unknown: panic, page-fault, stack-overflow and memory-map are"
        ),
    }
}

/// Recurses until the stack's guard page stops it.
#[expect(
    unconditional_recursion,
    reason = "the guard page ends it, which is the purpose"
)]
fn overflow(depth: u64) -> u64 {
    let filler = core::hint::black_box([depth; 64]);
    overflow(depth + 1) + filler[(depth % 64) as usize]
}

/// Refuses to start, in plain words.
pub fn refuse(reason: &dyn fmt::Display) -> ! {
    let _ = writeln!(Out, "\nBasalt cannot start: {reason}.");
    end_emulator();
    arch::cpu::halt_forever()
}

fn stop(what: impl FnOnce(&mut Out) -> fmt::Result, frame_pointer: u64, rip: Option<u64>) -> ! {
    arch::cpu::interrupts_off();
    if PANICKING.swap(true, Ordering::SeqCst) {
        // A panic while panicking: what stands on the console is all there will be.
        arch::cpu::halt_forever();
    }
    arch::apic::stop_others();
    let cpu = arch::percpu::current().index();
    let _ = write!(Out, "\n\n*** Basalt has stopped: CPU {cpu}: ");
    let _ = what(&mut Out);
    let _ = writeln!(Out, "backtrace:");
    if let Some(rip) = rip {
        show_address(0, rip);
    }
    backtrace(frame_pointer);
    show_log();
    let _ = writeln!(
        Out,
        "*** Reset the machine to go on. The VMs that ran here are gone."
    );
    end_emulator();
    arch::cpu::halt_forever()
}

fn backtrace(mut frame_pointer: u64) {
    for depth in 1..BACKTRACE_MAX {
        // Stacks live in the upper half and are aligned; anything else ends the chain.
        if frame_pointer >> 47 != 0x1_ffff || frame_pointer & 7 != 0 {
            return;
        }
        let frame = frame_pointer as *const [u64; 2];
        // SAFETY: a kernel frame pointer, by the check above; code is built with frame pointers. A wrong one in code
        // that is not faults into the nested-panic path, which halts.
        let [next, return_address] = unsafe { frame.read() };
        if return_address == 0 {
            return;
        }
        show_address(depth, return_address);
        if next <= frame_pointer {
            return;
        }
        frame_pointer = next;
    }
}

fn show_address(depth: usize, address: u64) {
    let _ = match symbols::find(address) {
        Some((name, offset)) => writeln!(Out, "  {depth:2} {address:#018x} {name}+{offset:#x}"),
        None => writeln!(Out, "  {depth:2} {address:#018x}"),
    };
}

fn show_log() {
    let ring = log::ring();
    let next = ring.next_ticket();
    let _ = writeln!(Out, "last log lines:");
    for line in (next.saturating_sub(LOG_LINES_SHOWN)..next).filter_map(|t| ring.get(t)) {
        let micros = line.time / 1000;
        let _ = writeln!(
            Out,
            "  [{:5}.{:06}] {}",
            micros / 1_000_000,
            micros % 1_000_000,
            line.text()
        );
    }
}

/// Ends the emulator that the command line promises, so that a test does not wait for its time-out: by QEMU's debug-exit
/// device, or by the port at which Bochs takes the word.
pub fn end_emulator() {
    const BOCHS_SHUTDOWN: u16 = 0x8900;
    if !crate::startup::debug_exit_wanted() {
        return;
    }
    // An emulated UART takes its time as well, and what it has not sent then is lost.
    console::drain();
    // SAFETY: port F4h is the emulator's debug-exit device when the command line says that there is one.
    unsafe { arch::cpu::outb(0xf4, 0x3e) };
    for letter in b"Shutdown" {
        // SAFETY: still here, so the emulator is Bochs, which keeps this port for nothing else.
        unsafe { arch::cpu::outb(BOCHS_SHUTDOWN, *letter) };
    }
}
