//! The executors: one per CPU, one stack each, everything a future (DESIGN D2).
//!
//! An interrupt only notes its vector and asks for attention; the executor takes the notes, wakes what waits for them,
//! runs due timers, then polls one task, and so on. Service tasks (console, timers, tools) go before vCPUs; vCPUs take
//! turns. A poll that takes longer than its budget is reported: it is a bug.

use crate::log::{self, Level};
use crate::memory::ranks;
use crate::timer;
use crate::zeroed;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use arch::idt::VECTOR_TIMER;
use arch::percpu::{self, CPUS_MAX};
use arch::sync::SpinLock;
use async_task::{Runnable, Task};
use core::future::Future;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Waker;

/// Longest poll that passes without a report, in nanoseconds: twice a vCPU's time slice.
const POLL_NANOS_MAX: u64 = 40_000_000;
/// Reports of long polls until they are only counted.
const LONG_POLLS_TOLD: u64 = 8;

/// What a task is, for the order in which tasks are polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The host's own work; short polls, always first.
    Service,
    /// A vCPU; polls last up to a time slice.
    World,
}

#[derive(Debug)]
struct Queues {
    service: VecDeque<Runnable>,
    worlds: VecDeque<Runnable>,
}

static QUEUES: [SpinLock<Queues>; CPUS_MAX] = [const {
    SpinLock::new(
        ranks::RUN_QUEUE,
        Queues {
            service: VecDeque::new(),
            worlds: VecDeque::new(),
        },
    )
}; CPUS_MAX];
static WAITING_FOR_VECTOR: [SpinLock<Vec<Waker>>; 256] =
    [const { SpinLock::new(ranks::WAKER, Vec::new()) }; 256];
static BUSY_TICKS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static INTERRUPTS: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static LONG_POLLS: AtomicU64 = AtomicU64::new(0);

/// Starts `future` on CPU `cpu`; it stays there. Dropping the returned task cancels it; `detach` lets it go.
pub fn spawn<F>(cpu: u32, class: Class, future: F) -> Task<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (runnable, task) = async_task::spawn(future, move |runnable| push(cpu, class, runnable));
    runnable.schedule();
    task
}

fn push(cpu: u32, class: Class, runnable: Runnable) {
    {
        let mut queues = QUEUES[cpu as usize].lock();
        match class {
            Class::Service => queues.service.push_back(runnable),
            Class::World => queues.worlds.push_back(runnable),
        }
    }
    poke(cpu);
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

/// Tells whether another task waits on this CPU, so that a vCPU should not keep it.
#[must_use]
pub fn others_wait() -> bool {
    let queues = QUEUES[percpu::current().index() as usize].lock();
    !queues.service.is_empty() || !queues.worlds.is_empty()
}

/// Takes this CPU's noted events inside a poll, for a vCPU that they brought out of its guest. Tells whether it may go
/// on, because nothing else waits for the CPU.
#[must_use]
pub fn may_go_on() -> bool {
    take_events(percpu::current());
    !others_wait()
}

/// Runs this CPU's tasks for ever.
pub fn run() -> ! {
    let cpu = percpu::current();
    arch::cpu::interrupts_on();
    loop {
        if cpu.needs_attention() {
            take_events(cpu);
        }
        match next(cpu.index()) {
            Some((class, runnable)) => poll(cpu.index(), class, runnable),
            None if zeroed::work() => {}
            None => idle(cpu),
        }
    }
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

fn next(cpu: u32) -> Option<(Class, Runnable)> {
    let mut queues = QUEUES[cpu as usize].lock();
    if let Some(runnable) = queues.service.pop_front() {
        return Some((Class::Service, runnable));
    }
    queues
        .worlds
        .pop_front()
        .map(|runnable| (Class::World, runnable))
}

fn poll(cpu: u32, class: Class, runnable: Runnable) {
    let start = arch::cpu::rdtsc();
    runnable.run();
    let ticks = arch::cpu::rdtsc().saturating_sub(start);
    BUSY_TICKS[cpu as usize].fetch_add(ticks, Ordering::Relaxed);
    let nanos = timer::clock().nanos(ticks);
    if nanos > POLL_NANOS_MAX && LONG_POLLS.fetch_add(1, Ordering::Relaxed) < LONG_POLLS_TOLD {
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
