//! From the first Rust line to running executors, in the order in which things can exist.
#![expect(unsafe_code, reason = "takes over what the entry code left")]

use crate::firmware::{EarlyMemory, Nodes};
use crate::memory::{self, KernelFrames, RAM_MIN_BYTES};
use crate::vm::{definitions, inventory};
use crate::{
    bench, console, cpus, datastore, exec, fault, interrupts, log, mitigations, run_guest, shell,
    storage, timer, worlds,
};
use alloc::string::String;
use alloc::vec::Vec;
use arch::idt::VECTOR_FIRST;
use arch::ioapic::{IoApic, Signal};
use arch::paging::KernelSpace;
use arch::time::{Clock, Reference};
use arch::{apic, percpu};
use archive::Archive;
use boot::{BootInfo, MemoryKind, Protocol};
use bus::acpi::Platform;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use mem::map::Region;
use platform::clock::ClockRegisters;
use spin::Once;

static DEBUG_EXIT: AtomicBool = AtomicBool::new(false);
static CMDLINE: Once<String> = Once::new();
static PROTOCOL: Once<Protocol> = Once::new();
static PLATFORM: Once<Platform> = Once::new();

/// Tells whether the command line promises an emulator's debug-exit device at port F4h.
#[must_use]
pub fn debug_exit_wanted() -> bool {
    DEBUG_EXIT.load(Ordering::Relaxed)
}

/// Returns the value of `key=value` on the kernel's command line.
#[must_use]
pub fn option(key: &str) -> Option<&'static str> {
    let words = CMDLINE.get()?.split_ascii_whitespace();
    words
        .filter_map(|w| w.split_once('='))
        .find(|(k, _)| *k == key)
        .map(|(_, v)| v)
}

/// Logs the moment `name` as `milestone NAME TSC`, when `bench=` on the command line asks for it.
pub fn milestone(name: &str) {
    if option("bench").is_some() {
        console::write_log_console(&alloc::format!(
            "milestone {name} {}\r\n",
            arch::cpu::rdtsc()
        ));
    }
}

/// Returns the name of the boot protocol that was used.
#[must_use]
pub fn boot_protocol() -> &'static str {
    match PROTOCOL.get() {
        Some(Protocol::Multiboot1) => "Multiboot 1",
        Some(Protocol::Multiboot2) => "Multiboot 2",
        Some(Protocol::Pvh) => "PVH",
        None => "unknown",
    }
}

/// Returns what the firmware told of the machine.
///
/// # Panics
/// Before the tables were read.
#[must_use]
pub fn platform() -> &'static Platform {
    PLATFORM
        .get()
        .expect("the firmware's tables are read at start-up")
}

/// Starts the kernel.
///
/// # Safety
/// Called once, by the entry code, with its own values.
pub unsafe fn run(magic: u32, info: u32) -> ! {
    let start = arch::cpu::rdtsc();
    console::init_serial();
    // SAFETY: the caller's promise; the entry code's map of the first 4 GiB stands.
    let boot = match unsafe { boot::read_info(magic, info) } {
        Ok(boot) => boot,
        Err(error) => fault::refuse(&error),
    };
    take_command_line(&boot);
    percpu::init(0, apic::id());
    arch::idt::set_fatal_hook(fault::exception);
    let ram = checked_ram(&boot);
    let platform = match Platform::read(&mut EarlyMemory, boot.rsdp) {
        Ok(platform) => platform,
        Err(error) => fault::refuse(&error),
    };
    memory::init(&ram, &boot, &Nodes::new(&platform.memory));
    build_space(&ram);
    console::init_screen(boot.framebuffer.as_ref(), cpus::map_device);
    arch::cpu::enable_protections();
    cpus::install_tables();
    if let Err(reason) = arch::virt::probe() {
        fault::refuse(&reason);
    }
    start_interrupts(&platform, start);
    mitigations::start();
    cpus::prepare_virtualization();
    cpus::enable_virtualization();
    greet(&boot, &ram);
    PLATFORM.call_once(|| platform);
    let cpus = cpus::start_others(self::platform());
    crate::info!("{cpus} CPU(s) in service");
    exec::start();
    worlds::start(cpus::topology(self::platform()));
    start_service(&boot);
    exec::run()
}

/// Starts what the command line asks for: the one guest of run-guest mode, or the shell.
fn start_service(boot: &BootInfo) {
    if let Some(kind) = option("inject") {
        exec::spawn(0, async move { fault::inject(kind) }).detach();
    }
    let files = Archive::new(boot_module(boot));
    inventory::init(files);
    console::enable_input();
    if option("mode") == Some("run-guest") {
        exec::spawn(0, run_guest::run(files)).detach();
    } else {
        if option("log").is_none() {
            // An administrator's prompt is not disturbed by what `host log` shows as well.
            log::set_echo_level(log::Level::Warn);
        }
        if option("bench").is_some() {
            let used = memory::stats();
            let bytes = (used.total - used.free) * addr::PAGE_SIZE;
            console::write_log_console(&alloc::format!(
                "milestone entry {}\r\n",
                boot::first_tsc()
            ));
            console::write_log_console(&alloc::format!("memory-used {bytes}\r\n"));
        }
        exec::spawn(0, open_storage()).detach();
        milestone("shell");
        bench::start();
        exec::spawn(0, shell::run()).detach();
    }
}

/// Brings up disks and datastores, then what is on them: definitions, and VMs that start with the host.
async fn open_storage() {
    storage::bring_up_all().await;
    datastore::mount_all().await;
    definitions::load_all().await;
    inventory::autostart().await;
}

/// Returns the boot module's bytes, which stay where the loader put them.
fn boot_module(boot: &BootInfo) -> &'static [u8] {
    let Some((start, len)) = boot.module else {
        return &[];
    };
    let base = arch::physmem::direct(addr::Hpa::new_truncate(start));
    // SAFETY: the module lies in RAM that the frame allocator was told not to hand out; nothing writes it.
    unsafe { core::slice::from_raw_parts(base, len as usize) }
}

fn take_command_line(boot: &BootInfo) {
    CMDLINE.call_once(|| String::from(boot.cmdline()));
    PROTOCOL.call_once(|| boot.protocol);
    DEBUG_EXIT.store(
        option("debug-exit").is_some() || option("mode") == Some("run-guest"),
        Ordering::Relaxed,
    );
    if let Some(level) = option("log").and_then(log::Level::from_name) {
        log::set_echo_level(level);
    }
    if option("mode") == Some("run-guest") {
        console::give_com1_to_guest();
    }
}

fn checked_ram(boot: &BootInfo) -> Vec<Range<u64>> {
    let mut regions: Vec<Region> = boot
        .regions()
        .iter()
        .map(|r| Region {
            start: r.start,
            len: r.len,
            is_usable: r.kind == MemoryKind::Usable,
        })
        .collect();
    if option("inject") == Some("memory-map") {
        regions.push(fault::BROKEN_REGION);
    }
    let ram = match mem::map::usable_ram(&regions) {
        Ok(ram) => ram,
        Err(reason) => fault::refuse(&format_args!(
            "the firmware's memory map is broken: {reason}"
        )),
    };
    let bytes: u64 = ram.iter().map(|r| r.end - r.start).sum();
    if bytes < RAM_MIN_BYTES {
        let (have, need) = (bytes >> 20, RAM_MIN_BYTES >> 20);
        fault::refuse(&format_args!(
            "this machine has {have} MiB of RAM; Basalt needs {need} MiB"
        ));
    }
    ram
}

fn build_space(ram: &[Range<u64>]) {
    match KernelSpace::new(&mut KernelFrames, ram) {
        Ok(space) => {
            space.activate();
            cpus::set_space(space);
        }
        Err(_) => fault::refuse(&"memory ran out while the page tables were built"),
    }
}

fn start_interrupts(platform: &Platform, start: u64) {
    if !apic::has_x2apic() {
        apic::set_xapic_mapping(cpus::map_device(platform.local_apic, 4096));
    }
    mask_legacy_pics();
    apic::init(percpu::current());
    let reference = platform.pm_timer.map_or(Reference::Pit, Reference::PmTimer);
    let (clock, timer_hz) = Clock::calibrate(reference);
    timer::set_clock(clock, start);
    timer::init_wall_clock(&mut RealTimeClock);
    let mhz = clock.tsc_hz() / 1_000_000;
    crate::info!(
        "TSC {mhz} MHz, local timer {} MHz, against {reference:?}",
        timer_hz / 1_000_000
    );
    let mut io_apics: Vec<IoApic> = Vec::new();
    for info in &platform.io_apics {
        let base = cpus::map_device(info.address, 4096);
        // SAFETY: the MADT names an I/O APIC there; it was just mapped, uncached, and is taken over once.
        io_apics.push(unsafe { IoApic::new(base, info.gsi_base) });
    }
    let com1 = platform.isa_route(4);
    if let Some(io_apic) = io_apics.iter_mut().find(|a| a.has(com1.gsi)) {
        let signal = Signal {
            active_low: com1.active_low,
            level: com1.level,
        };
        io_apic.route(
            com1.gsi,
            console_vector(),
            percpu::current().apic_id(),
            signal,
        );
    }
    interrupts::set_io_apics(io_apics);
}

/// Returns the vector of the console's input interrupt.
#[must_use]
pub const fn console_vector() -> u8 {
    VECTOR_FIRST + 4
}

/// The real-time clock's registers.
struct RealTimeClock;

impl ClockRegisters for RealTimeClock {
    fn read(&mut self, index: u8) -> u8 {
        // SAFETY: ports 70h and 71h are the real-time clock on every PC; they touch no memory.
        unsafe { arch::cpu::outb(0x70, index) };
        // SAFETY: as above.
        unsafe { arch::cpu::inb(0x71) }
    }
}

fn mask_legacy_pics() {
    for port in [0x21, 0xa1] {
        // SAFETY: the 8259s' mask registers; with all lines masked they stay silent.
        unsafe { arch::cpu::outb(port, 0xff) };
    }
}

fn greet(boot: &BootInfo, ram: &[Range<u64>]) {
    let version = env!("CARGO_PKG_VERSION");
    let mib = ram.iter().map(|r| r.end - r.start).sum::<u64>() >> 20;
    crate::info!(
        "Basalt {version}, booted by {:?}, {mib} MiB of RAM",
        boot.protocol
    );
    if boot.regions_dropped > 0 {
        crate::warn!(
            "the memory map has {} regions too many; they are not used",
            boot.regions_dropped
        );
    }
    crate::info!("{}", arch::virt::describe());
}
