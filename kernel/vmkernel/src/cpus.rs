//! Bringing CPUs into service: stacks, GDT, IDT, local APIC, virtualization; the boot CPU first, the others by the trampoline.
#![expect(
    unsafe_code,
    reason = "gives each CPU its frames and starts the others"
)]

use crate::memory::{self, KernelFrames, ranks};
use crate::{exec, timer};
use addr::Hfn;
use alloc::vec::Vec;
use arch::paging::{Caching, KernelSpace};
use arch::sync::SpinLock;
use arch::{apic, gdt, idt, percpu, virt};
use bus::acpi::Platform;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::Once;

/// Pages of an executor's stack.
const STACK_PAGES: u64 = 32;
/// Pages of each interrupt stack; only the exception stack runs Rust.
const IST_PAGES: u64 = 4;

static SPACE: Once<SpinLock<KernelSpace>> = Once::new();
static STARTED: AtomicU32 = AtomicU32::new(0);
/// TSC of the CPU that started last, read as it reported.
static STARTED_TSC: AtomicU64 = AtomicU64::new(0);

/// Takes the kernel's address space into keeping.
pub fn set_space(space: KernelSpace) {
    SPACE.call_once(|| SpinLock::new(ranks::SPACE, space));
}

/// Works on the kernel's address space.
///
/// # Panics
/// Before [`set_space`].
pub fn with_space<T>(body: impl FnOnce(&mut KernelSpace) -> T) -> T {
    let space = SPACE
        .get()
        .expect("the address space is set before anything maps");
    body(&mut space.lock())
}

/// Maps a device's registers.
///
/// # Panics
/// When no frame is left for a page table, at start-up.
#[must_use]
pub fn map_device(address: u64, len: u64) -> u64 {
    let hpa = addr::Hpa::new_truncate(address);
    with_space(|s| s.map_device(&mut KernelFrames, hpa, len, Caching::Uncached))
        .expect("frames for page tables are there at start-up")
}

fn new_stack(pages: u64) -> u64 {
    with_space(|s| s.map_stack(&mut KernelFrames, pages))
        .expect("frames for stacks are there at start-up")
}

fn new_frame() -> Hfn {
    memory::alloc_frame().expect("frames for control blocks are there at start-up")
}

/// Makes this CPU a full member: per-CPU block, GDT, TSS, IDT.
pub fn install_tables() {
    let tops = [(); gdt::IST_COUNT].map(|()| new_stack(IST_PAGES));
    gdt::install(tops);
    idt::install();
}

/// Makes what the vCPUs of all VMs share.
///
/// # Panics
/// When no frames are left, at start-up.
pub fn prepare_virtualization() {
    let first = memory::alloc_run(virt::SHARED_FRAMES)
        .expect("frames for permission maps are there at start-up");
    // SAFETY: the run was just taken and is never given back.
    unsafe { virt::prepare(first) };
}

/// Turns virtualization on for this CPU.
pub fn enable_virtualization() {
    let frames = [(); virt::CPU_FRAMES].map(|()| new_frame());
    // SAFETY: the frames were just taken and are never given back.
    unsafe { virt::enable(frames) };
}

/// Starts all other CPUs that the firmware lists. Returns how many run now.
pub fn start_others(platform: &Platform) -> u32 {
    let me = percpu::current().apic_id();
    let others: Vec<u32> = platform
        .processors
        .iter()
        .map(|p| p.apic_id)
        .filter(|id| *id != me)
        .collect();
    if others.is_empty() {
        return 1;
    }
    // SAFETY: the trampoline's page is below 1 MiB, which the frame allocator never hands out.
    let starter = with_space(|s| unsafe { arch::smp::Starter::prepare(s, &mut KernelFrames) });
    let Some(starter) = starter else {
        crate::error!("no page-table frame below 4 GiB is free: only one CPU runs");
        return 1;
    };
    for (index, apic_id) in (1_u32..).zip(others).take(percpu::CPUS_MAX - 1) {
        let stack = new_stack(STACK_PAGES);
        let argument = u64::from(index) << 32 | u64::from(apic_id);
        let started = || STARTED.load(Ordering::Acquire) == index;
        let before = arch::cpu::rdtsc();
        if !starter.start(apic_id, stack, enter, argument, &timer::clock(), started) {
            crate::error!(
                "the CPU with APIC ID {apic_id} did not start; the CPUs after it are not tried"
            );
            break;
        }
        let there = STARTED_TSC.load(Ordering::Relaxed);
        if !(before..=arch::cpu::rdtsc()).contains(&there) {
            // All clocks of host and guests come from the TSC; the firmware starts all of them at once on a good machine.
            crate::error!(
                "the TSC of CPU {index} is not that of CPU 0 ({there:#x}, {before:#x} before its start): clocks of guests \
                 with several vCPUs will be off"
            );
        }
    }
    percpu::online()
}

/// Returns how the CPUs that run form cores and NUMA nodes.
#[must_use]
pub fn topology(platform: &Platform) -> sched::Topology {
    let (mut cores, mut domains): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    let number = |known: &mut Vec<u32>, id: u32| {
        let place = known.iter().position(|k| *k == id).unwrap_or_else(|| {
            known.push(id);
            known.len() - 1
        });
        u16::try_from(place).unwrap_or(u16::MAX)
    };
    let shift = arch::cpu::thread_bits();
    let blocks = (0..percpu::online()).filter_map(percpu::of);
    let places: Vec<(u16, u16)> = blocks
        .map(|block| {
            let id = block.apic_id();
            let listed = platform.processors.iter().find(|p| p.apic_id == id);
            let domain = listed.map_or(0, |p| p.domain);
            (
                number(&mut cores, id >> shift),
                number(&mut domains, domain),
            )
        })
        .collect();
    sched::Topology::new(&places)
}

/// The first Rust function of a CPU that was started.
extern "C" fn enter(argument: u64) -> ! {
    let (index, apic_id) = ((argument >> 32) as u32, argument as u32);
    with_space(|s| s.activate());
    arch::cpu::enable_protections();
    let block = percpu::init(index, apic_id);
    install_tables();
    apic::init(block);
    enable_virtualization();
    STARTED_TSC.store(arch::cpu::rdtsc(), Ordering::Relaxed);
    STARTED.store(index, Ordering::Release);
    exec::run()
}
