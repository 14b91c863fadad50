//! What a world switch costs, measured where `bench=` is on the command line: between service tasks, and between vCPUs.
//!
//! The figures go to the log console, as milestones do. Exits are measured by guests, not here.

use crate::{console, exec, startup};
use alloc::format;
use arch::cpu::rdtsc;
use arch::percpu::{self, CPUS_MAX};
use core::future::poll_fn;
use core::sync::atomic::{AtomicU64, Ordering};
use core::task::Poll;

/// Times that each of two service tasks yields to the other.
const YIELDS: u64 = 20_000;
/// Switches between vCPUs of which the mean is told.
const SWITCHES: u64 = 200;

/// When the vCPU that was here last was told to go, in TSC ticks; 0 when something else came between. [owner cpu]
static LEFT: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
/// Ticks of refreshes since that was asked. [owner cpu]
static PENDING: [AtomicU64; CPUS_MAX] = [const { AtomicU64::new(0) }; CPUS_MAX];
static REFRESH_TICKS: AtomicU64 = AtomicU64::new(0);
static REFRESHES: AtomicU64 = AtomicU64::new(0);
static TICKS: AtomicU64 = AtomicU64::new(0);
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Measures switches between two service tasks of CPU 0.
pub fn start() {
    if startup::option("bench").is_some() {
        exec::spawn(0, yields()).detach();
        exec::spawn(0, async {
            let start = rdtsc();
            yields().await;
            tell("service", rdtsc().saturating_sub(start), 2 * YIELDS);
        })
        .detach();
    }
}

async fn yields() {
    for _ in 0..YIELDS {
        let mut first = true;
        poll_fn(|cx| {
            if core::mem::take(&mut first) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }
}

fn left() -> &'static AtomicU64 {
    &LEFT[percpu::current().index() as usize]
}

fn pending() -> &'static AtomicU64 {
    &PENDING[percpu::current().index() as usize]
}

/// Notes that the vCPU on this CPU is out of its guest, and whether it makes way is asked now; returns the TSC.
pub(crate) fn note_question() -> u64 {
    pending().store(0, Ordering::Relaxed);
    rdtsc()
}

/// Notes that the vCPU on this CPU, out of its guest since `tsc`, makes way.
pub(crate) fn note_leave(tsc: u64) {
    left().store(tsc, Ordering::Relaxed);
}

/// Notes that something else than a vCPU runs on this CPU.
pub(crate) fn forget_leave() {
    left().store(0, Ordering::Relaxed);
}

/// Takes `ticks` of a refresh of the scheduler, which is no part of a switch, out of the one that it fell into.
pub(crate) fn note_refresh(ticks: u64) {
    pending().fetch_add(ticks, Ordering::Relaxed);
    REFRESH_TICKS.fetch_add(ticks, Ordering::Relaxed);
    REFRESHES.fetch_add(1, Ordering::Relaxed);
}

/// Notes that a vCPU is about to enter its guest for the first time since it came to this CPU.
#[inline(never)]
pub(crate) fn note_arrival() {
    let left = left().swap(0, Ordering::Relaxed);
    if left == 0 {
        return;
    }
    let ticks = rdtsc()
        .saturating_sub(left)
        .saturating_sub(pending().swap(0, Ordering::Relaxed));
    let sum = TICKS
        .fetch_add(ticks, Ordering::Relaxed)
        .wrapping_add(ticks);
    let count = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if count.is_multiple_of(SWITCHES) && startup::option("bench").is_some() {
        tell("vcpu", sum, count);
        let ticks = REFRESH_TICKS.load(Ordering::Relaxed);
        tell("refresh", ticks, REFRESHES.load(Ordering::Relaxed));
    }
}

fn tell(what: &str, ticks: u64, count: u64) {
    console::write_log_console(&format!("switch {what} {ticks} {count}\r\n"));
}
