//! `exits`: what each kind of exit costs, in ticks of the TSC, guest and host together.
//!
//! For each it prints `bench NAME TICKS ITERATIONS` with the empty loop taken off, and `raw NAME TICKS ITERATIONS`
//! with it. Under QEMU's `-icount shift=0` a tick is an instruction. What a machine has not got is `skip NAME`; run
//! bare, the figures are what the instructions cost without a hypervisor.
#![no_std]
#![no_main]

use guests::multiboot::Info;
use guests::{acpi, cpu, interrupts, lapic, power, println};

guests::guest_main!(main);

/// Iterations of everything that can be repeated without end.
const ITERATIONS: u64 = 1000;
/// Iterations that fill caches and page tables before the count.
const WARM_UP: u64 = 16;
/// MSR IA32_TSC_ADJUST.
const MSR_TSC_ADJUST: u32 = 0x3b;
/// Vector of the interrupts that are sent.
const VECTOR: u8 = 0x40;
/// IOAPIC registers: select, window (82093AA data sheet, 3.1).
const IOAPIC_SELECT: u32 = 0xfec0_0000;
const IOAPIC_WINDOW: u32 = 0xfec0_0010;
/// Guest memory that nothing has touched: from here on, one page in every 2 MiB.
const FRESH_START: u32 = 0x200_0000;
const FRESH_STRIDE: u32 = 0x20_0000;
/// Pages touched at most: a guest of 256 MiB has so many.
const FRESH_COUNT_MAX: u32 = 96;
/// A hypercall number that no hypervisor gives a meaning that changes anything.
const NO_HYPERCALL: u64 = 0;
/// What the guest ends with when all was measured.
const STATUS_DONE: u32 = 0;

fn main(info: &Info) -> ! {
    instructions();
    ports();
    local_apic();
    fresh_memory(info);
    println!("done");
    power::exit(STATUS_DONE)
}

/// Measures an operation.
#[inline(always)]
fn measure(name: &str, mut operation: impl FnMut()) {
    for _ in 0..WARM_UP {
        operation();
    }
    let ticks = time(ITERATIONS, &mut operation);
    report(name, ticks, ITERATIONS);
}

#[inline(always)]
fn time(iterations: u64, operation: &mut impl FnMut()) -> u64 {
    let start = cpu::rdtsc();
    for _ in 0..iterations {
        operation();
        cpu::keep();
    }
    cpu::rdtsc() - start
}

fn report(name: &str, ticks: u64, iterations: u64) {
    let empty = time(iterations, &mut || {});
    println!("bench {name} {} {iterations}", ticks.saturating_sub(empty));
    println!("raw {name} {ticks} {iterations}");
}

fn instructions() {
    measure("cpuid", || {
        cpu::cpuid(0, 0);
    });
    let register = if cpu::cpuid(7, 0).ebx & 2 != 0 {
        MSR_TSC_ADJUST
    } else {
        lapic::MSR_APIC_BASE
    };
    let value = cpu::rdmsr(register);
    println!("# rdmsr and wrmsr of {register:#x}");
    measure("rdmsr", || {
        cpu::rdmsr(register);
    });
    measure("wrmsr", || cpu::wrmsr(register, value));
    // AMD's instruction first; Intel's CPUs do not know it.
    if let Ok(answer) = cpu::try_vmmcall(NO_HYPERCALL) {
        println!("# hypercall {NO_HYPERCALL} answers {answer:#x}");
        measure("hypercall", || {
            cpu::vmmcall(NO_HYPERCALL);
        });
    } else {
        match cpu::try_vmcall(NO_HYPERCALL) {
            Ok(answer) => {
                println!("# hypercall {NO_HYPERCALL} answers {answer:#x}");
                measure("hypercall", || {
                    cpu::vmcall(NO_HYPERCALL);
                });
            }
            Err(fault) => println!("skip hypercall: exception {}", fault.vector),
        }
    }
    let on = cpu::cr0();
    measure("cr0_wp_toggle", || {
        cpu::set_cr0(on & !cpu::CR0_WP);
        cpu::set_cr0(on);
    });
}

fn ports() {
    measure("port_in_uart", || {
        cpu::in8(0x3fd);
    });
    measure("port_in_pic", || {
        cpu::in8(0x21);
    });
    match acpi::fixed() {
        Some(fixed) => measure("port_in_pmtimer", || {
            cpu::in32(fixed.pm_timer);
        }),
        None => println!("skip port_in_pmtimer: no ACPI"),
    }
    cpu::write32(IOAPIC_SELECT, 1);
    measure("mmio_ioapic", || {
        cpu::read32(IOAPIC_WINDOW);
    });
}

fn local_apic() {
    let features = cpu::cpuid(1, 0).ecx;
    lapic::enable();
    interrupts::set_handler(VECTOR, lapic::count_and_end_xapic);
    measure("lapic_eoi_xapic", lapic::end_of_interrupt_xapic);
    cpu::enable_interrupts();
    measure("self_ipi_xapic", || {
        let before = lapic::taken();
        lapic::send_self_xapic(VECTOR);
        while lapic::taken() == before {}
    });
    measure("self_ipi_hlt", || {
        cpu::disable_interrupts();
        lapic::send_self_xapic(VECTOR);
        cpu::enable_interrupts_and_halt();
    });
    if features & 1 << 24 != 0 {
        lapic::use_deadline_timer(VECTOR);
        measure("tscdeadline_immediate", || {
            let before = lapic::taken();
            cpu::wrmsr(lapic::MSR_TSC_DEADLINE, cpu::rdtsc());
            while lapic::taken() == before {}
        });
    } else {
        println!("skip tscdeadline_immediate: no TSC-deadline timer");
    }
    cpu::disable_interrupts();
    if features & 1 << 21 != 0 {
        lapic::enable_x2apic();
        interrupts::set_handler(VECTOR, lapic::count_and_end_x2apic);
        measure("lapic_eoi_x2apic", || cpu::wrmsr(lapic::MSR_X2APIC_EOI, 0));
    } else {
        println!("skip lapic_eoi_x2apic: no x2APIC");
    }
}

/// Touches pages for the first time. Each is in another 2 MiB, so that a host which maps large pages still has to
/// take a fault for every one of them.
fn fresh_memory(info: &Info) {
    let end = u32::try_from(info.memory_end()).unwrap_or(0xc000_0000);
    let count = (end.saturating_sub(FRESH_START) / FRESH_STRIDE).min(FRESH_COUNT_MAX);
    if count == 0 {
        println!("skip page_fault_on_fresh_gpa: too little memory");
        return;
    }
    let mut page = FRESH_START;
    let mut touch = || {
        cpu::write32(page, 1);
        page += FRESH_STRIDE;
    };
    let ticks = time(u64::from(count), &mut touch);
    report("page_fault_on_fresh_gpa", ticks, u64::from(count));
}
