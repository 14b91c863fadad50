//! The executors: one per CPU, one stack each, everything a future (DESIGN D2).
//!
//! An interrupt only notes its vector and asks for attention; the executor takes the notes, wakes what waits for them,
//! runs due timers, then polls one task, and so on. Service tasks (console, drivers, tools) go before worlds (vCPUs and
//! the devices of VMs), as long as they leave worlds their part of the CPU; whose turn it is among worlds says `worlds`.
//! A poll that takes longer than its budget is reported: it is a bug.

use crate::bench;
use crate::log::{self, Level};
use crate::memory::ranks;
use crate::timer;
use crate::worlds;
use crate::zeroed;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arch::idt::VECTOR_TIMER;
use arch::percpu::{self, CPUS_MAX};
use arch::sync::SpinLock;
use async_task::{Runnable, Task};
use core::future::Future;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::task::Waker;

/// Longest poll that passes without a report, in nanoseconds: many times a slice.
const POLL_NANOS_MAX: u64 = 40_000_000;
/// Reports of long polls until they are only counted.
const LONG_POLLS_TOLD: u64 = 8;
/// What service tasks of a CPU may use in one go while worlds wait, in nanoseconds. They get back half of the time that
/// passes, so that is their part in the long run.
const SERVICE_NANOS: u64 = 5_000_000;

/// Times in TSC ticks; set once, before any world runs.
static POLL_TICKS_MAX: AtomicU64 = AtomicU64::new(u64::MAX);
static SERVICE_TICKS: AtomicU64 = AtomicU64::new(0);
/// A world is being polled. [owner cpu]
static IN_WORLD: [AtomicBool; CPUS_MAX] = [const { AtomicBool::new(false) }; CPUS_MAX];

/// What a task is, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// The host's own work; short polls.
    Service,
    /// A vCPU, or the devices of a VM; polls last up to a time slice.
    World,
}

static QUEUES: [SpinLock<VecDeque<Runnable>>; CPUS_MAX] =
    [const { SpinLock::new(ranks::RUN_QUEUE, VecDeque::new()) }; CPUS_MAX];
/// How many tasks wait in each queue, to be read without its lock.
static WAITING: [AtomicU32; CPUS_MAX] = [const { AtomicU32::new(0) }; CPUS_MAX];
/// Until when service tasks have used what is theirs, in TSC ticks. [owner cpu]
static SERVED_UNTIL: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
/// When the poll that runs began, in TSC ticks. [owner cpu]
static POLL_START: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static WAITING_FOR_VECTOR: [SpinLock<Vec<Waker>>; 256] =
    [const { SpinLock::new(ranks::WAKER, Vec::new()) }; 256];
static BUSY_TICKS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static INTERRUPTS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static LONG_POLLS: AtomicU64 = AtomicU64::new(0);

/// Takes over how long things last on this host's clock.
pub fn start() {
    let clock = timer::clock();
    POLL_TICKS_MAX.store(clock.ticks(POLL_NANOS_MAX), Ordering::Relaxed);
    SERVICE_TICKS.store(clock.ticks(SERVICE_NANOS), Ordering::Relaxed);
}

/// Starts the service task `future` on CPU `cpu`; it stays there. Dropping the returned task cancels it; `detach` lets it
/// go.
pub fn spawn<F>(cpu: u32, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (runnable, task) = async_task::spawn(future, move |runnable| push(cpu, runnable));
    runnable.schedule();
    task
}

fn push(cpu: u32, runnable: Runnable) {
    {
        let mut queue = QUEUES[cpu as usize].lock();
        queue.push_back(runnable);
        WAITING[cpu as usize].store(queue.len() as u32, Ordering::Release);
    }
    // This CPU looks at its queue after each poll; only out of a guest it has to be called.
    if cpu != percpu::current().index() || IN_WORLD[cpu as usize].load(Ordering::Relaxed) {
        poke(cpu);
    }
}

fn pop(cpu: u32) -> Option<Runnable> {
    if WAITING[cpu as usize].load(Ordering::Acquire) == 0 {
        return None;
    }
    let mut queue = QUEUES[cpu as usize].lock();
    let runnable = queue.pop_front();
    WAITING[cpu as usize].store(queue.len() as u32, Ordering::Release);
    runnable
}

/// Makes CPU `cpu` look at its work soon, out of a guest or out of HLT.
pub fn poke(cpu: u32) {
    let Some(target) = percpu::of(cpu) else {
        return;
    };
    let was_asked = target.ask_attention();
    if target.index() != percpu::current().index() && (!was_asked || target.set_idle(false)) {
        arch::apic::send_wake(target.apic_id());
    }
}

/// Makes some CPU that halts for lack of work look for work; nothing happens when none does.
pub fn poke_idle() {
    let is_idle = |cpu: &u32| percpu::of(*cpu).is_some_and(percpu::PerCpu::is_idle);
    if let Some(cpu) = (0..percpu::online()).find(is_idle) {
        poke(cpu);
    }
}

/// Registers who is woken, once, when `vector` fires on any CPU.
pub fn wait_for_vector(vector: u8, waker: &Waker) {
    let mut waiting = WAITING_FOR_VECTOR[usize::from(vector)].lock();
    if !waiting.iter().any(|w| w.will_wake(waker)) {
        waiting.push(waker.clone());
    }
}

/// Returns TSC ticks that CPU `cpu` spent polling tasks.
#[must_use]
pub fn busy_ticks(cpu: u32) -> u64 {
    BUSY_TICKS[cpu as usize].load(Ordering::Relaxed)
}

/// Returns how many interrupts CPU `cpu` noted; several of one vector between two looks count as one.
#[must_use]
pub fn interrupts(cpu: u32) -> u64 {
    INTERRUPTS[cpu as usize].load(Ordering::Relaxed)
}

/// Returns how many polls passed their budget since the start.
#[must_use]
pub fn long_polls() -> u64 {
    LONG_POLLS.load(Ordering::Relaxed)
}

/// Tells whether a service task waits on this CPU that goes before worlds.
#[must_use]
pub fn service_waits() -> bool {
    let cpu = percpu::current().index() as usize;
    WAITING[cpu].load(Ordering::Acquire) != 0 && service_may_run(cpu)
}

/// Tells whether service tasks have left worlds their part of CPU `cpu`.
fn service_may_run(cpu: usize) -> bool {
    let ahead = SERVICE_TICKS.load(Ordering::Relaxed);
    SERVED_UNTIL[cpu].load(Ordering::Relaxed) <= arch::cpu::rdtsc().saturating_add(ahead)
}

/// Takes this CPU's noted events inside a poll, for a world that they brought out of its guest. Tells until when it may
/// go on, in TSC ticks; `None` says that its poll is to end.
#[must_use]
pub fn stays() -> Option<u64> {
    let cpu = percpu::current();
    if cpu.needs_attention() {
        take_events(cpu);
    }
    worlds::stays()
}

/// Counts what the poll on this CPU took so far; it goes on as a new one.
pub(crate) fn note_poll() {
    let cpu = percpu::current().index() as usize;
    let now = arch::cpu::rdtsc();
    let start = POLL_START[cpu].swap(now, Ordering::Relaxed);
    BUSY_TICKS[cpu].fetch_add(now.saturating_sub(start), Ordering::Relaxed);
}

/// Runs this CPU's tasks for ever.
pub fn run() -> ! {
    let cpu = percpu::current();
    arch::cpu::interrupts_on();
    loop {
        if cpu.needs_attention() {
            take_events(cpu);
        }
        if !work(cpu.index()) && !zeroed::work() {
            idle(cpu);
        }
    }
}

/// Polls one task, if there is one.
fn work(cpu: u32) -> bool {
    if service_may_run(cpu as usize)
        && let Some(runnable) = pop(cpu)
    {
        serve(cpu, runnable);
    } else if let Some((world, runnable)) = worlds::next() {
        let in_world = &IN_WORLD[cpu as usize];
        in_world.store(true, Ordering::Relaxed);
        let (_, wants_more) = poll(cpu, Class::World, runnable);
        in_world.store(false, Ordering::Relaxed);
        if !wants_more {
            worlds::waits(world);
        }
    } else if let Some(runnable) = pop(cpu) {
        serve(cpu, runnable);
    } else {
        return false;
    }
    true
}

fn serve(cpu: u32, runnable: Runnable) {
    bench::forget_leave();
    let (ticks, _) = poll(cpu, Class::Service, runnable);
    let begin = arch::cpu::rdtsc().saturating_sub(2 * ticks);
    let served = &SERVED_UNTIL[cpu as usize];
    let until = served.load(Ordering::Relaxed).max(begin) + 2 * ticks;
    served.store(until, Ordering::Relaxed);
    worlds::charge_service(ticks);
}

fn take_events(cpu: &percpu::PerCpu) {
    let events = cpu.take_events();
    let count: u32 = events.iter().map(|word| word.count_ones()).sum();
    INTERRUPTS[cpu.index() as usize].fetch_add(u64::from(count), Ordering::Relaxed);
    let timer = usize::from(VECTOR_TIMER);
    if events[timer / 64] >> (timer % 64) & 1 != 0 {
        arch::apic::timer_fired();
        timer::run_due();
    }
    for (word, mut bits) in events.into_iter().enumerate() {
        while bits != 0 {
            let vector = word * 64 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let waiting = core::mem::take(&mut *WAITING_FOR_VECTOR[vector].lock());
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}

/// Polls a task. Returns how long its last part took, in TSC ticks, and whether it wants to run on.
fn poll(cpu: u32, class: Class, runnable: Runnable) -> (u64, bool) {
    POLL_START[cpu as usize].store(arch::cpu::rdtsc(), Ordering::Relaxed);
    let wants_more = runnable.run();
    let start = POLL_START[cpu as usize].load(Ordering::Relaxed);
    let ticks = arch::cpu::rdtsc().saturating_sub(start);
    BUSY_TICKS[cpu as usize].fetch_add(ticks, Ordering::Relaxed);
    if ticks > POLL_TICKS_MAX.load(Ordering::Relaxed) {
        report(cpu, class, ticks);
    }
    (ticks, wants_more)
}

/// Tells of a poll that took long.
#[cold]
fn report(cpu: u32, class: Class, ticks: u64) {
    if LONG_POLLS.fetch_add(1, Ordering::Relaxed) < LONG_POLLS_TOLD {
        let nanos = timer::clock().nanos(ticks);
        // Where this host is a guest itself, somebody else may have had the CPU: nothing to call an administrator for.
        let level = if arch::cpu::is_guest() {
            Level::Info
        } else {
            Level::Warn
        };
        log::write(
            level,
            format_args!(
                "a {class:?} task on CPU {cpu} was polled for {} ms",
                nanos / 1_000_000
            ),
        );
    }
}

fn idle(cpu: &percpu::PerCpu) {
    cpu.set_idle(true);
    arch::cpu::interrupts_off();
    if cpu.needs_attention() {
        arch::cpu::interrupts_on();
    } else {
        arch::cpu::interrupts_on_and_halt();
    }
    cpu.set_idle(false);
}
