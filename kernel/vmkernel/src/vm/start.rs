//! Power-on: makes a VM from its definition and its files, and starts its tasks.

use crate::memory::{self, KernelFrames};
use crate::pools;
use crate::timer;
use crate::vm::board::{self, Routing};
use crate::vm::link::VcpuLink;
use crate::vm::machine::{StopReason, VmShared};
use crate::vm::policy::Policy;
use crate::vm::ram::GuestRam;
use crate::vm::serial::Serial;
use crate::vm::vcpu::VcpuWorld;
use crate::worlds::VmGroup;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use api::backend::{VcpuBackend, VcpuState};
use api::time::VmInstant;
use arch::cpu::rdtsc;
use arch::virt::{NewVcpu, Visitor};
use core::future::poll_fn;
use core::sync::atomic::Ordering;
use core::task::Poll;
use devices::lapic::{LapicConfig, LocalApic};
use loader::{MachineShape, Module, RamMap, Request};
use sched::{GroupId, Settings};
use spin::Once;

/// A VM to start: what its definition says, with the files' contents.
#[derive(Debug)]
pub struct Blueprint<'a> {
    /// Name.
    pub name: &'a str,
    /// RAM in bytes.
    pub memory_bytes: u64,
    /// Free host memory that running VMs may still claim, in bytes.
    pub promised_bytes: u64,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// The kernel file and its name.
    pub kernel: (&'a str, &'a [u8]),
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// Further modules with their command lines.
    pub modules: Vec<(&'a str, &'a [u8])>,
    /// Command line.
    pub command_line: &'a str,
    /// What CPU time it is entitled to.
    pub cpu_time: Settings,
    /// The pool that it is in, if not the host's own.
    pub pool: Option<GroupId>,
    /// Whether it has the test devices.
    pub test_devices: bool,
    /// Whether COM1 goes straight to the host's COM1.
    pub direct_serial: bool,
}

/// Makes a VM and starts its vCPUs. The future in the result completes when all of it has ended.
///
/// With `before`, the machine that was reset, RAM keeps its content (the kernel is loaded over it, as after a warm
/// boot) and the serial ports their console.
///
/// # Errors
/// A text that says what is wrong and what to do.
pub fn power_on(
    blueprint: &Blueprint<'_>,
    before: Option<&VmShared>,
) -> Result<
    (
        Arc<VmShared>,
        impl Future<Output = StopReason> + Send + use<>,
    ),
    String,
> {
    let map = RamMap::new(blueprint.memory_bytes).map_err(|e| format!("{e}"))?;
    let (ram, serial) = match before {
        Some(vm) => (Arc::clone(&vm.ram), Arc::clone(&vm.serial)),
        None => {
            let free = memory::stats().free * addr::PAGE_SIZE;
            mem::admit(blueprint.memory_bytes, free, blueprint.promised_bytes)
                .map_err(|e| format!("{e}"))?;
            let ram =
                GuestRam::new(map).ok_or("no host memory is left for the VM's page tables")?;
            (
                Arc::new(ram),
                Arc::new(Serial::new(blueprint.direct_serial)),
            )
        }
    };
    let state = load(blueprint, map, &ram)?;
    let pci_window = u32::try_from(map.low_end()).unwrap_or(u32::MAX);
    let mut lapics = Vec::new();
    let mut policies = Vec::new();
    for index in 0..blueprint.vcpus {
        let policy = Policy::new(index, blueprint.vcpus, pci_window).map_err(|e| format!("{e}"))?;
        lapics.push(new_lapic(index, policy.phys_bits()));
        policies.push(policy);
    }
    let links = lapics.iter().map(|_| Arc::new(VcpuLink::new())).collect();
    let routing = Routing::new(lapics.iter().map(LocalApic::identity).collect());
    let board = board::new_chipset(blueprint, &map);
    let name = String::from(blueprint.name);
    let group = VmGroup::new(blueprint.pool, blueprint.cpu_time).map_err(pools::refusal)?;
    let vm = Arc::new(VmShared::new(
        name, ram, links, board, routing, serial, group,
    ));
    let parts = lapics.into_iter().zip(policies).collect();
    let tasks = starter()(StartVcpus {
        vm: &vm,
        parts,
        first: state,
    })?;
    vm.clock.resume();
    Ok((Arc::clone(&vm), ended(vm, tasks)))
}

/// Loads the guest's files; returns the state in which its first vCPU starts.
fn load(blueprint: &Blueprint<'_>, map: RamMap, ram: &GuestRam) -> Result<VcpuState, String> {
    let modules = blueprint.modules.iter();
    let modules: Vec<Module<'_>> = modules
        .map(|(line, data)| Module {
            command_line: line,
            data,
        })
        .collect();
    let machine = MachineShape {
        ram: map,
        vcpus: blueprint.vcpus,
        has_keyboard_controller: true,
        has_vga: false,
    };
    let request = Request {
        kernel: blueprint.kernel.1,
        kernel_name: blueprint.kernel.0,
        command_line: blueprint.command_line,
        initrd: blueprint.initrd,
        modules: &modules,
        machine,
    };
    loader::load(&request, ram)
        .map(|loaded| loaded.cpu.registers)
        .map_err(|e| format!("{e}"))
}

fn new_lapic(index: u32, phys_bits: u32) -> LocalApic {
    let mut lapic = LocalApic::new(LapicConfig {
        apic_id: index,
        bsp: index == 0,
        x2apic: true,
        phys_bits,
    });
    if index == 0 {
        lapic.enter_virtual_wire();
    }
    lapic
}

/// Starts a VM's vCPUs; [`start_vcpus`] is the one there is.
pub type Starter = fn(StartVcpus<'_>) -> Result<Vec<async_task::Task<()>>, String>;

static STARTER: Once<Starter> = Once::new();

/// Sets who starts vCPUs. The binary names [`start_vcpus`], so that the run loop, which is generic over the backend, is
/// compiled with the binary's opt-level and not with this crate's, which is for size.
pub fn set_starter(starter: Starter) {
    STARTER.call_once(|| starter);
}

fn starter() -> Starter {
    *STARTER.get().expect("the binary sets it at start-up")
}

/// Starts a VM's vCPUs on this host's backend. Only the binary may name it; see [`set_starter`].
///
/// # Errors
/// What no memory or no capacity was left for.
#[inline]
pub fn start_vcpus(vcpus: StartVcpus<'_>) -> Result<Vec<async_task::Task<()>>, String> {
    arch::virt::with_backend(vcpus)
}

/// Makes the vCPUs of a VM and starts their tasks and the board's.
#[expect(
    missing_debug_implementations,
    reason = "it is handed on once and never shown"
)]
pub struct StartVcpus<'a> {
    vm: &'a Arc<VmShared>,
    parts: Vec<(LocalApic, Policy)>,
    /// The state of the first vCPU; the others have that after reset.
    first: VcpuState,
}

impl Visitor for StartVcpus<'_> {
    type Output = Result<Vec<async_task::Task<()>>, String>;

    fn visit<B: NewVcpu>(self) -> Self::Output {
        let mut worlds = Vec::new();
        for (index, (lapic, policy)) in (0_u32..).zip(self.parts) {
            let mut cpu: B = new_cpu(self.vm)?;
            if index == 0 {
                cpu.set_state(&self.first);
            }
            worlds.push(VcpuWorld::new(
                Arc::clone(self.vm),
                index,
                cpu,
                policy,
                lapic,
            ));
        }
        start_tasks(self.vm, worlds)
    }
}

fn new_cpu<B: NewVcpu>(vm: &VmShared) -> Result<B, String> {
    let cpu = vm
        .ram
        .with_nested(|nested| B::new::<KernelFrames>(nested))
        .flatten();
    cpu.ok_or_else(|| String::from("no host memory is left for a vCPU"))
}

/// Starts one task a vCPU and the board's.
fn start_tasks<B: VcpuBackend>(
    vm: &Arc<VmShared>,
    vcpus: Vec<VcpuWorld<B>>,
) -> Result<Vec<async_task::Task<()>>, String> {
    let mut tasks = vec![];
    for vcpu in vcpus {
        let shared = Arc::clone(vm);
        let task = vm.group.spawn_vcpu(async move {
            let reason = vcpu.await;
            if reason != StopReason::Ended {
                shared.end(reason);
            }
        });
        tasks.push(task.map_err(pools::refusal)?);
    }
    let board = vm.group.spawn_helper(run_board(Arc::clone(vm)));
    tasks.push(board.map_err(pools::refusal)?);
    Ok(tasks)
}

/// Waits for all tasks of a VM.
async fn ended(vm: Arc<VmShared>, tasks: Vec<async_task::Task<()>>) -> StopReason {
    for task in tasks {
        task.await;
    }
    vm.group.give_back();
    vm.take_stop().unwrap_or(StopReason::Ended)
}

/// Shortest time between two runs of a board's timers, in nanoseconds, and as a multiple of what the first one took. A
/// guest may set a counter to tick faster than any host can follow; its ticks fall together then, and the CPU is for
/// others, too.
const BOARD_PAUSE_NANOS: u64 = 50_000;
const BOARD_PAUSE_RUNS: u64 = 16;

/// The board's task: runs its timers until the VM ends.
async fn run_board(vm: Arc<VmShared>) {
    while vm.take_stop().is_none() {
        let paused = vm.is_paused();
        let start = rdtsc();
        let nanos = vm.run_board_timers();
        let took = rdtsc().saturating_sub(start);
        let pause = timer::clock().ticks(BOARD_PAUSE_NANOS);
        let soonest = start.saturating_add(pause.max(took.saturating_mul(BOARD_PAUSE_RUNS)));
        let deadline = vm.clock.host_tsc_at(VmInstant::from_nanos(nanos));
        let deadline = deadline.max(soonest);
        let mut sleep = (nanos != u64::MAX && !paused).then(|| timer::sleep_until(deadline));
        let mut first = true;
        poll_fn(|cx| {
            if !core::mem::take(&mut first) {
                return Poll::Ready(());
            }
            vm.set_board_waker(cx.waker());
            let changed = vm.board_deadline.load(Ordering::Acquire) != nanos
                || vm.is_paused() != paused
                || vm.take_stop().is_some();
            let due = sleep
                .as_mut()
                .is_some_and(|s| core::pin::Pin::new(s).poll(cx).is_ready());
            if changed || due {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
